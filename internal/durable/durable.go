// Package durable keeps files whole: it writes them atomically and synced, with
// their mode from the start, reads them bounded, sets corrupt ones aside and
// locks them between processes. It does not encrypt, and it knows nothing of
// what the files mean.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Errors that callers branch on.
var (
	// ErrNotPrivate reports a secret that others than its owner may read or
	// replace, or that is not a regular file (a symbolic link, a device).
	ErrNotPrivate = errors.New("file is not private")
	// ErrTooLarge reports a file above the caller's bound.
	ErrTooLarge = errors.New("file is too large")
)

// WriteFile replaces path by data: whoever reads it sees the old or the new
// content, never a part, also after a power cut. The file has the mode perm
// from its first byte on, whatever the umask. The folder must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return write(path, data, perm, rename)
}

// rename is os.Rename, with patience for who reads the old file just now.
func rename(from, to string) error {
	return patiently(func() error { return os.Rename(from, to) }, inUse)
}

// usePatience is how long a file may be in use: far more than anybody takes to read it.
const usePatience = 2 * time.Second

// patiently calls f until it fails for another reason than a file that another process has open.
func patiently(f func() error, inUse func(error) bool) error {
	end := time.Now().Add(usePatience)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := f()
		if err == nil || !inUse(err) || time.Now().After(end) {
			return err
		}
		time.Sleep(wait)
	}
}

// CreateFile is WriteFile for a file that must not exist yet: where something
// stands at path already, the error is fs.ErrExist and it is left alone.
func CreateFile(path string, data []byte, perm fs.FileMode) error {
	return write(path, data, perm, linkNew)
}

// linkNew publishes tmp as path unless path exists. A hard link, unlike a
// rename, fails on an existing target; where the file system has no hard
// links, an exclusive placeholder claims the name first.
func linkNew(tmp, path string) error {
	err := os.Link(tmp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		_ = os.Remove(tmp)
		return err
	}
	claim, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_ = claim.Close()
	return rename(tmp, path)
}

func write(path string, data []byte, perm fs.FileMode, publish func(tmp, path string) error) (err error) {
	dir := filepath.Dir(path)
	// CreateTemp opens with O_EXCL and 0600, so a planted link is never followed.
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if err := tmp.Chmod(perm); err != nil {
		return err
	}
	if _, err := tmp.Write(data); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := publish(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// MkdirPrivate makes dir and its missing parents with mode 0700. A directory
// that exists already must be a real one (no symbolic link) that only its owner
// may write to; otherwise the error is ErrNotPrivate.
func MkdirPrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("make directory %s: %w", dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("directory %s is a %s: %w", dir, kind(info.Mode()), ErrNotPrivate)
	}
	if privateModes && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("directory %s has mode %04o, others may write to it (chmod 700 it): %w", dir, info.Mode().Perm(), ErrNotPrivate)
	}
	return nil
}

// ReadFile returns the content of path, or ErrTooLarge when it has more than
// limit bytes. It never reads more than limit+1 bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, path, limit)
}

// ReadPrivate is ReadFile for secrets: the file must be a regular one that its
// owner alone may read and write, else the error is ErrNotPrivate. Windows has
// no such modes; there the folder's access list protects the file.
func ReadPrivate(path string, limit int64) ([]byte, error) {
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: it is a %s: %w", path, kind(info.Mode()), ErrNotPrivate)
	}
	if privateModes && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read %s: mode is %04o, want 0600 (chmod 600 it): %w", path, info.Mode().Perm(), ErrNotPrivate)
	}
	return readBounded(f, path, limit)
}

func readBounded(f *os.File, path string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: more than %d bytes: %w", path, limit, ErrTooLarge)
	}
	return data, nil
}

// SetAside renames a corrupt file to a name beside it that says so, and returns
// that name. Nothing is overwritten: a second one in the same second gets a
// number.
func SetAside(path string) (string, error) {
	stamp := time.Now().UTC().Format("20060102T150405Z")
	for n := range 100 {
		aside := path + ".corrupt-" + stamp
		if n > 0 {
			aside = fmt.Sprintf("%s-%d", aside, n)
		}
		if _, err := os.Lstat(aside); err == nil {
			continue
		}
		if err := rename(path, aside); err != nil {
			return "", fmt.Errorf("set %s aside: %w", path, err)
		}
		return aside, SyncDir(filepath.Dir(path))
	}
	return "", fmt.Errorf("set %s aside: a hundred corrupt copies stand there already, remove them", path)
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "named pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeDevice != 0:
		return "device"
	default:
		return "file"
	}
}
