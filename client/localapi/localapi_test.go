package localapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend answers with what a test put into it.
type backend struct {
	status   status.Status
	services []wire.Service
	open     func(wire.Target, bool) (relay.Conn, error)
	builtIn  func(string) (relay.Conn, error)
	changes  chan status.Status
	stopped  chan struct{}
	reloaded atomic.Bool
}

func (b *backend) Status() status.Status    { return b.status }
func (b *backend) Services() []wire.Service { return b.services }
func (b *backend) Reload()                  { b.reloaded.Store(true) }
func (b *backend) Stop()                    { close(b.stopped) }

func (b *backend) Ping(context.Context) (time.Duration, error) { return 7 * time.Millisecond, nil }

func (b *backend) Watch(ctx context.Context) iter.Seq[status.Status] {
	return func(yield func(status.Status) bool) {
		if !yield(b.status) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-b.changes:
				if !yield(s) {
					return
				}
			}
		}
	}
}

func (b *backend) Open(_ context.Context, target wire.Target, wait bool) (relay.Conn, error) {
	return b.open(target, wait)
}

func (b *backend) OpenBuiltIn(_ context.Context, name string) (relay.Conn, error) {
	if name != "culvert-admin" {
		return nil, &wire.Refusal{Code: wire.CodeNoSuchService}
	}
	return b.builtIn(name)
}

func serve(t *testing.T, b *backend) (*Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state", "api.sock")
	start(t, b, path)
	return NewClient(path), path
}

func start(t *testing.T, b *backend, path string) *Server {
	t.Helper()
	s, err := Listen(Config{Path: path, Backend: b, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

var connected = status.Status{State: status.Connected, Profile: "default", Gateway: status.Gateway{Address: "gw:443"}}

func TestStatusServicesPing(t *testing.T) {
	b := &backend{status: connected, services: []wire.Service{
		{Name: "wiki", Kind: wire.KindTCP, Port: 80, Allowed: true, Ports: []wire.PortRange{{First: 1, Last: 2}}},
	}}
	c, _ := serve(t, b)
	s, err := c.Status(t.Context())
	if err != nil || s.State != status.Connected || s.Gateway.Address != "gw:443" {
		t.Fatalf("status = %+v, %v", s, err)
	}
	list, err := c.Services(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "wiki" || !list[0].Allowed || list[0].Ports[0].Last != 2 {
		t.Fatalf("services = %+v, %v", list, err)
	}
	if rtt, err := c.Ping(t.Context()); err != nil || rtt != 7*time.Millisecond {
		t.Fatalf("ping = %v, %v", rtt, err)
	}
	if err := c.Reload(t.Context()); err != nil || !b.reloaded.Load() {
		t.Fatalf("reload: %v, %v", err, b.reloaded.Load())
	}
}

func TestServicesWhileNotConnected(t *testing.T) {
	c, _ := serve(t, &backend{status: status.Status{State: status.Expired}})
	_, err := c.Services(t.Context())
	var notConnected *status.Error
	if !errors.As(err, &notConnected) || notConnected.Status.State != status.Expired {
		t.Fatalf("error = %v, want *status.Error with expired", err)
	}
}

func TestWatch(t *testing.T) {
	b := &backend{status: connected, changes: make(chan status.Status)}
	path := filepath.Join(t.TempDir(), "api.sock")
	s := start(t, b, path)
	next, stop := iter.Pull2(NewClient(path).Watch(t.Context()))
	defer stop()
	if got, err, _ := next(); err != nil || got.State != status.Connected {
		t.Fatalf("first = %v, %v", got.State, err)
	}
	b.changes <- status.Status{State: status.Reconnecting}
	if got, err, _ := next(); err != nil || got.State != status.Reconnecting {
		t.Fatalf("second = %v, %v", got.State, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err, _ := next(); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("after the end: %v, want ErrNotRunning", err)
	}
}

func TestDownWaitsForTheEnd(t *testing.T) {
	b := &backend{status: connected, stopped: make(chan struct{})}
	path := filepath.Join(t.TempDir(), "api.sock")
	s := start(t, b, path)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-b.stopped
		_ = s.Close()
	}()
	if err := NewClient(path).Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-ended
	if err := NewClient(path).Down(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("second down: %v, want ErrNotRunning", err)
	}
}

// loopback returns both ends of a TCP connection, the first as a relay.Conn.
func loopback(t *testing.T) (relay.Conn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close(); _ = near.Close() })
	return relay.TCP(near.(*net.TCPConn)), far.(*net.TCPConn)
}

func openLoopback(t *testing.T, kind wire.Kind) (*Stream, *net.TCPConn) {
	t.Helper()
	near, far := loopback(t)
	c, _ := serve(t, &backend{status: connected, open: func(wire.Target, bool) (relay.Conn, error) { return near, nil }})
	stream, err := c.Open(t.Context(), wire.ServiceTarget(kind, "wiki"), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return stream, far
}

// TestThreatBuiltInServicesAreNotOffered: the ordinary way opens no service inside the gateway; the other way is for those alone
// (admin without authorization, NetBird GHSA-rxmp).
func TestThreatBuiltInServicesAreNotOffered(t *testing.T) {
	near, far := loopback(t)
	c, _ := serve(t, &backend{status: connected,
		open:    func(wire.Target, bool) (relay.Conn, error) { return nil, errors.New("asked") },
		builtIn: func(string) (relay.Conn, error) { return near, nil },
	})
	var refusal *wire.Refusal
	if _, err := c.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "culvert-admin"), true); !errors.As(err, &refusal) {
		t.Errorf("open: %v", err)
	}
	if _, err := c.OpenBuiltIn(t.Context(), "wiki"); !errors.As(err, &refusal) {
		t.Errorf("open wiki: %v", err)
	}
	stream, err := c.OpenBuiltIn(t.Context(), "culvert-admin")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if got := make([]byte, 4); true {
		if _, err := io.ReadFull(far, got); err != nil || string(got) != "ping" {
			t.Errorf("got %q, %v", got, err)
		}
	}
}

func TestStreamHalfClose(t *testing.T) {
	stream, far := openLoopback(t, wire.KindTCP)
	payload := bytes.Repeat([]byte("culvert"), 50_000)
	go func() {
		_, _ = stream.Write(payload)
		_ = stream.CloseWrite()
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("far end read %d bytes, %v", len(got), err)
	}
	if _, err := far.Write([]byte("answer after the end")); err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	if got, err = io.ReadAll(stream); err != nil || string(got) != "answer after the end" {
		t.Fatalf("near end read %q, %v", got, err)
	}
}

func TestStreamFarResetIsNoCleanEnd(t *testing.T) {
	stream, far := openLoopback(t, wire.KindTCP)
	if _, err := far.Write([]byte("half of it")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len("half of it"))
	if _, err := io.ReadFull(stream, buf); err != nil {
		t.Fatal(err)
	}
	relay.TCP(far).Abort(nil)
	if n, err := stream.Read(buf); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("read after a reset = %d, %v; want a failure", n, err)
	}
}

