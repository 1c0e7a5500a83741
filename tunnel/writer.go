package tunnel

import (
	"io"
	"slices"
	"sync"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// smallFrame is the largest payload that overtakes the bulk of other streams.
	smallFrame = 1400
	// bulkQueue is how much ciphertext may wait for the socket before records wait, and twice that before small frames do.
	bulkQueue = 128 << 10
	// answerLimit is where a peer that makes us answer, and does not read the answers, loses the session. What waits for other reasons
	// stays below: bulkQueue and, in the hands of who encrypts and again in pending, twice bulkQueue and a record.
	answerLimit = 1 << 20
	// tlsRecord is the payload of a full TLS record (RFC 8446 section 5.1).
	tlsRecord = 16 << 10
)

// frameWriter puts frames on the TLS connection, each whole and in the order of the calls for one stream. It is safe for concurrent
// use.
//
// One caller at a time has the turn to encrypt, on its own goroutine, which never waits for the socket: ciphertext gathers in the
// Socket, which sends it at once as far as the system takes it, and otherwise in large pieces from a goroutine of its own. Frames that
// are small do not wait for their turn: they gather in pending, which whoever has the turn sends too. Full records wait, in the order
// of their calls, while too much ciphertext is queued.
type frameWriter struct {
	dst  io.Writer // the TLS connection
	sock *Socket
	run  func(func())    // starts a goroutine that the session waits for
	fail func(error)     // ends the session
	done <-chan struct{} // the session has ended

	mu      sync.Mutex
	pending []byte          // small frames for whoever encrypts next
	busy    bool            // somebody has the turn
	waiters []chan struct{} // who waits for the turn and for room, oldest first
	drain   []chan struct{} // closed when nothing is left
	err     error
}

// outgoing is one record, or a control message, for data.
type outgoing struct {
	id      uint32
	header  [wire.HeaderSize]byte
	payload []byte
	cork    bool  // more of this stream follows at once: gather only
	urgent  bool  // a small one that does not wait for room
	syn     bool  // it opens its stream
	muted   *bool // the stream was reset; guarded by the writer's mu
}

// size is the length of the frame's body.
func (o *outgoing) size() int { return wire.HeaderSize + len(o.payload) }

// appendHead appends the frame's header and the record's.
func (o *outgoing) appendHead(dst []byte) []byte {
	if o.syn {
		dst = frame{kind: frameWindow, flags: flagSYN, id: o.id}.append(dst)
	}
	dst = frame{kind: frameData, id: o.id, length: uint32(o.size())}.append(dst)
	return append(dst, o.header[:]...)
}

// control sends frames without a body. It never waits.
func (w *frameWriter) control(frames ...frame) {
	w.mu.Lock()
	for _, f := range frames {
		w.pendLocked(f)
	}
	w.sendPendingAndUnlock()
}

// lazily sends a frame together with whatever is sent next.
func (w *frameWriter) lazily(f frame) {
	w.mu.Lock()
	w.pendLocked(f)
	w.mu.Unlock()
}

// reset sends the RST of a stream. Nothing of the stream follows.
func (w *frameWriter) reset(id uint32, muted *bool) {
	w.mu.Lock()
	if muted != nil {
		*muted = true
	}
	w.pendLocked(frame{kind: frameWindow, flags: flagRST, id: id})
	w.sendPendingAndUnlock()
}

func (w *frameWriter) pendLocked(f frame) {
	if w.err != nil {
		return
	}
	w.pending = f.append(extend(w.pending, frameSize))
	if w.waitingLocked() > answerLimit {
		w.failLocked(protocolError("it does not read the answers that it asks for"))
	}
}

// waitingLocked is what has been given to the writer and not to the system.
func (w *frameWriter) waitingLocked() int { return w.sock.queued() + len(w.pending) }

// data sends one record as one frame. It returns when the record was encrypted or copied, or errStop when stop or dead ends the
// wait for room. Once a frame was taken it leaves whole, or the session ends.
func (w *frameWriter) data(o *outgoing, stop, dead <-chan struct{}) error {
	w.mu.Lock()
	small := len(o.payload) <= smallFrame
	if err := w.waitLocked(o, small, stop, dead); err != nil {
		w.mu.Unlock()
		return err
	}
	if small {
		w.pending = append(o.appendHead(extend(w.pending, 2*frameSize+o.size())), o.payload...)
		if o.cork {
			w.mu.Unlock()
			return nil
		}
		return w.sendPendingAndUnlock()
	}
	return w.sendLargeAndUnlock(o)
}

