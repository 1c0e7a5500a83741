package tunnel

import (
	"io"
)

// frameReader stands between TLS and yamux. It shows every header to inspect before yamux sees it, and takes out the frames that
// inspect does not pass. Only yamux's reading goroutine uses it.
type frameReader struct {
	src     io.Reader
	inspect func(*frame) (pass bool, err error)

	body  int  // bytes of the current frame that are still to come
	drop  bool // they are not passed on
	carry [frameSize]byte
	have  int // bytes of a header that came in two pieces, in carry
}

// Read implements io.Reader. yamux asks for 4 KiB or more, or for the rest of a body.
func (r *frameReader) Read(p []byte) (int, error) {
	for {
		n := copy(p, r.carry[:r.have])
		if n < r.have || n == len(p) {
			return 0, io.ErrShortBuffer
		}
		r.have = 0
		m, err := r.src.Read(p[n:])
		out, ierr := r.filter(p[:n+m])
		if ierr != nil {
			return 0, ierr
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
			k := min(r.body, len(p)-in)
			if !r.drop {
				if out != in {
					copy(p[out:], p[in:in+k])
				}
				out += k
			}
			in += k
			r.body -= k
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
	pass, err = r.inspect(&f)
	if err != nil {
		return false, err
	}
	r.drop = !pass || f.body() == 0 // inspect may keep the flags and drop the body
	if pass {
		f.put(p)
	}
	return pass, nil
}
