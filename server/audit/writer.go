package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// fileSystem is the seam below the writer.
type fileSystem interface {
	// create makes a file that must not exist, for appending, with 0600, and makes its name durable.
	create(path string) (file, error)
	// free returns the bytes that are left where dir is, or -1.
	free(dir string) int64
}

type file interface {
	Write(p []byte) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

type osFileSystem struct{}

func (osFileSystem) create(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		_ = f.Close()
		_ = os.Remove(path)
		return nil, err
	}
	return f, nil
}

func (osFileSystem) free(dir string) int64 { return freeBytes(dir) }

// A round is one sync that several records wait for.
type round struct {
	done chan struct{}
	err  error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// A writer puts lines into segments. The log's mutex guards it, but for the files of a round, which only
// the keeper touches while they are synced.
type writer struct {
	cfg     *Config
	id      string
	seq     uint64 // of the last record written
	segment int    // number of the current segment
	path    string
	file    file // nil: the next write begins a segment
	size    int64
	retired []file   // earlier segments, not synced yet
	pending [][]byte // lines since the last good sync, to be written again if the disk lost them
	bytes   int      // of pending
	again   bool     // a sync failed: pending must be written again before anything else
	next    *round
	fault   error     // why the last write or sync failed
	tried   time.Time // when a fault was last tried to be mended
	free    int64
	low     bool
}

func (w *writer) init(cfg *Config, id string) {
	*w = writer{cfg: cfg, id: id, next: newRound(), free: -1}
	w.watchSpace()
}

// write numbers a record and hands its line to the system.
func (w *writer) write(r *Record) error {
	if err := w.ready(); err != nil {
		return err
	}
	return w.put(r)
}

// ready has a segment open that can take a line. After a fault it tries at most once a second.
func (w *writer) ready() error {
	if w.fault != nil {
		if w.cfg.Now().Sub(w.tried).Abs() < retryInterval {
			return w.fault
		}
		w.repair()
		if w.fault != nil {
			return w.fault
		}
	}
	if w.file != nil && w.size >= w.cfg.SegmentSize {
		w.retire()
	}
	if w.file == nil {
		return w.fail(w.begin())
	}
	return nil
}

// put encodes, writes and remembers one record. A line that does not fit is taken back whole.
func (w *writer) put(r *Record) error {
	r.Seq = w.seq + 1
	line, err := encode(r)
	if err != nil {
		return err
	}
	if err := w.line(line); err != nil {
		return w.fail(err)
	}
	w.seq++
	w.pending = append(w.pending, line)
	w.bytes += len(line)
	return nil
}

// line writes bytes to the segment, or leaves it as it was. Where that cannot be done the segment is
// given up, and its readers find a last line that is cut.
func (w *writer) line(b []byte) error {
	n, err := w.file.Write(b)
	if err == nil && n == len(b) {
		w.size += int64(n)
		return nil
	}
	if err == nil {
		err = errors.New("short write")
	}
	if n > 0 {
		if w.file.Truncate(w.size) != nil {
			w.retire()
		}
	}
	return err
}

// begin opens the next segment. The first one begins with what the log writes first, further ones with a
// record that names them.
func (w *writer) begin() error {
	number := w.segment + 1
	path := filepath.Join(w.cfg.Dir, fmt.Sprintf("%s-%06d%s", w.id, number, segmentSuffix))
	f, err := w.cfg.fs.create(path)
	if err != nil {
		return err
	}
	w.file, w.path, w.size = f, path, 0
	w.segment = number
	if number == 1 {
		return nil
	}
	head := Record{Time: w.now(), Event: EventLogSegment, Process: &Process{Log: w.id, Segment: number, Gateway: w.cfg.Gateway}}
	if err := w.put(&head); err != nil {
		return err
	}
	return w.prune()
}

func (w *writer) now() time.Time { return w.cfg.Now().UTC().Truncate(time.Millisecond) }

// retire ends the current segment; the next round syncs and closes it.
func (w *writer) retire() {
	if w.file != nil {
		w.retired = append(w.retired, w.file)
		w.file = nil
	}
}

// fail remembers why nothing can be written.
func (w *writer) fail(err error) error {
	if err == nil {
		w.fault = nil
		return nil
	}
	if w.fault == nil {
		w.cfg.Logger.Error("audit log cannot be written; new streams are refused", "err", err)
	}
	w.fault, w.tried = err, w.cfg.Now()
	return err
}

func (w *writer) failed() bool { return w.fault != nil }

// repair ends a fault if it can. After a failed sync nobody knows what the disk holds of the segment
// (the kernel drops such pages and reports it once), so that what was not synced is written again into a new
// one. Records have numbers; readers drop the second copy.
func (w *writer) repair() {
	if w.fault == nil {
		return
	}
	w.fault = nil
	if err := w.writeAgain(); err != nil {
		_ = w.fail(err)
		return
	}
	w.cfg.Logger.Info("audit log tries again to write")
}

func (w *writer) writeAgain() error {
	if !w.again {
		return nil
	}
	if w.file == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	for _, line := range w.pending {
		if err := w.line(line); err != nil {
			return err
		}
	}
	w.again = false
	return nil
}

func (w *writer) unsynced() int { return w.bytes }

// idle reports that there is nothing to sync, and so nobody who waits.
func (w *writer) idle() bool { return len(w.pending) == 0 && len(w.retired) == 0 }

// join returns the round that the record just written belongs to.
func (w *writer) join() *round { return w.next }

// beginRound takes the files to sync; endRound must follow.
func (w *writer) beginRound() (*round, roundFiles) {
	r := w.next
	w.next = newRound()
	files := roundFiles{retired: w.retired, current: w.file, lines: len(w.pending), bytes: w.bytes, void: w.again}
	w.retired = nil
	return r, files
}

// roundFiles are the files of a round, and how much of pending they hold. A void round proves nothing: an
// earlier one failed, and what it lost was not written again yet.
type roundFiles struct {
	retired []file
	current file
	lines   int
	bytes   int
	void    bool
}

// syncFiles syncs them all, and closes those that nobody writes to any more.
func syncFiles(files roundFiles) error {
	var errs []error
	for _, f := range files.retired {
		errs = append(errs, f.Sync(), f.Close())
	}
	if files.current != nil {
		errs = append(errs, files.current.Sync())
	}
	return errors.Join(errs...)
}

func (w *writer) endRound(r *round, files roundFiles, err error) {
	switch {
	case err != nil:
		w.again = true
		w.retire()
		_ = w.fail(err)
	case files.void:
		err = errVoid
	default:
		w.pending = w.pending[files.lines:]
		w.bytes -= files.bytes
		if len(w.pending) == 0 {
			w.pending = nil
		}
	}
	r.err = err
	close(r.done)
}

// errVoid is what waits for a void round gets.
var errVoid = errors.New("an earlier sync failed")

// syncAll is a round on the caller's goroutine.
func (w *writer) syncAll() error {
	r, files := w.beginRound()
	err := syncFiles(files)
	w.endRound(r, files, err)
	return err
}

func (w *writer) close() {
	w.retire()
	for _, f := range w.retired {
		_ = f.Close()
	}
	w.retired = nil
}

// watchSpace looks at the free space and raises the alarm early, once.
func (w *writer) watchSpace() {
	w.free = w.cfg.fs.free(w.cfg.Dir)
	low := w.free >= 0 && w.cfg.MinFree > 0 && w.free < 4*w.cfg.MinFree
	if low && !w.low {
		w.cfg.Logger.Error("audit log runs out of space; new streams will be refused", "dir", w.cfg.Dir, "free_bytes", w.free, "refused_below", w.cfg.MinFree)
	}
	w.low = low
}

func (w *writer) checkSpace() error {
	if w.free >= 0 && w.cfg.MinFree > 0 && w.free < w.cfg.MinFree {
		return fmt.Errorf("%w: %d bytes are free, %d are kept", ErrNoSpace, w.free, w.cfg.MinFree)
	}
	return nil
}

func (w *writer) status() Status {
	return Status{Seq: w.seq, Err: errors.Join(w.fault, w.checkSpace()), Free: w.free, Low: w.low}
}