// waitLocked waits until the record may be sent: a small one for room, any other one for room and its turn. A corked record is the end
// of a stream, and does not wait.
func (w *frameWriter) waitLocked(o *outgoing, small bool, stop, dead <-chan struct{}) error {
	first := true
	for {
		switch {
		case w.err != nil:
			return w.err
		case *o.muted:
			return errStop
		case small && (o.cork || o.urgent || w.waitingLocked() < 2*bulkQueue):
			return nil
		case !small && !w.busy && !w.sock.full() && (!first || len(w.waiters) == 0):
			return nil
		}
		first = false
		if err := w.sleepLocked(stop, dead); err != nil {
			return err
		}
	}
}

// sleepLocked waits until wakeLocked finds this caller, without the lock.
func (w *frameWriter) sleepLocked(stop, dead <-chan struct{}) error {
	turn := make(chan struct{})
	w.waiters = append(w.waiters, turn)
	w.mu.Unlock()
	err := errStop
	select {
	case <-turn:
		err = nil
	case <-stop:
	case <-dead:
	case <-w.done:
	}
	w.mu.Lock()
	if err != nil {
		if i := slices.Index(w.waiters, turn); i >= 0 {
			w.waiters = slices.Delete(w.waiters, i, i+1)
		} else {
			w.wakeLocked() // it was this one's turn: the next
		}
		if w.err != nil {
			err = w.err
		}
	}
	return err
}

// wakeLocked wakes the oldest waiter when the turn is free and there is room.
func (w *frameWriter) wakeLocked() {
	if len(w.waiters) == 0 || (w.err == nil && (w.busy || w.sock.full())) {
		return
	}
	close(w.waiters[0])
	w.waiters = slices.Delete(w.waiters, 0, 1)
}

// room is called by the Socket when ciphertext has left.
func (w *frameWriter) room() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wakeLocked()
	w.drainedLocked()
}

// sendLargeAndUnlock has the turn: it encrypts what is pending and the record. The pending frames and the first part of the payload make
// full TLS records; the rest is encrypted from where it lies.
func (w *frameWriter) sendLargeAndUnlock(o *outgoing) error {
	w.busy = true
	head := o.appendHead(extend(w.pending, 2*frameSize+wire.HeaderSize+tlsRecord))
	k := min((tlsRecord-len(head)%tlsRecord)%tlsRecord, len(o.payload))
	head = append(head, o.payload[:k]...)
	w.pending = nil
	w.mu.Unlock()
	_, err := w.dst.Write(head)
	if err == nil && k < len(o.payload) {
		_, err = w.dst.Write(o.payload[k:])
	}
	giveBack(head)
	w.mu.Lock()
	return w.releaseAndUnlock(err)
}

// sendPendingAndUnlock encrypts what is pending, or leaves it to whoever has the turn.
func (w *frameWriter) sendPendingAndUnlock() error {
	if w.busy || len(w.pending) == 0 || w.err != nil {
		err := w.err
		w.mu.Unlock()
		return err
	}
	w.busy = true
	return w.releaseAndUnlock(nil)
}

// releaseAndUnlock encrypts what became pending meanwhile, gives the turn away, and lets the Socket send.
func (w *frameWriter) releaseAndUnlock(err error) error {
	for err == nil && len(w.pending) > 0 {
		pending := w.pending
		w.pending = nil
		w.mu.Unlock()
		_, err = w.dst.Write(pending)
		giveBack(pending)
		w.mu.Lock()
	}
	w.busy = false
	if err != nil {
		w.failLocked(err)
	}
	w.wakeLocked()
	w.mu.Unlock()
	w.sock.push()
	return err
}

// failLocked ends writing for good, and the session with it.
func (w *frameWriter) failLocked(err error) {
	if w.err == nil {
		w.err = err
		w.run(func() { w.fail(err) })
	}
	w.drainedLocked()
}

// broken is called by the Socket when the system refused to send.
func (w *frameWriter) broken(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failLocked(connectionLost(err))
}

// close makes every later call fail with err.
func (w *frameWriter) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.drainedLocked()
}

// drainedLocked tells those who wait for it that everything has been handed to the system, or never will be.
func (w *frameWriter) drainedLocked() {
	if w.err == nil && (w.busy || len(w.pending) > 0 || w.sock.queued() > 0) {
		return
	}
	for _, c := range w.drain {
		close(c)
	}
	w.drain = nil
}

// drained returns a channel that is closed when everything given so far has been handed to the system.
func (w *frameWriter) drained() <-chan struct{} {
	c := make(chan struct{})
	w.mu.Lock()
	w.drain = append(w.drain, c)
	_ = w.sendPendingAndUnlock()
	w.room()
	return c
}
