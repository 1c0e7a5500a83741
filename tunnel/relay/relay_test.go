package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCopyBehavesAsPlainTCP(t *testing.T) {
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		client, a := relaytest.Pair(t)
		b, service := relaytest.Pair(t)
		start(t, context.Background(), relay.TCP(a), relay.TCP(b), relay.Options{})
		return client, service
	})
}

// TestCopyOfPlainReadersBehavesAsPlainTCP takes the way without WriterTo, as other kinds of connections do.
func TestCopyOfPlainReadersBehavesAsPlainTCP(t *testing.T) {
	type plain struct{ relay.Conn }
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		client, a := relaytest.Pair(t)
		b, service := relaytest.Pair(t)
		start(t, context.Background(), notifying{plain{relay.TCP(a)}}, notifying{plain{relay.TCP(b)}}, relay.Options{})
		return client, service
	})
}

// notifying never notifies; it shows that an absent notice does no harm where the table does not need one.
type notifying struct{ relay.Conn }

func (notifying) OnAbort(func(error)) func() bool { return func() bool { return true } }

// start copies in the background; the test ends only when the copy has.
func start(t testing.TB, ctx context.Context, a, b relay.Conn, opts relay.Options) <-chan relay.Result {
	t.Helper()
	done := make(chan relay.Result, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		done <- relay.Copy(ctx, a, b, opts)
	}()
	t.Cleanup(func() { a.Abort(errors.New("test over")); b.Abort(errors.New("test over")); <-over })
	return done
}

func TestCopyResult(t *testing.T) {
	errCut := errors.New("cut by an administrator")
	tests := []struct {
		name  string
		idle  time.Duration
		act   func(t *testing.T, client, service *net.TCPConn, cancel context.CancelCauseFunc)
		cause error
		by    relay.Side
	}{
		{"both end, client first", 0, func(t *testing.T, c, s *net.TCPConn, _ context.CancelCauseFunc) {
			c.CloseWrite()
			io.ReadAll(s)
			s.Close()
		}, nil, relay.SideA},
		{"service resets", 0, func(t *testing.T, c, s *net.TCPConn, _ context.CancelCauseFunc) {
			s.SetLinger(0)
			s.Close()
		}, syscall.ECONNRESET, relay.SideB},
		{"context", 0, func(t *testing.T, c, s *net.TCPConn, cancel context.CancelCauseFunc) {
			cancel(errCut)
		}, errCut, relay.SideLocal},
		{"idle", 50 * time.Millisecond, func(*testing.T, *net.TCPConn, *net.TCPConn, context.CancelCauseFunc) {}, relay.ErrIdle, relay.SideLocal},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			client, a := relaytest.Pair(t)
			b, service := relaytest.Pair(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var meter relay.Meter
			done := start(t, ctx, relay.TCP(a), relay.TCP(b), relay.Options{IdleTimeout: tc.idle, Meter: &meter})
			io.WriteString(client, "12345")
			io.ReadFull(service, make([]byte, 5))
			io.WriteString(service, "abc")
			io.ReadFull(client, make([]byte, 3))
			tc.act(t, client, service, cancel)
			res := <-done
			if !errors.Is(res.Cause, tc.cause) || res.By != tc.by || res.AtoB != 5 || res.BtoA != 3 {
				t.Errorf("got %+v, want cause %v by %v with 5 and 3 bytes", res, tc.cause, tc.by)
			}
			if up, down := meter.Bytes(); up != 5 || down != 3 || meter.LastActive().IsZero() {
				t.Errorf("meter: %d up, %d down, last %v", up, down, meter.LastActive())
			}
			if tc.cause == nil {
				return
			}
			for _, conn := range []*net.TCPConn{client, service} {
				if _, err := io.ReadAll(conn); err == nil {
					t.Error("an aborted stream ended cleanly")
				}
			}
		})
	}
}

func TestIdleTimeoutCountsFromTheLastByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, a := net.Pipe()
		b, service := net.Pipe()
		began := time.Now()
		done := make(chan relay.Result, 1)
		go func() {
			done <- relay.Copy(t.Context(), pipeEnd{a}, pipeEnd{b}, relay.Options{IdleTimeout: time.Minute})
		}()
		for range 5 {
			time.Sleep(50 * time.Second)
			io.WriteString(client, "x")
			io.ReadFull(service, make([]byte, 1))
		}
		res := <-done
		if got := time.Since(began); !errors.Is(res.Cause, relay.ErrIdle) || got != 310*time.Second {
			t.Errorf("ended after %v with %v, want idle after 5m10s", got, res.Cause)
		}
	})
}

type pipeEnd struct{ net.Conn }

func (p pipeEnd) CloseWrite() error { return p.Close() }
func (p pipeEnd) Abort(error)       { p.Close() }

func TestAbortNotice(t *testing.T) {
	client, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	cause := errors.New("the peer gave up")
	n := &notice{Conn: relay.TCP(a), registered: make(chan func(error), 1)}
	done := start(t, t.Context(), n, relay.TCP(b), relay.Options{})
	(<-n.registered)(cause)
	if res := <-done; res.Cause != cause || res.By != relay.SideA {
		t.Errorf("got %+v", res)
	}
	for _, conn := range []*net.TCPConn{client, service} {
		if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want a reset", err)
		}
	}
}

type notice struct {
	relay.Conn
	registered chan func(error)
}

func (n *notice) OnAbort(f func(error)) func() bool {
	n.registered <- f
	return func() bool { return true }
}

func BenchmarkCopyBulk(b *testing.B) {
	client, service, done := benchPair(b)
	defer func() { client.Close(); service.Close(); <-done }()
	const chunk = 1 << 20
	buf := make([]byte, chunk)
	go func() {
		for range b.N {
			if _, err := client.Write(buf); err != nil {
				return
			}
		}
	}()
	b.SetBytes(chunk)
	b.ReportAllocs()
	b.ResetTimer()
	sink := make([]byte, chunk)
	for range b.N {
		if _, err := io.ReadFull(service, sink); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCopyRoundTrip(b *testing.B) {
	client, service, done := benchPair(b)
	defer func() { client.Close(); service.Close(); <-done }()
	go io.Copy(struct{ io.Writer }{service}, struct{ io.Reader }{service})
	one := make([]byte, 1)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		client.Write(one)
		if _, err := io.ReadFull(client, one); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCopySetUp is what one short stream costs beyond its sockets.
func BenchmarkCopySetUp(b *testing.B) {
	b.ReportAllocs()
	for range b.N {
		relay.Copy(b.Context(), ended{}, ended{}, relay.Options{IdleTimeout: time.Hour})
	}
}

type ended struct{}

func (ended) Read([]byte) (int, error)    { return 0, io.EOF }
func (ended) Write(p []byte) (int, error) { return len(p), nil }
func (ended) CloseWrite() error           { return nil }
func (ended) Abort(error)                 {}
func (ended) Close() error                { return nil }

func benchPair(b *testing.B) (client, service *net.TCPConn, done <-chan relay.Result) {
	client, a := relaytest.Pair(b)
	x, service := relaytest.Pair(b)
	return client, service, start(b, context.Background(), relay.TCP(a), relay.TCP(x), relay.Options{IdleTimeout: time.Hour})
}
