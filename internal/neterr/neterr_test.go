package neterr

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
)

func TestIs(t *testing.T) {
	refused := func(n syscall.Errno) error {
		return fmt.Errorf("ask: %w", &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", n)})
	}
	for _, c := range []struct {
		goos string
		err  error
		want bool
	}{
		{"linux", refused(syscall.ECONNREFUSED), true},
		{"linux", refused(10061), false},
		{"windows", refused(10061), true},
		{"windows", refused(10060), false},
		{"windows", errors.New("10061"), false},
		{"windows", refused(0), false},
		{"windows", nil, false},
	} {
		if got := is(c.goos, c.err, []syscall.Errno{syscall.ECONNRESET, syscall.ECONNREFUSED}); got != c.want {
			t.Errorf("%s: %v: %v", c.goos, c.err, got)
		}
	}
	if is("windows", refused(0), []syscall.Errno{syscall.EPIPE}) {
		t.Error("a code that Windows does not have matched no error")
	}
	if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		address := ln.Addr().String()
		ln.Close()
		if _, err := net.Dial("tcp", address); !Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
	}
}
