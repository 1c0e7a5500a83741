package tunnel

import (
	"io"
)

// frameReader stands between TLS and yamux. It shows every header to inspect before yamux sees it. Bodies never reach yamux: they go to
// the stream that inspect names, or nowhere. Only yamux's reading goroutine uses it.
type frameReader struct {
	src     io.Reader
	inspect func(*frame) (pass bool, to *Stream, err error)

	body  int     // bytes of the current frame that are still to come
	to    *Stream // whose they are; nil: they are dropped
	cur   *chunk  // what of them is there, unless they came at once
	carry [frameSize]byte
	have  int // bytes of a header that came in two pieces, in carry
}

// Read implements io.Reader. yamux asks for 4 KiB.
func (r *frameReader) Read(p []byte) (int, error) {
	for {
		if r.body > 0 { // nothing for yamux comes before its end
			if err := r.readBody(p); err != nil {
				return 0, err
			}
			continue
		}
		n := copy(p, r.carry[:r.have])
		if n < r.have || n == len(p) {
			return 0, io.ErrShortBuffer
		}
		r.have = 0
		m, err := r.src.Read(p[n:])
		out, ferr := r.filter(p[:n+m])
		if ferr != nil {
			return 0, ferr
		}
		if out > 0 || err != nil {
			return out, err
		}
	}
}

// filter compacts p to what passes, and returns its length.
func (r *frameReader) filter(p []byte) (out int, err error) {
	in := 0
	for in < len(p) {
		if r.body > 0 {
			in += r.takeBody(p[in:])
			continue
		}
		if len(p)-in < frameSize {
			r.have = copy(r.carry[:], p[in:])
			break
		}
		pass, err := r.header(p[in : in+frameSize])
		if err != nil {
			return out, err
		}
		if pass {
			copy(p[out:], p[in:in+frameSize])
			out += frameSize
		}
		in += frameSize
	}
	return out, nil
}

// header inspects a header, and writes it back as inspect left it.
func (r *frameReader) header(p []byte) (pass bool, err error) {
	f, err := parseFrame(p)
	if err != nil {
		return false, err
	}
	r.body = f.body()
	pass, r.to, err = r.inspect(&f)
	if err == nil && pass {
		f.put(p)
	}
	return pass, err
}

// takeBody takes what p has of the current body, and returns how much that is.
func (r *frameReader) takeBody(p []byte) int {
	k := min(r.body, len(p))
	switch {
	case r.to == nil:
	case r.cur == nil && k == r.body && k <= smallChunk:
		r.to.deliver(p[:k])
	default:
		if r.cur == nil {
			r.cur = newChunk(r.body)
		}
		k = r.cur.fill(p[:k])
	}
	r.body -= k
	r.pushIfComplete()
	return k
}

// readBody reads more of the current body from below, to where it stays.
func (r *frameReader) readBody(scratch []byte) error {
	dst := scratch
	if r.to != nil {
		if r.cur == nil {
			r.cur = newChunk(r.body)
		}
		dst = r.cur.free()
	}
	n, err := r.src.Read(dst[:min(len(dst), r.body)])
	if r.cur != nil {
		r.cur.data = r.cur.data[:len(r.cur.data)+n]
	}
	r.body -= n
	r.pushIfComplete()
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// pushIfComplete hands a chunk to its stream when it is full, or the frame is whole.
func (r *frameReader) pushIfComplete() {
	if r.cur != nil && (r.body == 0 || len(r.cur.free()) == 0) {
		r.to.recv.push(r.cur)
		r.cur = nil
	}
}
