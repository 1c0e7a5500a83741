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
	"slices"
	"strings"
)

// Read calls each for every record in dir, log after log in the order of their starts, segment after
// segment, and stops at its first error. A record that stands twice, as after a failed sync, is given once.
// Lines that cannot be read are skipped: the log that a later process began says how many there were.
func Read(dir string, each func(log string, r *Record) error) error {
	logs, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if _, err := l.read(func(r *Record) error { return each(l.id, r) }); err != nil {
			return err
		}
	}
	return nil
}

// logFiles are the segments of one log, in order.
type logFiles struct {
	id    string
	paths []string
}

func listSegments(dir string) ([]logFiles, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		return nil, fmt.Errorf("list audit log: %w", err)
	}
	slices.Sort(paths)
	var logs []logFiles
	for _, p := range paths {
		id := logIDOf(p)
		if n := len(logs); n > 0 && logs[n-1].id == id {
			logs[n-1].paths = append(logs[n-1].paths, p)
		} else if id != "" {
			logs = append(logs, logFiles{id, []string{p}})
		}
	}
	return logs, nil
}

// logIDOf returns the log that a segment's name belongs to, or "".
func logIDOf(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), segmentSuffix)
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return ""
	}
	return name[:i]
}

// damage says what could not be read.
type damage struct {
	cut   int64 // bytes of a last line without an end
	lines int   // other lines
}

// read calls each for the records of one log.
func (l logFiles) read(each func(*Record) error) (damage, error) {
	var total damage
	var seen bitmap
	for i, path := range l.paths {
		d, err := readSegment(path, func(r *Record) error {
			if seen.set(r.Seq) {
				return nil
			}
			return each(r)
		})
		if err != nil {
			return total, err
		}
		total.lines += d.lines
		total.cut = d.cut
		if d.cut > 0 && i < len(l.paths)-1 {
			total.lines++
		}
	}
	return total, nil
}

func readSegment(path string, each func(*Record) error) (damage, error) {
	f, err := os.Open(path)
	if err != nil {
		return damage{}, fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	d, err := readLines(f, each)
	if err != nil {
		return d, fmt.Errorf("read audit log %s: %w", filepath.Base(path), err)
	}
	return d, nil
}

// readLines parses lines; one that is too long counts as damaged.
func readLines(from io.Reader, each func(*Record) error) (damage, error) {
	var d damage
	in := bufio.NewReaderSize(from, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			d.lines++
			if err := skipLine(in); err != nil {
				return d, ignoreEOF(err)
			}
			continue
		case err != nil:
			d.cut = int64(len(line))
			return d, ignoreEOF(err)
		}
		var r Record
		if err := json.Unmarshal(bytes.TrimSuffix(line, []byte{'\n'}), &r); err != nil || r.Seq == 0 {
			d.lines++
			continue
		}
		if err := each(&r); err != nil {
			return d, err
		}
	}
}

func skipLine(in *bufio.Reader) error {
	for {
		_, err := in.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// maxSeenWords bounds a bitmap, for files in which somebody wrote an absurd number.
const maxSeenWords = 1 << 20

// bitmap remembers numbers.
type bitmap []uint64

// set adds n and reports whether it was there already.
func (b *bitmap) set(n uint64) bool {
	word, bit := n/64, uint64(1)<<(n%64)
	if word >= maxSeenWords {
		return false
	}
	if word >= uint64(len(*b)) {
		*b = append(*b, make([]uint64, word+1-uint64(len(*b)))...)
	}
	had := (*b)[word]&bit != 0
	(*b)[word] |= bit
	return had
}