func TestStreamAbortReachesTheService(t *testing.T) {
	stream, far := openLoopback(t, wire.KindTCP)
	if _, err := stream.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if _, err := far.Read(buf); err != nil {
		t.Fatal(err)
	}
	stream.Abort(errors.New("interrupted"))
	if n, err := far.Read(buf); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("the service read %d, %v; want a reset", n, err)
	}
}

// A program that is killed behind its own half-close must not leave the
// service's connection open.
func TestStreamDeathAfterEndIsNoticed(t *testing.T) {
	stream, far := openLoopback(t, wire.KindTCP)
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(far); err != nil {
		t.Fatal(err)
	}
	_ = stream.Conn.Close()
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := far.Write([]byte("more")); err != nil {
			if isTimeout(err) {
				t.Fatal("the service still writes to nobody")
			}
			return
		}
	}
}

func TestRefusalKeepsItsParts(t *testing.T) {
	want := wire.Refusal{Code: wire.CodeDenied, Reason: "not for you", Remedy: "ask it-help", Reference: "r-1", Service: "wiki"}
	c, _ := serve(t, &backend{status: connected, open: func(wire.Target, bool) (relay.Conn, error) { return nil, &want }})
	_, err := c.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "wiki"), true)
	var got *wire.Refusal
	if !errors.As(err, &got) || *got != want {
		t.Fatalf("error = %#v", err)
	}
}

// refusedLater is a stream whose refusal comes after it was opened.
type refusedLater struct{ relay.Conn }

func (refusedLater) Read([]byte) (int, error) {
	return 0, &wire.Refusal{Code: wire.CodeDenied, Reason: "too late"}
}

