package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/internal/neterr"
)

// PacketConn is one end of a relayed flow of datagrams: one Read is one datagram, one Write sends one. An end that also offers
// Abort(error) is aborted instead of closed when the flow fails.
type PacketConn interface {
	io.Reader
	io.Writer
	io.Closer
}

// PacketIdle is the idle time-out of a udp flow to that port: 30 s for DNS, 2 min otherwise (RFC 4787 REQ-5).
func PacketIdle(port uint16) time.Duration {
	if port == 53 {
		return 30 * time.Second
	}
	return 2 * time.Minute
}

// CopyPackets relays datagrams between a and b until one side fails or ends, no datagram passes for the idle time-out (then Cause
// is ErrIdle, the ordinary end of a udp flow), or ctx is done. Behind the clean end of one side, answers of the other are waited
// for 5 s. Options.IdleTimeout 0 means 2 min here. A datagram that b or a
// refuses (too large, nobody listening) is dropped, as a network would. It closes both and waits for what it started.
func CopyPackets(ctx context.Context, a, b PacketConn, opts Options) Result {
	if opts.IdleTimeout == 0 {
		opts.IdleTimeout = PacketIdle(0)
	}
	c := newCopier(opts, func(cause error) { abortPackets(a, cause) }, func(cause error) { abortPackets(b, cause) })
	stop := c.watch(ctx)
	opts.Cut.begin(c.leave)
	var others sync.WaitGroup
	others.Go(func() { c.pumpPackets(a, b, &c.meter.aToB, SideA) })
	c.pumpPackets(b, a, &c.meter.bToA, SideB)
	others.Wait()
	stop()
	_ = a.Close()
	_ = b.Close()
	return c.result()
}

func abortPackets(conn PacketConn, cause error) {
	if ab, ok := conn.(interface{ Abort(error) }); ok {
		ab.Abort(cause)
		return
	}
	_ = conn.Close()
}

// answerTime is how long answers are waited for behind the end of the questions: a resolver's own patience.
const answerTime = 5 * time.Second

// pumpPackets moves one direction. A clean end of it leaves the other running while answers come.
func (c *copier) pumpPackets(src, dst PacketConn, count *atomic.Int64, from Side) {
	w := &packetWriter{dst: dst, count: count, active: &c.meter.active}
	switch err := movePackets(w, src); {
	case err == nil:
		c.sawEnd(from)
		c.finished()
		c.hurry(answerTime)
	case w.err != nil:
		c.end(from.other(), err)
	default:
		c.end(from, err)
	}
}

// movePackets moves datagrams until the clean end of src. A source that can do so itself (tunnel.Stream) does it without a buffer
// in hand while it waits, and so does a udp socket where the system permits.
func movePackets(w *packetWriter, src PacketConn) error {
	switch s := src.(type) {
	case io.WriterTo:
		_, err := s.WriteTo(w)
		return err
	case *net.UDPConn:
		return moveFromSocket(w, s)
	}
	return moveFromReader(w, src)
}

func moveFromReader(w *packetWriter, src io.Reader) error {
	buf := takeBuffer()
	defer buf.release()
	for {
		n, err := src.Read(buf.bytes[:])
		switch {
		case err == io.EOF:
			return nil
		case transientPacketError(err):
			continue
		case err != nil:
			return err
		}
		if _, err := w.Write(buf.bytes[:n]); err != nil {
			return err
		}
	}
}

// packetWriter counts what dst took, and drops what the network refused.
type packetWriter struct {
	dst    io.Writer
	count  *atomic.Int64
	active *atomic.Int64
	err    error
}

func (w *packetWriter) Write(p []byte) (int, error) {
	n, err := w.dst.Write(p)
	if transientPacketError(err) {
		return len(p), nil
	}
	if err != nil {
		w.err = err
		return n, err
	}
	w.count.Add(int64(n))
	w.active.Store(time.Now().UnixNano())
	return n, nil
}

// transientPacketError tells an answer of the network to one datagram (ICMP port or host unreachable, too big, no buffer) from the
// end of the socket.
func transientPacketError(err error) bool {
	return neterr.Is(err, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EMSGSIZE, syscall.ENOBUFS)
}
