package session

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// StreamSpec describes a stream that is opened.
type StreamSpec struct {
	Target wire.Target
	Meter  *relay.Meter // optional; where its bytes are counted, a being the client

	// Recheck decides an open stream again: nil lets it live, an error cuts it and is the reason. It is called without a lock, also
	// while the stream is still being opened, and must not block. Optional.
	Recheck func() error
	// Leave is called when the stream is cut, on the goroutine that cuts it and before Context is done: it ends what goes on with the
	// service. It must not block. Optional.
	Leave func(cause error)
	// Warn is called once for each end that Schedule asked a warning for. It must not block. Optional.
	Warn func(end time.Time)
}

// Facts is what is known of a stream once it is decided.
type Facts struct {
	Service string
	Rule    string
	Address netip.AddrPort // what was dialed; zero until then
}

// Stream is one registered stream. It is safe for concurrent use.
type Stream struct {
	session *Session
	id      uint64
	target  wire.Target
	meter   *relay.Meter
	recheck func() error
	leave   func(error)
	warn    func(time.Time)
	opened  time.Time
	ctx     context.Context
	cancel  context.CancelCauseFunc

	mu      sync.Mutex
	facts   Facts
	decided bool
	closed  bool
	until   time.Time // when it is to be decided again; zero: only with all others
	warnAt  time.Time // when its end is to be announced; zero: never
	warned  time.Time // of which end it was
}

// OpenStream registers a stream before it is decided. The error is a *wire.Refusal when a cap or the rate of opens is exceeded,
// or the reason for which the session was cut. Close must be called when the stream is over.
func (s *Session) OpenStream(spec StreamSpec) (*Stream, error) {
	if err := context.Cause(s.ctx); err != nil {
		return nil, err
	}
	if err := s.admit(); err != nil {
		return nil, err
	}
	st := &Stream{session: s, target: spec.Target, meter: spec.Meter, recheck: spec.Recheck, leave: spec.Leave, warn: spec.Warn, opened: s.registry.now()}
	if st.meter == nil {
		st.meter = new(relay.Meter)
	}
	st.ctx, st.cancel = context.WithCancelCause(s.ctx)
	s.mu.Lock()
	s.nextID++
	st.id = s.nextID
	s.streams[st.id] = st
	s.mu.Unlock()
	return st, nil
}

// admit takes a place in every count, or in none.
func (s *Session) admit() error {
	l := s.registry.limits
	if !s.rate.Allow() || !s.user.rate.Allow() {
		return limitReached("streams are opened too fast", "Try again in a moment.")
	}
	if !take(&s.undecided, l.UndecidedPerSession) {
		return limitReached("too many streams wait for a decision", "Try again in a moment.")
	}
	if !take(&s.user.undecided, l.UndecidedPerUser) {
		s.undecided.Add(-1)
		return limitReached("too many streams of yours wait for a decision or a service", "Try again in a moment.")
	}
	if !take(&s.open, l.StreamsPerSession) {
		s.decided()
		return limitReached("this connection has as many streams open as it may have", "Close some of them.")
	}
	if !take(&s.user.streams, l.StreamsPerUser) {
		s.decided()
		s.open.Add(-1)
		return limitReached("you have as many streams open as you may have", "Close some of them.")
	}
	if !take(&s.registry.streams, l.Streams) {
		s.decided()
		s.open.Add(-1)
		s.user.streams.Add(-1)
		return limitReached("this gateway has as many streams open as it may have", "Try again later.")
	}
	return nil
}

// decided gives back a stream's place among the undecided ones.
func (s *Session) decided() {
	s.undecided.Add(-1)
	s.user.undecided.Add(-1)
}

func limitReached(reason, remedy string) *wire.Refusal {
	return &wire.Refusal{Code: wire.CodeLimit, Reason: reason, Remedy: remedy}
}

// Context is done when the stream or its session was cut; context.Cause says why.
func (st *Stream) Context() context.Context { return st.ctx }

// Cut ends the stream with a reason; the first one counts.
func (st *Stream) Cut(cause error) {
	st.away(cause)
	st.cancel(cause)
}

// away ends what goes on with the service.
func (st *Stream) away(cause error) {
	if st.leave != nil && st.ctx.Err() == nil {
		st.leave(cause)
	}
}

// decideAgain leaves the service when the stream may not go on, and adds the rest of its end to cut.
func (st *Stream) decideAgain(cut *batch) {
	if st.recheck == nil || st.ctx.Err() != nil {
		return
	}
	if cause := st.recheck(); cause != nil {
		st.away(cause)
		cut.add(st, cause)
	}
}

// Settle runs decide, and runs it again when something changed meanwhile that asks for a new decision. After it returned nil, any
// change finds the stream by its Recheck: what decide notes for that must be in place when it returns.
func (st *Stream) Settle(decide func() error) error {
	for {
		before := st.session.change()
		if err := decide(); err != nil {
			return err
		}
		if st.session.change() == before {
			return nil
		}
	}
}

// Note records what is known by now.
func (st *Stream) Note(f Facts) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.facts = f
}

// Schedule has the stream decided again at until, by wall time and to the second, and its Warn called at warn with until. It
// replaces what was asked before; a zero time asks for nothing.
func (st *Stream) Schedule(until, warn time.Time) {
	st.mu.Lock()
	st.until, st.warnAt = until.Round(0), warn.Round(0)
	if st.warn == nil || until.Equal(st.warned) {
		st.warnAt = time.Time{}
	}
	next := earliest(st.until, st.warnAt)
	st.mu.Unlock()
	st.session.hasten(next)
}

// dueAt takes what is due at now, and returns what is due next.
func (st *Stream) dueAt(now time.Time) (recheck bool, warnOf, next time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.warnAt.IsZero() && !now.Before(st.warnAt) {
		warnOf, st.warned, st.warnAt = st.until, st.until, time.Time{}
	}
	if !st.until.IsZero() && !now.Before(st.until) {
		recheck, st.until = true, time.Time{}
	}
	return recheck, warnOf, earliest(st.until, st.warnAt)
}

// earliest of two times, of which zero is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Decided gives back the place among the undecided streams. Close does it, too.
func (st *Stream) Decided() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.decided {
		st.decided = true
		st.session.decided()
	}
}

// Close takes the stream out of the register. It may be called more than once.
func (st *Stream) Close() {
	st.Decided()
	st.mu.Lock()
	first := !st.closed
	st.closed = true
	st.mu.Unlock()
	if !first {
		return
	}
	st.cancel(context.Canceled)
	s := st.session
	in, out := st.meter.Bytes()
	s.mu.Lock()
	delete(s.streams, st.id)
	s.bytesIn += in
	s.bytesOut += out
	s.mu.Unlock()
	s.registry.goneIn.Add(in)
	s.registry.goneOut.Add(out)
	s.open.Add(-1)
	s.user.streams.Add(-1)
	s.registry.streams.Add(-1)
}
