package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A process dies while the system has taken any part of what it wrote. The log is whole up to the last whole record, the
// next process closes what was open, and a cut in front of what was signed and on the disk is no crash.
func TestACrashAtAnyByte(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	l := open(t, Config{Dir: dir, MinFree: -1, CheckpointRecords: 6})
	id := l.id
	var opened, closed int
	for i := range 25 {
		stream := mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Service: "wiki"}).Stream
		if i%3 == 0 {
			mustAppend(t, l, Record{Event: EventStreamClose, Stream: stream, Service: "wiki"})
		}
	}
	abandon(l)
	path := segmentPath(dir, id, 1)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ReadKeys(filepath.Join(dir, PublicFile))
	if err != nil {
		t.Fatal(err)
	}
	safe, err := loadCheckpoint(dir, id, keys)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		at := rapid.IntRange(0, len(data)).Draw(rt, "at")
		dir := copyDir(t, dir)
		if err := os.WriteFile(segmentPath(dir, id, 1), data[:at], 0o600); err != nil {
			rt.Fatal(err)
		}
		records := strings.Count(string(data[:at]), "\n")
		next, err := Open(Config{Dir: dir, MinFree: -1})
		if err != nil {
			rt.Fatal(err)
		}
		if err := next.Close(); err != nil {
			rt.Fatal(err)
		}
		opened, closed = 0, 0
		if err := eachRecord(dir, func(log string, r *Record) error {
			switch {
			case log == id && r.Event == EventStreamOpen:
				opened++
			case log >= id && r.Event == EventStreamClose:
				closed++
			}
			return nil
		}); err != nil {
			rt.Fatal(err)
		}
		if opened != closed {
			rt.Errorf("%d of %d streams are closed", closed, opened)
		}
		report, err := Verify(t.Context(), dir, VerifyOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		if want := records >= int(safe.Size); report.Whole != want {
			rt.Errorf("cut behind record %d, %d were safe: whole %v, %v", records, safe.Size, report.Whole, report.Faults)
		}
	})
}

// Two logs of one gateway at once, as when a process is replaced: the new one names the old one when it has ended.
func TestALogThatRanBesideIsLinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		old := open(t, Config{Dir: dir})
		time.Sleep(time.Second)
		next := open(t, Config{Dir: dir})
		stream := mustAppend(t, old, Record{Event: EventStreamOpen, Actor: ada()}).Stream
		mustAppend(t, old, Record{Event: EventStreamClose, Stream: stream})
		whole(t, dir)
		old.Close()
		time.Sleep(30 * time.Second)
		linked := only(readAll(t, dir), EventLogLinked)
		if len(linked) != 1 || len(linked[0].Previous) != 1 || linked[0].Previous[0].Log != old.id || !linked[0].Previous[0].Ended || linked[0].Previous[0].Fault != "" {
			t.Errorf("%+v", linked)
		}
		next.Close()
		whole(t, dir)
		rewrite(t, segmentPath(dir, old.id, 1), func(lines [][]byte) [][]byte { return lines[:len(lines)-2] })
		_ = os.Remove(checkpointPath(dir, old.id))
		report, err := Verify(t.Context(), dir, VerifyOptions{})
		if err != nil || report.Whole || !strings.Contains(report.Faults[0].What, "the end is cut; record") {
			t.Errorf("%+v, %v", report, err)
		}
	})
}

// A clock that went back does not change the order of the logs.
func TestAClockThatGoesBack(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	var ids []string
	for range 5 {
		l := open(t, Config{Dir: dir, Now: func() time.Time { return now }})
		ids = append(ids, l.id)
		l.Close()
		now = now.Add(-time.Hour)
	}
	report := whole(t, dir)
	for i, l := range report.Logs {
		if l.Log != ids[i] {
			t.Errorf("log %d is %s, made as %s", i, l.Log, ids[i])
		}
	}
}

// Class: an administrator waits until the disk is full. Streams may go on unrecorded where that is configured; what lets people do
// more does not.
func TestThreatUnrecordedAdministration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, broken := range []struct{ write, sync error }{{write: syscall.ENOSPC}, {sync: syscall.EIO}} {
			fs := &faults{}
			l := open(t, Config{Dir: t.TempDir(), OnFailure: Continue, fs: faultFS{fs}})
			fs.set(func(f *faults) { f.write, f.sync = broken.write, broken.sync })
			for _, e := range []Event{EventPolicyChanged, EventPolicyRolledBack, EventRequestApproved, EventLockRemoved} {
				if receipt, err := l.Append(t.Context(), Record{Event: e}); err == nil {
					t.Errorf("%s: %+v", e, receipt)
				}
			}
			// What takes something away goes on.
			for _, e := range []Event{EventLockAdded, EventSessionEnded, EventRequestEnded} {
				mustAppend(t, l, Record{Event: e})
			}
			fs.set(func(f *faults) { f.write, f.sync = nil, nil })
			time.Sleep(5 * time.Second)
			l.Close()
		}
	})
}

