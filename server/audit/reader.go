package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// An Entry is a record on its way out of the log.
type Entry struct {
	Log      string
	Seq      uint64
	Event    Event
	Time     time.Time
	Line     []byte   // as it stands in the log, without the line feed
	Position Position // behind it
	Gap      bool     // records between the last one and this may be gone: retention was faster
}

// Decode parses the record.
func (e *Entry) Decode() (Record, error) {
	ln := line{text: e.Line}
	return ln.decode()
}

// A Reader gives the records of a folder in order, log after log, and follows what is written further. It gives only what
// is on the disk for certain. While an earlier process of the gateway still ends its log, records of the next one wait.
// It is not safe for concurrent use.
type Reader struct {
	dir  string
	log  *Log // the log of this process, if it has one
	pos  Position
	file *os.File
	in   *bufio.Reader
	to   int64  // offset up to which the segment may be read
	take uint64 // number with which the next segment takes over, or 0
	gap  bool
}

// pollInterval is how often a log of another process is looked at.
const pollInterval = 250 * time.Millisecond

// NewReader returns a reader that goes on from a position. It looks at the files now and then.
func NewReader(dir string, from Position) *Reader { return &Reader{dir: dir, pos: from} }

// Follow returns a reader that knows at once when there is more in this log.
func (l *Log) Follow(from Position) *Reader { return &Reader{dir: l.cfg.Dir, log: l, pos: from} }

// Position returns the position behind the last record that was given.
func (r *Reader) Position() Position { return r.pos }

// Close gives the file up.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file, r.in = nil, nil
	return err
}

// Next waits for the next record.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for {
		e, err := r.TryNext()
		if !errors.Is(err, io.EOF) {
			return e, err
		}
		if err := r.Wait(ctx); err != nil {
			return Entry{}, err
		}
	}
}

// Wait returns when there may be more, or when ctx has ended.
func (r *Reader) Wait(ctx context.Context) error {
	pause := pollInterval
	var grown <-chan struct{}
	if r.log != nil {
		end, more, _ := r.log.onDisk()
		if r.pos.Log == end.Log && r.pos.Seq < end.Seq { // it came since the last look
			pause = time.Millisecond
		}
		grown = more
	}
	poll := time.NewTimer(pause)
	defer poll.Stop()
	select {
	case <-poll.C:
	case <-grown:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// TryNext returns the next record, or io.EOF when there is none now.
func (r *Reader) TryNext() (Entry, error) {
	for {
		if r.file == nil {
			if err := r.open(); err != nil {
				return Entry{}, err
			}
		}
		e, ok, err := r.read()
		if ok || err != nil {
			return e, err
		}
		switch more, err := r.extend(); {
		case err != nil:
			return Entry{}, err
		case more:
			continue
		}
		moved, err := r.advance()
		if err != nil {
			return Entry{}, err
		}
		if !moved {
			return Entry{}, io.EOF
		}
	}
}

// open opens the segment of the position, or the first one behind it that is there.
func (r *Reader) open() error {
	logs, err := listSegments(r.dir)
	if err != nil {
		return err
	}
	for _, l := range logs {
		for i, n := range l.numbers {
			switch here := (Position{Log: l.id, Segment: n}); {
			case l.id < r.pos.Log, l.id == r.pos.Log && n < r.pos.Segment:
			case l.id == r.pos.Log && n == r.pos.Segment:
				return r.openAt(l, i, r.pos)
			default:
				if l.id == r.pos.Log {
					here.Seq = r.pos.Seq
				}
				r.gap = r.pos != Position{}
				return r.openAt(l, i, here)
			}
		}
	}
	return io.EOF
}

// openAt opens a segment at a position in it.
func (r *Reader) openAt(l logFiles, i int, at Position) error {
	limits, err := l.limits()
	if err != nil {
		return r.vanished(err)
	}
	f, err := os.Open(l.paths[i])
	if err != nil {
		return r.vanished(err)
	}
	r.file, r.pos, r.take, r.to = f, at, limits[i], at.Offset
	r.in = bufio.NewReaderSize(nil, 64<<10)
	_, err = r.extend()
	return err
}

// vanished makes a segment that retention removed just now look like none; the next try finds what is there.
func (r *Reader) vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return io.EOF
	}
	return fmt.Errorf("follow audit log: %w", err)
}

