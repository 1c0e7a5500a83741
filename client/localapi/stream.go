package localapi

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/internal/neterr"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Stream is one stream through a running client. After the upgrade both sides
// send the tunnel's records (tunnel/wire): data, datagram, and end for a clean
// half-close. An abort frame with a JSON failure, or the end of the connection
// without an end record, is a failure and never a clean end: a Unix socket has
// no reset, and a truncated download must not look whole.
//
// It is a relay.Conn and a net.Conn. One Read and one Write may run at the same
// time, the closing methods at any time.
type Stream struct {
	net.Conn // deadlines and addresses
	kind     wire.Kind
	in       *bufio.Reader

	readMu sync.Mutex
	left   int   // bytes of the current record that Read has not given out
	ended  error // what Read returns from now on

	writeMu    sync.Mutex
	writeEnded bool // CloseWrite was called

	mu       sync.Mutex
	cause    error // of Abort, local or the peer's
	clean    bool  // Close was called
	onAbort  func(error)
	watching sync.WaitGroup
}

var (
	_ relay.Conn          = (*Stream)(nil)
	_ relay.AbortNotifier = (*Stream)(nil)
	_ net.Conn            = (*Stream)(nil)
)

func newStream(conn net.Conn, in *bufio.Reader, kind wire.Kind) *Stream {
	return &Stream{Conn: conn, kind: kind, in: in}
}

// Read returns payload; for a udp stream one datagram, whose rest is dropped
// when p is too short. io.EOF is the peer's clean end; otherwise the error says
// why the stream failed, as *wire.Refusal where the gateway refused it.
func (s *Stream) Read(p []byte) (int, error) {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	for s.left == 0 {
		if s.ended != nil {
			return 0, s.ended
		}
		if err := s.nextRecord(); err != nil {
			if isTimeout(err) && !s.aborted() {
				return 0, err
			}
			s.ended = s.failed(err)
		} else if s.left == 0 && s.kind == wire.KindUDP && s.ended == nil {
			return 0, nil // an empty datagram
		}
	}
	n, err := s.readPayload(p)
	if err != nil && (!isTimeout(err) || s.aborted()) {
		s.ended, s.left = s.failed(err), 0
		return n, s.ended
	}
	return n, err
}

// readPayload reads from the current record: what there is of data, a whole datagram.
func (s *Stream) readPayload(p []byte) (int, error) {
	if s.kind != wire.KindUDP {
		n, err := s.in.Read(p[:min(len(p), s.left)])
		s.left -= n
		return n, err
	}
	datagram, err := s.in.Peek(s.left) // the buffer holds any record; a deadline loses nothing
	if err != nil {
		return 0, err
	}
	n := copy(p, datagram)
	_, err = s.in.Discard(s.left)
	s.left = 0
	return n, err
}

// nextRecord reads a header, and handles everything but payload.
func (s *Stream) nextRecord() error {
	// Peek keeps a header that a deadline cut in two.
	head, err := s.in.Peek(wire.HeaderSize)
	if err != nil {
		return err
	}
	h, err := wire.ParseHeader(head)
	if err != nil {
		return err
	}
	_, _ = s.in.Discard(wire.HeaderSize) // what was peeked is there
	switch h.Type {
	case wire.TypeData, wire.TypeDatagram:
		s.left = h.Length
		return nil
	case wire.TypeEnd:
		s.ended = io.EOF
		s.watching.Go(s.watchEnd)
		return nil
	case wire.TypeAbort:
		return s.readFailure(h.Length)
	default:
		return fmt.Errorf("unexpected %s on a local stream", h.Type)
	}
}

func (s *Stream) readFailure(length int) error {
	body := make([]byte, length)
	if _, err := io.ReadFull(s.in, body); err != nil {
		return err
	}
	var f failure
	if err := json.Unmarshal(body, &f); err != nil {
		return fmt.Errorf("abort without a reason: %w", err)
	}
	return f.err()
}

// watchEnd waits behind the peer's clean end for its abort, or for its sudden
// death while we still write. Close ends it.
func (s *Stream) watchEnd() {
	head, err := s.in.Peek(wire.HeaderSize)
	if err == nil {
		if h, perr := wire.ParseHeader(head); perr == nil && h.Type == wire.TypeAbort {
			_, _ = s.in.Discard(wire.HeaderSize)
			err = s.readFailure(h.Length)
		} else {
			err = errors.New("payload after the end of a local stream")
		}
	}
	s.writeMu.Lock()
	whole := s.writeEnded && errors.Is(err, io.EOF)
	s.writeMu.Unlock()
	if !whole && !isTimeout(err) {
		s.failed(err)
	}
}

