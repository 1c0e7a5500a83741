package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"github.com/culvert-vpn/culvert/server/audit"
)

// announced connects and writes what a balancer would in front of a connection.
func announced(t *testing.T, to string, header []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write(header); err != nil {
		t.Fatal(err)
	}
	return conn
}

func proxyHeader(t *testing.T, version byte, from string) []byte {
	t.Helper()
	source, err := net.ResolveTCPAddr("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	header := proxyproto.HeaderProxyFromAddrs(version, source, &net.TCPAddr{IP: source.IP, Port: 443})
	data, err := header.Format()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// healthz asks for /healthz on a connection.
func healthz(conn net.Conn) error {
	secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	req, err := http.NewRequest(http.MethodGet, "https://127.0.0.1/healthz", nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return secure, nil }}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

func TestBalancerTellsWhomAConnectionComesFrom(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.ProxyProtocol.From = []string{"127.0.0.0/8"} })
	r := i.serve(Options{})
	local, err := (&proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}).Format()
	if err != nil {
		t.Fatal(err)
	}
	long := append([]byte(proxySignature), 0x21, 0x11, 0xff, 0xff)
	for _, c := range []struct {
		name   string
		header []byte
		ok     bool
	}{
		{"IPv4", proxyHeader(t, 2, "203.0.113.7:50000"), true},
		{"IPv6", proxyHeader(t, 2, "[2001:db8::7]:50000"), true},
		{"a probe of the balancer's own", local, true},
		{"none", nil, false},
		{"version 1", proxyHeader(t, 1, "203.0.113.7:50000"), false},
		{"too long", long, false},
	} {
		if err := healthz(announced(t, r.Addr().String(), c.header)); (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok: %v", c.name, err, c.ok)
		}
	}
}

// Threat class: a forged source address. Only the configured balancers are
// believed; from anybody else a header is bytes that are not TLS.
func TestThreatForgedProxyHeader(t *testing.T) {
	r := everything(t, func(cfg *Config) { cfg.ProxyProtocol.From = []string{"192.0.2.1"} }).serve(Options{})
	if err := healthz(announced(t, r.Addr().String(), proxyHeader(t, 2, "203.0.113.7:50000"))); err == nil {
		t.Error("a stranger's PROXY header was taken")
	}
	if err := healthz(announced(t, r.Addr().String(), nil)); err != nil {
		t.Errorf("without a header, from somebody who is no balancer: %v", err)
	}
}

func TestTheRecordNamesWhomTheBalancerSpeaksFor(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.ProxyProtocol.From = []string{"127.0.0.1"} })
	r := i.serve(Options{})
	r.prelude = proxyHeader(t, 2, "203.0.113.7:50000")
	e, err := r.login("ada")
	if err != nil {
		t.Fatal(err)
	}
	session, err := e.up(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	dir := i.cfg.StateDir + "/audit"
	records := audit.NewReader(dir, audit.Position{})
	defer records.Close()
	for {
		e, err := records.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rec, err := e.Decode()
		if err != nil {
			t.Fatal(err)
		}
		if rec.Event != audit.EventSessionOpen {
			continue
		}
		if rec.Actor == nil || rec.Actor.Remote != "203.0.113.7:50000" {
			t.Errorf("the record names %+v", rec.Actor)
		}
		return
	}
}

// A peer that goes away without a word is a probe, which the log need not tell.
func TestProbeWithoutHeader(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	probe, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = probe.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := readProxyHeader(conn); !errors.Is(err, io.EOF) {
		t.Errorf("a peer that closes: %v, want an end", err)
	}
}

func TestProxyTrust(t *testing.T) {
	for _, bad := range []string{"0.0.0.0/0", "::/0", "balancer", "10.0.0.0/33", ""} {
		if _, err := parseProxyTrust([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	trust, err := parseProxyTrust([]string{"10.0.0.5", "2001:db8::/64", "10.1.2.3/24"})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]bool{
		"10.0.0.5:1": true, "10.0.0.6:1": false, "[::ffff:10.0.0.5]:1": true, "[2001:db8::9]:1": true, "10.1.2.200:9": true, "[fe80::1%eth0]:1": false,
	} {
		if got := trust.includes(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at))); got != want {
			t.Errorf("%s: %v, want %v", at, got, want)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte(proxySignature + "\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x09\x00\x0a"))
	f.Add([]byte(proxySignature + "\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := net.Pipe()
		defer a.Close()
		go func() {
			_, _ = io.Copy(b, bytes.NewReader(data))
			_ = b.Close()
		}()
		addr, err := readProxyHeader(a)
		if err == nil && (addr == nil || strings.Contains(addr.String(), "\n")) {
			t.Errorf("address %v", addr)
		}
		_ = b.Close()
	})
}
