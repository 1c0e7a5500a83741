package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(farEnv) != "" {
		if err := runFarService(); err != nil {
			fmt.Fprintln(os.Stderr, "service:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	trustDomain = auth.TrustDomain("corp.example")
	patience    = 20 * time.Second
)

// world is a gateway on loopback with everything real but the clock's owner: its own CA, TLS, tunnel, policy, dialer and register.
type world struct {
	t         testing.TB
	authority *ca.Authority
	gateway   *gateway.Gateway
	registry  *session.Registry
	metrics   *gateway.Metrics
	audit     *memoryAudit
	addr      string
	policy    atomic.Pointer[policy.Set]
	resolved  *policy.Resolved
	grants    *policy.Grants
	admit     atomic.Pointer[gateway.AdmitFunc]
	stop      func() // ends everything and waits
	serving   sync.WaitGroup
	names     sync.Map        // host name → []netip.Addr
	slow      <-chan struct{} // when set, look-ups wait for it; set before the first stream
}

type option func(*gateway.Config, *session.Config)

func newWorld(t testing.TB, policyText string, opts ...option) *world {
	t.Helper()
	w := &world{t: t, authority: newAuthority(t), audit: newMemoryAudit()}
	w.setPolicy(policyText)
	w.admitAll()
	d, err := dialer.New(dialer.Config{Resolve: w.resolve})
	if err != nil {
		t.Fatal(err)
	}
	log := testenv.Logger(t)
	sessions := session.Config{Logger: log}
	cfg := gateway.Config{
		ID: w.authority.GatewayID(), TrustDomain: trustDomain, Policy: w.policy.Load, Dialer: d, Audit: w.audit,
		Admit: func(ctx context.Context, p mtls.Peer) (time.Time, error) { return (*w.admit.Load())(ctx, p) },
		Roots: w.authority.Pool, RootsDER: w.authority.RootsDER, Current: func() error { return nil }, Logger: log,
	}
	for _, o := range opts {
		o(&cfg, &sessions)
	}
	w.registry = session.New(sessions)
	w.metrics = gateway.NewMetrics(w.registry)
	cfg.Registry, cfg.Metrics = w.registry, w.metrics
	if w.gateway, err = gateway.New(cfg); err != nil {
		t.Fatal(err)
	}
	w.listen()
	return w
}

// clock is a gateway's clock that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// drives makes it the clock of the gateway and of its register.
func (c *clock) drives(g *gateway.Config, s *session.Config) { g.Now, s.Now = c.now, c.now }

// complete fills in what New insists on.
func complete(t testing.TB, cfg *gateway.Config) {
	t.Helper()
	d, err := dialer.New(dialer.Config{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.ID, cfg.TrustDomain, cfg.Dialer, cfg.Audit, cfg.Registry = "gw1", trustDomain, d, newMemoryAudit(), session.New(session.Config{})
	cfg.Policy, cfg.Roots, cfg.Current = func() *policy.Set { return nil }, x509.NewCertPool, func() error { return nil }
	cfg.Admit = func(context.Context, mtls.Peer) (time.Time, error) { return time.Time{}, nil }
}

func newAuthority(t testing.TB) *ca.Authority {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := ca.Init(dir, ca.Options{TrustDomain: trustDomain, GatewayID: "gw1"}); err != nil {
		t.Fatal(err)
	}
	a, err := ca.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) listen() {
	leaf := ca.NewGatewayLeaf(w.authority)
	conf, err := mtls.ServerConfig(mtls.ServerOptions{Certificate: leaf.Certificate, Roots: w.authority.Pool, TrustDomain: trustDomain})
	if err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	w.serving.Go(func() { w.gateway.Run(ctx) })
	w.serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			w.serving.Go(func() { w.serve(ctx, conn, conf) })
		}
	})
	w.stop = sync.OnceFunc(func() {
		ln.Close()
		cancel()
		w.serving.Wait()
	})
	w.t.Cleanup(w.stop)
}

func (w *world) serve(ctx context.Context, conn net.Conn, conf *tls.Config) {
	sock := tunnel.NewSocket(conn)
	secure := tls.Server(sock, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		sock.Close()
		return
	}
	_ = w.gateway.HandleTunnel(ctx, sock, secure)
}

func (w *world) setPolicy(text string) {
	w.t.Helper()
	if w.resolved == nil {
		w.resolved = new(policy.Resolved)
	}
	set, err := policy.Load("policy.yaml", []byte(text), policy.Options{Resolved: w.resolved, Grants: w.grants})
	if err != nil {
		w.t.Fatal(err)
	}
	w.policy.Store(set)
}

// changePolicy is what the server does when a new policy is accepted.
func (w *world) changePolicy(text string) int {
	w.t.Helper()
	w.setPolicy(text)
	return w.gateway.PolicyChanged()
}

func (w *world) admitAll() {
	w.setAdmit(func(context.Context, mtls.Peer) (time.Time, error) { return time.Time{}, nil })
}

func (w *world) setAdmit(f gateway.AdmitFunc) { w.admit.Store(&f) }

// name makes a host name resolve to addrs at the gateway.
func (w *world) name(host string, addrs ...string) {
	list := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		list[i] = netip.MustParseAddr(a)
	}
	w.names.Store(host, list)
}

