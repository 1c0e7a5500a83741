package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// A line is one line of a segment as it stands there.
type line struct {
	number int   // from 1
	offset int64 // of its first byte
	text   []byte
	seq    uint64 // 0: it is not a record
	prev   string
	event  Event
	time   string // RFC 3339
}

// decode returns the record.
func (ln *line) decode() (Record, error) {
	var r Record
	if err := json.Unmarshal(ln.text, &r); err != nil {
		return Record{}, fmt.Errorf("parse audit record: %w", err)
	}
	return r, nil
}

// beginning reports the records that a log begins with: its own, and those that close what a dead process left open.
func (ln *line) beginning() bool {
	switch ln.event {
	case EventLogOpened, EventLogRecovered, EventLogRemoved, EventLogCheckpoint:
		return true
	}
	return ln.event.closes() && bytes.Contains(ln.text, []byte(`,"recovery":{"log":`))
}

// parse fills in what a line begins with. It reads the form that this package writes, and otherwise all of the JSON.
func (ln *line) parse() {
	if ln.parseOwn() {
		return
	}
	var r struct {
		Seq   uint64 `json:"seq"`
		Prev  string `json:"prev"`
		Event Event  `json:"event"`
		Time  string `json:"time"`
	}
	ln.seq, ln.prev, ln.event, ln.time = 0, "", "", ""
	if json.Unmarshal(ln.text, &r) == nil {
		ln.seq, ln.prev, ln.event, ln.time = r.Seq, r.Prev, r.Event, r.Time
	}
}

func (ln *line) parseOwn() bool {
	rest, ok := bytes.CutPrefix(ln.text, []byte(`{"seq":`))
	if !ok {
		return false
	}
	n := bytes.IndexByte(rest, ',')
	if n < 1 || n > 20 || rest[0] == '0' {
		return false
	}
	seq, err := strconv.ParseUint(string(rest[:n]), 10, 64)
	if err != nil {
		return false
	}
	rest = rest[n+1:]
	var prev, at, event []byte
	if rest, prev, ok = cutField(rest, `"prev":"`); !ok {
		prev = nil
	}
	if rest, at, ok = cutField(rest, `"time":"`); !ok {
		return false
	}
	if _, event, ok = cutField(rest, `"event":"`); !ok {
		return false
	}
	ln.seq, ln.prev, ln.event, ln.time = seq, string(prev), Event(event), string(at)
	return ln.text[len(ln.text)-1] == '}'
}

// cutField cuts a plain text field and the comma behind it off. Without it the rest is unchanged.
func cutField(text []byte, name string) (rest, value []byte, ok bool) {
	after, ok := bytes.CutPrefix(text, []byte(name))
	if !ok {
		return text, nil, false
	}
	end := bytes.IndexByte(after, '"')
	if end < 0 || bytes.IndexByte(after[:end], '\\') >= 0 {
		return text, nil, false
	}
	return bytes.TrimPrefix(after[end+1:], []byte{','}), after[:end], true
}

// A tail is what a segment ends with behind its last whole line.
type tail struct {
	cut  int64 // bytes
	size int64 // of the whole segment that was read
}

// scanLines calls each for every line, also those that are not records; it keeps nothing of it. A line that is too long
// is given without its text.
func scanLines(from io.Reader, each func(*line) error) (tail, error) {
	in := bufio.NewReaderSize(from, maxLine)
	var t tail
	for n := 1; ; n++ {
		text, err := in.ReadSlice('\n')
		ln := line{number: n, offset: t.size}
		t.size += int64(len(text))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			rest, err := skipLine(in)
			if t.size += rest; err != nil {
				t.cut = t.size - ln.offset
				return t, ignoreEOF(err)
			}
		case err != nil:
			t.cut = int64(len(text))
			return t, ignoreEOF(err)
		default:
			ln.text = text[:len(text)-1]
			ln.parse()
		}
		if err := each(&ln); err != nil {
			return t, err
		}
	}
}

func skipLine(in *bufio.Reader) (skipped int64, err error) {
	for {
		text, err := in.ReadSlice('\n')
		skipped += int64(len(text))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return skipped, err
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// errStop ends a scan early.
var errStop = errors.New("stop")

// scanSegment is scanLines for a file.
func scanSegment(path string, each func(*line) error) (tail, error) {
	f, err := os.Open(path)
	if err != nil {
		return tail{}, fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	t, err := scanLines(f, each)
	if errors.Is(err, errStop) {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("read audit log %s: %w", filepath.Base(path), err)
	}
	return t, nil
}

// firstSeq returns the number of the first record of a segment, or 0.
func firstSeq(path string) (seq uint64, err error) {
	_, err = scanSegment(path, func(ln *line) error {
		if seq = ln.seq; seq != 0 {
			return errStop
		}
		return nil
	})
	return seq, err
}

// limits returns for each segment of a log the number with which a later one takes over, or 0. A segment that a
// failed write or sync ended may hold more than counts.
func (l logFiles) limits() ([]uint64, error) {
	out := make([]uint64, len(l.paths))
	var next uint64
	for i := len(l.paths) - 1; i >= 0; i-- {
		out[i] = next
		first, err := firstSeq(l.paths[i])
		if err != nil {
			return nil, err
		}
		if first != 0 && (next == 0 || first < next) { // a failed sync may go back to before the segment in between
			next = first
		}
	}
	return out, nil
}

// scan calls each for the lines of a log that count, with the index of their segment, and for those that are not
// records. It returns what the last segment ends with.
func (l logFiles) scan(each func(segment int, ln *line) error) (last tail, err error) {
	limits, err := l.limits()
	if err != nil {
		return tail{}, err
	}
	for i, path := range l.paths {
		t, err := scanSegment(path, func(ln *line) error {
			if limits[i] != 0 && ln.seq >= limits[i] {
				return errStop
			}
			return each(i, ln)
		})
		if err != nil {
			return t, err
		}
		last = t
	}
	return last, nil
}
