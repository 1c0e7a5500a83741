package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// reservedPrefix keeps the names of services that the gateway brings along.
const reservedPrefix = "culvert-"

const maxPerService = wire.MaxList // host names, port ranges, tags

func (d *decoder) services(n *yaml.Node) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fault(posOf(n), "want services here, a section with a key for each")
		return
	}
	if len(n.Content)/2 > MaxServices {
		d.fault(posOf(n), "%d services, at most %d are accepted", len(n.Content)/2, MaxServices)
		return
	}
	for i := 0; i+1 < len(n.Content) && !d.hopeless(); i += 2 {
		key := n.Content[i]
		switch {
		case !isLabel(key.Value):
			d.fault(posOf(key), "service %s: a name is 1 to 63 of a-z, 0-9 and hyphens inside", quote(key.Value))
		case strings.HasPrefix(key.Value, reservedPrefix):
			d.fault(posOf(key), "service %q: names that begin with %q belong to the gateway", key.Value, reservedPrefix)
		}
		d.service(key, n.Content[i+1])
	}
}

// A serviceDecoder reads one service; it remembers which keys were there, and where.
type serviceDecoder struct {
	*decoder
	s    *Service
	seen map[string]Pos
}

func (d *decoder) service(key, value *yaml.Node) {
	s := &Service{Name: key.Value, Kind: wire.KindTCP, Pos: posOf(key)}
	d.doc.Services = append(d.doc.Services, s)
	sd := &serviceDecoder{decoder: d, s: s, seen: make(map[string]Pos)}
	read := keys{
		"description": func(n *yaml.Node) { s.Description, _ = d.text(n, "description", maxText) },
		"address":     sd.address,
		"protocol":    sd.protocol,
		"hostnames":   func(n *yaml.Node) { d.list(n, "hostnames", maxPerService, sd.hostname) },
		"port":        sd.port,
		"tags":        func(n *yaml.Node) { d.list(n, "tags", maxPerService, sd.tag) },
		"network":     sd.network,
		"ports":       sd.ports,
		"zones":       func(n *yaml.Node) { d.list(n, "zones", maxPerService, sd.zone) },
		"hidden":      func(n *yaml.Node) { s.Hidden = d.boolean(n, "hidden") },
		"requestable": sd.requestable,
	}
	for name, f := range read {
		read[name] = func(n *yaml.Node) {
			sd.seen[name] = posOf(n)
			f(n)
		}
	}
	d.section(value, "the service "+quote(s.Name), read)
	sd.finish()
}

func (d *serviceDecoder) has(key string) bool {
	_, ok := d.seen[key]
	return ok
}

// finish holds what concerns several keys.
func (d *serviceDecoder) finish() {
	s := d.s
	slices.Sort(s.Tags)
	if s.Port == 0 && !d.has("port") {
		s.Port = s.HostPort
	}
	switch address, network := d.has("address"), d.has("network"); {
	case address && network:
		d.fault(d.seen["network"], "service %q has an address and a network; it is one or the other", s.Name)
	case !address && !network:
		d.fault(s.Pos, `service %q has neither "address" (host:port) nor "network" (with "ports")`, s.Name)
	case network:
		d.onlyFor("named services, which have an address", "hostnames", "port")
		if !d.has("ports") {
			d.fault(s.Pos, `service %q: a network needs "ports", such as [22, 8000-8999]`, s.Name)
		}
	default:
		d.onlyFor("networks", "ports", "zones")
	}
	if s.Hidden && s.Requestable != nil {
		d.fault(d.seen["requestable"], "service %q is hidden and requestable: to ask for it would show that it is there", s.Name)
	}
}

func (d *serviceDecoder) onlyFor(what string, names ...string) {
	for _, name := range names {
		if pos, ok := d.seen[name]; ok {
			d.fault(pos, "service %q: the key %q is only for %s", d.s.Name, name, what)
		}
	}
}

// protocol: http is a label for user interfaces; the bytes are those of tcp.
func (d *serviceDecoder) protocol(n *yaml.Node) {
	switch text, ok := d.text(n, "protocol", maxName); {
	case !ok:
	case text == "tcp":
	case text == "udp":
		d.s.Kind = wire.KindUDP
	case text == "http":
		d.s.Label = text
	default:
		d.fault(posOf(n), "protocol %s: tcp, udp or http%s", quote(text), strictconf.DidYouMean(text, []string{"tcp", "udp", "http"}))
	}
}

// address reads what the gateway dials. An address that stands here literally may be special, as a
// loopback address is, but must be one that can be dialed.
func (d *serviceDecoder) address(n *yaml.Node) {
	text, ok := d.text(n, "address", maxText)
	if !ok {
		return
	}
	host, port, ok := splitHostPort(text)
	if !ok {
		d.fault(posOf(n), "address %s: want host:port, such as wiki.internal:8080 or [2001:db8::1]:443", quote(text))
		return
	}
	d.s.HostPort = port
	addr, err := netip.ParseAddr(host)
	if err == nil {
		d.s.Host, d.s.Addr = d.literal(posOf(n), "address", addr), addr
		return
	}
	name, err := canonicalHost(host)
	switch {
	case err != nil:
		d.fault(posOf(n), "address %s: the host is neither a name nor an address: %v", quote(text), err)
	case isLocalhost(name):
		d.fault(posOf(n), "address %s: a gateway opens itself only to a literal address; write 127.0.0.1:%d", quote(text), port)
	default:
		d.s.Host = name
	}
}

