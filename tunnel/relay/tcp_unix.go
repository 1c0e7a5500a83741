//go:build unix

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteTo copies to w until the peer's clean end. It takes a buffer only when there is something to read, so that an idle stream
// holds none.
func (t *tcpConn) WriteTo(w io.Writer) (total int64, err error) {
	var r lazyRead
	if err := r.init(t.conn); err != nil {
		return 0, err
	}
	for {
		got, err := r.next()
		if err != nil || len(got) == 0 {
			r.drop()
			return total, err
		}
		n, err := w.Write(got)
		r.drop()
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// moveFromSocket moves datagrams in the same way. An empty one is a datagram, too.
func moveFromSocket(w *packetWriter, conn *net.UDPConn) error {
	var r lazyRead
	if err := r.init(conn); err != nil {
		return err
	}
	for {
		got, err := r.next()
		if err == nil {
			_, err = w.Write(got)
		} else if transientPacketError(err) {
			err = nil
		}
		r.drop()
		if err != nil {
			return err
		}
	}
}

// lazyRead reads from a socket and borrows its buffer for as long as there is data.
type lazyRead struct {
	raw   syscall.RawConn
	try   func(fd uintptr) bool // one closure for the life of the stream
	buf   *buffer
	n     int
	errno error
}

func (r *lazyRead) init(conn syscall.Conn) (err error) {
	r.raw, err = conn.SyscallConn()
	r.try = r.tryRead
	return err
}

// next returns what one read gives, until drop. Nothing and no error is the end of a stream.
func (r *lazyRead) next() ([]byte, error) {
	if err := r.raw.Read(r.try); err != nil {
		return nil, err
	}
	if r.errno != nil {
		return nil, &net.OpError{Op: "read", Net: "socket", Err: os.NewSyscallError("read", r.errno)}
	}
	return r.buf.bytes[:r.n], nil
}

// tryRead reads without blocking; false asks the poller to call again when the socket is readable.
func (r *lazyRead) tryRead(fd uintptr) bool {
	r.buf = takeBuffer()
	for {
		r.n, r.errno = syscall.Read(int(fd), r.buf.bytes[:])
		switch r.errno {
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

// broken asks poll for POLLERR, which a reset sets and nothing clears but reading it: unlike SO_ERROR it can be looked at while others
// read and write.
func (t *tcpConn) broken() error {
	raw, err := t.conn.SyscallConn()
	if err != nil {
		return nil // closed locally
	}
	reset := false
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(p, 0)
		reset = err == nil && n == 1 && p[0].Revents&unix.POLLERR != 0
	})
	if reset {
		return &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	return nil
}
