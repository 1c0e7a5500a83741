package audit

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

// whole holds that a folder verifies.
func whole(t testing.TB, dir string) Report {
	t.Helper()
	report, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Faults {
		t.Errorf("not whole: %s", f)
	}
	return report
}

// logOf returns the log that a segment's file belongs to.
func logOf(path string) string {
	id, _, _ := segmentName(filepath.Base(path))
	return id
}

func segments(t testing.TB, dir string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no segments, %v", err)
	}
	return paths
}

// history makes a folder with three logs; the second has several segments. It returns the last checkpoint of each.
func history(t testing.TB, dir string) []Checkpoint {
	t.Helper()
	var told []Checkpoint
	for i := range 3 {
		var last Checkpoint
		l := open(t, Config{Dir: dir, Gateway: "edge-1", SegmentSize: 16 << 10, CheckpointRecords: 10, MinFree: -1,
			OnCheckpoint: func(c Checkpoint) { last = c }})
		for n := range []int{12, 100, 14}[i] {
			mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Service: fmt.Sprintf("service-%d", n), Target: "wiki"})
		}
		mustAppend(t, l, Record{Event: EventConfigLoaded})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		told = append(told, last)
	}
	return told
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, KeyFile), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// rewrite changes a file.
func rewrite(t testing.TB, path string, change func([][]byte) [][]byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := change(bytes.SplitAfter(data, []byte{'\n'}))
	if err := os.WriteFile(path, bytes.Join(lines, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAWholeFolderVerifies(t *testing.T) {
	dir := t.TempDir()
	told := history(t, dir)
	var steps int
	report, err := Verify(t.Context(), dir, VerifyOptions{Checkpoints: told, Progress: func(done, total int64) {
		if steps++; done > total {
			t.Errorf("%d of %d bytes", done, total)
		}
	}})
	if err != nil || !report.Whole || len(report.Faults) != 0 || steps == 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if len(report.Logs) != 3 || report.Logs[1].Segments < 3 || report.Unsigned != 0 || report.Records < 130 {
		t.Errorf("%+v", report)
	}
	for i, l := range report.Logs {
		if l.State != StateClosed || l.Signed != l.Last || l.Last != told[i].Size || l.Root != told[i].Root.String() || l.Gateway != "edge-1" || l.Key == "" {
			t.Errorf("%+v, told %+v", l, told[i])
		}
		if report.Checkpoints[i].Result != CheckpointHolds {
			t.Errorf("%+v", report.Checkpoints[i])
		}
	}
}

// Class: an old copy of the folder is put back, or its end is cut together with all that speaks of it. The folder alone
// cannot show that; a checkpoint from outside does.
func TestThreatAuditLogRolledBack(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	old := copyDir(t, dir)
	var told []Checkpoint
	l := open(t, Config{Dir: dir, CheckpointRecords: 5, OnCheckpoint: func(c Checkpoint) { told = append(told, c) }})
	for range 20 {
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
	}
	half := copyDir(t, dir)
	for range 20 {
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
	}
	l.Close()
	outside := told[len(told)-1]
	for name, c := range map[string]struct {
		dir  string
		what string
	}{
		"a folder of before the last log": {old, "the log is missing"},
		"a folder of its middle":          {half, "the end is cut"},
	} {
		if report := whole(t, c.dir); !report.Whole {
			t.Errorf("%s: %+v", name, report)
		}
		report, err := Verify(t.Context(), c.dir, VerifyOptions{Checkpoints: []Checkpoint{outside}})
		if err != nil || report.Whole || !strings.Contains(report.Faults[0].What, c.what) || report.Checkpoints[0].Result == CheckpointHolds {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
	}
	for _, c := range told { // every one that was ever told still holds
		if report, err := Verify(t.Context(), dir, VerifyOptions{Checkpoints: []Checkpoint{c}}); err != nil || !report.Whole {
			t.Errorf("checkpoint of %d records: %+v, %v", c.Size, report, err)
		}
	}
}

// Class: records are put where nobody expects more, behind the last one of a segment that another one follows. Whoever reads the
// files, and no proof, would take them for real.
func TestThreatAddedBehindASegment(t *testing.T) {
	dir := t.TempDir()
	told := history(t, dir)
	for name, text := range map[string]string{
		"a record":        `{"seq":999,"time":"2026-11-23T10:15:00.000Z","event":"stream.open","actor":{"name":"Bob"},"service":"payroll"}` + "\n",
		"no record":       `{"seq":"x","event":"stream.open","actor":{"name":"Bob"}}` + "\n",
		"a piece of one":  `{"seq":40,"time":"2026-11-23T10:15:00.000Z","event":"stre`,
		"an earlier one":  `{"seq":1,"time":"2026-11-23T10:15:00.000Z","event":"log.opened"}` + "\n",
		"only line feeds": "\n\n",
	} {
		for at := range segments(t, dir) {
			changed := copyDir(t, dir)
			path := segments(t, changed)[at]
			rewrite(t, path, func(lines [][]byte) [][]byte { return append(lines, []byte(text)) })
			if at == len(segments(t, dir))-1 { // and an empty segment behind the end
				if err := os.WriteFile(strings.Replace(path, "000001", "000002", 1), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			report, err := Verify(t.Context(), changed, VerifyOptions{Checkpoints: told})
			if err != nil || report.Whole || report.Faults[0].File != filepath.Base(path) {
				t.Errorf("%s in %s: %+v, %v", name, filepath.Base(path), report.Faults, err)
			}
		}
	}
}

// Class: the folder is written anew and signed with another key.
func TestThreatAuditLogSignedAnew(t *testing.T) {
	dir := t.TempDir()
	told := history(t, dir)
	keys, err := ReadKeys(filepath.Join(dir, PublicFile))
	if err != nil {
		t.Fatal(err)
	}
	forged := t.TempDir()
	history(t, forged)
	if report := whole(t, forged); report.Keys == "given" {
		t.Errorf("%+v", report)
	}
	report, err := Verify(t.Context(), forged, VerifyOptions{Keys: keys})
	if err != nil || report.Whole || !strings.Contains(report.Faults[0].What, "not signed by a known key") {
		t.Errorf("with the key: %+v, %v", report, err)
	}
	report, err = Verify(t.Context(), forged, VerifyOptions{Checkpoints: told[:1]})
	if err != nil || report.Whole {
		t.Errorf("with a checkpoint: %+v, %v", report, err)
	}
	// The folder's own public key is left as it was.
	data, err := os.ReadFile(filepath.Join(dir, PublicFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(forged, PublicFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if report, err = Verify(t.Context(), forged, VerifyOptions{}); err != nil || report.Whole {
		t.Errorf("with the old public key: %+v, %v", report, err)
	}
}

// A clever change keeps all links: then the signature shows it, and between which records.
func TestAChangeWithNewLinks(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	path := segments(t, dir)[2]
	var from, next uint64
	rewrite(t, path, func(lines [][]byte) [][]byte {
		changed := false
		var prev string
		for i, text := range lines[:len(lines)-1] {
			ln := line{text: bytes.TrimSuffix(text, []byte{'\n'})}
			ln.parse()
			if changed {
				lines[i] = bytes.Replace(text, []byte(`"prev":"`+ln.prev), []byte(`"prev":"`+prev), 1)
			} else if bytes.Contains(text, []byte("service-3")) || i == 6 {
				lines[i], changed, from = bytes.Replace(text, []byte(`"name":"Ada"`), []byte(`"name":"Bob"`), 1), true, ln.seq
			}
			if changed && ln.event == EventLogCheckpoint && next == 0 {
				next = ln.seq
			}
			prev = prevOf(tlog.RecordHash(bytes.TrimSuffix(lines[i], []byte{'\n'})))
		}
		return lines
	})
	report, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil || report.Whole {
		t.Fatalf("%+v, %v", report, err)
	}
	f := report.Faults[0]
	if f.File != filepath.Base(path) || f.Seq > from || f.Seq+11 < from || !strings.Contains(f.What, "one of the records") || !strings.Contains(f.What, fmt.Sprintf("record %d", next)) {
		t.Errorf("%s; changed %d, signed in %d", f, from, next)
	}
}

// What retention removes is said, and the proof goes on with what is left.
func TestVerifyAfterRetention(t *testing.T) {
	dir := t.TempDir()
	var told []Checkpoint
	for range 3 {
		l := open(t, Config{Dir: dir, SegmentSize: 8 << 10, KeepBytes: 40 << 10, MinFree: -1, CheckpointRecords: 7,
			OnCheckpoint: func(c Checkpoint) { told = append(told, c) }})
		for range 80 {
			mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
		}
		l.Close()
	}
	report := whole(t, dir)
	if report.Removed == 0 || len(report.Notes) == 0 || report.Logs[0].Removed == 0 {
		t.Errorf("%+v", report)
	}
	// A checkpoint of what is gone shows nothing, and that is no success.
	report, err := Verify(t.Context(), dir, VerifyOptions{Checkpoints: told[:1]})
	if err != nil || report.Whole || !strings.Contains(fmt.Sprint(report.Faults), "cannot be checked") || report.Checkpoints[0].Result != CheckpointUnchecked {
		t.Errorf("%+v, %v", report, err)
	}
	if report, err := Verify(t.Context(), dir, VerifyOptions{Checkpoints: told[len(told)-1:]}); err != nil || !report.Whole {
		t.Errorf("%+v, %v", report, err)
	}
	// Somebody else who removes a segment has no record of it.
	paths := segments(t, dir)
	if err := os.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	if report, err := Verify(t.Context(), dir, VerifyOptions{}); err != nil || report.Whole {
		t.Errorf("%+v, %v", report, err)
	}
}

// A log is verified while it is written, by another process too: an unfinished last line is no fault.
func TestVerifyALiveLog(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	l := open(t, Config{Dir: dir, SegmentSize: 16 << 10, KeepBytes: 200 << 10, MinFree: -1, CheckpointRecords: 20})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1500 {
			e := EventStreamOpen
			if i%50 == 0 {
				e = EventIssued
			}
			if _, err := l.Append(t.Context(), Record{Event: e, Actor: ada()}); err != nil {
				t.Error(err)
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		whole(t, dir)
	}
	paths := segments(t, dir)
	appendTo(t, paths[len(paths)-1], `{"seq":`)
	report := whole(t, dir)
	if last := report.Logs[len(report.Logs)-1]; last.State != StateOpen || len(report.Notes) == 0 {
		t.Errorf("%+v", report)
	}
	rewrite(t, paths[len(paths)-1], func(lines [][]byte) [][]byte { return lines[:len(lines)-1] })
}

// A log that a later one found broken is told for ever.
func TestAStartSeesACutLog(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	paths := segments(t, dir)
	rewrite(t, paths[len(paths)-1], func(lines [][]byte) [][]byte { return lines[:len(lines)-3] })
	open(t, Config{Dir: dir}).Close()
	opened := only(readAll(t, dir), EventLogOpened)
	p := opened[len(opened)-1].Previous
	if len(p) != 1 || p[0].Log != logOf(paths[len(paths)-1]) || p[0].Fault == "" {
		t.Errorf("%+v", p)
	}
	report, err := Verify(t.Context(), dir, VerifyOptions{})
	if err != nil || report.Whole || !strings.Contains(fmt.Sprint(report.Faults), "found that") {
		t.Errorf("%+v, %v", report, err)
	}
}

// A log of a newer version has fields and events that this one does not know.
func TestUnknownFieldsSurvive(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir})
	text := body(strings.Repeat(" ", room) + `{"seq":0,"time":"2026-11-23T10:00:00Z","event":"quantum.leap","colour":{"red":1}}` + "\n")
	l.pen.Lock()
	if _, err := l.w.write([]body{text}); err != nil {
		t.Error(err)
	}
	l.putDown()
	l.Close()
	whole(t, dir)
	in := NewReader(dir, Position{})
	defer in.Close()
	for {
		e, err := in.TryNext()
		if err != nil {
			t.Fatal(err)
		}
		if e.Event == "quantum.leap" {
			if !bytes.Contains(e.Line, []byte(`"colour":{"red":1}`)) {
				t.Errorf("%s", e.Line)
			}
			break
		}
	}
}

// The first start of this version finds logs without signatures. They are proved from then on; after it, a log
// without signatures is a fault.
func TestLogsOfAVersionThatDidNotSign(t *testing.T) {
	dir := t.TempDir()
	write := func(id string) string {
		path := segmentPath(dir, id, 1)
		text := `{"seq":1,"time":"2026-11-20T10:00:00Z","event":"log.opened","process":{"log":"` + id + `"}}` + "\n" +
			`{"seq":2,"time":"2026-11-20T10:00:01Z","event":"stream.open","stream":"` + id + `/2"}` + "\n" +
			`{"seq":3,"time":"2026-11-20T10:00:02Z","event":"log.closed"}` + "\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := write("20261120T100000Z-00000000")
	open(t, Config{Dir: dir}).Close()
	open(t, Config{Dir: dir}).Close()
	if report := whole(t, dir); len(report.Logs) != 3 || len(report.Notes) != 1 {
		t.Errorf("%+v", report)
	}
	changed := copyDir(t, dir)
	rewrite(t, filepath.Join(changed, filepath.Base(old)), func(lines [][]byte) [][]byte {
		lines[1] = bytes.Replace(lines[1], []byte("10:00:01"), []byte("10:00:59"), 1)
		return lines
	})
	if report, err := Verify(t.Context(), changed, VerifyOptions{}); err != nil || report.Whole {
		t.Errorf("%+v, %v", report, err)
	}
	write("20261121T100000Z-00000000")
	open(t, Config{Dir: dir}).Close()
	if report, err := Verify(t.Context(), dir, VerifyOptions{}); err != nil || report.Whole {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestVerifyWithoutAKey(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	if err := os.Remove(filepath.Join(dir, PublicFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), dir, VerifyOptions{}); err == nil {
		t.Error("verified with no key")
	}
}

// The tree is that of golang.org/x/mod/sumdb/tlog.
func TestTreeAgreesWithTlog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.String(), 1, 80).Draw(t, "lines")
		var own tree
		var stored []tlog.Hash
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			var out []tlog.Hash
			for _, i := range indexes {
				out = append(out, stored[i])
			}
			return out, nil
		})
		for i, s := range lines {
			own.add([]byte(s))
			h, err := tlog.StoredHashes(int64(i), []byte(s), reader)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, h...)
			want, err := tlog.TreeHash(int64(i+1), reader)
			if err != nil || own.root() != want {
				t.Fatalf("%d leaves: %v, want %v, %v", i+1, own.root(), want, err)
			}
			back, err := treeOf(own.state())
			if err != nil || back.size != own.size || back.root() != own.root() {
				t.Fatalf("%d leaves: the state is %+v, %v", i+1, own.state(), err)
			}
		}
	})
}

// A checkpoint has the text form of https://c2sp.org/tlog-checkpoint, and other programs verify its signature.
func TestCheckpointText(t *testing.T) {
	dir := t.TempDir()
	told := history(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, PublicFile))
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open([]byte(told[0].Note), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("edge-1/%s\n%d\n%s\n", told[0].Log, told[0].Size, told[0].Root)
	if n.Text != want || n.Sigs[0].Name != "edge-1" {
		t.Errorf("%q, want %q", n.Text, want)
	}
	beside, err := loadCheckpoint(dir, told[0].Log, note.VerifierList(v))
	if err != nil || beside != told[0] {
		t.Errorf("%+v, %v", beside, err)
	}
	kept, err := ReadCheckpoint(checkpointPath(dir, told[0].Log))
	if err != nil || kept != told[0] {
		t.Errorf("%+v, %v", kept, err)
	}
	info, err := os.Stat(filepath.Join(dir, KeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	_, vkey, err := note.GenerateKey(zeros{}, "edge-1")
	if err != nil {
		f.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("edge-1/20261123T101500Z-k7qw3m9p\n12\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— edge-1 AAAA\n")
	f.Add("\n\n\n")
	f.Add("a/b\n01\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseCheckpoint(text, note.VerifierList(v)); err == nil {
			t.Errorf("%q is signed by nobody", text)
		}
		if c, err := parseBody(text); err == nil && !strings.HasPrefix(text, fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)) {
			t.Errorf("%q becomes %+v", text, c)
		}
	})
}

// zeros yields zeros, for a key that need not be secret.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