// on_failure: continue. Records that cannot be written wait in memory, and it is said all the time.
func TestContinueUnrecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, fs := t.TempDir(), &faults{}
		l := open(t, Config{Dir: dir, OnFailure: Continue, fs: faultFS{fs}})
		fs.set(func(f *faults) { f.write = syscall.ENOSPC })
		receipt := mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada()})
		denied := mustAppend(t, l, Record{Event: EventStreamDenied, Target: "payroll"})
		mustAppend(t, l, Record{Event: EventIssued})
		if receipt.Stream == "" || denied.Reference == "" || receipt.Seq != 0 {
			t.Errorf("%+v, %+v", receipt, denied)
		}
		st := l.Status()
		if !st.Unrecorded || st.Err == nil || st.Waiting != 3 {
			t.Errorf("%+v", st)
		}
		for range maxBacklog {
			mustAppend(t, l, Record{Event: EventStreamFailed})
		}
		if st := l.Status(); st.Lost != 3 || st.Waiting != maxBacklog {
			t.Errorf("%+v", st)
		}
		time.Sleep(3 * time.Minute)
		fs.set(func(f *faults) { f.write = nil })
		time.Sleep(5 * time.Second)
		if st := l.Status(); st.Unrecorded || st.Err != nil || st.Waiting != 0 {
			t.Errorf("%+v", st)
		}
		l.Close()
		list := noGaps(t, dir)
		if len(only(list, EventStreamOpen)) != 1 || len(only(list, EventIssued)) != 1 || len(only(list, EventLogLost)) != 1 {
			t.Errorf("%d records", len(list))
		}
	})
	if _, err := Open(Config{Dir: t.TempDir(), OnFailure: "ignore"}); err == nil {
		t.Error("another word is taken")
	}
}

// The disk hangs: what waits is bounded, new streams are refused, and closing records are kept.
func TestFaultAuditDiskHangs(t *testing.T) {
	dir, fs := t.TempDir(), &faults{}
	l := open(t, Config{Dir: dir, Queue: 50, fs: faultFS{fs}})
	hang := make(chan struct{})
	fs.set(func(f *faults) { f.hang = hang })
	stream := mustAppend(t, l, Record{Event: EventStreamOpen}).Stream
	var refused int
	for range 200 {
		if _, err := l.Append(t.Context(), Record{Event: EventStreamOpen}); errors.Is(err, ErrBusy) {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if st := l.Status(); refused < 140 || st.Queued > 50 {
		t.Errorf("%d refused, %+v", refused, st)
	}
	if _, err := l.Append(t.Context(), Record{Event: EventStreamClose, Stream: stream}); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	close(hang)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	list := noGaps(t, dir)
	if closed := only(list, EventStreamClose); len(closed) != 1 || closed[0].Stream != stream {
		t.Errorf("%+v", closed)
	}
}

// Writers of all kinds, a disk that fails now and then, readers and a verifier, all at once.
func TestEverythingAtOnce(t *testing.T) {
	dir, fs := t.TempDir(), &faults{}
	l := open(t, Config{Dir: dir, SegmentSize: 32 << 10, MinFree: -1, CheckpointRecords: 25, fs: faultFS{fs}})
	var wg sync.WaitGroup
	var mu sync.Mutex
	kept := make(map[uint64]bool)
	for w := range 8 {
		wg.Go(func() {
			for i := range 150 {
				r := Record{Event: EventStreamOpen, Actor: ada()}
				switch i % 7 {
				case 0:
					r.Event = EventIssued
				case 1:
					r = denial(fmt.Sprintf("host-%d", w))
				case 2:
					fs.set(func(f *faults) { f.sync = nil })
				case 3:
					if i == 73 && w == 0 {
						fs.set(func(f *faults) { f.sync = syscall.EIO })
					}
				}
				if receipt, err := l.Append(t.Context(), r); err == nil && receipt.Seq != 0 {
					mu.Lock()
					if kept[receipt.Seq] {
						t.Errorf("number %d is given twice", receipt.Seq)
					}
					kept[receipt.Seq] = true
					mu.Unlock()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := l.Follow(Position{})
		defer in.Close()
		for seq := uint64(1); ; seq++ {
			e, err := in.Next(t.Context())
			if err != nil || e.Seq != seq {
				t.Errorf("record %d is given as %d, %v", seq, e.Seq, err)
				return
			}
			if e.Event == EventLogClosed {
				return
			}
		}
	}()
	wg.Wait()
	fs.set(func(f *faults) { f.sync = nil })
	for l.Status().Err != nil {
		l.heal()
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	<-done
	list := noGaps(t, dir)
	for seq := range kept {
		if seq > uint64(len(list)) {
			t.Errorf("record %d of %d is not there", seq, len(list))
		}
	}
}
