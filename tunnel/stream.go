package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Stream is one stream of a session. It is a net.Conn with a half-close and an abort, and keeps the boundaries of datagrams when
// its kind is udp: then one Write is one datagram, and one Read returns one. It is safe for concurrent use.
//
// Read returns io.EOF only after the peer's clean end. After an abort by the peer, Read and Write return an *AbortError; after
// the end of the session, an error that wraps the session's; after a refusal of the gateway, a *wire.Refusal.
type Stream struct {
	s       *Session
	id      uint32
	request wire.OpenRequest // set before the user has the stream
	service string           // as which service the gateway decided it; set before decided is closed

	mux     *yamux.Stream
	decided chan struct{} // closed with the reply
	dead    chan struct{} // closed with cause

	recv   receiveBuffer
	readBy deadline // of reads

	// The peer's right to send.
	window   atomic.Int64 // current receive window
	received atomic.Int64 // by the session, including headers of records
	read     atomic.Int64 // taken out by Read
	granted  atomic.Int64
	discard  atomic.Bool // what is received is dropped

	peerEnded atomic.Bool  // the peer's end record was read
	cut       atomic.Bool  // Close ended a Write before all of it had left
	waiting   atomic.Int64 // since when a Write waits for credit, in Unix nanoseconds; 0: none does

	rmu   sync.Mutex // one Read at a time; guards the next fields
	rec   recordReader
	owed  int       // consumed and not credited yet
	epoch time.Time // when the last credit was given

	wmu      sync.Mutex // one Write at a time
	deadline deadline   // of writes
	muted    bool       // our RST has left: nothing follows; guarded by the writer's mu

	mu      sync.Mutex
	cause   error         // why dead is closed
	refusal *wire.Refusal // of the gateway
	peerErr *AbortError   // what the peer's abort message said
	credit  int           // what the peer lets us send
	wake    chan struct{} // closed when credit comes; nil while nobody waits
	early   int           // payload that may still be sent before the reply
	ended   bool          // our end record was sent
	closed  bool          // by the user
	onAbort []*abortHook
	stopErr error // the peer reads no more

	// Guarded by the session's mu: what went over the wire.
	acked, finSent, finSeen, resetSent, resetSeen bool
	wireDone, userDone, released, undecided       bool
	born, abortedAt, resetOut, lingerFrom         time.Time
	seen                                          progress // by housekeeping
}

var _ net.Conn = (*Stream)(nil)

func newStream(s *Session, id uint32) *Stream {
	st := &Stream{
		s: s, id: id, credit: initialWindow, early: wire.MaxEarlyData, undecided: true, born: time.Now(),
		decided: make(chan struct{}), dead: make(chan struct{}),
		recv: receiveBuffer{wake: make(chan struct{}, 1)},
	}
	st.window.Store(initialWindow)
	st.granted.Store(initialWindow)
	return st
}

// ID is the stream's number within its session; logs of both ends have it.
func (st *Stream) ID() uint32 { return st.id }

// Target is where the stream leads, and TraceID what joins the logs of both ends.
func (st *Stream) Target() wire.Target { return st.request.Target }

// TraceID is the client's identifier of this stream, for logs.
func (st *Stream) TraceID() string { return st.request.TraceID }

// Service is the name of the service as which the gateway decided the stream; "" before the reply.
func (st *Stream) Service() string {
	select {
	case <-st.decided:
		return st.service
	default:
		return ""
	}
}

// Decided is closed when the gateway has replied. Done is closed when the stream was refused or aborted, or the session ended.
func (st *Stream) Decided() <-chan struct{} { return st.decided }

// Done is closed when the stream has failed: aborted by either side, refused, or its session ended. A clean end does not close it.
func (st *Stream) Done() <-chan struct{} { return st.dead }

// Err is why Done is closed, nil before.
func (st *Stream) Err() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.cause
}

func (st *Stream) udp() bool { return st.request.Target.Kind == wire.KindUDP }

// streamAddr is the address of an end of a stream.
type streamAddr string

func (streamAddr) Network() string  { return "culvert" }
func (a streamAddr) String() string { return string(a) }

// LocalAddr names the session's local end and the stream.
func (st *Stream) LocalAddr() net.Addr {
	return streamAddr(fmt.Sprintf("%s/%d", st.s.LocalAddr(), st.id))
}

