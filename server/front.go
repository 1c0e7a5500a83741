package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/tunnel"
)

// The pauses after an Accept that failed: there is no point in trying at full
// speed while the process has no file descriptor left.
const (
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
	warnEvery      = 10 * time.Second
)

// A front is the one port: it accepts, bounds what strangers can hold, does the
// TLS handshake and hands the connection to the tunnel or the HTTPS side,
// according to what was negotiated and verified.
type front struct {
	log        *slog.Logger
	listener   net.Listener
	tls        *tls.Config
	timeout    time.Duration // of one handshake
	max        int64         // open connections
	proxies    proxyTrust    // balancers, which say where a connection comes from
	rates      *addressRates
	handshakes *crowd
	web        *web
	// tunnel serves a tunnel connection until it has ended, and says why it did.
	tunnel  func(context.Context, *tunnel.Socket, *tls.Conn) error
	metrics *metrics

	open    atomic.Int64
	closing atomic.Bool
	conns   sync.WaitGroup // the goroutines of handshakes and tunnels
	warned  throttle
}

// serve accepts until the listener is closed. Connections live on behind it;
// ctx is theirs.
func (f *front) serve(ctx context.Context) error {
	pause := acceptPauseMin
	for {
		conn, err := f.listener.Accept()
		switch {
		case err == nil:
			pause = acceptPauseMin
			f.admit(ctx, conn)
		case f.closing.Load() || errors.Is(err, net.ErrClosed):
			return nil
		default:
			f.metrics.acceptErrors.Inc()
			if f.warned.ok() {
				f.log.Error("cannot accept connections; trying again (a higher limit of open files may be needed)", "error", err)
			}
			if !sleep(ctx, pause) {
				return nil
			}
			pause = min(2*pause, acceptPauseMax)
		}
	}
}

// stop closes the listener; what is accepted goes on.
func (f *front) stop() error {
	if f.closing.Swap(true) {
		return nil
	}
	return f.listener.Close()
}

// admit applies the caps that need no TLS. Those of one address wait for a
// balancer's word about whose it is.
func (f *front) admit(ctx context.Context, conn net.Conn) {
	balanced := f.proxies.includes(conn.RemoteAddr())
	key := addressKey(conn.RemoteAddr())
	switch {
	case !balanced && !f.rates.allow(key):
		f.refuse(conn, "rate")
	case f.open.Add(1) > f.max:
		f.open.Add(-1)
		f.refuse(conn, "connections")
	case balanced:
		f.conns.Go(func() { f.introduce(ctx, conn) })
	default:
		pending := f.handshakes.add(conn, key)
		f.conns.Go(func() { f.handle(ctx, conn, conn.RemoteAddr(), pending) })
	}
}

// introduce reads from a balancer whom a connection comes from. One that is closed
// without a word was a probe.
func (f *front) introduce(ctx context.Context, conn net.Conn) {
	drop := func() {
		_ = conn.Close()
		f.released()
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	from, err := readProxyHeader(conn)
	if !stop() || err != nil {
		drop()
		if err != nil && !errors.Is(err, io.EOF) && f.warned.ok() {
			f.log.Warn("a connection of a balancer is turned away", "balancer", conn.RemoteAddr(), "error", err)
		}
		return
	}
	key := addressKey(from)
	if !f.rates.allow(key) {
		f.released()
		f.refuse(conn, "rate")
		return
	}
	f.handle(ctx, conn, from, f.handshakes.add(conn, key))
}

func (f *front) refuse(conn net.Conn, limit string) {
	f.metrics.refused.WithLabelValues(limit).Inc()
	_ = conn.Close()
	if f.warned.ok() {
		f.log.Warn("connections are turned away", "limit", limit, "remote", conn.RemoteAddr())
	}
}

// released counts a connection that has gone.
func (f *front) released() { f.open.Add(-1) }

// handle owns conn until the HTTPS side has taken it. from is whom it comes from.
func (f *front) handle(ctx context.Context, conn net.Conn, from net.Addr, pending *member) {
	taken := false
	defer func() {
		if v := recover(); v != nil {
			f.metrics.panics.Inc()
			f.log.Error("panic in a connection", "remote", from, "panic", v, "stack", string(debug.Stack()))
		}
		f.handshakes.done(pending)
		if !taken {
			_ = conn.Close()
			f.released()
		}
	}()
	sock := tunnel.NewSocket(conn)
	sock.CameFrom(from)
	secure := tls.Server(sock, f.tls)
	if !f.handshake(ctx, secure) {
		return
	}
	f.handshakes.done(pending)
	state := secure.ConnectionState()
	switch {
	case mtls.IsTunnel(state):
		err := f.tunnel(ctx, sock, secure)
		f.log.Debug("tunnel connection has ended", "remote", from, "why", err)
	case state.NegotiatedProtocol == acmeALPN:
		// The authority has seen the challenge's certificate; that was all.
	default:
		taken = f.web.take(secure, sock)
	}
}

func (f *front) handshake(ctx context.Context, conn *tls.Conn) bool {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	start := time.Now()
	err := conn.HandshakeContext(ctx)
	if err != nil {
		f.metrics.handshakes.WithLabelValues(handshakeResult(ctx, err)).Inc()
		f.log.Debug("TLS handshake failed", "remote", conn.RemoteAddr(), "error", err)
		return false
	}
	f.metrics.handshakes.WithLabelValues("ok").Inc()
	f.metrics.handshakeSeconds.Observe(time.Since(start).Seconds())
	return true
}

func handshakeResult(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "timeout"
	case errors.Is(err, net.ErrClosed):
		return "displaced"
	default:
		return "failed"
	}
}

// sleep waits for d, and is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// A throttle lets a log line through every warnEvery, so that a flood of
// connections is no flood of lines. The zero value lets the first one through.
type throttle struct {
	mu   sync.Mutex
	last time.Time
}

func (t *throttle) ok() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if !t.last.IsZero() && now.Sub(t.last) < warnEvery {
		return false
	}
	t.last = now
	return true
}

// finish ends the handshakes that are under way and waits for the goroutines of
// all connections, or for ctx.
func (f *front) finish(ctx context.Context) {
	f.handshakes.closeAll()
	done := make(chan struct{})
	go func() {
		f.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		f.log.Warn("connections do not end; leaving them", "open", f.open.Load())
	}
}
