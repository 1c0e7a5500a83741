package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// recordReader is where a Read is within the peer's records.
type recordReader struct {
	head [wire.HeaderSize]byte
	have int  // bytes of head that are there
	left int  // payload of the current record that is still to come
	end  bool // the peer's end record was read
}

// readMessage reads the request or the reply in front of the records.
func (st *Stream) readMessage() (wire.Message, error) {
	st.rmu.Lock()
	defer st.rmu.Unlock()
	var head [wire.HeaderSize]byte
	if err := st.readFull(head[:]); err != nil {
		return nil, err
	}
	h, err := wire.ParseHeader(head[:])
	if err != nil {
		return nil, st.violated(err)
	}
	if h.Type.IsRecord() {
		return nil, st.violated(fmt.Errorf("%s before the stream is open", h.Type))
	}
	body := make([]byte, h.Length)
	if err := st.readFull(body); err != nil {
		return nil, err
	}
	m, err := wire.Parse(h.Type, body)
	if err != nil {
		return nil, st.violated(err)
	}
	return m, nil
}

func (st *Stream) readFull(p []byte) error {
	for len(p) > 0 {
		n, err := st.take(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// violated aborts the stream because the peer broke the protocol on it.
func (st *Stream) violated(err error) error {
	cause := &AbortError{Code: wire.AbortProtocol, Reason: err.Error()}
	st.Abort(cause)
	return cause
}

// Read implements net.Conn. On a udp stream it returns one datagram; what does not fit into p is lost, as with a socket.
func (st *Stream) Read(p []byte) (int, error) {
	if err := st.awaitReply(); err != nil {
		return 0, err
	}
	st.rmu.Lock()
	defer st.rmu.Unlock()
	if st.isClosed() {
		return 0, fmt.Errorf("read: %w", ErrClosed)
	}
	n, err := st.readRecord(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && st.isClosed() {
		err = fmt.Errorf("read: %w", ErrClosed)
	}
	return n, err
}

func (st *Stream) isClosed() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.closed
}

func (st *Stream) readRecord(p []byte) (int, error) {
	if st.udp() {
		return st.readDatagram(p)
	}
	return st.readData(p)
}

// awaitReply waits for the gateway's reply, and returns its refusal.
func (st *Stream) awaitReply() error {
	select {
	case <-st.decided:
		return st.refused()
	default:
	}
	select {
	case <-st.decided:
		return st.refused()
	case <-st.dead:
		return st.Err()
	}
}

// refused is the gateway's refusal, once there is a reply: it is set before decided is closed and never again.
func (st *Stream) refused() error {
	if st.refusal != nil {
		return st.refusal
	}
	return nil
}

func (st *Stream) readData(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, st.Err()
	}
	for st.rec.left == 0 {
		if err := st.readHeader(wire.TypeData); err != nil {
			return 0, err
		}
	}
	n, err := st.take(p[:min(len(p), st.rec.left)])
	st.rec.left -= n
	return n, err
}

func (st *Stream) readDatagram(p []byte) (int, error) {
	if st.rec.left == 0 {
		if err := st.readHeader(wire.TypeDatagram); err != nil {
			return 0, err
		}
	}
	return st.readBody(p)
}

// readBody reads the datagram whose header was read.
func (st *Stream) readBody(p []byte) (int, error) {
	size := st.rec.left
	buf := p
	if len(p) < size {
		buf = make([]byte, size) // rare: the caller's buffer is too short
	}
	got := 0
	for st.rec.left > 0 {
		n, err := st.take(buf[got:size])
		got += n
		st.rec.left -= n
		if err != nil {
			// A frame holds a whole record, so this is no deadline that passed between two parts but a failure.
			return 0, st.cutShort(err)
		}
	}
	return copy(p, buf[:size]), nil
}

// cutShort is the error of a record whose rest does not come.
func (st *Stream) cutShort(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && st.Err() == nil {
		st.Abort(&AbortError{Code: wire.AbortTimeout})
	}
	return err
}

// readHeader reads the header of the next record. A deadline may interrupt it; the next call goes on.
func (st *Stream) readHeader(want wire.Type) error {
	r := &st.rec
	if r.end {
		return io.EOF
	}
	for r.have < len(r.head) {
		n, err := st.take(r.head[r.have:])
		r.have += n
		if err != nil {
			return err
		}
	}
	r.have = 0
	return st.startRecord(r.head, want)
}

func (st *Stream) startRecord(head [wire.HeaderSize]byte, want wire.Type) error {
	h, err := wire.ParseHeader(head[:])
	switch {
	case err != nil:
	case h.Type == want:
		st.rec.left = h.Length
		return nil
	case h.Type == wire.TypeEnd:
		st.rec.end = true
		st.endSeen()
		return io.EOF
	default:
		err = fmt.Errorf("%s on a %s stream", h.Type, st.request.Target.Kind)
	}
	return st.violated(err)
}

// endSeen notes that the peer's end was read. If ours was sent, the user needs nothing more of the session.
func (st *Stream) endSeen() {
	st.peerEnded.Store(true)
	st.mu.Lock()
	over := st.ended
	st.mu.Unlock()
	if over {
		st.userFinished()
	}
}

// inbound counts n bytes that came for the stream, on yamux's reading goroutine. keep is false when nobody will read them.
func (st *Stream) inbound(n int) (keep bool, err error) {
	if st.finSeen { // written on this goroutine only
		return false, protocolError("it sent %d bytes into stream %d after its end", n, st.id)
	}
	if got := st.received.Add(int64(n)); got > st.granted.Load() {
		return false, protocolError("it sent %d bytes into stream %d, more than its window", got, st.id)
	}
	return !st.discard.Load(), nil
}

// consumed gives the peer new credit for what was read, when it is half a window.
func (st *Stream) consumed(n int) {
	st.read.Add(int64(n))
	st.owed += n
	window := int(st.window.Load())
	if st.owed < min(window/2, maxOwed) {
		return
	}
	now := time.Now()
	grown := 0
	if !st.epoch.IsZero() {
		grown = st.s.flow.grow(window, st.owed, now.Sub(st.epoch))
	}
	st.epoch = now
	st.window.Store(int64(window + grown))
	n, st.owed = st.owed+grown, 0
	st.granted.Add(int64(n))
	st.s.flow.credit(st.id, n)
}

// gatherSize is how much WriteTo passes on in one call: a few full records.
const gatherSize = 4 * largeChunk

// buffersWriter is relay.BuffersWriter.
type buffersWriter interface {
	WriteBuffers(pieces *[][]byte) (int64, error)
}

// WriteTo implements io.WriterTo: it writes what arrives to w until the peer's clean end, several records in one call where w takes
// them (WriteBuffers, or a *net.TCPConn), and holds no buffer while it waits. On a udp stream each Write is one datagram.
func (st *Stream) WriteTo(w io.Writer) (total int64, err error) {
	if err := st.awaitReply(); err != nil {
		return 0, err
	}
	st.rmu.Lock()
	defer st.rmu.Unlock()
	if st.udp() {
		return st.writeDatagramsTo(w)
	}
	for {
		n, err := st.moveTo(w)
		total += n
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (st *Stream) writeDatagramsTo(w io.Writer) (total int64, err error) {
	for {
		n, err := st.moveDatagram(w)
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (st *Stream) moveDatagram(w io.Writer) (int, error) {
	if err := st.readHeader(wire.TypeDatagram); err != nil {
		return 0, err
	}
	c := newChunk(st.rec.left)
	defer c.recycle()
	n, err := st.readBody(c.data[:min(st.rec.left, cap(c.data))])
	if err != nil {
		return 0, err
	}
	return w.Write(c.data[:n])
}

// moveTo waits for something to arrive, and moves what is there.
func (st *Stream) moveTo(w io.Writer) (int64, error) {
	if st.rec.end {
		return 0, io.EOF
	}
	sink, _ := w.(nowWriter)
	if err := st.awaitData(sink); err != nil {
		return 0, err
	}
	st.recv.mu.Lock()
	if st.recv.size == 0 { // dropped meanwhile
		st.recv.mu.Unlock()
		return 0, st.missed()
	}
	first, n := st.recv.detachLocked(gatherSize)
	st.recv.mu.Unlock()
	var few [8][]byte
	pieces, end := few[:0], error(nil)
	for c := first; c != nil && end == nil; c = c.next {
		pieces, end = st.cutPieces(pieces, c.data[c.off:])
	}
	total, err := writePieces(w, pieces)
	for first != nil {
		next := first.next
		first.recycle()
		first = next
	}
	st.consumed(n)
	if err != nil {
		return total, err
	}
	return total, end
}

// buffered is how much has come in and was not read.
func (st *Stream) buffered() int64 { return st.received.Load() - st.read.Load() }

// cutPieces appends the payload that is in raw, which may begin and end anywhere within a record. It ends with io.EOF at the end record.
func (st *Stream) cutPieces(pieces [][]byte, raw []byte) ([][]byte, error) {
	r := &st.rec
	for len(raw) > 0 {
		if r.left == 0 {
			k := copy(r.head[r.have:], raw)
			r.have += k
			raw = raw[k:]
			if r.have < len(r.head) {
				break
			}
			r.have = 0
			if err := st.startRecord(r.head, wire.TypeData); err != nil {
				return pieces, err
			}
			continue
		}
		k := min(r.left, len(raw))
		pieces = append(pieces, raw[:k])
		raw = raw[k:]
		r.left -= k
	}
	return pieces, nil
}

func writePieces(w io.Writer, pieces [][]byte) (int64, error) {
	switch len(pieces) {
	case 0:
		return 0, nil
	case 1:
		n, err := w.Write(pieces[0])
		return int64(n), err
	}
	if bw, ok := w.(buffersWriter); ok {
		return bw.WriteBuffers(&pieces)
	}
	return (*net.Buffers)(&pieces).WriteTo(w)
}
