//go:build unix

package certstore

import (
	"syscall"
	"testing"
)

// withUmask runs f under another umask. It is the whole process's, so that no test beside this one is parallel.
func withUmask(t *testing.T, mask int, f func()) {
	t.Helper()
	old := syscall.Umask(mask)
	defer syscall.Umask(old)
	f()
}
