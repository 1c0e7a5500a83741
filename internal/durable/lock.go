package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrLocked reports a lock that another process (or another FileLock of this
// one) holds.
var ErrLocked = errors.New("locked by another process")

// lockPoll is how often Lock looks again; the systems' blocking calls cannot be
// cancelled by a context.
const lockPoll = 50 * time.Millisecond

// A FileLock is an exclusive lock on a file between processes. The operating
// system holds it for the open file, so that a process that dies in any way
// releases it: the file that stays behind locks nothing.
type FileLock struct{ f *os.File }

// Lock waits until it holds the lock on path (created with 0600), or until ctx
// ends; then the error wraps ErrLocked and the context's cause.
func Lock(ctx context.Context, path string) (*FileLock, error) {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		l, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// TryLock is Lock without the wait: the error is ErrLocked when somebody else
// holds it.
func TryLock(path string) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := tryLock(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &FileLock{f}, nil
}

// Unlock releases the lock. The file stays: removing it would let two processes
// hold locks on two files of one name.
func (l *FileLock) Unlock() error { return l.f.Close() }
