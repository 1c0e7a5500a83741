package tunnel

import (
	"io"
	"sync"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// bulkSize bounds the frames that wait while as many are being written: a double buffer.
	bulkSize = 128 << 10
	// smallFrame is the largest payload that overtakes bulk of other streams.
	smallFrame = 1400
	// inlineSize is the largest frame that may leave on its caller's goroutine.
	inlineSize = 16 << 10
	// expressSize is where small frames wait like others; expressLimit is where a peer that makes us answer and does not
	// read our answers loses the session.
	expressSize  = 64 << 10
	expressLimit = 512 << 10
)

// frameWriter puts frames on the TLS connection. A frame is never cut and never delayed by the stream that it belongs to: who
// calls data has the credit for it. Frames of one stream keep their order; a small frame of a stream that has nothing waiting
// overtakes the bulk of others. It is safe for concurrent use.
//
// A small frame that finds nobody writing leaves at once on the caller's goroutine, as far as the socket takes it without
// waiting. Everything else gathers while one goroutine writes what was gathered before.
type frameWriter struct {
	dst  io.Writer // the TLS connection
	sock *Socket
	run  func(func())    // starts a goroutine that the session waits for
	fail func(error)     // ends the session
	done <-chan struct{} // the session has ended

	mu      sync.Mutex
	express []byte
	bulk    []byte
	inBulk  map[uint32]struct{} // streams with a frame in bulk
	busy    bool                // somebody writes to dst
	room    chan struct{}       // closed when bulk was taken; nil while nobody waits
	idle    chan struct{}       // closed when everything has left; nil while nobody waits
	err     error

	scratch []byte // of the inline writer; guarded by busy
}

var bulkBuffers = sync.Pool{New: func() any { b := make([]byte, 0, bulkSize+frameSize+wire.HeaderSize+wire.MaxPayload); return &b }}

// control sends frames without a body, in front of bulk. It never waits.
func (w *frameWriter) control(frames ...frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range frames {
		w.express = f.append(w.express)
	}
	w.checkExpressLocked()
	w.wakeLocked()
}

// lazily sends a frame together with whatever is sent next.
func (w *frameWriter) lazily(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.express = f.append(w.express)
	w.checkExpressLocked()
}

// ordered sends a frame without a body behind what its stream sent before.
func (w *frameWriter) ordered(f frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, behind := w.inBulk[f.id]; behind {
		w.bulk = f.append(w.bulk)
	} else {
		w.express = f.append(w.express)
	}
	w.wakeLocked()
}

// controlID is the number of the control stream, the first that a client opens.
const controlID = 1

// reset sends the RST of a stream, behind its data and behind the control message that says why. Nothing of the stream follows.
func (w *frameWriter) reset(id uint32, muted *bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if muted != nil {
		*muted = true
	}
	f := frame{kind: frameWindow, flags: flagRST, id: id}
	_, data := w.inBulk[id]
	_, reason := w.inBulk[controlID]
	if data || reason {
		w.bulk = f.append(w.bulk)
	} else {
		w.express = f.append(w.express)
	}
	w.wakeLocked()
}

func (w *frameWriter) checkExpressLocked() {
	if len(w.express) > expressLimit && w.err == nil {
		w.err = protocolError("it does not read the answers that it asks for")
		w.run(func() { w.fail(w.err) })
	}
}

// outgoing is one record, or a control message, for data.
type outgoing struct {
	id      uint32
	header  [wire.HeaderSize]byte
	payload []byte
	cork    bool  // more of this stream follows at once: gather only
	muted   *bool // the stream was reset; guarded by the writer's mu
}

// size is the length of the frame's body.
func (o *outgoing) size() int { return wire.HeaderSize + len(o.payload) }

func (o *outgoing) append(dst []byte) []byte {
	dst = frame{kind: frameData, id: o.id, length: uint32(o.size())}.append(dst)
	dst = append(dst, o.header[:]...)
	return append(dst, o.payload...)
}

// data sends one record as one frame. It returns when the frame was copied, or errStop when stop or dead ends the wait for room.
// Once a frame was taken it leaves whole, or the session ends.
func (w *frameWriter) data(o *outgoing, stop, dead <-chan struct{}) error {
	w.mu.Lock()
	for w.err == nil && !*o.muted && !w.fitsLocked(o) {
		room := w.roomLocked()
		w.mu.Unlock()
		select {
		case <-room:
		case <-stop:
			return errStop
		case <-dead:
			return errStop
		case <-w.done:
		}
		w.mu.Lock()
	}
	if w.err != nil {
		defer w.mu.Unlock()
		return w.err
	}
	if *o.muted {
		defer w.mu.Unlock()
		return errStop
	}
	if !w.busy && !o.cork && len(w.bulk) == 0 && len(w.express)+o.size() <= inlineSize && w.sock.canTry() {
		return w.inlineAndUnlock(o)
	}
	defer w.mu.Unlock()
	if w.isExpressLocked(o) {
		w.express = o.append(w.express)
	} else {
		w.appendBulkLocked(o)
	}
	if !o.cork {
		w.wakeLocked()
	}
	return nil
}

