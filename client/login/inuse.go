package login

import (
	"errors"
	"runtime"
	"syscall"
)

// wsaAddressInUse is what Windows says where other systems say EADDRINUSE; package syscall's constant of that
// name is an invented number there.
const wsaAddressInUse = syscall.Errno(10048)

// addressInUse tells a taken port from a machine without IPv6.
func addressInUse(err error) bool {
	var number syscall.Errno
	if !errors.As(err, &number) {
		return false
	}
	if runtime.GOOS == "windows" {
		return number == wsaAddressInUse
	}
	return number == syscall.EADDRINUSE
}
