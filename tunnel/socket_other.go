//go:build !unix

package tunnel

import (
	"errors"
	"net"
	"syscall"
)

// rawConn returns nil: without it, every write goes through the goroutine that flushes.
func rawConn(*net.TCPConn) syscall.RawConn { return nil }

func (s *Socket) fill() error { return errors.ErrUnsupported }

func tryWrite(syscall.RawConn, []byte) (int, error) { return 0, errors.ErrUnsupported }
