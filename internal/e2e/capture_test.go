//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/culvert-vpn/culvert/internal/localnet/localnettest"
)

// Threat "a check missing on one channel" (Teleport 10.3.11): somebody whom the
// rules deny tries every way of capturing and every kind of stream. Each try is
// denied and audited, and no service hears anything.
func TestThreatDeniedOverEveryCaptureMode(t *testing.T) {
	t.Parallel()
	var reached atomic.Int64
	tcp := tcpService(t, func(*net.TCPConn) { reached.Add(1) })
	udp := localnettest.UDPService(t, func([]byte) []byte { reached.Add(1); return nil })
	modes := []string{"socks-name", "socks-address", "socks-udp", "http", "http-connect", "forward", "forward-udp", "connect", "ping"}
	policy := "version: 1\nservices:\n"
	for _, mode := range modes {
		address, protocol := tcp, "tcp"
		if strings.HasSuffix(mode, "udp") {
			address, protocol = udp, "udp"
		}
		policy += fmt.Sprintf("  %s: {address: %q, protocol: %s, hostnames: [%s.corp.example], port: 80}\n", mode, address, protocol, mode)
	}
	policy += "rules:\n  - {name: all but sales, subjects: {groups: [engineering]}, allow: [\"*\"]}\n" +
		"  - {name: sales stays out, subjects: {groups: [sales]}, deny: [\"*\"], reason: Sales stays out.}\n"
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: policy})
	d := newDesktop(t)
	d.login(g, "bob")

	if r := d.culvert("connect", "connect"); r.code != 4 {
		t.Errorf("connect: %v; want exit code 4", r)
	}
	if r := d.culvert("ping", "ping"); r.code != 4 {
		t.Errorf("ping: %v; want exit code 4", r)
	}
	d.up("--socks", "127.0.0.1:0", "--http-proxy", "127.0.0.1:0", "-L", "forward", "-L", "forward-udp/udp")
	offers := d.offers()
	socks, err := proxy.SOCKS5("tcp", offers["socks5"], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"socks-name.corp.example:80", tcp} {
		if conn, err := socks.Dial("tcp", target); err == nil {
			conn.Close()
			t.Errorf("SOCKS to %s was granted", target)
		}
	}
	socksDatagram(t, offers["socks5"], "socks-udp.corp.example", 80)
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: offers["http-proxy"]}), DisableKeepAlives: true}
	for _, address := range []string{"http://http.corp.example/", "https://http-connect.corp.example:80/"} {
		resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get(address)
		if err == nil {
			resp.Body.Close()
		}
		if err == nil && resp.StatusCode != http.StatusForbidden || err != nil && !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("%s through the HTTP proxy: %v, %v; want 403", address, resp, err)
		}
	}
	// A forward on its own says no at once, before it offers a port.
	if r := d.culvert("forward", "forward"); r.code != 4 || !strings.Contains(r.stderr, "Sales stays out.") {
		t.Errorf("forward: %v; want exit code 4 and the reason", r)
	}
	// Beside a running client the ports are there, and lead nowhere.
	for _, offer := range d.status()["offers"].([]any) {
		o := offer.(map[string]any)
		if o["kind"] != "forward" {
			continue
		}
		network := "tcp"
		if strings.HasSuffix(o["service"].(string), "udp") {
			network = "udp"
		}
		conn, err := net.Dial(network, o["address"].(string))
		if err != nil {
			continue // reset before it was established
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, err = conn.Write([]byte("early data"))
		if network == "udp" {
			continue // nothing answers; the audit log tells
		}
		if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			continue // the reset was there first; told once, it reads as an end afterwards
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("forward: read %d bytes, %v; want a reset", n, err)
		}
	}

	for _, mode := range modes {
		if mode == "socks-address" || mode == "ping" {
			// The address is that of several services, and the record names one of them;
			// ping knows from the list of services that it would be denied.
			continue
		}
		eventually(t, "the audit log has a denial of "+mode, func() bool { return g.denied(mode) })
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the services heard of %d tries", n)
	}
}

// denied reports whether the audit log has a refused stream to a service.
func (g *gateway) denied(service string) bool {
	for _, record := range g.audit() {
		text := fmt.Sprint(record)
		if strings.Contains(text, "sales stays out") && strings.Contains(text, service) {
			return true
		}
	}
	return false
}

// socksDatagram sends one datagram through a UDP association.
func socksDatagram(t testing.TB, socks, host string, port uint16) {
	t.Helper()
	control, err := net.Dial("tcp", socks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	if _, err := control.Write([]byte{5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != 0 {
		t.Fatalf("UDP ASSOCIATE: % x, %v", answer, err)
	}
	udp, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IP(answer[6:10]), Port: int(answer[10])<<8 | int(answer[11])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	datagram := append([]byte{0, 0, 0, 3, byte(len(host))}, host...)
	datagram = append(datagram, byte(port>>8), byte(port))
	if _, err := udp.Write(append(datagram, "hello"...)); err != nil {
		t.Fatal(err)
	}
}
