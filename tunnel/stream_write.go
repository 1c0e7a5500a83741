package tunnel

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// errStop is why a wait ended that its stream no longer wants; stopped says which of the reasons it was.
var errStop = errors.New("stopped")

// minRecord is the least payload for which a large write is worth a record of its own while credit is short.
const minRecord = 4 << 10

// Write implements net.Conn. For a tcp stream it returns how many bytes were taken; for a udp stream p is one datagram of at most
// wire.MaxPayload bytes. Taken means on its way: only the peer's clean end, or its answer, says that they arrived.
func (st *Stream) Write(p []byte) (int, error) {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	if st.udp() {
		return st.writeDatagram(p)
	}
	total := 0
	for {
		n, err := st.writeRecord(p[total:])
		total += n
		if err != nil && st.isClosed() { // cut short by Close: the peer must not take it for the whole
			st.cut.Store(true)
			err = fmt.Errorf("write: %w", ErrClosed)
		}
		if err != nil || total == len(p) {
			return total, err
		}
	}
}

func (st *Stream) writeDatagram(p []byte) (int, error) {
	if len(p) > wire.MaxPayload {
		return 0, fmt.Errorf("datagram of %d bytes: at most %d fit", len(p), wire.MaxPayload)
	}
	if _, err := st.takeCredit(len(p), len(p)); err != nil {
		return 0, err
	}
	if err := st.sendRecord(wire.TypeDatagram, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeRecord sends as much of p as one record and the credit take.
func (st *Stream) writeRecord(p []byte) (int, error) {
	n, err := st.takeCredit(min(len(p), minRecord), min(len(p), st.s.sock.record()))
	if err != nil || n == 0 {
		return 0, err
	}
	if err := st.sendRecord(wire.TypeData, p[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

func (st *Stream) sendRecord(t wire.Type, p []byte) error {
	o := outgoing{id: st.id, payload: p, muted: &st.muted}
	wire.PutHeader(o.header[:], wire.Header{Type: t, Length: len(p)})
	err := st.s.out.data(&o, st.deadline.wait(), st.dead)
	if err == nil {
		return nil
	}
	if err == errStop { // nothing left: the credit is still ours
		st.giveBack(o.size())
	}
	return st.stoppedBy(err)
}

// send sends a control message, waiting for credit.
func (st *Stream) send(o *outgoing) error {
	if _, err := st.takeCredit(len(o.payload), len(o.payload)); err != nil {
		return err
	}
	return st.s.out.data(o, nil, st.dead)
}

// sendMessage sends the request, with the SYN in front, or the reply. Both fit into the first window and do not wait for room: there
// are not more of them than streams may be undecided.
func (st *Stream) sendMessage(frame []byte, syn bool) error {
	o := outgoing{id: st.id, header: [wire.HeaderSize]byte(frame), payload: frame[wire.HeaderSize:], muted: &st.muted, urgent: true, syn: syn}
	st.giveBack(-o.size())
	err := st.s.out.data(&o, nil, st.dead)
	if err == nil {
		return nil
	}
	return st.stoppedBy(err)
}

// takeCredit waits until at least least bytes of payload may be sent, and takes the credit for up to most and their header. What is
// left of the early data may be less than that, but for a datagram, which leaves whole.
func (st *Stream) takeCredit(least, most int) (int, error) {
	for {
		st.mu.Lock()
		if err := st.writableLocked(); err != nil {
			st.mu.Unlock()
			st.waiting.Store(0)
			return 0, err
		}
		early := st.earlyLocked()
		n := min(st.credit-wire.HeaderSize-endReserve, most, early)
		enough := n >= least || !st.udp() && n == early
		if enough && (n > 0 || most == 0) {
			st.credit -= n + wire.HeaderSize
			st.spendEarlyLocked(n)
			st.mu.Unlock()
			st.waiting.Store(0)
			return n, nil
		}
		st.waiting.CompareAndSwap(0, time.Now().UnixNano())
		wake := st.wakeLocked()
		st.mu.Unlock()
		select {
		case <-wake:
		case <-st.decidedIfWaiting():
		case <-st.dead:
		case <-st.deadline.wait():
			st.waiting.Store(0)
			return 0, st.stoppedBy(errStop)
		}
	}
}

// writableLocked is nil while the stream may be written to.
func (st *Stream) writableLocked() error {
	switch {
	case st.refusal != nil:
		return st.refusal
	case st.cause != nil:
		return st.cause
	case st.stopErr != nil:
		return st.stopErr
	case st.ended || st.closed:
		return fmt.Errorf("write: %w", ErrClosed)
	case st.deadline.passed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

const noLimit = int(^uint(0) >> 1)

// earlyLocked is how much payload may be sent now as far as the reply is concerned.
func (st *Stream) earlyLocked() int {
	if isClosed(st.decided) {
		return noLimit
	}
	return st.early
}

func (st *Stream) spendEarlyLocked(n int) {
	if !isClosed(st.decided) {
		st.early -= n
	}
}

// decidedIfWaiting is a channel that wakes a writer when the reply comes; nil, which never wakes, once it is there.
func (st *Stream) decidedIfWaiting() <-chan struct{} {
	if isClosed(st.decided) {
		return nil
	}
	return st.decided
}

func (st *Stream) wakeLocked() <-chan struct{} {
	if st.wake == nil {
		st.wake = make(chan struct{})
	}
	return st.wake
}

func (st *Stream) giveBack(n int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.credit += n
}

// maxCredit is far beyond any window: a peer that grants more is up to something.
const maxCredit = 1 << 30

// addCredit is called for every window update of the peer.
func (st *Stream) addCredit(n uint32) error {
	if n == 0 {
		return nil
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if int64(st.credit)+int64(n) > maxCredit {
		return protocolError("it gave stream %d more than 1 GiB of credit", st.id)
	}
	st.credit += int(n)
	if st.wake != nil {
		close(st.wake)
		st.wake = nil
	}
	return nil
}

// stoppedBy is the error of a frame that was not taken.
func (st *Stream) stoppedBy(err error) error {
	if err != errStop {
		return st.failed(err)
	}
	if st.deadline.passed() && st.Err() == nil {
		return os.ErrDeadlineExceeded
	}
	<-st.dead // a reset of the peer, whose reason is on its way
	return st.Err()
}

// failed is the error of a write that failed because the session ended.
func (st *Stream) failed(err error) error {
	if err == nil {
		return nil
	}
	if cause := st.Err(); cause != nil {
		return cause
	}
	return err
}

// CloseWrite ends our direction cleanly: the peer reads io.EOF after what was written. Reading goes on.
func (st *Stream) CloseWrite() error {
	st.wmu.Lock()
	defer st.wmu.Unlock()
	if err := st.Err(); err != nil {
		return err
	}
	return st.endOnce()
}

// endOnce ends our direction, if that has not been done. The caller has wmu.
func (st *Stream) endOnce() error {
	st.mu.Lock()
	again := st.ended
	if !again {
		st.ended = true
		st.credit -= wire.HeaderSize // kept for this
	}
	st.mu.Unlock()
	if again {
		return nil
	}
	if err := st.sendEnd(); err != nil {
		return err
	}
	if st.peerEnded.Load() {
		st.userFinished()
	}
	return nil
}

// endRefused ends a refused stream on either side: nothing more is read, and the end is sent. A peer that does not do the same is
// reset by housekeeping.
func (st *Stream) endRefused(why *wire.Refusal) {
	st.finish(why)
	st.wmu.Lock()
	defer st.wmu.Unlock()
	if err := st.endOnce(); err != nil {
		return // the session has ended
	}
	st.s.mu.Lock()
	defer st.s.mu.Unlock()
	if !st.wireDone {
		st.lingerFrom = time.Now()
		st.s.lingering[st.id] = st
		st.s.timer.Reset(tick)
	}
}

// sendEnd sends the end record and yamux's FIN behind it, as one TLS record if nothing else is being sent.
func (st *Stream) sendEnd() error {
	o := outgoing{id: st.id, cork: true, muted: &st.muted}
	wire.PutHeader(o.header[:], wire.Header{Type: wire.TypeEnd})
	if err := st.s.out.data(&o, nil, nil); err != nil {
		return st.stoppedBy(err)
	}
	if err := st.mux.Close(); err != nil {
		return st.failed(err)
	}
	return nil
}
