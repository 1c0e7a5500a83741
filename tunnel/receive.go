package tunnel

import (
	"os"
	"sync"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Sizes of chunks. A full frame, of 65,524 bytes, fits into one.
const (
	smallChunk  = 4 << 10
	mediumChunk = 16 << 10
	largeChunk  = 64 << 10
)

// chunk is a piece of what a stream received, borrowed from a pool.
type chunk struct {
	next *chunk
	data []byte // what is there; its capacity is one of the sizes above
	off  int    // how much of it was read
}

// chunkPools has a pool for each size.
var chunkPools = struct{ small, medium, large sync.Pool }{
	small:  sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, smallChunk)} }},
	medium: sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, mediumChunk)} }},
	large:  sync.Pool{New: func() any { return &chunk{data: make([]byte, 0, largeChunk)} }},
}

func poolFor(size int) *sync.Pool {
	switch {
	case size <= smallChunk:
		return &chunkPools.small
	case size <= mediumChunk:
		return &chunkPools.medium
	}
	return &chunkPools.large
}

// newChunk borrows a chunk for up to size bytes, or for a part of them.
func newChunk(size int) *chunk { return poolFor(size).Get().(*chunk) }

func (c *chunk) recycle() {
	c.next, c.data, c.off = nil, c.data[:0], 0
	poolFor(cap(c.data)).Put(c)
}

// fill appends as much of p as fits, and returns how much.
func (c *chunk) fill(p []byte) int {
	n := min(len(p), cap(c.data)-len(c.data))
	c.data = append(c.data, p[:n]...)
	return n
}

// free is the part of the chunk that is not filled.
func (c *chunk) free() []byte { return c.data[len(c.data):cap(c.data)] }

// nowWriter is relay.NowWriter.
type nowWriter interface {
	// WriteNow writes what can be written without waiting.
	WriteNow(p []byte) (int, error)
}

// receiveBuffer is what a stream received and nobody has read, as chunks: memory that was read goes back at once. The reading goroutine
// of the session fills it, one reader at a time empties it.
//
// A reader that copies to a socket (WriteTo) leaves the socket here while it waits: then what is small goes there directly, from the
// session's reading goroutine, and nobody is woken for it.
type receiveBuffer struct {
	wake chan struct{} // holds an entry when something has changed; one reader waits

	mu         sync.Mutex
	head, tail *chunk
	size       int
	fin        bool // nothing more comes
	dropped    bool // nobody will read any more
	sink       nowWriter
	sinkErr    error
}

func (b *receiveBuffer) notify() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// push appends a chunk. A short one is copied into what is free in the last one, so that at most half of the memory is air.
func (b *receiveBuffer) push(c *chunk) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pushLocked(c)
	b.notify()
}

func (b *receiveBuffer) pushLocked(c *chunk) {
	n := len(c.data)
	switch {
	case b.dropped:
		c.recycle()
		return
	case b.tail != nil && n <= largeChunk/2 && n <= len(b.tail.free()):
		b.tail.fill(c.data)
		c.recycle()
	case b.tail != nil:
		b.tail.next = c
		b.tail = c
	default:
		b.head, b.tail = c, c
	}
	b.size += n
}

// finish notes that nothing more comes.
func (b *receiveBuffer) finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fin = true
	b.notify()
}

// drop gives all memory back, now and later.
func (b *receiveBuffer) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped = true
	for c := b.head; c != nil; {
		next := c.next
		c.recycle()
		c = next
	}
	b.head, b.tail, b.size, b.sink = nil, nil, 0, nil
}

// readLocked copies what is there to p.
func (b *receiveBuffer) readLocked(p []byte) (n int) {
	for n < len(p) && b.head != nil {
		c := b.head
		k := copy(p[n:], c.data[c.off:])
		c.off += k
		n += k
		if c.off == len(c.data) {
			b.head = c.next
			c.recycle()
		}
	}
	if b.head == nil {
		b.tail = nil
	}
	b.size -= n
	return n
}

// detachLocked takes chunks of at most limit bytes in sum, and at least one.
func (b *receiveBuffer) detachLocked(limit int) (first *chunk, n int) {
	first = b.head
	last := first
	n = len(first.data) - first.off
	for last.next != nil && n+len(last.next.data) <= limit {
		last = last.next
		n += len(last.data)
	}
	b.head = last.next
	last.next = nil
	if b.head == nil {
		b.tail = nil
	}
	b.size -= n
	return first, n
}

// deliver takes the body of a small frame, on the session's reading goroutine.
func (st *Stream) deliver(body []byte) {
	b := &st.recv
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sink != nil && b.size == 0 {
		used := st.passOnLocked(body)
		body = body[used:]
		st.consumed(used) // whoever waits with the sink leaves its fields alone
		if len(body) == 0 && b.sinkErr == nil {
			return
		}
	}
	if len(body) > 0 {
		c := newChunk(len(body))
		c.fill(body)
		b.pushLocked(c)
	}
	b.notify()
}

// passOnLocked writes the payload of data records to the sink, as far as it takes it, and returns how much of body that was. All else
// is left to the reader.
func (st *Stream) passOnLocked(body []byte) (used int) {
	r := &st.rec
	for used < len(body) {
		rest := body[used:]
		if r.left == 0 {
			h, err := wire.ParseHeader(rest)
			if err != nil || h.Type != wire.TypeData || r.have > 0 {
				return used
			}
			r.left = h.Length
			used += wire.HeaderSize
			continue
		}
		want := min(r.left, len(rest))
		n, err := st.recv.sink.WriteNow(rest[:want])
		r.left -= n
		used += n
		if err != nil {
			st.recv.sinkErr = err
			return used
		}
		if n < want {
			return used
		}
	}
	return used
}

// take reads what has come, or waits for it.
func (st *Stream) take(p []byte) (int, error) {
	for {
		st.recv.mu.Lock()
		n := st.recv.readLocked(p)
		st.recv.mu.Unlock()
		if cause := st.failure(); cause != nil {
			return 0, cause
		}
		if n > 0 {
			st.consumed(n)
			return n, nil
		}
		if err := st.awaitData(nil); err != nil {
			return 0, err
		}
	}
}

// awaitData waits until something can be read. Meanwhile sink, if there is one, is given what is small.
func (st *Stream) awaitData(sink nowWriter) error {
	b := &st.recv
	for {
		if cause := st.failure(); cause != nil {
			return cause
		}
		b.mu.Lock()
		size, fin, err := b.size, b.fin, b.sinkErr
		if size == 0 && !fin && err == nil {
			b.sink = sink
		}
		b.mu.Unlock()
		switch {
		case err != nil:
			return err
		case size > 0:
			return nil
		case fin:
			return st.truncated()
		}
		stopped := false
		select {
		case <-b.wake:
		case <-st.dead:
		case <-st.readBy.wait():
			stopped = true
		}
		b.mu.Lock()
		b.sink = nil
		ready := b.size > 0
		b.mu.Unlock()
		if stopped && !ready {
			return st.missed()
		}
	}
}

// failure is why the stream has failed, nil while it has not.
func (st *Stream) failure() error {
	select {
	case <-st.dead:
		return st.Err()
	default:
		return nil
	}
}

// missed is the error of a read whose deadline has passed.
func (st *Stream) missed() error {
	if cause := st.failure(); cause != nil {
		return cause
	}
	return os.ErrDeadlineExceeded
}

// truncated aborts a stream whose peer ended it without an end record: that is never a clean end.
func (st *Stream) truncated() error {
	cause := &AbortError{Code: wire.AbortTruncated}
	st.Abort(cause)
	return cause
}
