//go:build unix

package relay

import (
	"net"
	"os"
	"syscall"
)

// nowWrite is a write that does not wait.
type nowWrite struct {
	raw   syscall.RawConn
	try   func(fd uintptr) bool // one closure for the life of the stream
	p     []byte
	n     int
	errno error
}

// WriteNow implements NowWriter.
func (t *tcpConn) WriteNow(p []byte) (int, error) {
	w := &t.now
	if w.raw == nil {
		raw, err := t.conn.SyscallConn()
		if err != nil {
			return 0, err
		}
		w.raw, w.try = raw, w.tryWrite
	}
	w.p = p
	err := w.raw.Write(w.try)
	w.p = nil
	if err != nil {
		return 0, err
	}
	if w.errno != nil && w.errno != syscall.EAGAIN {
		return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", w.errno)}
	}
	return max(w.n, 0), nil
}

// tryWrite writes what the system takes at once, possibly nothing.
func (w *nowWrite) tryWrite(fd uintptr) bool {
	for {
		w.n, w.errno = syscall.Write(int(fd), w.p)
		if w.errno != syscall.EINTR {
			return true
		}
	}
}
