package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestTunnelHandshake(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	config := w.config(t, w.person(t, "ada"))
	config.ServerName = "whatever.example"
	got, state, err := g.dial(t, config)
	if err != nil || got != "tunnel ada" {
		t.Fatalf("greeted with %q, %v", got, err)
	}
	if state.Version != tls.VersionTLS13 || state.CurveID != tls.X25519MLKEM768 || state.NegotiatedProtocol != wire.ALPN {
		t.Errorf("version %#x, key exchange %s, protocol %q", state.Version, state.CurveID, state.NegotiatedProtocol)
	}
	id, err := GatewayIdentity(state, ClientOptions{Roots: w.Pool, TrustDomain: domain})
	if err != nil || id != "gw-1" {
		t.Errorf("GatewayIdentity: %q, %v", id, err)
	}
}

func TestConfigsRefuseToBeIncomplete(t *testing.T) {
	w := newWorld(t)
	client := func() (*tls.Certificate, error) { return nil, nil }
	for name, o := range map[string]ServerOptions{
		"empty": {}, "no roots": {Certificate: w.leaf.Certificate, TrustDomain: domain},
		"no certificate": {Roots: w.Pool, TrustDomain: domain}, "no trust domain": {Roots: w.Pool, Certificate: w.leaf.Certificate},
	} {
		if c, err := ServerConfig(o); !errors.Is(err, ErrIncomplete) || c != nil {
			t.Errorf("server, %s: %v", name, err)
		}
	}
	for name, o := range map[string]ClientOptions{
		"empty": {}, "no roots": {Certificate: client, TrustDomain: domain},
		"no certificate": {Roots: w.Pool, TrustDomain: domain}, "no trust domain": {Roots: w.Pool, Certificate: client},
	} {
		if c, err := ClientConfig(o); !errors.Is(err, ErrIncomplete) || c != nil {
			t.Errorf("client, %s: %v", name, err)
		}
	}
}

// Class: mTLS fails open on a bad CA (Caddy CVE-2026-27586). No roots means nobody, never the system's roots.
func TestThreatNoRootsTrustNobody(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	cert := w.person(t, "ada")
	for name, pool := range map[string]*x509.CertPool{"nil": nil, "empty": x509.NewCertPool(), "another's": newWorld(t).Pool()} {
		g.roots.Store(pool)
		refused(t, g, "gateway with roots "+name, cert)
	}
	g.roots.Store(w.Pool())
	welcome(t, w, g)
	for name, pool := range map[string]*x509.CertPool{"nil": nil, "empty": x509.NewCertPool(), "another's": newWorld(t).Pool()} {
		config, err := ClientConfig(ClientOptions{Certificate: func() (*tls.Certificate, error) { return cert, nil },
			Roots: func() *x509.CertPool { return pool }, TrustDomain: domain})
		must(t, err)
		if got, _, err := g.dial(t, config); err == nil {
			t.Errorf("client with roots %s: greeted with %q", name, got)
		}
	}
	if _, err := VerifyClientChain(cert.Certificate, ChainOptions{TrustDomain: domain}); !errors.Is(err, ErrIncomplete) {
		t.Errorf("VerifyClientChain without roots: %v", err)
	}
}

// The configuration is safe when its hook is lost: Clone keeps it, but somebody may build a config from parts.
func TestServerConfigWithoutItsHookTrustsNobody(t *testing.T) {
	w := newWorld(t)
	config, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: w.Pool, TrustDomain: domain})
	must(t, err)
	config.GetConfigForClient = nil
	g := &gateway{}
	g.serve(t, config)
	refused(t, g, "no hook", w.person(t, "ada"))
}