// literal refuses addresses that nobody can dial, and spellings that hide another address.
func (d *decoder) literal(pos Pos, what string, addr netip.Addr) string {
	switch {
	case addr.Zone() != "":
		d.fault(pos, "%s %s: a zone means nothing to others than this machine", what, quote(addr.String()))
	case addr.Is4In6():
		d.fault(pos, "%s %s: write %s", what, addr, addr.Unmap())
	case addr.IsUnspecified() || addr.IsMulticast() || addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		d.fault(pos, "%s %s: that is not the address of one machine", what, addr)
	}
	return addr.String()
}

func isLocalhost(name string) bool {
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// splitHostPort splits "host:port" and "[v6]:port"; a port is a number from 1 to 65535 in its one spelling.
func splitHostPort(s string) (host string, port uint16, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return "", 0, false
	}
	host = s[:i]
	if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		host, bracketed = strings.CutSuffix(inner, "]")
		if !bracketed || !strings.Contains(host, ":") {
			return "", 0, false
		}
	} else if strings.Contains(host, ":") {
		return "", 0, false
	}
	port, ok = parsePort(s[i+1:])
	return host, port, ok
}

func parsePort(s string) (uint16, bool) {
	v, err := strconv.ParseUint(s, 10, 16)
	if err != nil || v == 0 || strconv.FormatUint(v, 10) != s {
		return 0, false
	}
	return uint16(v), true
}

func (d *serviceDecoder) port(n *yaml.Node) {
	if v, ok := d.number(n, "port", 1, 65535); ok {
		d.s.Port = uint16(v)
	}
}

func (d *serviceDecoder) tag(n *yaml.Node) {
	text, ok := d.text(n, "tag", maxName)
	switch {
	case !ok:
	case !isLabel(text):
		d.fault(posOf(n), "tag %s: 1 to 63 of a-z, 0-9 and hyphens inside", quote(text))
	case slices.Contains(d.s.Tags, text):
		d.fault(posOf(n), "tag %q stands here a second time", text)
	default:
		d.s.Tags = append(d.s.Tags, text)
	}
}

func (d *serviceDecoder) network(n *yaml.Node) {
	text, ok := d.text(n, "network", maxName)
	if !ok {
		return
	}
	p, err := netip.ParsePrefix(text)
	if addr, aerr := netip.ParseAddr(text); err != nil && aerr == nil {
		d.fault(posOf(n), "network %s: one address is written %s/%d", text, addr, addr.BitLen())
		return
	}
	switch {
	case err != nil:
		d.fault(posOf(n), "network %s: want an address and a length, such as 10.20.0.0/16", quote(text))
	case p.Addr().Is4In6():
		d.fault(posOf(n), "network %s: write it as an IPv4 network", p)
	case p != p.Masked():
		d.fault(posOf(n), "network %s: the address has bits behind the length (did you mean %s?)", p, p.Masked())
	case p.IsSingleIP():
		d.literal(posOf(n), "network", p.Addr())
		d.s.Network = p
	default:
		d.wideNetwork(posOf(n), p)
	}
}

func (d *serviceDecoder) wideNetwork(pos Pos, p netip.Prefix) {
	d.s.Network = p
	if p.Bits() == 0 {
		d.warn(pos, "network %s: desktops refuse to send everything into a tunnel; name the networks", p)
	}
	for _, r := range special {
		if r.prefix.Bits() <= p.Bits() && r.prefix.Contains(p.Addr()) {
			d.fault(pos, "network %s: each address in it is %s, which needs a service of its own (address, or a network of one address)", p, r.what)
			return
		}
	}
}

func (d *serviceDecoder) ports(n *yaml.Node) {
	before := len(d.faults)
	d.list(n, "ports", maxPerService, d.portRange)
	if len(d.faults) == before && len(d.s.Ports) == 0 {
		d.fault(posOf(n), "ports: the list is empty; write [1-65535] for all")
	}
}

// portRange reads 22 or 8000-8999.
func (d *serviceDecoder) portRange(n *yaml.Node) {
	text, ok := d.scalar(n, "a port or range")
	if !ok {
		return
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	low, ok1 := parsePort(strings.TrimSpace(first))
	high, ok2 := parsePort(strings.TrimSpace(last))
	if !ok1 || !ok2 || low > high {
		d.fault(posOf(n), "ports: %s is no port (22) or range (8000-8999)", quote(text))
		return
	}
	for _, r := range d.s.Ports {
		if low <= r.Last && r.First <= high {
			d.fault(posOf(n), "ports: %s overlaps %d-%d in the same list", text, r.First, r.Last)
			return
		}
	}
	d.s.Ports = append(d.s.Ports, wire.PortRange{First: low, Last: high})
	slices.SortFunc(d.s.Ports, func(a, b wire.PortRange) int { return cmp.Compare(a.First, b.First) })
}
