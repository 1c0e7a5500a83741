package mtls

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const domain auth.TrustDomain = "corp.example"

// world is one installation: its authority, and the issuing and root keys that tests forge with.
type world struct {
	*ca.Authority
	leaf    *ca.GatewayLeaf
	https   *ca.HTTPS
	issuing *ecdsa.PrivateKey
	root    *ecdsa.PrivateKey
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	must(t, ca.Init(dir, ca.Options{TrustDomain: domain, GatewayID: "gw-1"}))
	a, err := ca.Load(dir)
	must(t, err)
	h, err := ca.SelfIssuedHTTPS(filepath.Join(t.TempDir(), "https"), []string{"vpn.corp.example", "127.0.0.1"})
	must(t, err)
	return &world{Authority: a, leaf: ca.NewGatewayLeaf(a), https: h,
		issuing: readKey(t, filepath.Join(dir, "issuing.key")), root: readKey(t, filepath.Join(dir, "root.key"))}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readKey(t testing.TB, path string) *ecdsa.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	must(t, err)
	return key.(*ecdsa.PrivateKey)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func identity(subject string) auth.Identity {
	now := time.Now()
	return auth.Identity{Issuer: "https://idp.example.com/", Subject: subject, Provider: "corp", Groups: []string{"engineering"}, GroupsKnown: true,
		AuthTime: now, IssuedAt: now, Login: auth.LoginBrowser, Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey([]byte(subject))}
}

// client issues a certificate for a person.
func (w *world) client(t testing.TB, id auth.Identity, key *ecdsa.PrivateKey) *tls.Certificate {
	t.Helper()
	now := time.Now()
	issued, err := w.IssueClient(context.Background(), ca.ClientProfile{Identity: id, PublicKey: &key.PublicKey,
		NotBefore: now.Add(-ca.Backdate), NotAfter: now.Add(time.Hour)})
	must(t, err)
	return &tls.Certificate{Certificate: issued.Chain, PrivateKey: key, Leaf: issued.Leaf}
}

func (w *world) person(t testing.TB, subject string) *tls.Certificate {
	t.Helper()
	return w.client(t, identity(subject), newKey(t))
}

// clientTemplate is a client certificate's content, to be spoilt and signed by whatever key a test likes.
func clientTemplate(t testing.TB, id auth.Identity) *x509.Certificate {
	t.Helper()
	ext, err := auth.Embed(id)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: ca.NewSerial(), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{id.SPIFFEID(domain)}}
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, ext)
	return tmpl
}

// forge signs a template and returns it with the chain behind it.
func forge(t testing.TB, tmpl, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey, behind ...[]byte) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	if issuer == nil {
		issuer, issuerKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer, &key.PublicKey, issuerKey)
	must(t, err)
	return &tls.Certificate{Certificate: append([][]byte{der}, behind...), PrivateKey: key}
}

func serialNumber(n int64) *big.Int { return big.NewInt(n) }

// gateway is a one-port listener as a gateway has it. It greets each connection with what it takes it for.
type gateway struct {
	addr  string
	roots atomic.Pointer[x509.CertPool]
}

func (w *world) listen(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{}
	g.roots.Store(w.Pool())
	tunnel, err := ServerConfig(ServerOptions{Certificate: w.leaf.Certificate, Roots: g.roots.Load, TrustDomain: domain})
	must(t, err)
	public := &tls.Config{GetCertificate: w.https.GetCertificate, NextProtos: []string{"h2", "http/1.1", "acme-tls/1"}}
	config, err := OnePort(public, tunnel)
	must(t, err)
	g.serve(t, config)
	return g
}

func (g *gateway) serve(t testing.TB, config *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { greet(tls.Server(conn, config)) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

// greet writes "tunnel SUBJECT", or "public", and echoes until the peer has gone.
func greet(conn *tls.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if conn.Handshake() != nil {
		return
	}
	text := "public"
	if state := conn.ConnectionState(); IsTunnel(state) {
		peer, err := PeerIdentity(state, domain)
		if err != nil {
			return
		}
		text = "tunnel " + peer.Identity.Subject
	}
	fmt.Fprintln(conn, text)
	_, _ = io.Copy(conn, conn)
}

// dial returns the greeting. In TLS 1.3 a client learns only by reading that its certificate was refused.
func (g *gateway) dial(t testing.TB, config *tls.Config, wrap ...func(net.Conn) net.Conn) (string, tls.ConnectionState, error) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", g.addr, 10*time.Second)
	must(t, err)
	for _, w := range wrap {
		raw = w(raw)
	}
	conn := tls.Client(raw, config)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := conn.Handshake(); err != nil {
		return "", tls.ConnectionState{}, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), conn.ConnectionState(), err
}

// config is a client's proper configuration.
func (w *world) config(t testing.TB, cert *tls.Certificate) *tls.Config {
	t.Helper()
	config, err := ClientConfig(ClientOptions{Certificate: func() (*tls.Certificate, error) { return cert, nil }, Roots: w.Pool, TrustDomain: domain})
	must(t, err)
	return config
}

// careless is an attacker's configuration: it verifies nothing and may present anything.
func careless(cert *tls.Certificate, protos ...string) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: protos}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert == nil {
			return &tls.Certificate{}, nil
		}
		return cert, nil
	}
	return config
}

// refused checks that no tunnel came about.
func refused(t *testing.T, g *gateway, name string, cert *tls.Certificate) {
	t.Helper()
	if got, _, err := g.dial(t, careless(cert, wire.ALPN)); err == nil {
		t.Errorf("%s: greeted with %q", name, got)
	}
}

// welcome checks that the gateway still works.
func welcome(t *testing.T, w *world, g *gateway) {
	t.Helper()
	if got, _, err := g.dial(t, w.config(t, w.person(t, "ada"))); err != nil || got != "tunnel ada" {
		t.Errorf("a proper client afterwards: %q, %v", got, err)
	}
}
