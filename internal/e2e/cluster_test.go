//go:build linux

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/pgtest"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A cluster is two gateways that share a PostgreSQL, perhaps behind a TCP balancer:
// what docs/operations.md describes, with the same commands.
type cluster struct {
	*gateway // as people see it: the balancer's address
	gateways [2]*gateway
	postgres *pgtest.Server
	database string
}

// startPair runs two gateways with one policy on one PostgreSQL. tls and extra are
// further YAML of both.
func startPair(t testing.TB, issuer, policy, tls, extra string) *cluster {
	t.Helper()
	c := &cluster{postgres: pgtest.Start(t)}
	c.database = c.postgres.Database(t)
	for i := range c.gateways {
		c.gateways[i] = newGateway(t, gatewayConfig{issuer: issuer, policy: policy, extra: fmt.Sprintf("database: %q\n%s%s", c.database, tls, extra)})
	}
	c.join()
	for _, g := range c.gateways {
		g.start()
	}
	return c
}

// startCluster is startPair behind haproxy.
func startCluster(t testing.TB, issuer, policy, extra string) *cluster {
	t.Helper()
	haproxy := testenv.NeedTool(t, "haproxy")
	certificate, key, caFile := webCertificate(t)
	front := freePort(t)
	c := startPair(t, issuer, policy, fmt.Sprintf("tls: {mode: files, certificate: %q, key: %q}\n", certificate, key),
		fmt.Sprintf("public_url: https://%s\nproxy_protocol: {from: [127.0.0.1]}\n%s", front, extra))
	balance(t, haproxy, front, c.gateways[0].listen, c.gateways[1].listen)
	c.gateway = &gateway{t: t, url: "https://" + front, caFile: caFile, listen: front}
	return c
}

// join gives the second gateway an issuing key that the root of the first has signed.
func (c *cluster) join() {
	first, second := c.gateways[0], c.gateways[1]
	first.t.Helper()
	if err := os.RemoveAll(filepath.Join(second.dir, "ca")); err != nil {
		first.t.Fatal(err)
	}
	csr := second.command(nil, "ca", "csr", "--config", second.config(), "--gateway-id", "gw2")
	fingerprint := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(csr.stderr)
	signed := first.command(strings.NewReader(csr.stdout), "ca", "sign", "-", "--config", first.config(), "--gateway-id", "gw2", "--fingerprint", fingerprint)
	second.command(strings.NewReader(signed.stdout), "ca", "install", "-", "--config", second.config())
}

// command runs a command of culvert-gateway that has to succeed.
func (g *gateway) command(stdin io.Reader, args ...string) result {
	g.t.Helper()
	r := run(g.t, nil, stdin, program(g.t, "culvert-gateway"), args...)
	if r.code != 0 {
		g.t.Fatalf("culvert-gateway %s: %v", strings.Join(args, " "), r)
	}
	return r
}

// balance runs haproxy before the gateways, as docs/operations.md has it.
func balance(t testing.TB, haproxy, front, first, second string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	check := "check inter 200ms fall 2 rise 1 check-ssl verify none check-alpn http/1.1 send-proxy-v2 check-send-proxy"
	config := fmt.Sprintf(`defaults
  mode tcp
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 5s
frontend culvert
  bind %s
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk GET /readyz
  option redispatch
  server gw1 %s %s
  server gw2 %s %s
`, front, first, check, second, check)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, nil, haproxy, "-db", "-f", file)
	eventually(t, "the balancer has a gateway", func() bool {
		conn, err := net.Dial("tcp", front)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// webCertificate is an authority's certificate for 127.0.0.1: what several gateways
// share, and what people are given to trust.
func webCertificate(t testing.TB) (certificate, key, caFile string) {
	t.Helper()
	dir := t.TempDir()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vpn"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, "vpn.crt"), filepath.Join(dir, "vpn.key")
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key, certificate
}

// proxied is an HTTP client that goes through a desktop's proxy.
func (d *desktop) proxied() *http.Client {
	d.t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: d.offers()["http-proxy"]}), DisableKeepAlives: true}
	return &http.Client{Transport: transport, Timeout: patience}
}

// reads asks for a page through a desktop's proxy and returns what came.
func reads(c *http.Client, address string) (string, error) {
	resp, err := c.Get(address)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body), err
}

// connections are all that a gateway lists, by the person's name.
func (g *gateway) connections() map[string]adminapi.Connection {
	g.t.Helper()
	r := g.admin("sessions", "--json")
	var page adminapi.Page[adminapi.Session]
	if err := json.Unmarshal([]byte(r.stdout), &page); r.code != 0 || err != nil {
		g.t.Fatalf("admin sessions: %v (%v)", r, err)
	}
	found := map[string]adminapi.Connection{}
	for _, s := range page.Items {
		for _, c := range s.Connections {
			found[s.User.Name] = c
		}
	}
	return found
}