func (w *world) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if w.slow != nil {
		select {
		case <-w.slow:
		case <-ctx.Done():
		}
	}
	if list, ok := w.names.Load(host); ok {
		return list.([]netip.Addr), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// desktop is somebody's device: a key, and the certificates that it got.
type desktop struct {
	w   *world
	key *ecdsa.PrivateKey
	id  auth.Identity

	mu    sync.Mutex
	chain [][]byte
}

func (w *world) desktop(subject string, groups ...string) *desktop {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &desktop{w: w, key: key, id: auth.Identity{
		Issuer: "https://idp.example.com/", Subject: subject, Provider: "corp", Name: subject, Email: subject + "@corp.example",
		EmailTrusted: true, Groups: groups, GroupsKnown: true, AuthTime: time.Now().Truncate(time.Second), Login: auth.LoginBrowser,
		Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey([]byte(subject)), IssuedAt: time.Now().Truncate(time.Millisecond),
	}}
	d.certify(time.Hour)
	return d
}

// certify issues a certificate for d.id as it is now and returns its chain.
func (d *desktop) certify(life time.Duration) [][]byte {
	d.w.t.Helper()
	now := time.Now()
	d.id.IssuedAt = now.Truncate(time.Millisecond)
	issued, err := d.w.authority.IssueClient(context.Background(), ca.ClientProfile{
		Identity: d.id, PublicKey: &d.key.PublicKey, NotBefore: now.Add(-ca.Backdate), NotAfter: now.Add(life),
	})
	if err != nil {
		d.w.t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chain = issued.Chain
	return issued.Chain
}

func (d *desktop) certificate() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &tls.Certificate{Certificate: d.chain, PrivateKey: d.key}, nil
}

// connect opens a tunnel; it is closed with the test.
func (d *desktop) connect(cfg tunnel.ClientConfig) (*tunnel.Session, error) {
	raw, err := net.Dial("tcp", d.w.addr)
	if err != nil {
		return nil, err
	}
	return d.connectOver(raw, cfg)
}

func (d *desktop) connectOver(raw net.Conn, cfg tunnel.ClientConfig) (*tunnel.Session, error) {
	conf, err := mtls.ClientConfig(mtls.ClientOptions{Certificate: d.certificate, Roots: d.w.authority.Pool, TrustDomain: trustDomain})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return tunnel.Client(ctx, raw, conf, cfg)
}

func (d *desktop) mustConnect() *tunnel.Session {
	d.w.t.Helper()
	return d.mustConnectWith(tunnel.ClientConfig{})
}

func (d *desktop) mustConnectWith(cfg tunnel.ClientConfig) *tunnel.Session {
	d.w.t.Helper()
	s, err := d.connect(cfg)
	if err != nil {
		d.w.t.Fatalf("connect: %v", err)
	}
	d.w.t.Cleanup(func() { s.Close() })
	return s
}

// allUndecided lets the client ask for more than the register allows.
func allUndecided(g *gateway.Config, _ *session.Config) { g.Tunnel.MaxUndecided = wire.MaxUndecided }

// wait looks until cond holds.
func (w *world) wait(what string, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) waitEmpty() {
	w.t.Helper()
	w.wait("the register to be empty", func() bool { sessions, streams := w.registry.Counts(); return sessions+streams == 0 })
}

// deafConn is a network that delivers nothing any more once it is stalled.
type deafConn struct {
	net.Conn
	stalled, closed chan struct{}
	once            sync.Once
}

func (d *deafConn) Read(p []byte) (int, error) {
	n, err := d.Conn.Read(p)
	select {
	case <-d.stalled:
		<-d.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (d *deafConn) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.Conn.Close()
}

// rawClient speaks the tunnel's messages over stock yamux, so that it can say what no client of ours says. Close its mux.
type rawClient struct {
	mux *yamux.Session
	ctl *yamux.Stream
}

func (d *desktop) rawConnect() (*rawClient, error) {
	conf, err := mtls.ClientConfig(mtls.ClientOptions{Certificate: d.certificate, Roots: d.w.authority.Pool, TrustDomain: trustDomain})
	if err != nil {
		return nil, err
	}
	conn, err := tls.Dial("tcp", d.w.addr, conf)
	if err != nil {
		return nil, err
	}
	quiet := yamux.DefaultConfig()
	quiet.LogOutput, quiet.EnableKeepAlive, quiet.AcceptBacklog = io.Discard, false, 1<<20
	c := new(rawClient)
	if c.mux, err = yamux.Client(conn, quiet); err != nil {
		return nil, err
	}
	if err := c.greet(); err != nil {
		c.mux.Close()
		return nil, err
	}
	return c, nil
}

func (c *rawClient) greet() (err error) {
	if c.ctl, err = c.mux.OpenStream(); err != nil {
		return err
	}
	hello, err := wire.Marshal(&wire.Hello{Versions: []int{wire.ProtocolVersion}})
	if err != nil {
		return err
	}
	if _, err := c.ctl.Write(hello); err != nil {
		return err
	}
	m, err := readMessage(c.ctl)
	if err == nil && m.Type() != wire.TypeWelcome {
		err = fmt.Errorf("%s instead of a welcome", m.Type())
	}
	return err
}

// send opens a stream with that as its first frame.
func (c *rawClient) send(t wire.Type, body []byte) (*yamux.Stream, error) {
	st, err := c.mux.OpenStream()
	if err != nil {
		return nil, err
	}
	frame := make([]byte, wire.HeaderSize, wire.HeaderSize+len(body))
	wire.PutHeader(frame, wire.Header{Type: t, Length: len(body)})
	st.SetDeadline(time.Now().Add(patience))
	_, err = st.Write(append(frame, body...))
	return st, err
}

func readMessage(r io.Reader) (wire.Message, error) {
	var head [wire.HeaderSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	h, err := wire.ParseHeader(head[:])
	if err != nil {
		return nil, err
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	return wire.Parse(h.Type, body)
}

func openStream(s *tunnel.Session, target wire.Target) (*tunnel.Stream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return s.Open(ctx, target, tunnel.OpenOptions{Wait: true})
}

func mustOpen(t testing.TB, s *tunnel.Session, target wire.Target) *tunnel.Stream {
	t.Helper()
	st, err := openStream(s, target)
	if err != nil {
		t.Fatalf("open %s: %v", target, err)
	}
	st.SetDeadline(time.Now().Add(patience))
	return st
}

func tcp(service string) wire.Target { return wire.ServiceTarget(wire.KindTCP, service) }

func wantRefusal(t testing.TB, err error, code wire.Code) *wire.Refusal {
	t.Helper()
	var r *wire.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal with %s", err, code)
	}
	if r.Code != code {
		t.Fatalf("refused with %v, want %s", r, code)
	}
	return r
}

func wantTermination(t testing.TB, err error, code wire.TerminateCode) *wire.Termination {
	t.Helper()
	var term *wire.Termination
	if !errors.As(err, &term) || term.Code != code {
		t.Fatalf("got %v, want a termination with %s", err, code)
	}
	return term
}

// service is something inside that the gateway dials.
type service struct {
	ln    net.Listener
	conns chan *net.TCPConn
	wg    sync.WaitGroup
}

// newService accepts connections and gives each to serve, which owns it; nil leaves them in conns.
func newService(t testing.TB, serve func(*net.TCPConn)) *service {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{ln: ln, conns: make(chan *net.TCPConn, 1024)}
	s.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			if serve == nil {
				s.conns <- conn.(*net.TCPConn)
				continue
			}
			s.wg.Go(func() { serve(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		s.wg.Wait()
		close(s.conns)
		for c := range s.conns {
			c.Close()
		}
	})
	return s
}

func echo(conn *net.TCPConn) {
	defer conn.Close()
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
}

func (s *service) addr() string { return s.ln.Addr().String() }

func (s *service) accept(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case c := <-s.conns:
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("nobody dialed the service")
		return nil
	}
}

// memoryAudit keeps records where tests can look at them, and numbers them as the log does.
type memoryAudit struct {
	mu      sync.Mutex
	records []audit.Record
	fail    error
	added   chan struct{} // closed and replaced at every record
}

func newMemoryAudit() *memoryAudit { return &memoryAudit{added: make(chan struct{})} }

func (m *memoryAudit) Append(_ context.Context, r audit.Record) (audit.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return audit.Receipt{}, m.fail
	}
	r.Seq = uint64(len(m.records) + 1)
	if name := fmt.Sprintf("REF%05d", r.Seq); r.Event == audit.EventStreamOpen {
		r.Stream = name
	} else if r.Reference == "" {
		r.Reference = name
	}
	m.records = append(m.records, r)
	close(m.added)
	m.added = make(chan struct{})
	return audit.Receipt{Seq: r.Seq, Reference: r.Reference, Stream: r.Stream}, nil
}

func (m *memoryAudit) setFailing(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func (m *memoryAudit) all(event audit.Event) (list []audit.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.Event == event {
			list = append(list, r)
		}
	}
	return list
}

// wait returns the first record that match likes.
func (m *memoryAudit) wait(t testing.TB, what string, match func(audit.Record) bool) audit.Record {
	t.Helper()
	timeout := time.After(patience)
	for {
		m.mu.Lock()
		added := m.added
		for _, r := range m.records {
			if match(r) {
				m.mu.Unlock()
				return r
			}
		}
		m.mu.Unlock()
		select {
		case <-added:
		case <-timeout:
			t.Fatalf("no audit record: %s", what)
		}
	}
}

func closing(target string) func(audit.Record) bool {
	return func(r audit.Record) bool { return r.Event == audit.EventStreamClose && r.Target == target }
}

// wikiPolicy lets engineering reach the wiki at addr.
func wikiPolicy(addr string) string {
	return fmt.Sprintf(`version: 1
services:
  wiki:
    description: Team wiki
    address: %s
    hostnames: [wiki.corp.example]
    port: 80
rules:
  - name: engineers
    subjects: {groups: [engineering]}
    allow: [wiki]
`, addr)
}
