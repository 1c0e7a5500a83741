package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" { // one end of BenchmarkCompare
		if err := runRole(role); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// testTLS is an mTLS configuration for both ends: one self-signed certificate that each trusts.
var testTLS = sync.OnceValues(func() (client, server *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"gateway.test"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	base := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, RootCAs: pool, ClientCAs: pool,
		NextProtos: []string{wire.ALPN}, ServerName: "gateway.test", ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
	}
	return base.Clone(), base
})

// tcpPair is a TCP connection over loopback.
func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func admitAll(wire.Hello) (wire.Welcome, error) {
	return wire.Welcome{Session: "s1", Gateway: "g1"}, nil
}

// serve makes the gateway's end of a session over raw.
func serve(ctx context.Context, raw net.Conn, cfg ServerConfig) (*Session, error) {
	_, conf := testTLS()
	sock := NewSocket(raw)
	tc := tls.Server(sock, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		sock.Close()
		return nil, err
	}
	return Server(ctx, sock, tc, cfg)
}

type pairOptions struct {
	client ClientConfig
	server ServerConfig
	raw    func(testing.TB) (net.Conn, net.Conn) // default: tcpPair
}

// pair is both ends of a session.
func pair(t testing.TB, opts pairOptions) (client, server *Session) {
	t.Helper()
	if opts.raw == nil {
		opts.raw = tcpPair
	}
	if opts.server.Admit == nil {
		opts.server.Admit = admitAll
	}
	if opts.server.Logger == nil {
		opts.server.Logger = testenv.Logger(t).With("end", "server")
	}
	if opts.client.Logger == nil {
		opts.client.Logger = testenv.Logger(t).With("end", "client")
	}
	craw, sraw := opts.raw(t)
	conf, _ := testTLS()
	type result struct {
		s   *Session
		err error
	}
	served := make(chan result, 1)
	go func() {
		s, err := serve(context.Background(), sraw, opts.server)
		served <- result{s, err}
	}()
	client, err := Client(context.Background(), craw, conf, opts.client)
	r := <-served
	if err != nil || r.err != nil {
		t.Fatalf("client: %v, server: %v", err, r.err)
	}
	t.Cleanup(func() { client.Close(); r.s.Close() })
	return client, r.s
}

var echoTarget = wire.ServiceTarget(wire.KindTCP, "echo")

// acceptEach runs f for every stream that the session is asked for.
func acceptEach(t testing.TB, s *Session, f func(*Stream)) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() {
		for {
			n, err := s.Accept(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				st, err := n.Accept(n.Request.Target.Service)
				if err == nil {
					f(st)
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); s.Close(); wg.Wait() })
}

// openPair opens one stream and returns both ends.
func openPair(t testing.TB, client, server *Session, target wire.Target) (near, far *Stream) {
	t.Helper()
	accepted := make(chan *Stream, 1)
	go func() {
		defer close(accepted)
		n, err := server.Accept(context.Background())
		if err != nil {
			return
		}
		st, err := n.Accept(target.Service)
		if err == nil {
			accepted <- st
		}
	}()
	near, err := client.Open(context.Background(), target, OpenOptions{Wait: true})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	far, ok := <-accepted
	if !ok {
		t.Fatal("not accepted")
	}
	return near, far
}