// read reads a record from what may be read.
func (r *Reader) read() (Entry, bool, error) {
	for r.pos.Offset < r.to {
		text, err := readLine(r.in)
		if errors.Is(err, io.EOF) { // the last line is not whole yet
			return Entry{}, false, nil
		}
		if err != nil {
			return Entry{}, false, fmt.Errorf("follow audit log: %w", err)
		}
		ln := line{text: text[:len(text)-1]}
		if len(text) <= maxLine {
			ln.parse()
		}
		r.pos.Offset += int64(len(text))
		if ln.seq == 0 || ln.seq <= r.pos.Seq || r.take != 0 && ln.seq >= r.take {
			continue
		}
		e := Entry{Log: r.pos.Log, Seq: ln.seq, Event: ln.event, Line: ln.text, Gap: r.gap}
		e.Time, _ = time.Parse(time.RFC3339, ln.time)
		r.gap, r.pos.Seq = false, ln.seq
		e.Position = r.pos
		return e, true, nil
	}
	return Entry{}, false, nil
}

// readLine reads a line of any length, with its line feed.
func readLine(in *bufio.Reader) ([]byte, error) {
	text, err := in.ReadSlice('\n')
	if err == nil {
		return slices.Clone(text), nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		return nil, err
	}
	long := slices.Clone(text)
	rest, err := in.ReadBytes('\n')
	return append(long, rest...), err
}

// extend looks whether more of the current segment may be read.
func (r *Reader) extend() (bool, error) {
	to, err := r.onDisk()
	if err != nil || to <= r.to {
		return false, err
	}
	r.to = to
	r.in.Reset(io.NewSectionReader(r.file, r.pos.Offset, to-r.pos.Offset))
	return true, nil
}

// onDisk returns up to where the segment is on the disk.
func (r *Reader) onDisk() (int64, error) {
	if r.log != nil && r.pos.Log == r.log.id {
		end, _, ended := r.log.onDisk()
		switch {
		case end.Segment == r.pos.Segment:
			return end.Offset, nil
		case end.Segment < r.pos.Segment && !ended:
			return 0, nil
		case r.take == 0 && !ended: // what counts of it is known when the next one is looked at
			return r.to, nil
		}
	}
	info, err := r.file.Stat()
	if err != nil {
		return 0, fmt.Errorf("follow audit log: %w", err)
	}
	if info.Size() > r.to {
		// Another process may not have synced it yet. Where a file that is open for reading cannot be synced, its writer
		// does it within 100 ms.
		_ = r.file.Sync()
	}
	return info.Size(), nil
}

// advance goes on to the next segment, or to the next log when this one has ended. What was written to the current one
// before that is seen is read first.
func (r *Reader) advance() (bool, error) {
	ended := r.pos.Log != "" && !logRuns(r.dir, r.pos.Log)
	logs, err := listSegments(r.dir)
	if err != nil {
		return false, err
	}
	next, i, ok := following(logs, r.pos)
	if !ok || next.id != r.pos.Log && !ended {
		return false, nil
	}
	if r.log != nil && next.id == r.log.id {
		if end, _, _ := r.log.onDisk(); end.Segment < next.numbers[i] {
			return false, nil
		}
	}
	if next.id == r.pos.Log {
		if r.take, err = firstSeq(next.paths[i]); err != nil || r.take == 0 {
			return false, err
		}
	}
	if more, err := r.extend(); more || err != nil {
		return more, err
	}
	at := Position{Log: next.id, Segment: next.numbers[i]}
	if next.id == r.pos.Log {
		at.Seq = r.pos.Seq
	}
	if err := r.Close(); err != nil {
		return false, err
	}
	r.gap = next.id == r.pos.Log && at.Segment != r.pos.Segment+1 || next.id != r.pos.Log && at.Segment != 1
	return true, r.openAt(next, i, at)
}

// following returns the segment behind a position's.
func following(logs []logFiles, pos Position) (logFiles, int, bool) {
	for _, l := range logs {
		for i, n := range l.numbers {
			if l.id > pos.Log || l.id == pos.Log && n > pos.Segment {
				return l, i, true
			}
		}
	}
	return logFiles{}, 0, false
}

// logRuns reports a log whose process has not ended, or died and was not followed by another yet.
func logRuns(dir, log string) bool {
	_, err := os.Stat(lockPath(dir, log))
	return err == nil
}
