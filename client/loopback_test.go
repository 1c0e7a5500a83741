package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// loopbackGateway is a real tunnel end on loopback: it echoes every stream to
// "echo" and denies the others.
type loopbackGateway struct {
	t         *testing.T
	authority *ca.Authority
	leaf      tls.Certificate
	address   string
	log       *slog.Logger

	mu       sync.Mutex
	listener net.Listener
	sessions []*tunnel.Session
	wg       sync.WaitGroup
}

func newLoopbackGateway(t *testing.T) *loopbackGateway {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := ca.Init(dir, ca.Options{TrustDomain: "corp.example", GatewayID: "gw-1"}); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	issued, err := authority.IssueGateway(t.Context(), &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	g := &loopbackGateway{t: t, authority: authority, log: testenv.Logger(t),
		leaf: tls.Certificate{Certificate: issued.Chain, PrivateKey: key, Leaf: issued.Leaf}}
	g.listen("127.0.0.1:0")
	t.Cleanup(g.stop)
	return g
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (g *loopbackGateway) listen(address string) {
	g.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		g.t.Fatal(err)
	}
	conf, err := mtls.ServerConfig(mtls.ServerOptions{
		Certificate: func() (*tls.Certificate, error) { return &g.leaf, nil },
		Roots:       g.authority.Pool, TrustDomain: "corp.example",
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.listener, g.address = l, l.Addr().String()
	g.mu.Unlock()
	g.wg.Go(func() { g.accept(l, conf) })
}

func (g *loopbackGateway) accept(l net.Listener, conf *tls.Config) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		g.wg.Go(func() { g.serve(conn, conf) })
	}
}

func (g *loopbackGateway) serve(conn net.Conn, conf *tls.Config) {
	sock := tunnel.NewSocket(conn)
	tc := tls.Server(sock, conf)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		g.log.Info("handshake", "error", err)
		_ = conn.Close()
		return
	}
	told := make(chan struct{}, 1)
	s, err := tunnel.Server(ctx, sock, tc, tunnel.ServerConfig{
		Admit: func(wire.Hello) (wire.Welcome, error) {
			return wire.Welcome{Session: "s", Gateway: "gw-1", Roots: g.authority.RootsDER()}, nil
		},
		OnPosture: func(map[string]string) { poke(told) },
	})
	if err != nil {
		return
	}
	g.mu.Lock()
	g.sessions = append(g.sessions, s)
	g.mu.Unlock()
	services := wire.Services{Services: []wire.Service{{Name: "echo", Kind: wire.KindTCP, Allowed: true}}}
	_ = s.SendServices(services)
	g.wg.Go(func() {
		for {
			select {
			case <-told:
				_ = s.SendServices(services)
			case <-s.Done():
				return
			}
		}
	})
	for {
		request, err := s.Accept(context.Background())
		if err != nil {
			_ = s.Close()
			return
		}
		g.wg.Go(func() { echo(request) })
	}
}

func echo(request *tunnel.NewStream) {
	if request.Request.Target.Service != "echo" {
		_ = request.Reject(&wire.Refusal{Code: wire.CodeDenied, Reason: "not yours", Remedy: "ask it-help", Reference: "r-1"})
		return
	}
	stream, err := request.Accept("echo")
	if err != nil {
		return
	}
	if _, err := io.Copy(stream, stream); err != nil {
		stream.Abort(err)
		return
	}
	_ = stream.CloseWrite()
	_ = stream.Close()
}

// kill drops everything, as a crash does.
func (g *loopbackGateway) stop() {
	g.mu.Lock()
	_ = g.listener.Close()
	sessions := g.sessions
	g.sessions = nil
	g.mu.Unlock()
	for _, s := range sessions {
		_ = s.Close()
	}
	g.wg.Wait()
}

// profile returns a profile that is logged in at the gateway.
func (g *loopbackGateway) profile() *certstore.Profile {
	g.t.Helper()
	dir := filepath.Join(g.t.TempDir(), "state")
	sealer, err := keyring.New(keyring.Config{Dir: filepath.Join(dir, "keyring"), Use: keyring.KindFile})
	if err != nil {
		g.t.Fatal(err)
	}
	profile, err := certstore.Open(dir, "", certstore.Options{Keyring: sealer})
	if err != nil {
		g.t.Fatal(err)
	}
	key, secret, err := certstore.NewKey()
	if err != nil {
		g.t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	id := auth.Identity{Issuer: "https://idp.example", Subject: "1", Provider: "corp", Name: "Ada", GroupsKnown: true,
		AuthTime: now, Login: auth.LoginBrowser, Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey([]byte("device")),
		IssuedAt: now}
	issued, err := g.authority.IssueClient(g.t.Context(), ca.ClientProfile{Identity: id, PublicKey: &key.PublicKey,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour)})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := profile.Save(g.t.Context(), certstore.Login{
		Gateway: "https://" + g.address, TrustDomain: "corp.example", Roots: g.authority.RootsDER(), Provider: "corp",
		Session: id.Session, SessionKey: secret, Chain: issued.Chain, Deadline: now.Add(12 * time.Hour),
		RefreshToken: certstore.NewSecretString("r-1"),
	}); err != nil {
		g.t.Fatal(err)
	}
	return profile
}

func startClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Logger = testenv.Logger(t)
	c := New(cfg)
	if err := c.Up(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Down)
	return c
}

func roundTrip(t *testing.T, conn io.ReadWriter, closeWrite func() error) {
	t.Helper()
	payload := bytes.Repeat([]byte("culvert "), 40_000)
	go func() {
		_, _ = conn.Write(payload)
		_ = closeWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("%d of %d bytes came back, %v", len(got), len(payload), err)
	}
}

