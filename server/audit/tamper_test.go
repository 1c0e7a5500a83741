package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Class: the record is changed by who can write to the folder, but not sign. Each way is seen, and the first bad
// record is named.
func TestThreatTamperedAuditLog(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	paths := segments(t, dir)
	middle := paths[2] // a segment in the middle of the second log
	seqOf := func(lines [][]byte, i int) uint64 {
		ln := line{text: bytes.TrimSuffix(lines[i], []byte{'\n'})}
		ln.parse()
		return ln.seq
	}
	var seq uint64
	for _, c := range []struct {
		name string
		do   func(t *testing.T, dir string)
		file string
		line int
		what string
	}{
		{"a byte changed", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				lines[4] = bytes.Replace(lines[4], []byte(`"name":"Ada"`), []byte(`"name":"Bob"`), 1)
				return lines
			})
		}, middle, 5, "changed"},
		{"a link changed", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				lines[4] = bytes.Replace(lines[4], []byte(`"prev":"`), []byte(`"prev":"A`), 1)
				return lines
			})
		}, middle, 5, "changed"},
		{"the last record of a segment changed", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, len(lines)-2)
				lines[len(lines)-2] = bytes.Replace(lines[len(lines)-2], []byte(`10`), []byte(`11`), 1)
				lines[len(lines)-2] = bytes.Replace(lines[len(lines)-2], []byte(`Ada`), []byte(`Bob`), 1)
				return lines
			})
		}, middle, 0, ""},
		{"no JSON any more", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				lines[4][0] = '['
				return lines
			})
		}, middle, 5, "not a record"},
		{"a record removed", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				return slices.Delete(lines, 4, 5)
			})
		}, middle, 5, "missing"},
		{"two swapped", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				lines[4], lines[5] = lines[5], lines[4]
				return lines
			})
		}, middle, 5, "missing"},
		{"two swapped with new numbers", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				a, b := fmt.Appendf(nil, `{"seq":%d,`, seq), fmt.Appendf(nil, `{"seq":%d,`, seq+1)
				lines[4], lines[5] = bytes.Replace(lines[5], b, a, 1), bytes.Replace(lines[4], a, b, 1)
				return lines
			})
		}, middle, 5, "changed"},
		{"a record put in", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(middle)), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, 4)
				return slices.Insert(lines, 5, lines[4])
			})
		}, middle, 6, "should"},
		{"the tail cut", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(paths[len(paths)-1])), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, len(lines)-4)
				return lines[:len(lines)-4]
			})
		}, paths[len(paths)-1], 0, "the end is cut"},
		{"half of the last line cut", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(paths[len(paths)-1])), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, len(lines)-2)
				lines[len(lines)-2] = lines[len(lines)-2][:20]
				return lines
			})
		}, paths[len(paths)-1], 0, "the end is cut"},
		{"records added at the end", func(t *testing.T, dir string) {
			rewrite(t, filepath.Join(dir, filepath.Base(paths[0])), func(lines [][]byte) [][]byte {
				seq = seqOf(lines, len(lines)-2) + 1
				return append(lines[:len(lines)-1], fmt.Appendf(nil, "{\"seq\":%d,\"time\":\"2026-11-23T10:00:00Z\",\"event\":\"stream.open\"}\n", seq))
			})
		}, paths[0], 0, "behind the closing record"},
		{"a segment removed", func(t *testing.T, dir string) {
			seq = 0
			_ = os.Remove(filepath.Join(dir, filepath.Base(middle)))
		}, paths[3], 1, "segment 2 is missing"},
		{"the first segment removed", func(t *testing.T, dir string) {
			seq = 0
			_ = os.Remove(filepath.Join(dir, filepath.Base(paths[1])))
		}, middle, 1, "segments 1 to 1 are missing"},
		{"the last segment removed", func(t *testing.T, dir string) {
			seq = 0
			_ = os.Remove(filepath.Join(dir, filepath.Base(paths[len(paths)-2])))
		}, paths[len(paths)-3], 0, "the end is cut"},
		{"a whole log removed", func(t *testing.T, dir string) {
			seq = 0
			for _, p := range paths {
				if logOf(p) == logOf(middle) {
					_ = os.Remove(filepath.Join(dir, filepath.Base(p)))
				}
			}
			_ = os.Remove(checkpointPath(dir, logOf(middle)))
		}, "", 0, "the log is missing"},
		{"a whole log but its checkpoint removed", func(t *testing.T, dir string) {
			seq = 0
			_ = os.Remove(filepath.Join(dir, filepath.Base(paths[len(paths)-1])))
		}, checkpointPath("", logOf(paths[len(paths)-1])), 0, "is missing"},
		{"a checkpoint removed", func(t *testing.T, dir string) {
			seq = 0
			_ = os.Remove(checkpointPath(dir, logOf(paths[0])))
		}, paths[0], 0, "the checkpoint beside the log is missing"},
		{"a segment renamed", func(t *testing.T, dir string) {
			seq = 0
			to := segmentPath(dir, logOf(middle), 9)
			if err := os.Rename(filepath.Join(dir, filepath.Base(middle)), to); err != nil {
				t.Fatal(err)
			}
		}, "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyDir(t, dir)
			c.do(t, dir)
			report, err := Verify(t.Context(), dir, VerifyOptions{})
			if err != nil || report.Whole || len(report.Faults) == 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			f := report.Faults[0]
			if c.file != "" && f.File != filepath.Base(c.file) || c.line != 0 && f.Line != c.line || seq != 0 && f.Seq != seq || !strings.Contains(f.What, c.what) {
				t.Errorf("found %s, want %s:%d record %d: %s", f, filepath.Base(c.file), c.line, seq, c.what)
			}
			if len(report.Faults) > 2 {
				t.Errorf("one fault looks like %d: %v", len(report.Faults), report.Faults)
			}
		})
	}
}
