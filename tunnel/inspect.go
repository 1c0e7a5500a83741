package tunnel

import (
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// maxRefused is how many streams beyond the limits a peer may have open before it answers their resets.
const maxRefused = 1024

// inspect sees every frame of the peer before yamux does, on yamux's reading goroutine. It must not wait. yamux gets flags alone; to is
// where a body goes, nil for nowhere.
func (s *Session) inspect(f *frame) (pass bool, to *Stream, err error) {
	switch f.kind {
	case framePing:
		s.inspectPing(f)
		return false, nil, nil
	case frameGoAway:
		return false, nil, protocolError("its multiplexer gave up with code %d", f.length)
	}
	if f.has(flagSYN) {
		refused, err := s.inspectSYN(f)
		if refused || err != nil {
			return false, nil, err
		}
	}
	s.mu.Lock()
	st := s.streams[f.id]
	s.mu.Unlock()
	if st == nil {
		return false, nil, s.inspectStray(f)
	}
	return s.inspectStream(st, f)
}

// inspectPing answers without yamux, which would start a goroutine for each.
func (s *Session) inspectPing(f *frame) {
	if f.has(flagSYN) {
		s.out.control(frame{kind: framePing, flags: flagACK, length: f.length})
		return
	}
	s.mu.Lock()
	rtt, ok := s.pings.answered(f.length)
	s.mu.Unlock()
	if ok {
		s.flow.measured(rtt)
		s.sock.measured(rtt)
	}
}

// inspectSYN registers a new stream, or refuses it when it is one too many. Only clients open streams, with odd numbers that rise.
func (s *Session) inspectSYN(f *frame) (refused bool, err error) {
	if !s.server || f.id%2 == 0 {
		return false, protocolError("it opened stream %d", f.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.id <= s.lastID {
		return false, protocolError("it opened stream %d after %d", f.id, s.lastID)
	}
	if s.lastID != 0 && s.welcome.Version == 0 {
		return false, protocolError("it opened stream %d before the welcome", f.id)
	}
	s.lastID = f.id
	if s.live < s.cfg.limits.MaxStreams && s.pending < s.cfg.limits.MaxUndecided {
		s.addLocked(f.id)
		s.pending++
		return false, nil
	}
	if len(s.refused) >= maxRefused {
		return false, protocolError("it opens streams beyond the limits")
	}
	s.refused[f.id] = 0
	s.log.debug("stream refused: too many", "stream", f.id, "open", s.live, "undecided", s.pending)
	// Not under the lock, and not on this goroutine, which must not wait.
	s.ctl.abortLater(nil, &wire.Abort{StreamID: f.id, Code: wire.AbortLimit, Reason: "too many streams", Read: true, Write: true})
	return true, s.countRefusedLocked(f)
}

func (s *Session) countRefusedLocked(f *frame) error {
	n := s.refused[f.id] + f.body()
	s.refused[f.id] = n
	s.dead += int64(f.body())
	if n > initialWindow {
		return protocolError("it sent %d bytes into stream %d, which was refused", n, f.id)
	}
	return nil
}

// inspectStray handles a frame of a stream that is not open. Nothing of it reaches yamux.
func (s *Session) inspectStray(f *frame) error {
	s.mu.Lock()
	if _, ok := s.refused[f.id]; ok {
		defer s.mu.Unlock()
		if f.has(flagRST) {
			delete(s.refused, f.id)
			return nil
		}
		return s.countRefusedLocked(f)
	}
	known := f.id%2 == 1 && f.id <= s.lastID
	s.dead += int64(f.body())
	s.mu.Unlock()
	switch {
	case !known:
		return protocolError("%s: there is no such stream", f)
	case f.body() > 0:
		return protocolError("it sent %d bytes into stream %d, which is over", f.body(), f.id)
	case f.has(flagRST):
		// It aborted a stream that had just ended cleanly; it waits for our answer.
		s.out.reset(f.id, nil)
	}
	return nil
}

// inspectStream counts what comes for an open stream.
func (s *Session) inspectStream(st *Stream, f *frame) (pass bool, to *Stream, err error) {
	if n := f.body(); n > 0 {
		if f.has(flagFIN) { // yamux's own reader would see the end before the data
			return false, nil, protocolError("it ended stream %d on a data frame", st.id)
		}
		keep, err := st.inbound(n)
		if err != nil {
			return false, nil, err
		}
		if keep {
			to = st
		} else {
			s.mu.Lock()
			s.dead += int64(n)
			s.mu.Unlock()
		}
	}
	if f.kind == frameWindow {
		if err := st.addCredit(f.length); err != nil {
			return false, nil, err
		}
	}
	f.kind, f.length = frameWindow, 0
	if f.flags != 0 {
		pass, err = s.inspectFlags(st, f)
	}
	return pass, to, err
}

func (s *Session) inspectFlags(st *Stream, f *frame) (pass bool, err error) {
	s.mu.Lock()
	inMux := !st.finSent || !st.finSeen
	if f.has(flagACK) && (s.server || st.acked) {
		f.flags &^= flagACK // a second one would disturb yamux's count of opens
	}
	st.acked = st.acked || f.has(flagACK)
	if f.has(flagFIN) {
		if st.finSeen {
			s.mu.Unlock()
			return false, protocolError("it ended stream %d twice", st.id)
		}
		st.finSeen = true
		s.retireLocked(st)
	}
	s.mu.Unlock()
	if f.has(flagFIN) {
		st.recv.finish()
	}
	if f.has(flagRST) {
		s.peerReset(st)
	}
	return inMux && f.flags != 0, nil
}

// outbound sends a header that yamux wants to send, as far as the peer may see it. It runs on yamux's sending goroutine.
func (s *Session) outbound(f frame) {
	if f.kind != frameWindow || f.flags == 0 {
		return // yamux's credit is not ours; its pings are answered elsewhere; its go-away says less than our own end
	}
	f.length = 0
	s.mu.Lock()
	if f.has(flagSYN) {
		s.lastID = f.id
		s.addLocked(f.id)
	}
	st := s.streams[f.id]
	mute := st == nil || st.resetSent || f.has(flagSYN) // the SYN leaves with the request
	fin := f.has(flagFIN) && !mute
	if fin {
		st.finSent = true
		s.retireLocked(st)
	}
	s.mu.Unlock()
	switch {
	case mute:
	case fin:
		s.out.control(f)
	default:
		s.out.lazily(f) // an ACK: the reply follows
	}
}

// addLocked registers a stream before any of its frames is passed on.
func (s *Session) addLocked(id uint32) {
	st := newStream(s, id)
	s.streams[id] = st
	s.newborn[id] = st
	s.live++
	s.opened.Add(1)
	s.flow.add(initialWindow)
}

// retireLocked takes a stream out of the table when no more frames of it may come.
func (s *Session) retireLocked(st *Stream) {
	if st.resetSeen || (st.finSent && st.finSeen && !st.resetSent) {
		delete(s.streams, st.id)
		delete(s.lingering, st.id)
		st.wireDone = true
		if st.userDone {
			s.decidedLocked(st)
		}
		s.releaseLocked(st)
	}
}

// releaseLocked gives back what a stream counts against the limits, once both the wire and its user are done with it.
func (s *Session) releaseLocked(st *Stream) {
	if !st.wireDone || !st.userDone || st.released {
		return
	}
	st.released = true
	s.live--
	s.flow.add(-int(st.window.Load()))
}

// pings remembers the probe that is out.
type pings struct {
	nonce uint32
	sent  time.Time // zero: none
	heard time.Time // when the newest probe that was answered was sent: the peer has read what was written before it
}

func (p *pings) next() uint32 {
	p.nonce++
	p.sent = time.Now()
	return p.nonce
}

func (p *pings) answered(nonce uint32) (time.Duration, bool) {
	if p.sent.IsZero() || nonce != p.nonce {
		return 0, false
	}
	rtt := time.Since(p.sent)
	p.heard, p.sent = p.sent, time.Time{}
	return rtt, true
}