func TestLateRefusal(t *testing.T) {
	near, _ := loopback(t)
	c, _ := serve(t, &backend{status: connected, open: func(_ wire.Target, wait bool) (relay.Conn, error) {
		if wait {
			t.Error("wait was not asked for")
		}
		return refusedLater{near}, nil
	}})
	stream, err := c.Open(t.Context(), wire.ServiceTarget(wire.KindTCP, "wiki"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	_, err = stream.Read(make([]byte, 1))
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != "too late" {
		t.Fatalf("read error = %v", err)
	}
}

// packetEcho answers each datagram with itself.
type packetEcho struct {
	relay.Conn
	packets chan []byte
	once    sync.Once
	closed  chan struct{}
}

func (e *packetEcho) Read(p []byte) (int, error) {
	select {
	case packet := <-e.packets:
		return copy(p, packet), nil
	case <-e.closed:
		return 0, net.ErrClosed
	}
}

func (e *packetEcho) Write(p []byte) (int, error) {
	select {
	case e.packets <- bytes.Clone(p):
		return len(p), nil
	case <-e.closed:
		return 0, net.ErrClosed
	}
}

func (e *packetEcho) Close() error { e.once.Do(func() { close(e.closed) }); return nil }
func (e *packetEcho) Abort(error)  { _ = e.Close() }

func TestDatagramsKeepTheirBounds(t *testing.T) {
	c, _ := serve(t, &backend{status: connected, open: func(wire.Target, bool) (relay.Conn, error) {
		return &packetEcho{packets: make(chan []byte, 8), closed: make(chan struct{})}, nil
	}})
	stream, err := c.Open(t.Context(), wire.ServiceTarget(wire.KindUDP, "dns"), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 0, 1200, 60_000} {
		if _, err := stream.Write(bytes.Repeat([]byte{7}, size)); err != nil {
			t.Fatal(err)
		}
		n, err := stream.Read(make([]byte, 65_535))
		if err != nil || n != size {
			t.Fatalf("datagram of %d bytes came back as %d, %v", size, n, err)
		}
	}
	_ = stream.Close()
}

// threats.md, "Local and administrative surfaces": local API rebinding
// (CVE-2022-41924) and CSRF (CVE-2025-47910).
func TestThreatForeignHostAndOrigin(t *testing.T) {
	c, _ := serve(t, &backend{status: connected})
	for name, change := range map[string]func(*http.Request){
		"host":           func(r *http.Request) { r.Host = "evil.example" },
		"localhost":      func(r *http.Request) { r.Host = "localhost" },
		"host with port": func(r *http.Request) { r.Host = Host + ":80" },
		"origin":         func(r *http.Request) { r.Header.Set("Origin", "http://"+Host) },
		"null origin":    func(r *http.Request) { r.Header.Set("Origin", "null") },
		"referer":        func(r *http.Request) { r.Header.Set("Referer", "http://evil.example/") },
		"fetch metadata": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		for _, route := range []string{"GET /v1/status", "POST /v1/down", "POST /v1/open", "GET /nowhere"} {
			method, path, _ := strings.Cut(route, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, "http://"+Host+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			change(req)
			reply, err := c.http.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = reply.Body.Close()
			if reply.StatusCode != http.StatusForbidden {
				t.Errorf("%s with another %s: %s, want 403", route, name, reply.Status)
			}
		}
	}
}

func TestThreatSocketModes(t *testing.T) {
	_, path := serve(t, &backend{status: connected})
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	dir, err := os.Lstat(filepath.Dir(path))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", dir.Mode(), err)
	}
}

func TestSecondServerIsToldSo(t *testing.T) {
	_, path := serve(t, &backend{status: connected})
	if _, err := Listen(Config{Path: path, Backend: &backend{}}); !errors.Is(err, ErrRunning) {
		t.Fatalf("second Listen: %v, want ErrRunning", err)
	}
}

func TestStaleSocketIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false) // as a crash leaves it
	_ = dead.Close()
	if _, err := NewClient(path).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("status from a dead socket: %v, want ErrNotRunning", err)
	}
	start(t, &backend{status: connected}, path)
	if s, err := NewClient(path).Status(t.Context()); err != nil || s.State != status.Connected {
		t.Fatalf("status = %v, %v", s.State, err)
	}
}

// threats.md, "file modes, symlinks": what is planted at the socket's place is
// not removed.
func TestThreatPlantedFileStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(Config{Path: path, Backend: &backend{}}); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Fatalf("Listen over a file: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Fatalf("the file is %q, %v", data, err)
	}
}

func TestLongPath(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "api.sock")
	s, err := Listen(Config{Path: path, Backend: &backend{status: connected}})
	if err != nil {
		if strings.Contains(err.Error(), "--state-dir") {
			return // systems other than Linux
		}
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve() }()
	if _, err := NewClient(path).Status(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(s.Close(), <-served); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stayed: %v", err)
	}
}

func TestBadOpenRequests(t *testing.T) {
	c, _ := serve(t, &backend{status: connected})
	if _, err := c.Open(t.Context(), wire.Target{Kind: "sctp", Service: "x"}, true); err == nil {
		t.Error("an unknown kind was taken")
	}
	if _, err := c.Open(t.Context(), wire.Target{Kind: wire.KindTCP}, true); err == nil {
		t.Error("an empty target was taken")
	}
}
