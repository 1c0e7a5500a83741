//go:build unix

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// WriteTo copies to w until the peer's clean end. It takes a buffer only when there is something to read, so that an idle stream
// holds none.
func (t *tcpConn) WriteTo(w io.Writer) (total int64, err error) {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var r lazyRead
	try := r.try // one closure for the life of the stream
	for {
		if err := raw.Read(try); err != nil {
			return total, err
		}
		if r.err != nil || r.n == 0 {
			r.drop()
			return total, r.result()
		}
		n, err := w.Write(r.buf.bytes[:r.n])
		r.drop()
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// lazyRead is one read that borrows its buffer for as long as there is data.
type lazyRead struct {
	buf *buffer
	n   int
	err error
}

// try reads without blocking; false asks the poller to call again when the socket is readable.
func (r *lazyRead) try(fd uintptr) bool {
	r.buf = takeBuffer()
	for {
		r.n, r.err = syscall.Read(int(fd), r.buf.bytes[:])
		switch r.err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			r.drop()
			return false
		}
		return true
	}
}

func (r *lazyRead) drop() {
	if r.buf != nil {
		r.buf.release()
		r.buf = nil
	}
}

func (r *lazyRead) result() error {
	if r.err == nil {
		return nil
	}
	return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", r.err)}
}

// waitReset uses that a reset wakes the poller's readers and leaves SO_ERROR set. Reading the option clears it, which is right only
// here, where the peer's data has ended and nobody reads any more.
func (t *tcpConn) waitReset() error {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return nil // closed locally
	}
	var reset error
	err = raw.Read(func(fd uintptr) bool {
		code, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		if err != nil {
			reset = os.NewSyscallError("getsockopt", err)
		} else if code != 0 {
			reset = &net.OpError{Op: "read", Net: "tcp", Err: syscall.Errno(code)}
		}
		return reset != nil
	})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return reset
}