// failed notes why the stream is over and returns the error for Read.
func (s *Stream) failed(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // no end record came
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clean {
		return net.ErrClosed
	}
	if s.cause == nil {
		s.cause = err
		s.notifyLocked()
	}
	return s.cause
}

// aborted reports whether the stream is over, so that a time-out is no longer
// one that a later Read could outlive.
func (s *Stream) aborted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil || s.clean
}

func (s *Stream) notifyLocked() {
	if s.onAbort != nil && s.cause != nil {
		f, cause := s.onAbort, s.cause
		s.onAbort = nil
		go f(cause)
	}
}

// OnAbort implements relay.AbortNotifier.
func (s *Stream) OnAbort(f func(error)) (stop func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onAbort = f
	s.notifyLocked()
	return func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		waiting := s.onAbort != nil
		s.onAbort = nil
		return waiting
	}
}

// Write sends payload; for a udp stream one datagram of at most 65,520 bytes.
func (s *Stream) Write(p []byte) (int, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.writeEnded {
		return 0, net.ErrClosed
	}
	if s.kind == wire.KindUDP {
		if len(p) > wire.MaxPayload {
			return 0, fmt.Errorf("datagram of %d bytes, at most %d fit", len(p), wire.MaxPayload)
		}
		return s.writeFrameLocked(wire.TypeDatagram, p)
	}
	total := 0
	for len(p) > 0 {
		n, err := s.writeFrameLocked(wire.TypeData, p[:min(len(p), wire.MaxPayload)])
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

func (s *Stream) writeFrameLocked(t wire.Type, payload []byte) (int, error) {
	var head [wire.HeaderSize]byte
	wire.PutHeader(head[:], wire.Header{Type: t, Length: len(payload)})
	pieces := net.Buffers{head[:], payload}
	if len(payload) == 0 {
		pieces = pieces[:1]
	}
	if n, err := pieces.WriteTo(s.Conn); err != nil {
		// A record that was cut short cannot be continued. A peer that has gone may have said why before it went: that is still to
		// be read, and then the end.
		s.writeEnded = true
		if isTimeout(err) || !neterr.Is(err, syscall.EPIPE, syscall.ECONNRESET) {
			_ = s.Conn.Close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cause != nil {
			err = s.cause
		}
		return int(max(0, n-wire.HeaderSize)), err
	}
	return len(payload), nil
}

// CloseWrite ends the direction towards the peer cleanly.
func (s *Stream) CloseWrite() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.writeEnded {
		return nil
	}
	s.writeEnded = true
	_, err := s.writeFrameLocked(wire.TypeEnd, nil)
	return err
}

// abortWait bounds how long Abort tries to tell the peer why.
const abortWait = 200 * time.Millisecond

// Abort ends both directions at once; the peer reads the cause, or at least no
// clean end.
func (s *Stream) Abort(cause error) {
	s.mu.Lock()
	over := s.cause != nil || s.clean
	if !over {
		s.cause = cause
		if cause == nil {
			s.cause = errors.New("aborted")
		}
	}
	s.mu.Unlock()
	if over {
		_ = s.Conn.Close()
		return
	}
	// The deadline also ends a Write that is blocked, which would hold writeMu.
	_ = s.Conn.SetDeadline(time.Now().Add(abortWait))
	go s.sendAbort(cause)
}

func (s *Stream) sendAbort(cause error) {
	defer s.Conn.Close()
	body, err := json.Marshal(failureOf(cause))
	if err != nil {
		return
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	_, _ = s.writeFrameLocked(wire.TypeAbort, body) // best effort: closing tells the rest
	s.writeEnded = true
}

// Close ends the stream. Without a CloseWrite before it, the peer of a tcp
// stream sees an abort; for a udp stream it is the ordinary end.
func (s *Stream) Close() error {
	if s.kind == wire.KindUDP && !s.aborted() {
		_ = s.Conn.SetWriteDeadline(time.Now().Add(abortWait))
		_ = s.CloseWrite()
	}
	s.mu.Lock()
	s.clean = true
	s.onAbort = nil
	s.mu.Unlock()
	err := s.Conn.Close()
	s.watching.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
