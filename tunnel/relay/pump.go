package relay

import (
	"io"
	"time"
)

// resetWaiter is offered by a Conn that can wait for the peer's reset after the peer's clean end, when nobody reads any more.
type resetWaiter interface {
	// waitReset blocks until the peer resets the connection (an error) or it is closed locally (nil).
	waitReset() error
}

// pump moves one direction until its clean end, passes that on, and then listens for a late reset.
func (c *copier) pump(src, dst Conn, f *flow) {
	from := f.from
	w := &meteredWriter{dst: dst, c: c, flow: f}
	if err := move(w, src); err != nil {
		by := from
		if w.err != nil {
			by = from.other()
		}
		c.end(by, err)
		return
	}
	c.sawEnd(from)
	if err := dst.CloseWrite(); err != nil {
		c.end(from.other(), err)
		return
	}
	if c.finished() {
		// The other direction waits for a reset of this dst, its source; closing ends that wait.
		_ = dst.Close()
		return
	}
	if rw, ok := src.(resetWaiter); ok {
		if err := rw.waitReset(); err != nil && c.left.Load() > 0 {
			c.end(from, err)
		}
	}
}

func (s Side) other() Side {
	if s == SideA {
		return SideB
	}
	return SideA
}

// move copies src to w until a clean end, by the fastest way that either side offers.
func move(w *meteredWriter, src Conn) error {
	if wt, ok := src.(io.WriterTo); ok {
		_, err := wt.WriteTo(w)
		return err
	}
	if rf, ok := w.dst.(io.ReaderFrom); ok {
		r := &meteredReader{src: src, w: w}
		_, err := rf.ReadFrom(r)
		if err != nil && r.err == nil {
			w.err = err
		}
		return err
	}
	_, err := copyPooled(w, src)
	return err
}

func copyPooled(w io.Writer, src io.Reader) (total int64, err error) {
	buf := takeBuffer()
	defer buf.release()
	for {
		n, err := src.Read(buf.bytes[:])
		if n > 0 {
			m, werr := w.Write(buf.bytes[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// meteredWriter counts what dst took, and remembers whether an error was a write's.
type meteredWriter struct {
	dst  Conn
	c    *copier
	flow *flow
	err  error // of a write; read by the goroutine that writes
}

var (
	_ BuffersWriter = (*meteredWriter)(nil)
	_ NowWriter     = (*meteredWriter)(nil)
)

func (w *meteredWriter) Write(p []byte) (int, error) {
	w.c.stall.enter(w.flow)
	n, err := w.dst.Write(p)
	w.c.stall.leave(w.flow)
	w.note(int64(n), err)
	return n, err
}

// WriteBuffers writes the pieces by one system call where dst can, one after the other where it cannot.
func (w *meteredWriter) WriteBuffers(pieces *[][]byte) (int64, error) {
	if bw, ok := w.dst.(BuffersWriter); ok {
		w.c.stall.enter(w.flow)
		n, err := bw.WriteBuffers(pieces)
		w.c.stall.leave(w.flow)
		w.note(n, err)
		return n, err
	}
	var total int64
	for len(*pieces) > 0 {
		n, err := w.Write((*pieces)[0])
		total += int64(n)
		if err != nil {
			return total, err
		}
		*pieces = (*pieces)[1:]
	}
	return total, nil
}

// WriteNow writes what dst takes without waiting; nothing where dst does not know.
func (w *meteredWriter) WriteNow(p []byte) (int, error) {
	nw, ok := w.dst.(NowWriter)
	if !ok {
		return 0, nil
	}
	n, err := nw.WriteNow(p)
	w.note(int64(n), err)
	return n, err
}

func (w *meteredWriter) note(n int64, err error) {
	if n > 0 {
		w.flow.count.Add(n)
		w.c.meter.active.Store(time.Now().UnixNano())
	}
	if err != nil {
		w.err = err
	}
}

// meteredReader is the reading side of the same, for a dst that reads by itself.
type meteredReader struct {
	src io.Reader
	w   *meteredWriter
	err error // of a read
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.w.note(int64(n), nil)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
