package localnet

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAddr(t *testing.T) {
	good := map[string]string{
		"127.0.0.1:1080": "127.0.0.1:1080", "localhost:0": "127.0.0.1:0", ":53": "127.0.0.1:53",
		"[::1]:22": "[::1]:22", "127.9.9.9:1": "127.9.9.9:1",
	}
	for in, want := range good {
		if got, err := ParseAddr(in); err != nil || got.String() != want {
			t.Errorf("ParseAddr(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"0.0.0.0:1080", "[::]:1080", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"} {
		if _, err := ParseAddr(in); !errors.Is(err, ErrNotLoopback) {
			t.Errorf("ParseAddr(%q): %v, want ErrNotLoopback", in, err)
		}
	}
	for _, in := range []string{"1080", "127.0.0.1", "wiki:80", "127.0.0.1:70000", "127.0.0.1:http"} {
		if _, err := ParseAddr(in); err == nil {
			t.Errorf("ParseAddr(%q) is accepted", in)
		}
	}
}

func TestListenNamesAPortInUse(t *testing.T) {
	first, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := Listen(first.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: %v", err)
	}
}

// flaky fails to accept a few times, as when file descriptors run out.
type flaky struct {
	net.Listener
	failures int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures > 0 {
		f.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestServeOutlivesExhaustedDescriptorsAndWaitsForItsHandlers(t *testing.T) {
	ln, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	handled := make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, &flaky{Listener: ln, failures: 3}, Options{Logger: testenv.Logger(t), Max: 1}, func(ctx context.Context, c net.Conn) {
			defer c.Close()
			_, _ = c.Write([]byte("x"))
			<-ctx.Done()
			close(handled)
		})
	}()
	first := dial(t, ln)
	if _, err := io.ReadFull(first, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// The only place is taken: a second connection is closed at once.
	if n, err := dial(t, ln).Read(make([]byte, 1)); err == nil {
		t.Errorf("the connection above the limit read %d bytes", n)
	}
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case <-handled:
	default:
		t.Error("Serve returned before its handler")
	}
}

func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
