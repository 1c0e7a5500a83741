package oidc

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

func TestKindOf(t *testing.T) {
	for address, want := range map[string]addressKind{
		"192.0.2.1": kindPublic, "2001:db8::1": kindPublic, "8.8.8.8": kindPublic, "64:ff9b::808:808": kindPublic,
		"127.0.0.1": kindLoopback, "127.9.9.9": kindLoopback, "::1": kindLoopback, "::ffff:127.0.0.1": kindLoopback,
		"10.0.0.1": kindPrivate, "172.16.0.1": kindPrivate, "192.168.1.1": kindPrivate, "fd00::1": kindPrivate,
		"100.64.0.1": kindPrivate, "::ffff:10.0.0.1": kindPrivate, "64:ff9b::a00:1": kindPrivate, "2002:a00:1::": kindPrivate,
		"64:ff9b:1::1": kindPrivate, "fec0::1": kindPrivate,
		"169.254.169.254": kindForbidden, "::ffff:169.254.169.254": kindForbidden, "64:ff9b::a9fe:a9fe": kindForbidden,
		"2002:a9fe:a9fe::": kindForbidden, "fe80::1": kindForbidden, "fe80::1%eth0": kindForbidden, "0.0.0.0": kindForbidden,
		"::": kindForbidden, "0.1.2.3": kindForbidden, "224.0.0.1": kindForbidden, "ff02::1": kindForbidden,
		"255.255.255.255": kindForbidden, "100.100.100.200": kindForbidden, "fd00:ec2::254": kindForbidden,
		"168.63.129.16": kindForbidden, "192.0.0.192": kindForbidden,
	} {
		if got := kindOf(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s is %s, want %s", address, got, want)
		}
	}
}

func TestGuard(t *testing.T) {
	type dial struct{ host, address string }
	for name, test := range map[string]struct {
		issuer string
		first  string // where the issuer was first
		dial   dial
		allow  bool
	}{
		"public issuer, public keys":        {"https://idp.example", "192.0.2.1", dial{"keys.example", "192.0.2.9"}, true},
		"public issuer, private keys":       {"https://idp.example", "192.0.2.1", dial{"keys.example", "10.0.0.1"}, false},
		"public issuer, loopback":           {"https://idp.example", "192.0.2.1", dial{"localhost", "127.0.0.1"}, false},
		"public issuer turns private":       {"https://idp.example", "192.0.2.1", dial{"idp.example", "10.0.0.1"}, false},
		"private issuer":                    {"https://idp.corp", "", dial{"idp.corp", "10.0.0.1"}, true},
		"private issuer, private keys":      {"https://idp.corp", "10.0.0.1", dial{"keys.corp", "10.0.0.2"}, true},
		"private issuer, loopback":          {"https://idp.corp", "10.0.0.1", dial{"localhost", "127.0.0.1"}, false},
		"private issuer, metadata":          {"https://idp.corp", "10.0.0.1", dial{"x", "169.254.169.254"}, false},
		"issuer is metadata by name":        {"https://idp.corp", "", dial{"idp.corp", "169.254.169.254"}, false},
		"keys first, private":               {"https://idp.corp", "", dial{"keys.corp", "10.0.0.1"}, false},
		"literal private issuer, keys":      {"https://10.0.0.1", "", dial{"keys.corp", "10.0.0.2"}, true},
		"literal link-local issuer":         {"https://169.254.7.7", "", dial{"169.254.7.7", "169.254.7.7"}, true},
		"literal link-local, another there": {"https://169.254.7.7", "", dial{"x", "169.254.169.254"}, false},
		"case of the host":                  {"https://IDP.corp", "", dial{"idp.CORP", "10.0.0.1"}, true},
	} {
		g := newGuard(test.issuer, HTTPOptions{Proxy: noProxy})
		if test.first != "" {
			g.learn(g.issuerHost, &net.TCPAddr{IP: net.ParseIP(test.first)})
		}
		err := g.check(test.dial.host, netip.MustParseAddr(test.dial.address))
		if (err == nil) != test.allow {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// resolver is a DNS server on loopback whose answers a test can change.
type resolver struct {
	mu      sync.Mutex
	answers map[string]string
}

func (r *resolver) set(name, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[dns.Fqdn(name)] = address
}

func (r *resolver) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := new(dns.Msg).SetReply(q)
	if a := r.answers[strings.ToLower(q.Question[0].Name)]; a != "" && q.Question[0].Qtype == dns.TypeA {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(a)})
	}
	_ = w.WriteMsg(m)
}

func startResolver(t *testing.T) (*resolver, *net.Resolver) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{answers: map[string]string{}}
	server := &dns.Server{PacketConn: socket, Handler: r}
	done := make(chan error, 1)
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { done <- server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown(); <-done })
	return r, &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

