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
		logger.Warn("the mark of a recovered audit log stays", "log", d.id, "error", err)
	}
}

// found is what recovery learns from a log.
type found struct {
	records uint64
	damage  damage
	closed  bool
	open    map[string]Record // openings by Record.Stream
	tree    tree              // of the records up to the first gap
	gap     uint64            // the first record that is missing while later ones are there
	used    bool              // there are records that did not come from the beginning of the log alone
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
		if _, _, ok := cut(id); !ok || id == l.id {
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
	log, ok := findLog(files, id)
	if !ok {
		return f, nil
	}
	if err := f.seed(log); err != nil {
		return nil, err
	}
	end, err := log.scan(func(_ int, ln *line) error {
		f.take(ln, ended)
		return nil
	})
	f.damage.cut = end.cut
	return f, err
}

// seed begins the tree where retention has left the log.
func (f *found) seed(log logFiles) error {
	if log.numbers[0] == 1 {
		return nil
	}
	head, err := segmentHead(log.paths[0], log.numbers[0])
	if err != nil {
		return err
	}
	if t, err := treeOf(head.Tree); err == nil {
		f.tree = t
	}
	return nil
}

// segmentHead returns the record that names a segment; it is empty where there is none. What an earlier segment may have
// lost stands before it, perhaps with the name of that one.
func segmentHead(path string, number int) (head Record, err error) {
	_, err = scanSegment(path, func(ln *line) error {
		if ln.event != EventLogSegment {
			return nil
		}
		r, err := ln.decode()
		if err != nil || r.Process == nil || r.Process.Segment != number {
			return nil
		}
		head = r
		return errStop
	})
	return head, err
}

func (f *found) take(ln *line, ended map[string]bool) {
	switch {
	case ln.seq == 0:
		f.damage.lines++
		return
	case ln.seq == f.tree.size+1:
		f.tree.add(ln.text)
	case ln.seq > f.tree.size && f.gap == 0:
		f.gap = f.tree.size + 1
	}
	f.records++
	f.used = f.used || !ln.beginning()
	switch ln.event {
	case EventStreamOpen, EventSessionOpen:
		if r, err := ln.decode(); err == nil {
			f.open[r.Stream] = r
		}
	case EventStreamClose, EventSessionClose:
		if r, err := ln.decode(); err == nil {
			ended[r.Stream] = true
		}
	case EventLogClosed:
		f.closed = true
	}
}

// closeForAll writes what is missing in the logs of the dead.
func (l *Log) closeForAll(dead []deadLog, p past) error {
	for _, d := range dead {
		if err := l.closeFor(d.id, p.dead[d.id], p.ended); err != nil {
			return err
		}
	}
	return nil
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
		r.Seq, r.Prev, r.Subject = 0, "", nil
		if err := l.w.put(&r); err != nil {
			return err
		}
	}
	l.cfg.Logger.Warn("an earlier process died; its audit log was completed", "log", id,
		"streams", rec.Streams, "sessions", rec.Sessions, "cut_bytes", rec.Cut, "damaged_lines", rec.Damaged)
	return l.w.put(&Record{Time: l.stamp(time.Time{}), Event: EventLogRecovered, Recovery: &rec})
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
