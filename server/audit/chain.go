package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxPast is how many earlier logs a new one looks at, for one that no other names.
const maxPast = 16

// past is what a new log finds in its folder.
type past struct {
	previous []PreviousLog     // what its first record says of them
	dead     map[string]*found // by log
	ended    map[string]bool   // streams and sessions that are closed in logs of the dead
}

// running returns those that are named while their processes run.
func (p past) running() []PreviousLog {
	return slices.DeleteFunc(slices.Clone(p.previous), func(l PreviousLog) bool { return l.Ended })
}

// studyPast reads the logs of the dead, and the ends of other logs that no log names yet.
func (l *Log) studyPast(dead []deadLog) (past, error) {
	p := past{dead: make(map[string]*found), ended: make(map[string]bool)}
	files, err := listSegments(l.cfg.Dir)
	if err != nil {
		return p, err
	}
	for _, d := range dead {
		if p.dead[d.id], err = study(files, d.id, p.ended); err != nil {
			return p, err
		}
	}
	keys, err := l.verifiers()
	if err != nil {
		return p, err
	}
	recent := max(0, len(files)-maxPast)
	if l.adopt {
		recent = 0
	}
	named := namedAsEnded(files[recent:])
	for i, f := range files {
		if named[f.id] || i < recent && p.dead[f.id] == nil {
			continue
		}
		seen := l.see(f, p.dead[f.id], keys)
		if l.adopt && seen.Fault != "" {
			if seen, err = adopt(f); err != nil {
				return p, err
			}
		}
		if seen.Fault != "" {
			l.cfg.Logger.Error("AN EARLIER AUDIT LOG IS NOT WHOLE; run \"culvert-gateway audit verify\"", "log", seen.Log, "fault", seen.Fault)
		}
		p.previous = append(p.previous, seen)
	}
	return p, nil
}

// adopt reads a log of a version that did not sign.
func adopt(files logFiles) (PreviousLog, error) {
	f, err := study([]logFiles{files}, files.id, make(map[string]bool))
	if err != nil {
		return PreviousLog{}, err
	}
	seen := PreviousLog{Log: files.id, Size: f.tree.size, Root: f.tree.root().String(), Ended: true, Adopted: true}
	return seen, nil
}

// verifiers returns the keys that earlier logs may be signed with.
func (l *Log) verifiers() (note.Verifiers, error) {
	own, err := note.NewVerifier(l.cfg.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public key of the audit log: %w", err)
	}
	keys, err := ReadKeys(filepath.Join(l.cfg.Dir, PublicFile))
	if err != nil { // a signer from outside has no file
		keys = note.VerifierList(own)
	}
	return keys, nil
}

// namedAsEnded returns the logs whose end stands in the first record of another.
func namedAsEnded(logs []logFiles) map[string]bool {
	named := make(map[string]bool)
	for _, l := range logs {
		if len(l.paths) == 0 || l.numbers[0] != 1 {
			continue
		}
		_, _ = scanSegment(l.paths[0], func(ln *line) error {
			if r, err := ln.decode(); err == nil && r.Event == EventLogOpened {
				for _, p := range r.Previous {
					named[p.Log] = named[p.Log] || p.Ended
				}
			}
			return errStop
		})
	}
	return named
}

// see says how an earlier log ends. Of a log that was closed it reads the last line only.
func (l *Log) see(files logFiles, dead *found, keys note.Verifiers) PreviousLog {
	seen := PreviousLog{Log: files.id}
	c, err := loadCheckpoint(l.cfg.Dir, files.id, keys)
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && dead != nil && !dead.used) { // it died before it had one
		seen.Fault = "its checkpoint cannot be used: " + err.Error()
	}
	switch {
	case dead != nil:
		seen.Ended, seen.Size, seen.Root = true, dead.tree.size, dead.tree.root().String()
		if fault := dead.fault(c); seen.Fault == "" {
			seen.Fault = fault
		}
		return seen
	case logRuns(l.cfg.Dir, files.id):
		seen.Size, seen.Root = c.Size, c.Root.String()
		return seen
	}
	seen.Ended = true
	size, root, err := closedEnd(files.paths[len(files.paths)-1], files.id, keys)
	if err == nil && seen.Fault == "" && (c.Size != size || c.Root != root) {
		err = fmt.Errorf("its end does not match its checkpoint of %d records", c.Size)
	}
	if err != nil {
		size, root = c.Size, c.Root
		if seen.Fault == "" {
			seen.Fault = err.Error()
		}
	}
	seen.Size, seen.Root = size, root.String()
	return seen
}

// closedEnd returns size and root of a log that was closed, from its last line: that has the state of the tree before
// it, and the signature over that.
func closedEnd(path, id string, keys note.Verifiers) (uint64, tlog.Hash, error) {
	text, err := lastLine(path)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	ln := line{text: text}
	r, err := ln.decode()
	if err != nil || r.Event != EventLogClosed {
		return 0, tlog.Hash{}, errors.New("it ends without its closing record")
	}
	c, err := ParseCheckpoint(r.Checkpoint, keys)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	t, err := treeOf(r.Tree)
	if err != nil {
		return 0, tlog.Hash{}, err
	}
	if c.Log != id || c.Size != t.size || c.Size != r.Seq-1 || c.Root != t.root() {
		return 0, tlog.Hash{}, errors.New("its closing record does not match its signature")
	}
	t.add(text)
	return t.size, t.root(), nil
}

// lastLine returns the last whole line of a file, which must end with it.
func lastLine(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := max(0, info.Size()-maxLine-1)
	text, err := io.ReadAll(io.NewSectionReader(f, from, info.Size()-from))
	if err != nil {
		return nil, err
	}
	text, ok := bytes.CutSuffix(text, []byte{'\n'})
	if !ok {
		return nil, errors.New("its last line is cut")
	}
	return text[bytes.LastIndexByte(text, '\n')+1:], nil
}

// linkEnded names logs whose processes ran when this one began and have ended since. It needs the pen.
func (l *Log) linkEnded() {
	var ended []PreviousLog
	l.run = slices.DeleteFunc(l.run, func(p PreviousLog) bool {
		if logRuns(l.cfg.Dir, p.Log) {
			return false
		}
		files, err := listSegments(l.cfg.Dir)
		keys, errKeys := l.verifiers()
		f, ok := findLog(files, p.Log)
		if err != nil || errKeys != nil || !ok {
			return true
		}
		if seen := l.see(f, nil, keys); seen.Fault == "" { // else it died, and who recovered it names it
			ended = append(ended, seen)
		}
		return true
	})
	if len(ended) == 0 {
		return
	}
	slices.SortFunc(ended, func(a, b PreviousLog) int { return cmp.Compare(a.Log, b.Log) })
	_ = l.w.put(&Record{Time: l.w.now(), Event: EventLogLinked, Previous: ended})
}

// fault says what is wrong with the log of a process that died, as its checkpoint shows it.
func (f *found) fault(c Checkpoint) string {
	switch {
	case f.tree.size < c.Size:
		return fmt.Sprintf("its checkpoint is of %d records, and %d are there", c.Size, f.tree.size)
	case f.gap != 0:
		return fmt.Sprintf("record %d is missing or cannot be read", f.gap)
	}
	return ""
}