// RemoteAddr names the target.
func (st *Stream) RemoteAddr() net.Addr { return streamAddr(st.request.Target.String()) }

// SetDeadline implements net.Conn.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn. A Read that misses it returns an error that is os.ErrDeadlineExceeded; what is read
// later is not damaged by it.
func (st *Stream) SetReadDeadline(t time.Time) error {
	if st.isClosed() {
		return fmt.Errorf("set deadline: %w", ErrClosed)
	}
	st.readBy.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn. No record is ever cut by a deadline: Write returns how many bytes left, and the
// stream can be written to again.
func (st *Stream) SetWriteDeadline(t time.Time) error {
	st.deadline.set(t)
	return nil
}

// finish ends the stream on this side with cause: all calls return, now and later. Only the first call counts.
func (st *Stream) finish(cause error) bool {
	st.mu.Lock()
	if st.cause != nil {
		st.mu.Unlock()
		return false
	}
	st.cause = cause
	close(st.dead)
	hooks := st.onAbort
	st.onAbort = nil
	st.mu.Unlock()
	st.discard.Store(true)
	st.recv.drop()
	st.userFinished()
	if cause != ErrClosed { // Close is no failure
		for _, h := range hooks {
			go h.f(cause)
		}
	}
	return true
}

// userFinished notes that the user of the stream is done with it.
func (st *Stream) userFinished() {
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	st.userDone = true
	if st.s.server || st.wireDone {
		st.s.decidedLocked(st)
	}
	st.s.releaseLocked(st)
}

type abortHook struct{ f func(error) }

// OnAbort arranges that f runs once, on a goroutine of its own, when the stream has failed: at once if it has already. stop
// withdraws f and reports whether it did so before f was started. It implements relay.AbortNotifier.
func (st *Stream) OnAbort(f func(cause error)) (stop func() bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.cause != nil {
		go f(st.cause)
		return func() bool { return false }
	}
	h := &abortHook{f}
	st.onAbort = append(st.onAbort, h)
	return func() bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		n := len(st.onAbort)
		st.onAbort = slices.DeleteFunc(st.onAbort, func(o *abortHook) bool { return o == h })
		return len(st.onAbort) < n
	}
}

// Close ends the stream as closing a TCP connection does: what was written is still delivered, followed by a clean end; if the
// peer goes on to send, it gets a reset, and with data unread it gets one at once (RFC 2525 section 2.17). A Write that waits for the
// peer returns, and because what it sent is not whole, the peer gets a reset. Close does not wait.
func (st *Stream) Close() error {
	st.mu.Lock()
	over := st.ended && st.peerEnded.Load()
	if st.closed || st.cause != nil {
		st.mu.Unlock()
		return nil
	}
	st.closed = true
	cut := st.waiting.Load() != 0
	st.mu.Unlock()
	st.readBy.set(time.Unix(1, 0)) // wakes a Read
	switch {
	case over:
		st.finish(ErrClosed)
	case cut:
		st.Abort(fmt.Errorf("write: %w", ErrClosed))
	default:
		st.s.start(st.linger)
	}
	return nil
}

// linger sees a closed stream to its end.
func (st *Stream) linger() {
	if st.awaitReply() != nil {
		return
	}
	err := st.CloseWrite()
	if err == nil && st.cut.Load() {
		err = &AbortError{Code: wire.AbortTruncated}
	}
	if err != nil {
		st.Abort(err)
		return
	}
	timeout := time.NewTimer(lingerTimeout)
	defer timeout.Stop()
	for !st.lingered() {
		select {
		case <-st.recv.wake:
		case <-st.dead:
			return
		case <-timeout.C:
			st.Abort(&AbortError{Code: wire.AbortTimeout})
			return
		}
	}
}

// lingered looks at what has come for a closed stream, and reports whether that was its end. It does not wait, since the deadline of a
// closed stream has passed, and so a Read that comes late is not held up.
func (st *Stream) lingered() bool {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	var b [1]byte
	n, err := st.readRecord(b[:])
	switch {
	case err == io.EOF:
		st.finish(ErrClosed)
	case n > 0 || err == nil: // also an empty datagram
		st.Abort(&AbortError{Code: wire.AbortReset})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return st.failure() != nil
	}
	return true
}