func TestLoopback(t *testing.T) {
	g := newLoopbackGateway(t)
	c := startClient(t, Config{Profile: g.profile()})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	stream, err := c.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "echo"), OpenOptions{Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, stream.CloseWrite)
	_ = stream.Close()
	_, err = c.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "payroll"), OpenOptions{Wait: true})
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Reference != "r-1" {
		t.Fatalf("payroll: %v", err)
	}
	s := c.Status()
	if !strings.HasPrefix(s.Gateway.TLS, "TLS 1.3, X25519MLKEM768, ") || s.User.Name != "Ada" || s.Traffic.Received == 0 {
		t.Errorf("status = %+v", s)
	}
	if list := c.Services(); len(list) != 1 || list[0].Name != "echo" {
		t.Errorf("services = %v", list)
	}
}

// A renewal that takes long, in this process or another, keeps nobody from connecting.
func TestFaultConnectsWhileARenewalHangs(t *testing.T) {
	g := newLoopbackGateway(t)
	profile := g.profile()
	lock, err := profile.LockRefresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()
	c := startClient(t, Config{Profile: profile})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Error(err)
	}
}

func TestLoopbackReconnects(t *testing.T) {
	g := newLoopbackGateway(t)
	c := startClient(t, Config{Profile: g.profile()})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	address := g.address
	g.stop()
	next, stop := pullStatus(t, c)
	defer stop()
	for next().State != status.Reconnecting {
	}
	g.listen(address)
	begun := time.Now()
	for !next().Works() {
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("connected %s after the gateway's return", took)
	}
}

// pullStatus returns the snapshots one by one.
func pullStatus(t *testing.T, c *Client) (next func() status.Status, stop func()) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	snapshots := make(chan status.Status)
	go func() {
		defer close(snapshots)
		for s := range c.Watch(ctx) {
			select {
			case snapshots <- s:
			case <-ctx.Done():
			}
		}
	}()
	return func() status.Status {
		s, ok := <-snapshots
		if !ok {
			t.Fatal("the expected state did not come within 20 s")
		}
		return s
	}, cancel
}

func TestLoopbackThroughLocalAPI(t *testing.T) {
	g := newLoopbackGateway(t)
	profile := g.profile()
	c := startClient(t, Config{Profile: profile})
	server, err := c.ListenLocal()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	defer func() {
		if err := errors.Join(server.Close(), <-served); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	local := localapi.NewClient(SocketPath(profile))
	stream, err := local.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "echo"), false)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, stream, stream.CloseWrite)
	_ = stream.Close()
	if rtt, err := local.Ping(t.Context()); err != nil || rtt <= 0 {
		t.Errorf("ping: %v, %v", rtt, err)
	}
	late, err := local.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "payroll"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	_, err = late.Read(make([]byte, 1))
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Remedy != "ask it-help" {
		t.Errorf("payroll, refused late: %v", err)
	}
}

// threats.md, "Certificates and TLS": a gateway of another authority, such as a
// box that opens TLS, is no gateway, and the person reads so.
func TestThreatInterceptedTunnel(t *testing.T) {
	g, other := newLoopbackGateway(t), newLoopbackGateway(t)
	cfg := Config{Profile: g.profile(), Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, other.address)
	}}
	c := startClient(t, cfg)
	err := c.Ready(t.Context())
	var notConnected *status.Error
	if !errors.As(err, &notConnected) {
		t.Fatalf("ready: %v", err)
	}
	s := notConnected.Status
	if !strings.Contains(s.Reason, "not by the gateway's own authority") || len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnIntercepted {
		t.Errorf("status = %s, warnings %v", s.Headline(), s.Warnings)
	}
}

// connectProxy is an HTTP proxy that wants ada:secret.
func connectProxy(t *testing.T, calls chan<- string) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveConnect(conn, calls) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return &url.URL{Scheme: "http", Host: l.Addr().String()}
}

func serveConnect(conn net.Conn, calls chan<- string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	calls <- req.Method + " " + req.Host
	if req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("ada:secret")) {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", req.Host)
	if err != nil {
		return
	}
	defer far.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, in)
		_ = far.Close()
	}()
	_, _ = io.Copy(conn, far)
	_ = conn.Close()
	<-done
}

func TestTunnelThroughProxy(t *testing.T) {
	g := newLoopbackGateway(t)
	calls := make(chan string, 16)
	via := connectProxy(t, calls)
	via.User = url.UserPassword("ada", "secret")
	c := startClient(t, Config{Profile: g.profile(), Proxy: func(*url.URL) (*url.URL, error) { return via, nil }})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-calls; got != "CONNECT "+g.address {
		t.Errorf("the proxy was asked for %q", got)
	}
	if shown := c.Status().Gateway.Proxy; strings.Contains(shown, "secret") || !strings.Contains(shown, via.Host) {
		t.Errorf("the status shows the proxy as %q", shown)
	}
}

func TestProxyWantsPassword(t *testing.T) {
	g := newLoopbackGateway(t)
	calls := make(chan string, 64)
	via := connectProxy(t, calls)
	c := startClient(t, Config{Profile: g.profile(), Proxy: func(*url.URL) (*url.URL, error) { return via, nil }})
	err := c.Ready(t.Context())
	var notConnected *status.Error
	if !errors.As(err, &notConnected) || !strings.Contains(notConnected.Status.Reason, "wants a user name and password") ||
		!strings.Contains(notConnected.Status.Remedy, "HTTPS_PROXY") {
		t.Fatalf("ready: %v", err)
	}
}
