package relay

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// PacketConn is one end of a relayed flow of datagrams: one Read is one datagram, one Write sends one. An end that also offers
// Abort(error) is aborted instead of closed when the flow fails.
type PacketConn interface {
	io.Reader
	io.Writer
	io.Closer
}

// maxDatagram is the largest UDP payload (RFC 768: 16-bit length, less the headers), rounded up.
const maxDatagram = 65535

// PacketIdle is the idle time-out of a udp flow to that port: 30 s for DNS, 2 min otherwise (RFC 4787 REQ-5).
func PacketIdle(port uint16) time.Duration {
	if port == 53 {
		return 30 * time.Second
	}
	return 2 * time.Minute
}

// CopyPackets relays datagrams between a and b until one side fails or ends, no datagram passes for the idle time-out (then Cause
// is ErrIdle, the ordinary end of a udp flow), or ctx is done. Options.IdleTimeout 0 means 2 min here. A datagram that b or a
// refuses (too large, nobody listening) is dropped, as a network would. It closes both and waits for what it started.
func CopyPackets(ctx context.Context, a, b PacketConn, opts Options) Result {
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = PacketIdle(0)
	}
	c := newCopier(opts, func(cause error) { abortPackets(a, cause); abortPackets(b, cause) })
	stop := c.watch(ctx)
	var others sync.WaitGroup
	others.Go(func() { c.pumpPackets(a, b, &c.meter.aToB, SideA) })
	c.pumpPackets(b, a, &c.meter.bToA, SideB)
	others.Wait()
	stop()
	_ = a.Close()
	_ = b.Close()
	return c.result()
}

// abortPackets ends one side: an idle flow is an ordinary end, everything else is told to a peer that can hear it.
func abortPackets(conn PacketConn, cause error) {
	if ab, ok := conn.(interface{ Abort(error) }); ok && !errors.Is(cause, ErrIdle) {
		ab.Abort(cause)
		return
	}
	_ = conn.Close()
}

// pumpPackets moves one direction. A clean end of it leaves the other running: answers may be on their way, and the idle time-out
// bounds the wait.
func (c *copier) pumpPackets(src, dst PacketConn, count *atomic.Int64, from Side) {
	buf := make([]byte, maxDatagram)
	for {
		n, err := src.Read(buf)
		switch {
		case err == io.EOF:
			c.finished(from)
			return
		case transientPacketError(err):
			continue
		case err != nil:
			c.end(from, err)
			return
		}
		n, err = dst.Write(buf[:n])
		if err != nil && !transientPacketError(err) {
			c.end(from.other(), err)
			return
		}
		if err == nil {
			count.Add(int64(n))
			c.meter.active.Store(time.Now().UnixNano())
		}
	}
}

// transientPacketError tells an answer of the network to one datagram (ICMP port or host unreachable, too big, no buffer) from the
// end of the socket.
func transientPacketError(err error) bool {
	for _, code := range []error{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE, syscall.ENOBUFS} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
