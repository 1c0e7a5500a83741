//go:build unix

package tunnel

import (
	"io"
	"net"
	"os"
	"syscall"
)

func rawConn(tcp *net.TCPConn) syscall.RawConn {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil // closed: the first read says so
	}
	return raw
}

// fill reads into a borrowed buffer. While the socket is empty, nothing is borrowed.
func (s *Socket) fill() error {
	if s.try == nil {
		s.try = s.tryRead
	}
	err := s.raw.Read(s.try)
	switch {
	case err != nil:
	case s.tryErr != nil:
		err = &net.OpError{Op: "read", Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError("read", s.tryErr)}
	case s.tryN == 0:
		err = io.EOF
	}
	if err != nil {
		if s.in != nil {
			readBuffers.Put(s.in)
			s.in = nil
		}
		return err
	}
	s.r, s.w = 0, s.tryN
	_, _ = s.noteRead(s.tryN, nil)
	return nil
}

// tryRead reads what is there; false asks to be called again when the socket is readable.
func (s *Socket) tryRead(fd uintptr) bool {
	s.in = readBuffers.Get().(*readBuffer)
	for {
		s.tryN, s.tryErr = syscall.Read(int(fd), s.in.bytes[:])
		if s.tryErr != syscall.EINTR {
			break
		}
	}
	if s.tryErr == syscall.EAGAIN {
		readBuffers.Put(s.in)
		s.in = nil
		return false
	}
	return true
}

// tryWrite writes what the system takes at once, possibly nothing.
func tryWrite(raw syscall.RawConn, p []byte) (n int, err error) {
	var sysErr error
	err = raw.Write(func(fd uintptr) bool {
		for {
			n, sysErr = syscall.Write(int(fd), p)
			if sysErr != syscall.EINTR {
				return true
			}
		}
	})
	n = max(n, 0)
	if err == nil && sysErr != nil && sysErr != syscall.EAGAIN {
		err = os.NewSyscallError("write", sysErr)
	}
	return n, err
}