// Class: SSRF by discovery or JWKS (OpenZiti GHSA-whjr): redirects.
func TestThreatSSRFByRedirect(t *testing.T) {
	f := newFake(t)
	target := ""
	f.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target, http.StatusFound) })
	f.discovery["jwks_uri"] = f.server.URL + "/moved"
	token := Presented{IDToken: f.token(t, f.claims(nil))}
	for _, target = range []string{
		"http://169.254.169.254/latest/meta-data/", "http://[fe80::1%25lo]/", "http://10.11.12.13/", "http://[fd00:ec2::254]/",
		"http://100.100.100.200/", "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/", "file:///etc/passwd", "gopher://x/",
		f.server.URL + "/moved",
	} {
		_, err := f.verifier(t, f.config()).VerifyLogin(t.Context(), token, "nonce-1")
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", target, err)
		}
	}
	target = f.server.URL + "/keys" // the issuer itself is on loopback
	if _, err := f.verifier(t, f.config()).VerifyLogin(t.Context(), token, "nonce-1"); err != nil {
		t.Errorf("a redirect to where the issuer is: %v", err)
	}
}

// The same class: a name that changes its address after it was looked at.
func TestThreatSSRFByRebinding(t *testing.T) {
	f := newFake(t)
	names, lookup := startResolver(t)
	u, _ := url.Parse(f.server.URL)
	client := NewHTTPClient("http://idp.test:"+u.Port(), HTTPOptions{Resolver: lookup, Proxy: noProxy})
	client.Transport.(*cappedTransport).inner.DisableKeepAlives = true
	get := func(host string) error {
		resp, err := client.Get("http://" + host + ":" + u.Port() + "/keys")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	}
	names.set("idp.test", "127.0.0.1")
	names.set("keys.test", "127.0.0.1")
	names.set("meta.test", "169.254.169.254")
	if err := get("keys.test"); !errors.Is(err, errAddress) {
		t.Errorf("loopback before the issuer is known to be there: %v", err)
	}
	for _, host := range []string{"idp.test", "keys.test"} {
		if err := get(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := get("meta.test"); !errors.Is(err, errAddress) {
		t.Errorf("metadata by name: %v", err)
	}
	for _, flipped := range []string{"169.254.169.254", "10.0.0.1"} {
		names.set("idp.test", flipped)
		if err := get("idp.test"); !errors.Is(err, errAddress) {
			t.Errorf("the issuer's name flipped to %s: %v", flipped, err)
		}
	}
}

// The same class: https must not be left, and what carries secrets follows nowhere.
func TestRedirectRules(t *testing.T) {
	request := func(address string) *http.Request { return httptest.NewRequest(http.MethodGet, address, nil) }
	https := []*http.Request{request("https://idp.example/")}
	for address, allow := range map[string]bool{"https://other.example/": true, "http://idp.example/": false} {
		if err := checkRedirect(request(address), https); (err == nil) != allow {
			t.Errorf("%s: %v", address, err)
		}
	}
	if err := checkRedirect(request("https://idp.example/"), []*http.Request{https[0], https[0], https[0], https[0]}); err == nil {
		t.Error("a fourth redirect was followed")
	}
}

// The same class: bodies that do not end.
func TestThreatHugeAndSlowBodies(t *testing.T) {
	var bomb bytes.Buffer
	zip := gzip.NewWriter(&bomb)
	_, _ = io.CopyN(zip, zeros{}, 64<<20)
	_ = zip.Close()
	for name, handler := range map[string]http.HandlerFunc{
		"announced": func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "99999999") },
		"chunked":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, 8<<20) },
		"compressed": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		},
		"headers":  func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) },
		"one over": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, maxBody+1) },
	} {
		f := newFake(t)
		f.HandleFunc("GET /big", handler)
		f.discovery["jwks_uri"] = f.server.URL + "/big"
		_, err := f.verifier(t, f.config()).VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(nil))}, "nonce-1")
		if !errors.Is(err, ErrUnavailable) || len(err.Error()) > 1000 {
			t.Errorf("%s: %.300v", name, err)
		}
	}
	f := newFake(t)
	f.HandleFunc("GET /full", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, zeros{}, maxBody) })
	resp, err := f.options(t).HTTPClient.Get(f.server.URL + "/full")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) != maxBody {
		t.Errorf("a body of exactly the bound: %d bytes, %v", len(body), err)
	}
	slow := f.options(t)
	slow.HTTPClient.Timeout = 50 * time.Millisecond
	f.HandleFunc("GET /slow/.well-known/openid-configuration", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	config := f.config()
	config.Issuer += "/slow"
	if _, err := Discover(t.Context(), config.ClientSettings(), slow); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a provider that never answers: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestThroughAProxy(t *testing.T) {
	f := newFake(t)
	proxied := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { proxied++; answer(w, f.discovery) }))
	defer proxy.Close()
	proxyURL, _ := url.Parse(proxy.URL)
	client := NewHTTPClient("https://idp.example", HTTPOptions{Proxy: func(*http.Request) (*url.URL, error) { return proxyURL, nil }})
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://idp.example/")
	if err != nil || proxied != 1 {
		t.Fatalf("a proxy on a private address: %v", err)
	}
	_ = resp.Body.Close()
	if _, err := client.Get("http://169.254.169.254/"); !errors.Is(err, errAddress) || proxied != 1 {
		t.Errorf("metadata through the proxy: %v", err)
	}
}
