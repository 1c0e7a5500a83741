package tunnel

import (
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// abortPatience is how long the answer to an RST may take where the line is so slow that nothing behind the RST was answered either.
const abortPatience = time.Minute

// housekeeping watches what nobody waits for: the peer's signs of life, unanswered aborts, streams that nobody decides. It runs
// once a second while there is such a thing, and otherwise when the next ping is due.
func (s *Session) housekeeping() {
	next, err := s.checkPeer()
	if err == nil {
		err = s.checkStreams(&next)
	}
	if err != nil {
		s.fail(err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.timer.Reset(next)
	}
}

// checkPeer pings a silent peer, gives it a sign of life where there was nothing to say, and reports a peer that has been silent for too
// long or takes nothing.
func (s *Session) checkPeer() (next time.Duration, err error) {
	quiet, mute, stuck := s.sock.quiet(), s.sock.mute(), s.sock.stuck()
	switch {
	case quiet >= deadAfter:
		return 0, fmt.Errorf("%w: %w for %s", ErrLost, ErrDead, quiet.Round(time.Second))
	case stuck >= writeStall:
		return 0, fmt.Errorf("%w: %w: it took nothing for %s", ErrLost, ErrDead, stuck.Round(time.Second))
	case quiet >= pingAfter:
		s.probe()
		return tick, nil
	case stuck > 0:
		return tick, nil
	case mute >= pingAfter:
		// The answer to the peer's ping may be far away: on a slow line, the ping stands behind the bulk that the peer sends.
		s.out.control(frame{kind: framePing, flags: flagACK})
		mute = 0
	case s.flow.stale():
		s.probe()
	}
	return max(pingAfter-max(quiet, mute), tick), nil
}

// probe sends a ping, unless one is out.
func (s *Session) probe() {
	s.mu.Lock()
	out := !s.pings.sent.IsZero()
	nonce := uint32(0)
	if !out {
		nonce = s.pings.next()
	}
	s.mu.Unlock()
	if !out {
		s.out.control(frame{kind: framePing, flags: flagSYN, length: nonce})
	}
}

// checkStreams looks at the streams that somebody has to answer for.
func (s *Session) checkStreams(next *time.Duration) error {
	now := time.Now()
	victims, busy := s.watchStreams(now)
	late, err := s.overdue(now)
	if err != nil {
		return err
	}
	abortStalled(victims)
	for _, st := range late {
		st.Abort(&AbortError{Code: wire.AbortTimeout, Reason: "nobody decided the stream"})
	}
	s.mu.Lock()
	unanswered := len(s.aborting) > 0
	s.mu.Unlock()
	if unanswered {
		s.probe()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if busy || s.pending > 0 || len(s.opens) > 0 || len(s.aborting)+len(s.lingering) > 0 {
		*next = tick
	}
	return nil
}

// overdue finds what has waited too long: aborts without an answer, which end the session, refused streams without an end, which are
// reset, and streams without a decision.
func (s *Session) overdue(now time.Time) (undecided []*Stream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, st := range s.aborting {
		if took := now.Sub(st.abortedAt); took > abortPatience || took > abortTimeout && s.skippedLocked(st) {
			return nil, protocolError("it did not answer the abort of stream %d within %s", id, took.Round(time.Second))
		}
	}
	for _, st := range s.lingering {
		if now.Sub(st.lingerFrom) > abortTimeout {
			s.resetLocked(st, &AbortError{Code: wire.AbortTimeout})
		}
	}
	if s.pending == 0 && len(s.opens) == 0 {
		return nil, nil
	}
	limit := requestTimeout + decisionTimeout
	if !s.server {
		limit += requestTimeout // the gateway's own time-out comes first, with a reason
	}
	for _, st := range s.streams {
		if st.undecided && now.Sub(st.born) > limit {
			undecided = append(undecided, st)
		}
	}
	return undecided, nil
}

// skippedLocked reports that the peer answered what was sent behind the RST of a stream, and not the RST. On a slow line both may take
// long: they stand behind the bulk, and so do the answers.
func (s *Session) skippedLocked(st *Stream) bool {
	return !st.resetOut.IsZero() && s.pings.heard.After(st.resetOut)
}

// decidedLocked takes a stream off the count of those without a reply.
func (s *Session) decidedLocked(st *Stream) {
	if !st.undecided {
		return
	}
	st.undecided = false
	if s.server {
		s.pending--
	} else {
		<-s.opens
	}
}
