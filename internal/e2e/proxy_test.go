//go:build linux

package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// offers returns the addresses that `up` offers, by kind.
func (d *desktop) offers() map[string]string {
	d.t.Helper()
	found := map[string]string{}
	list, _ := d.status()["offers"].([]any)
	for _, o := range list {
		offer := o.(map[string]any)
		found[offer["kind"].(string)] = offer["address"].(string)
	}
	return found
}

func TestCurlThroughSOCKSAndHTTPProxy(t *testing.T) {
	t.Parallel()
	curl := testenv.NeedTool(t, "curl")
	p := startProvider(t, "id_token")
	wiki, payroll := web(t, "wiki"), web(t, "payroll")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  wiki: {address: %q, hostnames: [wiki.corp.example], port: 80, protocol: http}
  payroll: {address: %q, hostnames: [payroll.corp.example], port: 80, protocol: http}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [wiki]}
  - {name: no payroll, subjects: {groups: [engineering]}, deny: [payroll], reason: Payroll is for HR.}
`, wiki, payroll)})
	d := newDesktop(t)
	d.login(g, "ada")
	d.up("--socks", "127.0.0.1:0", "--http-proxy", "127.0.0.1:0")
	offers := d.offers()
	ways := map[string][]string{
		"socks5h": {"--proxy", "socks5h://" + offers["socks5"]},
		"http":    {"--proxy", "http://" + offers["http-proxy"]},
		"connect": {"--proxytunnel", "--proxy", "http://" + offers["http-proxy"]},
	}
	for name, way := range ways {
		args := append([]string{"--silent", "--show-error", "--max-time", "30"}, way...)
		r := run(t, nil, nil, curl, append(args, "http://wiki.corp.example/page")...)
		if r.code != 0 || r.stdout != "wiki says /page" {
			t.Errorf("%s: %v", name, r)
		}
		for _, host := range []string{"payroll.corp.example", "nowhere.example", "127.0.0.1", "169.254.169.254"} {
			r := run(t, nil, nil, curl, append(args, "--write-out", "%{http_code}%{http_connect}", "http://"+host+"/")...)
			if r.code == 0 && !strings.Contains(r.stdout, "403") || strings.Contains(r.stdout, "payroll says") {
				t.Errorf("%s to %s: %v; want a refusal", name, host, r)
			}
			if host == "payroll.corp.example" && name == "http" && !strings.Contains(r.stdout, "Payroll is for HR.") {
				t.Errorf("%s to %s: %v; want the rule's reason", name, host, r)
			}
		}
	}
	r := run(t, nil, nil, curl, "--silent", "http://"+offers["http-proxy"]+"/proxy.pac")
	if !strings.Contains(r.stdout, `"wiki.corp.example":[80]`) {
		t.Errorf("proxy.pac lacks the wiki: %v", r)
	}
	// Every refusal stands in the audit log, with the rule that made it.
	denied := 0
	for _, record := range g.audit() {
		if strings.Contains(fmt.Sprint(record), "no payroll") {
			denied++
		}
	}
	if denied == 0 {
		t.Error("no audit record names the rule that denied payroll")
	}
}

// startDNS runs dnsmasq with one name, as an internal DNS server.
func startDNS(t testing.TB) (addr string) {
	t.Helper()
	dnsmasq := testenv.NeedTool(t, "dnsmasq")
	addr = freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	start(t, nil, dnsmasq, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-facility=-",
		"--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port, "--pid-file="+filepath.Join(t.TempDir(), "pid"),
		"--address=/wiki.corp.example/10.1.2.3", "--txt-record=big.corp.example,"+strings.Repeat("a", 200)+","+strings.Repeat("b", 200)+","+strings.Repeat("c", 200)).expect("started, version")
	return addr
}

func TestDNSOverAUDPService(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t) // dnsmasq gives its privileges up, and has to have some
	dig := testenv.NeedTool(t, "dig")
	addr := startDNS(t)
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  dns: {address: %q, protocol: udp}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [dns]}
`, addr)})
	d := newDesktop(t)
	d.login(g, "ada")
	local := d.start("forward", "dns").expect(`127\.0\.0\.1:(\d+)`)
	for _, question := range []struct{ name, kind, want string }{
		{"wiki.corp.example", "A", "10.1.2.3"},
		{"big.corp.example", "TXT", strings.Repeat("c", 200)},
	} {
		r := run(t, nil, nil, dig, "+short", "+notcp", "+bufsize=4096", "@127.0.0.1", "-p", local[1], question.name, question.kind)
		if r.code != 0 || !strings.Contains(r.stdout, question.want) {
			t.Errorf("dig %s %s: %v", question.name, question.kind, r)
		}
	}
}
