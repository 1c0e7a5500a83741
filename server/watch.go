package server

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/culvert-vpn/culvert/internal/durable"
)

const (
	// watchSettle is how long a folder must be quiet before its files are
	// read: editors and Kubernetes replace files in several steps.
	watchSettle = 250 * time.Millisecond
	// watchPoll is the safety net where the system reports nothing (NFS, some
	// overlays, no inotify left).
	watchPoll = 10 * time.Second
)

// A fileWatch tells when the content of some files has changed, however it was
// replaced: written in place, renamed over, or by a symbolic link that turns.
// It watches their folders, because a watch on a file dies with its inode.
type fileWatch struct {
	log   *slog.Logger
	files []string
	last  [sha256.Size]byte
}

// newFileWatch takes the content of now as the one that is known: make it before
// the files are read, so that no change falls between.
func newFileWatch(log *slog.Logger, files ...string) *fileWatch {
	w := &fileWatch{log: log, files: files}
	w.last = w.digest()
	return w
}

// run calls changed after each change, one call at a time, until ctx ends.
func (w *fileWatch) run(ctx context.Context, changed func()) {
	if len(w.files) == 0 {
		return
	}
	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	events, problems, closeEvents := w.subscribe()
	defer closeEvents()
	settle := time.NewTimer(0)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			settle.Reset(watchSettle)
			continue
		case err := <-problems: // an overflow, say; unread, it would stop the events
			w.log.Warn("change notices were lost; the files are read now", "error", err)
		case <-settle.C:
		case <-poll.C:
		}
		if now := w.digest(); now != w.last {
			w.last = now
			changed()
		}
	}
}

// subscribe returns the system's notices of the folders, or none (then the poll
// alone works).
func (w *fileWatch) subscribe() (<-chan fsnotify.Event, <-chan error, func()) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		w.log.Warn("files are polled only: the system gives no change notices", "error", err, "every", watchPoll)
		return nil, nil, func() {}
	}
	for _, dir := range w.folders() {
		if err := watcher.Add(dir); err != nil {
			w.log.Warn("folder is polled only: the system gives no change notices", "dir", dir, "error", err, "every", watchPoll)
		}
	}
	return watcher.Events, watcher.Errors, func() { _ = watcher.Close() }
}

// folders are those of the files and of what their links lead to.
func (w *fileWatch) folders() []string {
	var dirs []string
	for _, file := range w.files {
		dirs = append(dirs, filepath.Dir(file))
		if real, err := filepath.EvalSymlinks(file); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// digest sums up the files' content; one that cannot be read counts as its error.
func (w *fileWatch) digest() [sha256.Size]byte {
	h := sha256.New()
	for _, file := range w.files {
		data, err := durable.ReadFile(file, maxConfigFile)
		if err != nil {
			data = []byte("error: " + reason(err))
		}
		sum := sha256.Sum256(data)
		h.Write(sum[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// reason is err without its path.
func reason(err error) string {
	if os.IsNotExist(err) {
		return "no such file"
	}
	return err.Error()
}