func (w *frameWriter) isExpressLocked(o *outgoing) bool {
	_, behind := w.inBulk[o.id]
	return !behind && len(o.payload) <= smallFrame
}

func (w *frameWriter) fitsLocked(o *outgoing) bool {
	if o.cork {
		return true // the end of a stream: it never waits
	}
	if w.isExpressLocked(o) {
		return len(w.express) < expressSize
	}
	return len(w.bulk) == 0 || len(w.bulk)+frameSize+o.size() <= bulkSize
}

func (w *frameWriter) roomLocked() <-chan struct{} {
	if w.room == nil {
		w.room = make(chan struct{})
	}
	return w.room
}

func (w *frameWriter) appendBulkLocked(o *outgoing) {
	if w.bulk == nil {
		w.bulk = *bulkBuffers.Get().(*[]byte)
	}
	w.bulk = o.append(w.bulk)
	w.inBulk[o.id] = struct{}{}
}

// inlineAndUnlock sends what is in express and then o, on this goroutine.
func (w *frameWriter) inlineAndUnlock(o *outgoing) error {
	w.busy = true
	w.scratch = o.append(append(w.scratch[:0], w.express...))
	w.express = w.express[:0]
	w.mu.Unlock()

	w.sock.hold()
	_, err := w.dst.Write(w.scratch)
	left := false
	if err == nil {
		var done bool
		done, err = w.sock.tryFlush()
		left = !done
	}
	if cap(w.scratch) > 2*smallFrame {
		w.scratch = nil // an idle session keeps nothing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = false
	if err != nil {
		w.failLocked(err)
		return err
	}
	if left || len(w.bulk) > 0 || len(w.express) > 0 {
		w.startLocked()
	} else {
		w.idleLocked()
	}
	return nil
}

// wakeLocked sees to it that what was gathered leaves.
func (w *frameWriter) wakeLocked() {
	if !w.busy && w.err == nil {
		w.startLocked()
	}
}

func (w *frameWriter) startLocked() {
	w.busy = true
	w.run(w.flush)
}

// flush writes until nothing is left.
func (w *frameWriter) flush() {
	for {
		w.mu.Lock()
		express, bulk := w.takeLocked()
		if express == nil && bulk == nil && w.err == nil {
			// What an inline writer left in the socket comes before the end.
			w.mu.Unlock()
			err := w.sock.flush()
			w.mu.Lock()
			if err != nil {
				w.failLocked(err)
			} else if len(w.express) > 0 || len(w.bulk) > 0 {
				w.mu.Unlock()
				continue
			}
			w.busy = false
			w.idleLocked()
		}
		stop := w.err != nil || !w.busy
		w.mu.Unlock()
		if stop {
			return
		}
		if err := w.write(express, bulk); err != nil {
			w.mu.Lock()
			w.failLocked(err)
			w.mu.Unlock()
			return
		}
	}
}

func (w *frameWriter) takeLocked() (express, bulk []byte) {
	if len(w.express) > 0 {
		express, w.express = w.express, nil
	}
	if len(w.bulk) > 0 {
		bulk, w.bulk = w.bulk, nil
		clear(w.inBulk)
	}
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
	return express, bulk
}

func (w *frameWriter) write(express, bulk []byte) error {
	w.sock.hold()
	var err error
	if len(express) > 0 {
		_, err = w.dst.Write(express)
	}
	if len(bulk) > 0 && err == nil {
		_, err = w.dst.Write(bulk)
	}
	if bulk != nil {
		bulk = bulk[:0]
		bulkBuffers.Put(&bulk)
	}
	if err != nil {
		return err
	}
	return w.sock.flush()
}

// failLocked ends writing for good.
func (w *frameWriter) failLocked(err error) {
	if w.err == nil {
		w.err = err
		w.run(func() { w.fail(err) })
	}
	w.busy = false
	w.idleLocked()
}

// close makes every later call fail with err.
func (w *frameWriter) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.idleLocked()
}

func (w *frameWriter) idleLocked() {
	if w.idle != nil {
		close(w.idle)
		w.idle = nil
	}
}

// drained returns a channel that is closed when everything given so far has been handed to the system.
func (w *frameWriter) drained() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.busy && len(w.express) == 0 && len(w.bulk) == 0 || w.err != nil {
		c := make(chan struct{})
		close(c)
		return c
	}
	if w.idle == nil {
		w.idle = make(chan struct{})
	}
	idle := w.idle
	w.wakeLocked()
	return idle
}
