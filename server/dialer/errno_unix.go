//go:build unix

package dialer

import "golang.org/x/sys/unix"

// refusedErrors are answers of a machine on which nothing listens.
func refusedErrors() []error { return []error{unix.ECONNREFUSED, unix.ECONNRESET} }

// unreachableErrors are answers of the network, or of this machine, that there is no way. EPERM and EACCES
// come from a packet filter.
func unreachableErrors() []error {
	return []error{
		unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EHOSTDOWN, unix.ENETDOWN,
		unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EACCES, unix.EPERM,
	}
}