// Two gateways behind a balancer: either serves a certificate of the other, both
// list all sessions, a lock made at one cuts at the other, and when one dies its
// people are back through the other.
func TestTwoGatewaysBehindABalancer(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	wiki := web(t, "wiki")
	c := startCluster(t, p.issuer, fmt.Sprintf(`version: 1
services:
  wiki: {address: %q, hostnames: [wiki.corp.example], port: 80, protocol: http}
rules:
  - {name: everybody, subjects: {groups: [engineering, sales]}, allow: [wiki]}
`, wiki), "")
	ada, bob := newDesktop(t), newDesktop(t)
	ada.login(c.gateway, "ada")
	bob.login(c.gateway, "bob")
	ada.up("--http-proxy", "127.0.0.1:0")
	bob.up("--http-proxy", "127.0.0.1:0")
	for who, d := range map[string]*desktop{"ada": ada, "bob": bob} {
		if page, err := reads(d.proxied(), "http://wiki.corp.example/"); err != nil || page != "wiki says /" {
			t.Errorf("%s reads %q, %v", who, page, err)
		}
	}
	for i, g := range c.gateways {
		eventually(t, fmt.Sprintf("gateway %d lists both sessions", i+1), func() bool { return len(g.connections()) == 2 })
	}
	at := c.gateways[0].connections()
	t.Logf("ada is at %s, bob at %s", at["Ada"].Gateway, at["Bob"].Gateway)

	// The lock is made at the gateway where bob is not.
	far := c.other(at["Bob"].Gateway)
	began := time.Now()
	if r := far.admin("revoke", "corp:sub:bob", "--message", "Laptop was lost.", "--yes"); r.code != 0 {
		t.Fatalf("revoke: %v", r)
	}
	eventually(t, "bob's client is cut off", func() bool { return bob.status()["state"] != "connected" })
	t.Logf("bob's client said that he is cut off %v after the command began", time.Since(began))
	if out := bob.culvert("services"); out.code == 0 || !strings.Contains(out.stderr, "Laptop was lost.") {
		t.Errorf("bob is told: %v", out)
	}

	// Ada's gateway is killed; her certificate is good at the other.
	dead := c.named(at["Ada"].Gateway)
	dead.proc.kill()
	killed := time.Now()
	eventually(t, "ada reads the wiki through the other gateway", func() bool {
		page, err := reads(ada.proxied(), "http://wiki.corp.example/again")
		return err == nil && page == "wiki says /again"
	})
	t.Logf("ada was back through the other gateway %v after hers was killed", time.Since(killed))
	if r := c.other(at["Ada"].Gateway).admin("gateways"); r.code != 0 || !strings.Contains(r.stdout, "gw1") || !strings.Contains(r.stdout, "gw2") {
		t.Errorf("gateways: %v", r)
	}
}

// Fault "SIGTERM under load": one of two gateways behind a balancer is told to stop.
// Its clients are told and go to the other, streams that are open end by
// themselves, and nobody who connects meanwhile fails.
func TestFaultGatewayStopsBehindABalancer(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	slow := make(chan struct{})
	service := tcpService(t, func(conn *net.TCPConn) {
		var how [1]byte
		if _, err := io.ReadFull(conn, how[:]); err == nil && how[0] == 's' {
			<-slow
		}
		_, _ = conn.Write([]byte("done"))
	})
	c := startCluster(t, p.issuer, fmt.Sprintf(`version: 1
services:
  job: {address: %q, hostnames: [job.corp.example], port: 80}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [job]}
`, service), "drain_delay: 2s\n") // the balancer asks every 200 ms
	ada, second := newDesktop(t), newDesktop(t)
	ada.login(c.gateway, "ada")
	second.login(c.gateway, "ada")
	ada.up("--socks", "127.0.0.1:0")
	socks, err := proxy.SOCKS5("tcp", ada.offers()["socks5"], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(how string) error {
		conn, err := socks.Dial("tcp", "job.corp.example:80")
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, how); err != nil {
			return err
		}
		got, err := io.ReadAll(conn)
		if err == nil && string(got) != "done" {
			err = fmt.Errorf("got %q", got)
		}
		return err
	}
	open := make(chan error, 1)
	go func() { open <- ask("s") }()
	at := ""
	eventually(t, "ada's stream is open", func() bool {
		at = c.gateways[0].connections()["Ada"].Gateway
		return at != "" && c.named(at).recorded("stream.open")
	})
	stopping := c.named(at)
	if err := stopping.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tries := 0
	for ended := false; !ended; tries++ {
		if r := second.culvert("ping", "job"); r.code != 0 { // a new tunnel each time
			t.Errorf("a new connection while the gateway stops: %v", r)
		}
		if err := ask("f"); err != nil {
			t.Errorf("a new stream while the gateway stops: %v", err)
		}
		if tries == 5 {
			close(slow)
			if err := <-open; err != nil {
				t.Errorf("the stream that was open: %v", err)
			}
		}
		select {
		case <-stopping.proc.done:
			ended = true
		default:
		}
	}
	if stopping.proc.err != nil {
		t.Errorf("the gateway ended with %v, want a drain without a cut", stopping.proc.err)
	}
	t.Logf("%d new connections and as many new streams while the gateway stopped, none failed", tries)
}

func (c *cluster) named(id string) *gateway {
	if id == "gw2" {
		return c.gateways[1]
	}
	return c.gateways[0]
}

func (c *cluster) other(id string) *gateway {
	if id == "gw2" {
		return c.gateways[0]
	}
	return c.gateways[1]
}
