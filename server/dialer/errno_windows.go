package dialer

import "golang.org/x/sys/windows"

// refusedErrors are answers of a machine on which nothing listens.
func refusedErrors() []error { return []error{windows.WSAECONNREFUSED, windows.WSAECONNRESET} }

// unreachableErrors are answers of the network, or of this machine, that there is no way. WSAEACCES
// comes from a packet filter.
func unreachableErrors() []error {
	return []error{
		windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN,
		windows.WSAEADDRNOTAVAIL, windows.WSAEAFNOSUPPORT, windows.WSAEACCES,
	}
}
