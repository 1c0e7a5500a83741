package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// privateModes tells whether permission bits mean something here: they do not,
// the access list of the per-user folder protects its files.
const privateModes = false

func openNoFollow(path string) (*os.File, error) { return os.Open(path) }

// SyncDir does nothing: Windows makes a rename durable with its file.
func SyncDir(string) error { return nil }

func tryLock(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}
