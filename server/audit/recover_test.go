package audit

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// crashEnv makes the test's program the process that dies.
const crashEnv = "CULVERT_AUDIT_CRASH_DIR"

// crash opens a log and streams in it, and then waits to be killed.
func crash(dir string) {
	l, err := Open(Config{Dir: dir})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	add := func(r Record) string {
		receipt, err := l.Append(context.Background(), r)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return receipt.Stream
	}
	session := add(Record{Event: EventSessionOpen, Actor: ada()})
	done := add(Record{Event: EventStreamOpen, Actor: ada(), Service: "wiki"})
	add(Record{Event: EventStreamOpen, Actor: ada(), Service: "db", Address: "10.0.0.2:5432"})
	add(Record{Event: EventStreamClose, Stream: done, Service: "wiki", Reason: "done"})
	add(Record{Event: EventStreamOpen, Actor: ada(), Service: "lab"})
	fmt.Println("open", session)
	select {}
}

// killOne has a process die with a session and two streams open, and returns when it is dead.
func killOne(t *testing.T, dir string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), crashEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "open ") {
		t.Errorf("the process says %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// Fault: gateway killed mid-stream. The missing closing records are written at recovery, once.
func TestRecoveryAfterAKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	killOne(t, dir)
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if len(paths) != 1 {
		t.Fatalf("files %v", paths)
	}
	appendTo(t, paths[0], `{"seq":7,"time":"2026-11-23T10:00`)
	l := open(t, Config{Dir: dir})
	l.Close()
	open(t, Config{Dir: dir}).Close()

	list := readAll(t, dir)
	var died []string
	for _, r := range list {
		if r.Reason == ReasonProcessDied {
			died = append(died, string(r.Event)+" "+r.Service)
			if r.Stream == "" || r.Actor == nil || r.Actor.Subject != "ada" || r.Transfer != nil {
				t.Errorf("%+v", r)
			}
		}
	}
	if got, want := strings.Join(died, ", "), "session.close , stream.close db, stream.close lab"; got != want {
		t.Errorf("closed for the dead: %s", got)
	}
	recovered := only(list, EventLogRecovered)
	if len(recovered) != 1 {
		t.Fatalf("recovered %+v", recovered)
	}
	if r := recovered[0].Recovery; r.Log != logOf(paths[0]) || r.Streams != 2 || r.Sessions != 1 || r.Cut != 33 || r.Damaged != 0 || r.Records != 6 {
		t.Errorf("%+v", r)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+lockSuffix)); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestTwoThatDiedAndOneDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	killOne(t, dir)
	first, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	killOne(t, dir) // recovers the first one
	appendTo(t, first[0], "not json\n\x00\x00\x00\n")
	if err := os.WriteFile(filepath.Join(dir, "unrelated.jsonl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir}).Close()
	if n := len(only(readAll(t, dir), EventLogRecovered)); n != 2 {
		t.Errorf("%d logs recovered", n)
	}
	if n := len(only(readAll(t, dir), EventStreamClose)); n != 6 {
		t.Errorf("%d streams closed", n)
	}
}

// A recovery that died itself: what it closed is not closed again.
func TestRecoveryIsNotRepeated(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	killOne(t, dir)
	locks, _ := filepath.Glob(filepath.Join(dir, "*"+lockSuffix))
	second := open(t, Config{Dir: dir})
	abandon(second)
	if err := os.WriteFile(locks[0], nil, 0o600); err != nil { // its mark was not removed yet
		t.Fatal(err)
	}
	open(t, Config{Dir: dir}).Close()
	if n := len(only(readAll(t, dir), EventStreamClose)); n != 3 {
		t.Errorf("%d closing records for 3 streams", n)
	}
}

// abandon leaves a log as a process that dies does.
func abandon(l *Log) {
	l.closing.Do(func() {
		close(l.closed)
		<-l.done
		l.notary.stop()
		l.w.close()
		_ = l.owner.Unlock()
	})
}

// While a process is replaced by a new one, both write.
func TestALogThatLivesIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	old := open(t, Config{Dir: dir})
	stream := mustAppend(t, old, Record{Event: EventStreamOpen, Actor: ada()}).Stream
	open(t, Config{Dir: dir}).Close()
	if n := len(only(readAll(t, dir), EventStreamClose)); n != 0 {
		t.Errorf("%d streams of a living process were closed", n)
	}
	mustAppend(t, old, Record{Event: EventStreamClose, Stream: stream})
	old.Close()
	open(t, Config{Dir: dir}).Close()
	if list := readAll(t, dir); len(only(list, EventStreamClose)) != 1 || len(only(list, EventLogRecovered)) != 0 {
		t.Errorf("%+v", list)
	}
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzScanLines(f *testing.F) {
	f.Add("{\"seq\":1,\"event\":\"stream.open\"}\n{\"seq\":2")
	f.Add("{\"seq\":18446744073709551615}\n[]\n\n\xff\n")
	f.Add(strings.Repeat("x", maxLine+1) + "\n{\"seq\":1}\n")
	f.Fuzz(func(t *testing.T, in string) {
		var lines int
		var size int64
		end, err := scanLines(strings.NewReader(in), func(ln *line) error {
			lines++
			size += int64(len(ln.text)) + 1
			if r, err := ln.decode(); ln.text != nil && err == nil && r.Seq != ln.seq {
				t.Errorf("record %d is taken for %d", r.Seq, ln.seq)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(in, "\n"); lines != n || end.size != int64(len(in)) || len(in) < maxLine && end.cut != int64(len(in))-size {
			t.Errorf("%d of %d lines, %d bytes, %d cut", lines, n, end.size, end.cut)
		}
	})
}

func TestOpenFailsCleanly(t *testing.T) {
	dir := t.TempDir()
	fs := &faults{create: os.ErrPermission}
	if _, err := Open(Config{Dir: dir, fs: faultFS{fs}, Logger: testenv.Logger(t)}); err == nil {
		t.Fatal("opened")
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 2 || filepath.Base(left[0]) != KeyFile || filepath.Base(left[1]) != PublicFile {
		t.Errorf("left over: %v", left)
	}
}