func TestOnePortRefusesUnsafeParts(t *testing.T) {
	w := newWorld(t)
	public := &tls.Config{NextProtos: []string{"h2"}}
	good := func() *tls.Config {
		config, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: w.Pool, TrustDomain: domain})
		must(t, err)
		return config
	}
	if _, err := OnePort(public, good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(public, tunnel *tls.Config){
		"public offers the tunnel": func(public, _ *tls.Config) { public.NextProtos = []string{"h2", wire.ALPN} },
		"no client certificate":    func(_, tunnel *tls.Config) { tunnel.ClientAuth = tls.RequestClientCert },
		"given, then verified":     func(_, tunnel *tls.Config) { tunnel.ClientAuth = tls.VerifyClientCertIfGiven },
		"no check":                 func(_, tunnel *tls.Config) { tunnel.VerifyConnection = nil },
		"tunnel offers HTTP":       func(_, tunnel *tls.Config) { tunnel.NextProtos = append(tunnel.NextProtos, "h2") },
		"tunnel offers nothing":    func(_, tunnel *tls.Config) { tunnel.NextProtos = nil },
		"tickets":                  func(_, tunnel *tls.Config) { tunnel.SessionTicketsDisabled = false },
	} {
		p, tunnel := public.Clone(), good()
		spoil(p, tunnel)
		if _, err := OnePort(p, tunnel); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := OnePort(nil, good()); err == nil {
		t.Error("no public configuration: accepted")
	}
	if _, err := OnePort(public, nil); err == nil {
		t.Error("no tunnel configuration: accepted")
	}
}

// A public hook cannot smuggle the tunnel's protocol in at handshake time either.
func TestOnePortLooksAtWhatThePublicHookReturns(t *testing.T) {
	w := newWorld(t)
	tunnel, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: w.Pool, TrustDomain: domain})
	must(t, err)
	public := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{GetCertificate: w.https.GetCertificate, NextProtos: []string{"h2", wire.ALPN}}, nil
	}}
	config, err := OnePort(public, tunnel)
	must(t, err)
	g := &gateway{}
	g.serve(t, config)
	if got, _, err := g.dial(t, careless(nil, "h2")); err == nil {
		t.Errorf("greeted with %q", got)
	}
	refused(t, g, "no certificate", nil)
}

func TestClientRefusesOtherServers(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	gatewayTemplate := func(change func(*x509.Certificate)) *x509.Certificate {
		c := clientTemplate(t, identity("x"))
		c.ExtraExtensions = nil
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.URIs = []*url.URL{auth.GatewayURI(domain, "gw-1")}
		change(c)
		return c
	}
	issuing := w.Issuing()
	sign := func(change func(*x509.Certificate)) *tls.Certificate {
		return forge(t, gatewayTemplate(change), issuing, w.issuing, issuing.Raw)
	}
	foreign, err := other.leaf.Certificate()
	must(t, err)
	config := w.config(t, w.person(t, "ada"))
	for name, cert := range map[string]*tls.Certificate{
		"another installation": foreign,
		"a person's":           w.person(t, "eve"),
		"self-signed":          forge(t, gatewayTemplate(func(*x509.Certificate) {}), nil, nil),
		"by a person":          byPerson(t, w, gatewayTemplate(func(*x509.Certificate) {})),
		"issuer path":          sign(func(c *x509.Certificate) { c.URIs[0].Path = "/issuer/gw-1" }),
		"user path":            sign(func(c *x509.Certificate) { c.URIs[0].Path = "/user/gw-1" }),
		"two URIs":             sign(func(c *x509.Certificate) { c.URIs = append(c.URIs, auth.GatewayURI(domain, "gw-2")) }),
		"no name":              sign(func(c *x509.Certificate) { c.URIs = nil }),
		"both usages":          sign(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) }),
		"no usage":             sign(func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		"expired":              sign(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }),
		"not yet valid":        sign(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }),
		"the issuing key":      {Certificate: [][]byte{issuing.Raw}, PrivateKey: w.issuing},
		"by the root itself":   forge(t, gatewayTemplate(func(*x509.Certificate) {}), w.Roots()[0], w.root),
	} {
		g := &gateway{}
		g.serve(t, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{wire.ALPN}, ClientAuth: tls.RequestClientCert})
		if _, _, err := g.dial(t, config); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: %v, want ErrUnverified", name, err)
		}
	}
}

func byPerson(t *testing.T, w *world, tmpl *x509.Certificate) *tls.Certificate {
	t.Helper()
	eve := w.person(t, "eve")
	key, leaf := eve.PrivateKey, eve.Leaf
	return forge(t, tmpl, leaf, mustECDSA(t, key), eve.Certificate...)
}

func TestClientWantsItsGatewayAndItsProtocol(t *testing.T) {
	w := newWorld(t)
	leaf, err := w.leaf.Certificate()
	must(t, err)
	o := ClientOptions{Certificate: func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }, Roots: w.Pool, TrustDomain: domain, GatewayID: "gw-2"}
	otherID, err := ClientConfig(o)
	must(t, err)
	o.GatewayID, o.TrustDomain = "", "other.example"
	otherDomain, err := ClientConfig(o)
	must(t, err)
	g := &gateway{}
	g.serve(t, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{wire.ALPN}})
	for name, config := range map[string]*tls.Config{"another gateway": otherID, "another trust domain": otherDomain} {
		if _, _, err := g.dial(t, config); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: %v", name, err)
		}
	}
	silent, old := &gateway{}, &gateway{}
	silent.serve(t, &tls.Config{Certificates: []tls.Certificate{*leaf}}) // negotiates no protocol
	old.serve(t, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{wire.ALPN}, MaxVersion: tls.VersionTLS12})
	for name, g := range map[string]*gateway{"no ALPN": silent, "TLS 1.2": old} {
		if _, _, err := g.dial(t, w.config(t, w.person(t, "ada"))); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
}

