package audit

import (
	"fmt"
	"os"
	"path/filepath"
)

// maxRemoved is how many logs one record of removal names.
const maxRemoved = 200

// prune has the oldest segments removed while all together take more than KeepBytes. Segments of other processes that
// live, and the current one, stay. The record of it comes first and is signed: they go when it is on the disk.
func (w *writer) prune() error {
	if w.cfg.KeepBytes <= 0 {
		return nil
	}
	logs, err := listSegments(w.cfg.Dir)
	if err != nil {
		return err
	}
	removed, paths := w.surplus(logs)
	for len(removed) > 0 {
		some := removed[:min(len(removed), maxRemoved)]
		removed = removed[len(some):]
		if err := w.line(&Record{Time: w.now(), Event: EventLogRemoved, Removed: some,
			Detail: fmt.Sprintf("%d segments, %s to %s", len(paths), filepath.Base(paths[0]), filepath.Base(paths[len(paths)-1]))}); err != nil {
			return err
		}
	}
	if len(paths) == 0 {
		return nil
	}
	w.doomed = append(w.doomed, paths...)
	return w.checkpoint()
}

// surplus returns what has to go, oldest first, and the files of that.
func (w *writer) surplus(logs []logFiles) (removed []Removed, paths []string) {
	total := totalSize(logs)
	for _, l := range logs {
		if total <= w.cfg.KeepBytes {
			return removed, paths
		}
		if l.id != w.id && logRuns(w.cfg.Dir, l.id) {
			continue
		}
		gone := Removed{Log: l.id}
		for i, path := range l.paths {
			if total <= w.cfg.KeepBytes || path == w.path {
				break
			}
			total -= sizeOf(path)
			gone.Segment, gone.Whole = l.numbers[i], i == len(l.paths)-1
			paths = append(paths, path)
		}
		if gone.Whole {
			paths = append(paths, checkpointPath(w.cfg.Dir, l.id))
		}
		if gone.Segment > 0 {
			removed = append(removed, gone)
		}
	}
	return removed, paths
}

func totalSize(logs []logFiles) (total int64) {
	for _, l := range logs {
		for _, p := range l.paths {
			total += sizeOf(p)
		}
	}
	return total
}

func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
