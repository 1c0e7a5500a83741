package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// privateModes tells whether permission bits mean something here: they do not,
// the access list of the per-user folder protects its files.
const privateModes = false

func openNoFollow(path string) (f *os.File, err error) {
	err = patiently(func() error { f, err = os.Open(path); return err }, inUse)
	return f, err
}

// inUse tells that another process has the file open, or is just replacing it: Windows refuses both to the second one.
func inUse(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
}

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
