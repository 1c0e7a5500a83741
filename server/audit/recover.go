package audit

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// ReasonProcessDied is the reason of closing records that a later process wrote.
const ReasonProcessDied = "process died"

// A deadLog is an earlier log whose process ended without closing it: its lock file is there, and nobody
// holds the lock.
type deadLog struct {
	id   string
	lock *durable.FileLock
	path string // of the lock file
}

// release gives up the lock. The log is forgotten when it is recovered and the record of that is on the
// disk; otherwise the next process tries again.
func (d deadLog) release(recovered bool, logger *slog.Logger) {
	_ = d.lock.Unlock()
	if !recovered {
		return
	}
	if err := os.Remove(d.path); err != nil {
		logger.Warn("the mark of a recovered audit log stays", "log", d.id, "err", err)
	}
}

// found is what recovery learns from a log.
type found struct {
	records uint64
	damage  damage
	closed  bool
	open    map[string]Record // openings by Record.Stream
}

// recover writes the closing records that are missing in logs of dead processes. The caller syncs and then
// releases what it returns.
func (l *Log) recover() ([]deadLog, error) {
	dead, err := l.findDead()
	if err != nil || len(dead) == 0 {
		return dead, err
	}
	files, err := listSegments(l.cfg.Dir)
	if err != nil {
		return dead, err
	}
	logs := make(map[string]*found, len(dead))
	ended := make(map[string]bool) // also by a recovery that died itself
	for _, d := range dead {
		f, err := study(files, d.id, ended)
		if err != nil {
			return dead, err
		}
		logs[d.id] = f
	}
	for _, d := range dead {
		if err := l.closeFor(d.id, logs[d.id], ended); err != nil {
			return dead, err
		}
	}
	return dead, nil
}

func (l *Log) findDead() ([]deadLog, error) {
	paths, err := filepath.Glob(filepath.Join(l.cfg.Dir, "*"+lockSuffix))
	if err != nil {
		return nil, fmt.Errorf("find earlier audit logs: %w", err)
	}
	slices.Sort(paths)
	var dead []deadLog
	for _, p := range paths {
		id := strings.TrimSuffix(filepath.Base(p), lockSuffix)
		if id == l.id {
			continue
		}
		lock, err := durable.TryLock(p)
		switch {
		case errors.Is(err, durable.ErrLocked): // its process lives
		case err != nil:
			return dead, err
		default:
			dead = append(dead, deadLog{id, lock, p})
		}
	}
	return dead, nil
}

// study reads one log and notes in ended which streams and sessions ended.
func study(files []logFiles, id string, ended map[string]bool) (*found, error) {
	f := &found{open: make(map[string]Record)}
	i, ok := slices.BinarySearchFunc(files, id, func(l logFiles, id string) int { return cmp.Compare(l.id, id) })
	if !ok {
		return f, nil
	}
	var err error
	f.damage, err = files[i].read(func(r *Record) error {
		f.records++
		switch r.Event {
		case EventStreamOpen, EventSessionOpen:
			f.open[r.Stream] = *r
		case EventStreamClose, EventSessionClose:
			ended[r.Stream] = true
		case EventLogClosed:
			f.closed = true
		}
		return nil
	})
	return f, err
}

// closeFor writes the closing records for one dead log, and what was found there.
func (l *Log) closeFor(id string, f *found, ended map[string]bool) error {
	if f.closed {
		return nil
	}
	rec := Recovery{Log: id, Records: f.records, Cut: f.damage.cut, Damaged: f.damage.lines}
	for _, r := range f.missing(ended) {
		if r.Event == EventStreamOpen {
			rec.Streams++
			r.Event = EventStreamClose
		} else {
			rec.Sessions++
			r.Event = EventSessionClose
		}
		r.Time, r.Reason, r.Recovery = l.stamp(time.Time{}), ReasonProcessDied, &Recovery{Log: id}
		if err := l.w.write(&r); err != nil {
			return err
		}
	}
	l.cfg.Logger.Warn("an earlier process died; its audit log was completed", "log", id,
		"streams", rec.Streams, "sessions", rec.Sessions, "cut_bytes", rec.Cut, "damaged_lines", rec.Damaged)
	return l.w.write(&Record{Time: l.stamp(time.Time{}), Event: EventLogRecovered, Recovery: &rec})
}

// missing returns the openings without an end, in the order in which they happened.
func (f *found) missing(ended map[string]bool) []Record {
	var list []Record
	for stream, r := range f.open {
		if !ended[stream] {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int { return cmp.Compare(a.Seq, b.Seq) })
	return list
}

// prune removes the oldest segments while all together take more than KeepBytes. Segments of other
// processes that live, and the current one, stay.
func (w *writer) prune() error {
	if w.cfg.KeepBytes <= 0 {
		return nil
	}
	logs, err := listSegments(w.cfg.Dir)
	if err != nil {
		return err
	}
	total, old := w.removable(logs)
	var removed []string
	for _, path := range old {
		if total <= w.cfg.KeepBytes {
			break
		}
		size := sizeOf(path)
		if err := os.Remove(path); err != nil {
			w.cfg.Logger.Warn("an old audit segment stays", "file", path, "err", err)
			continue
		}
		total -= size
		removed = append(removed, filepath.Base(path))
	}
	if len(removed) == 0 {
		return nil
	}
	detail := fmt.Sprintf("%d segments, %s to %s", len(removed), removed[0], removed[len(removed)-1])
	return w.put(&Record{Time: w.now(), Event: EventLogRemoved, Detail: detail})
}

// removable returns the size of all segments, and those that may go, oldest first.
func (w *writer) removable(logs []logFiles) (total int64, paths []string) {
	for _, l := range logs {
		_, err := os.Stat(filepath.Join(w.cfg.Dir, l.id+lockSuffix))
		lives := err == nil && l.id != w.id
		for _, p := range l.paths {
			total += sizeOf(p)
			if !lives && p != w.path {
				paths = append(paths, p)
			}
		}
	}
	return total, paths
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
