// Package neterr recognises errors of the network by the names that POSIX gives
// them. On Windows package syscall's constants of those names are invented
// numbers, which no call returns. The package does nothing else.
package neterr

import (
	"errors"
	"runtime"
	"syscall"
)

// Is is errors.Is for codes such as syscall.ECONNREFUSED, on every system.
func Is(err error, codes ...syscall.Errno) bool { return is(runtime.GOOS, err, codes) }

func is(goos string, err error, codes []syscall.Errno) bool {
	var number syscall.Errno
	windows := goos == "windows" && errors.As(err, &number)
	for _, code := range codes {
		if errors.Is(err, code) || windows && number == winsock[code] && number != 0 {
			return true
		}
	}
	return false
}

// winsock are the numbers of Windows Sockets (winsock2.h).
var winsock = map[syscall.Errno]syscall.Errno{
	syscall.EMFILE:       10024,
	syscall.EMSGSIZE:     10040,
	syscall.EADDRINUSE:   10048,
	syscall.ENETUNREACH:  10051,
	syscall.ECONNABORTED: 10053,
	syscall.ECONNRESET:   10054,
	syscall.ENOBUFS:      10055,
	syscall.ECONNREFUSED: 10061,
	syscall.EHOSTUNREACH: 10065,
}