// A clock that is off by a minute either way does no harm.
func TestSkewOfAMinuteIsTolerated(t *testing.T) {
	w := newWorld(t)
	cert := w.person(t, "ada")
	for _, skew := range []time.Duration{-ca.Backdate + 2*time.Second, ca.Backdate} {
		off := func() time.Time { return time.Now().Add(skew) }
		tunnel, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: w.Pool, TrustDomain: domain, Now: off})
		must(t, err)
		g := &gateway{}
		g.serve(t, tunnel)
		if got, _, err := g.dial(t, w.config(t, cert)); err != nil || got != "tunnel ada" {
			t.Errorf("skew %s: %q, %v", skew, got, err)
		}
	}
	late := func() time.Time { return time.Now().Add(2 * time.Hour) }
	tunnel, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: w.Pool, TrustDomain: domain, Now: late})
	must(t, err)
	g := &gateway{}
	g.serve(t, tunnel)
	refused(t, g, "an expired certificate", cert)
}

func TestPinnedHTTPS(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	g := w.listen(t)
	served, err := w.https.Certificate()
	must(t, err)
	try := func(host string, pin auth.Fingerprint) error {
		config, err := HTTPSClientConfig(HTTPSOptions{Host: host, Fingerprint: pin})
		must(t, err)
		config.ServerName = host
		_, _, err = g.dial(t, config)
		return err
	}
	for _, host := range []string{"vpn.corp.example", "127.0.0.1"} {
		if err := try(host, w.https.Fingerprint()); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := try("other.example", w.https.Fingerprint()); err == nil {
		t.Error("another host name: connected")
	}
	for name, pin := range map[string]auth.Fingerprint{"another authority": other.https.Fingerprint(), "the leaf": auth.FingerprintOf(served.Certificate[0])} {
		if err := try("vpn.corp.example", pin); !errors.Is(err, ErrFingerprint) {
			t.Errorf("pinned to %s: %v, want ErrFingerprint", name, err)
		}
	}
	if _, err := HTTPSClientConfig(HTTPSOptions{Fingerprint: w.https.Fingerprint()}); err == nil {
		t.Error("a pin without a host: accepted")
	}
	if _, err := HTTPSClientConfig(HTTPSOptions{Host: "x", Fingerprint: "sha256:nonsense"}); err == nil {
		t.Error("a bad pin: accepted")
	}
}

// Somebody in between can send the pinned authority's certificate, but cannot sign with its key.
func TestPinnedHTTPSWithAStolenCertificate(t *testing.T) {
	w, attacker := newWorld(t), newWorld(t)
	genuine, err := w.https.Certificate()
	must(t, err)
	fake, err := attacker.https.Certificate()
	must(t, err)
	fake.Certificate = append(fake.Certificate[:2:2], genuine.Certificate[1])
	g := &gateway{}
	g.serve(t, &tls.Config{Certificates: []tls.Certificate{*fake}})
	config, err := HTTPSClientConfig(HTTPSOptions{Host: "vpn.corp.example", Fingerprint: w.https.Fingerprint()})
	must(t, err)
	if _, _, err := g.dial(t, config); err == nil {
		t.Error("connected")
	}
}

func TestHTTPSByRoots(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.https.CertificatePEM())
	for name, c := range map[string]struct {
		o    HTTPSOptions
		want bool
	}{
		"its authority":      {HTTPSOptions{Roots: pool}, true},
		"the system's roots": {HTTPSOptions{}, false},
		"the tunnel's roots": {HTTPSOptions{Roots: w.Pool()}, false},
	} {
		config, err := HTTPSClientConfig(c.o)
		must(t, err)
		config.ServerName = "vpn.corp.example"
		got, _, err := g.dial(t, config)
		if (err == nil) != c.want || c.want && got != "public" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// fragment splits the first write, the ClientHello, into TLS records of n bytes, each in a TCP segment of its own.
func fragment(n int) func(net.Conn) net.Conn {
	return func(conn net.Conn) net.Conn { return &fragmented{Conn: conn, n: n} }
}

type fragmented struct {
	net.Conn
	n    int
	done bool
}

func (f *fragmented) Write(p []byte) (int, error) {
	if f.done {
		return f.Conn.Write(p)
	}
	f.done = true
	const header = 5
	for body := p[header:]; len(body) > 0; {
		part := body[:min(f.n, len(body))]
		body = body[len(part):]
		record := append([]byte{p[0], p[1], p[2], byte(len(part) >> 8), byte(len(part))}, part...)
		if _, err := f.Conn.Write(record); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
