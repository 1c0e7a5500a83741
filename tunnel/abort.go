package tunnel

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Abort ends both directions of the stream at once. The peer reads and writes an *AbortError with the code that cause stands for:
// an *AbortError travels as it is, a time-out is "timeout", a cancelled context "cancelled", the end of a session "terminated", and
// all else a plain "reset" without a text, since an error's text may tell what is not meant for the peer. Calls on this side return
// cause. Abort does not wait, may be called at any time, and only the first one counts.
func (st *Stream) Abort(cause error) {
	if cause == nil {
		cause = &AbortError{Code: wire.AbortReset}
	}
	if st.finish(cause) {
		st.s.mu.Lock()
		defer st.s.mu.Unlock()
		st.s.resetLocked(st, cause)
	}
}

// resetLocked sends an RST, with its reason in front, unless the wire is done with the stream.
func (s *Session) resetLocked(st *Stream, cause error) {
	if st.wireDone || st.resetSent || s.err != nil {
		return
	}
	st.resetSent = true
	st.abortedAt, st.resetOut = time.Now(), time.Time{}
	s.aborting[st.id] = st
	delete(s.lingering, st.id)
	s.timer.Reset(tick)
	m := abortMessage(cause)
	m.StreamID = st.id
	s.ctl.abortLater(&st.muted, m)
}

// resetLeft notes that an RST is on its way behind everything that was written before it.
func (s *Session) resetLeft(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.aborting[id]; st != nil {
		st.resetOut = time.Now()
	}
}

func abortMessage(cause error) *wire.Abort {
	m := &wire.Abort{Code: wire.AbortReset, Read: true, Write: true}
	var abort *AbortError
	var end *wire.Termination
	switch {
	case errors.As(cause, &abort):
		m.Code, m.Reason = abort.Code, abort.Reason
	case errors.As(cause, &end):
		m.Code, m.Reason = wire.AbortTerminated, end.Reason
	case errors.Is(cause, context.Canceled):
		m.Code = wire.AbortCancelled
	case errors.Is(cause, os.ErrDeadlineExceeded), errors.Is(cause, context.DeadlineExceeded):
		m.Code = wire.AbortTimeout
	}
	return m
}

// reset is an RST of the peer that came before the control message with its reason was read.
type reset struct {
	st *Stream
	at int64 // bytes of the control stream that came before it
}

// peerReset handles the peer's RST, on yamux's reading goroutine: either the answer to ours, or the abort of a stream, which is
// answered with an RST of our own.
func (s *Session) peerReset(st *Stream) {
	s.mu.Lock()
	answer := !st.resetSent
	st.resetSent, st.resetSeen = true, true
	delete(s.aborting, st.id)
	s.retireLocked(st)
	behind := int64(0)
	if s.ctl.st != nil {
		behind = s.ctl.st.received.Load()
	}
	if answer {
		s.resets = append(s.resets, reset{st, behind})
	}
	read := s.settled
	s.mu.Unlock()
	if answer {
		s.out.reset(st.id, &st.muted)
		s.settle(read)
	}
}

// settle ends the streams whose RST came before the given position of the control stream, which has been read.
func (s *Session) settle(position int64) {
	s.mu.Lock()
	s.settled = max(s.settled, position)
	var due []*Stream
	rest := s.resets[:0]
	for _, r := range s.resets {
		if r.at <= s.settled {
			due = append(due, r.st)
		} else {
			rest = append(rest, r)
		}
	}
	s.resets = rest
	s.mu.Unlock()
	for _, st := range due {
		st.finish(st.peerCause())
	}
}

// peerAbort notes the reason for a reset that follows, or that inspect has seen already.
func (s *Session) peerAbort(m *wire.Abort) {
	s.mu.Lock()
	st := s.streams[m.StreamID]
	for _, r := range s.resets {
		if r.st.id == m.StreamID {
			st = r.st
		}
	}
	s.mu.Unlock()
	if st == nil {
		return // it has ended meanwhile
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.peerErr = &AbortError{Code: m.Code, Reason: m.Reason}
	if m.Read && !m.Write {
		st.stopErr = st.peerErr
		if st.wake != nil {
			close(st.wake)
			st.wake = nil
		}
	}
}

// peerCause is what a stream that the peer reset ends with.
func (st *Stream) peerCause() error {
	undecided := !isClosed(st.decided)
	st.mu.Lock()
	defer st.mu.Unlock()
	abort := st.peerErr
	if abort == nil {
		abort = &AbortError{Code: wire.AbortReset}
	}
	if undecided && !st.s.server && abort.Code == wire.AbortLimit {
		return &wire.Refusal{Code: wire.CodeLimit, Reason: abort.Reason}
	}
	return abort
}
