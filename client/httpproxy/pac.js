// Proxy auto-configuration of Culvert. It resolves no name: only names and
// address literals that the services themselves have go through the tunnel.

function FindProxyForURL(url, host) {
  var port = portOf(url);
  var name = host.toLowerCase().replace(/\.$/, "");
  if (Object.prototype.hasOwnProperty.call(rules.hosts, name)) {
    return rules.hosts[name].indexOf(port) >= 0 ? rules.proxy : "DIRECT";
  }
  var bytes = bytesOf(name);
  for (var i = 0; bytes && i < rules.networks.length; i++) {
    if (contains(rules.networks[i], bytes, port)) return rules.proxy;
  }
  return "DIRECT";
}

function portOf(url) {
  var m = /^([a-z]+):\/\/(?:[^\/@]*@)?(?:\[[^\]]*\]|[^\/:?#]*)(?::(\d+))?/i.exec(url);
  if (!m) return 0;
  if (m[2]) return parseInt(m[2], 10);
  return { http: 80, ws: 80, https: 443, wss: 443, ftp: 21 }[m[1].toLowerCase()] || 0;
}

// bytesOf returns the bytes of an address literal, or null for a name.
function bytesOf(host) {
  var v4 = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(host);
  if (v4) {
    var quad = [+v4[1], +v4[2], +v4[3], +v4[4]];
    return Math.max.apply(null, quad) < 256 ? quad : null;
  }
  host = host.replace(/^\[|\]$/g, "");
  if (!/^[0-9a-f:]+$/.test(host) || host.indexOf(":") < 0) return null;
  var halves = host.split("::");
  var head = halves[0] ? halves[0].split(":") : [];
  var tail = halves[1] ? halves[1].split(":") : [];
  if (halves.length > 2 || (halves.length < 2 && head.length !== 8)) return null;
  while (halves.length === 2 && head.length + tail.length < 8) head.push("0");
  var groups = head.concat(tail), bytes = [];
  if (groups.length !== 8) return null;
  for (var i = 0; i < 8; i++) {
    var n = parseInt(groups[i], 16);
    bytes.push(n >> 8, n & 255);
  }
  return bytes;
}

function contains(network, bytes, port) {
  if (network.bytes.length !== bytes.length) return false;
  for (var i = 0; i < network.bits; i++) {
    var mask = 128 >> (i % 8);
    if ((network.bytes[i >> 3] & mask) !== (bytes[i >> 3] & mask)) return false;
  }
  if (network.ports.length === 0) return true;
  for (var j = 0; j < network.ports.length; j++) {
    if (port >= network.ports[j][0] && port <= network.ports[j][1]) return true;
  }
  return false;
}
