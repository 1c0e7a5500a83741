package dialer

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Class: rebinding at the gateway (Vault CVE-2026-5052): the name flips to a denied address after the
// check. It is looked up once, and only the checked address is dialed.
func TestThreatRebindingDialsTheCheckedAddress(t *testing.T) {
	lookups := 0
	network := recorder{answers: map[string]error{"10.0.0.1": nil, "10.66.6.6": nil}}
	d := newDialer(t, Config{Resolve: func(context.Context, string) ([]netip.Addr, error) {
		lookups++
		if lookups == 1 {
			return addrs("10.0.0.1"), nil
		}
		return addrs("10.66.6.6"), nil
	}})
	d.dial = network.dial
	var checked []netip.AddrPort
	conn, err := d.DialChecked(t.Context(), tcp("wiki.internal", 80), func(at netip.AddrPort) error {
		checked = append(checked, at)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if lookups != 1 || !slices.Equal(network.dialed, []string{"10.0.0.1"}) || !slices.Equal(checked, []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80")}) {
		t.Errorf("%d look-ups, checked %v, dialed %v", lookups, checked, network.dialed)
	}
}

// Class: SSRF through the gateway (Teleport GHSA-hw4x); IPv4-mapped, NAT64, zones (Go CVE-2024-24790,
// CVE-2025-22870). A check that says yes to everything does not open what is special.
func TestThreatSpecialRangesAreNotDialed(t *testing.T) {
	for _, a := range []string{
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "169.254.3.3", "224.0.0.1", "255.255.255.255", "100.100.100.200",
		"::", "::1", "fe80::1", "fe80::1%eth0", "10.0.0.1%eth0", "ff02::1", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1",
		"::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::1",
	} {
		network := recorder{}
		addr, err := netip.ParseAddr(a)
		if err != nil {
			addr = netip.MustParseAddr("fe80::2%z") // Go does not even parse a zone of IPv4
		}
		d := newDialer(t, Config{Resolve: func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{addr}, nil }})
		d.dial = network.dial
		for _, target := range []Target{
			tcp("wiki.internal", 80), tcp(a, 80), {Kind: wire.KindUDP, Host: a, Port: 53},
			{Kind: wire.KindTCP, Host: "wiki.internal", Port: 80, Literal: true}, // literal says nothing of a name
		} {
			if _, err := d.DialChecked(t.Context(), target, yes); codeOf(err) != wire.CodeDenied {
				t.Errorf("%+v to %s: %v", target, a, err)
			}
		}
		if len(network.dialed) != 0 {
			t.Errorf("%s: dialed %v", a, network.dialed)
		}
	}
}

// Class: SSRF through the gateway: its own listeners, admin port and database.
func TestThreatOwnAddressesAreNotDialed(t *testing.T) {
	network := recorder{answers: map[string]error{"10.1.1.1": nil, "10.1.1.2": nil, "10.9.9.9": nil}}
	cfg := Config{
		Own: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("[::]:443"), netip.MustParseAddrPort("10.9.9.9:5432"), netip.MustParseAddrPort("10.1.1.1:9090")}
		},
		LocalAddrs: func() ([]netip.Addr, error) { return addrs("10.1.1.1", "2001:db8::1"), nil },
	}
	d := newDialer(t, cfg)
	d.dial = network.dial
	dial := func(target Target) error {
		conn, err := d.DialChecked(t.Context(), target, yes)
		if err == nil {
			conn.Close()
		}
		return err
	}
	for _, target := range []Target{tcp("10.1.1.1", 443), tcp("2001:db8::1", 443), tcp("::ffff:10.1.1.1", 443), tcp("10.9.9.9", 5432), tcp("10.1.1.1", 9090)} {
		if err := dial(target); codeOf(err) != wire.CodeDenied {
			t.Errorf("%+v: %v", target, err)
		}
	}
	for _, target := range []Target{tcp("10.1.1.1", 80), tcp("10.1.1.2", 443), {Kind: wire.KindTCP, Host: "10.9.9.9", Port: 5432, Literal: true}} {
		if err := dial(target); err != nil {
			t.Errorf("%+v: %v", target, err)
		}
	}
	cfg.LocalAddrs = func() ([]netip.Addr, error) { return nil, net.ErrClosed }
	d = newDialer(t, cfg)
	d.dial = network.dial
	if err := dial(tcp("10.1.1.2", 443)); codeOf(err) != wire.CodeDenied {
		t.Errorf("an own port while the machine's addresses are not known: %v", err)
	}
}

// The configured name server is asked, and a name is never completed by a search domain.
func TestDNSServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 16)
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- q.Question[0].Name
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "wiki.internal." && q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("wiki.internal. 60 IN A 10.0.0.7")
			m.Answer = append(m.Answer, rr)
		} else if q.Question[0].Name != "wiki.internal." {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})}
	done := make(chan error)
	go func() { done <- srv.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = srv.Shutdown()
		<-done
	})
	d := newDialer(t, Config{DNSServer: pc.LocalAddr().String()})
	if got, err := d.Resolve(t.Context(), "wiki.internal"); err != nil || !slices.Equal(got, addrs("10.0.0.7")) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := d.Resolve(t.Context(), "gone.internal"); codeOf(err) != wire.CodeUnreachable {
		t.Errorf("gone: %v", err)
	}
	for range len(asked) {
		if name := <-asked; name != "wiki.internal." && name != "gone.internal." {
			t.Errorf("asked for %s", name)
		}
	}
}
