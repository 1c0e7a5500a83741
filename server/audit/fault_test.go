package audit

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// noGaps holds that a log is whole: numbers from 1, each once.
func noGaps(t *testing.T, dir string) []Record {
	t.Helper()
	list := readAll(t, dir)
	for i, r := range list {
		if r.Seq != uint64(i+1) {
			t.Errorf("record %d has the number %d", i+1, r.Seq)
		}
	}
	whole(t, dir)
	return list
}

// Fault: audit disk full. New streams are refused with that reason; what was open is closed in the record
// when there is room again.
func TestDiskFull(t *testing.T) {
	for _, truncate := range []error{nil, syscall.EIO} {
		t.Run(fmt.Sprintf("truncate %v", truncate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir, fs := t.TempDir(), &faults{}
				l := open(t, Config{Dir: dir, fs: faultFS{fs}})
				stream := mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Service: "wiki"}).Stream
				fs.set(func(f *faults) { f.write, f.truncate = syscall.ENOSPC, truncate })
				for _, e := range []Event{EventStreamOpen, EventStreamDenied, EventIssued} {
					if receipt, err := l.Append(t.Context(), Record{Event: e}); !errors.Is(err, syscall.ENOSPC) || receipt != (Receipt{}) {
						t.Errorf("%s: %+v, %v", e, receipt, err)
					}
				}
				if _, err := l.Append(t.Context(), Record{Event: EventStreamClose, Stream: stream, Service: "wiki"}); err == nil {
					t.Error("closed")
				}
				if st := l.Status(); !errors.Is(st.Err, syscall.ENOSPC) || st.Waiting != 1 || st.Seq != 2 {
					t.Errorf("status %+v", st)
				}
				time.Sleep(10 * time.Second)
				fs.set(func(f *faults) { f.write, f.truncate = nil, nil })
				time.Sleep(3 * time.Second) // it mends itself, without a new event
				if st := l.Status(); st.Err != nil || st.Waiting != 0 {
					t.Errorf("status after it %+v", st)
				}
				mustAppend(t, l, Record{Event: EventStreamOpen})
				if err := l.Close(); err != nil {
					t.Error(err)
				}
				list := noGaps(t, dir)
				if closed := only(list, EventStreamClose); len(closed) != 1 || closed[0].Stream != stream {
					t.Errorf("closed %+v", closed)
				}
				if len(only(list, EventStreamOpen)) != 2 || len(only(list, EventStreamDenied)) != 0 {
					t.Errorf("%+v", list)
				}
			})
		})
	}
}

// A failed sync is told to whoever waits, and what it may have lost is written again.
func TestFailedSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, fs := t.TempDir(), &faults{}
		l := open(t, Config{Dir: dir, fs: faultFS{fs}})
		mustAppend(t, l, Record{Event: EventStreamOpen, Service: "wiki"})
		fs.set(func(f *faults) { f.sync = syscall.EIO })
		if _, err := l.Append(t.Context(), Record{Event: EventStreamDenied, Service: "db"}); !errors.Is(err, syscall.EIO) {
			t.Errorf("%v", err)
		}
		if _, err := l.Append(t.Context(), Record{Event: EventStreamOpen}); !errors.Is(err, syscall.EIO) {
			t.Errorf("a stream after a failed sync: %v", err)
		}
		time.Sleep(5 * time.Second)
		fs.set(func(f *faults) { f.sync = nil })
		time.Sleep(3 * time.Second)
		if st := l.Status(); st.Err != nil {
			t.Error(st.Err)
		}
		mustAppend(t, l, Record{Event: EventIssued})
		l.pen.Lock()
		if len(l.w.pending) != 0 || l.w.again || l.w.bytes != 0 {
			t.Errorf("%d lines are pending, again %v", len(l.w.pending), l.w.again)
		}
		l.putDown()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		list := noGaps(t, dir)
		if len(only(list, EventStreamOpen)) != 1 || len(only(list, EventStreamDenied)) != 1 || len(only(list, EventIssued)) != 1 {
			t.Errorf("%+v", list)
		}
		if paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)); len(paths) < 2 {
			t.Error("the segment whose sync failed is written to further")
		}
	})
}

// A sync that fails right behind the end of a segment takes back some of that one too.
func TestFailedSyncBehindTheEndOfASegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, fs := t.TempDir(), &faults{}
		l := open(t, Config{Dir: dir, fs: faultFS{fs}, SegmentSize: 4 << 10, MinFree: -1})
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada()}) // on the disk
		fs.set(func(f *faults) { f.sync = syscall.EIO })
		for range 40 {
			mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Service: "wiki"})
		}
		time.Sleep(5 * time.Second)
		fs.set(func(f *faults) { f.sync = nil })
		time.Sleep(3 * time.Second)
		for range 40 {
			mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if list := noGaps(t, dir); len(only(list, EventStreamOpen)) != 40 || len(only(list, EventIssued)) != 41 {
			t.Errorf("%+v", list)
		}
		if report := whole(t, dir); len(report.Notes) == 0 || !strings.Contains(report.Notes[0], "segment 1 ends with something that does not count") {
			t.Errorf("what does not count is not told: %q", report.Notes)
		}
	})
}

// Linux reports a failed write-back once: the next sync says that all is well. A record that waited for it must
// not believe that.
func TestASyncAfterAFailedOneProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, Config{Dir: t.TempDir()})
		l.pen.Lock()
		first, files := l.w.beginRound()
		if err := l.w.put(&Record{Event: EventConfigLoaded}); err != nil {
			t.Fatal(err)
		}
		l.w.endRound(first, files, syscall.EIO)
		second, files := l.w.beginRound()
		l.w.endRound(second, files, nil)
		l.putDown()
		if first.err == nil || second.err == nil {
			t.Errorf("%v, %v", first.err, second.err)
		}
		time.Sleep(3 * time.Second)
	})
}

func TestBacklogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, fs := t.TempDir(), &faults{}
		l := open(t, Config{Dir: dir, fs: faultFS{fs}})
		fs.set(func(f *faults) { f.write = syscall.ENOSPC })
		for range maxBacklog + 5 {
			_, _ = l.Append(t.Context(), Record{Event: EventStreamClose, Stream: "s"})
		}
		fs.set(func(f *faults) { f.write = nil })
		time.Sleep(3 * time.Second)
		l.Close()
		list := noGaps(t, dir)
		if lost := only(list, EventLogLost); len(lost) != 1 || len(only(list, EventStreamClose)) != maxBacklog {
			t.Errorf("lost %+v", lost)
		}
	})
}

// The alarm comes early, then nothing new is opened, while what is open can still end in the record.
func TestSpaceRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &faults{room: 100 << 20}
		l := open(t, Config{Dir: t.TempDir(), MinFree: 10 << 20, fs: faultFS{fs}})
		stream := mustAppend(t, l, Record{Event: EventStreamOpen}).Stream
		if st := l.Status(); st.Low || st.Err != nil {
			t.Errorf("%+v", st)
		}
		fs.set(func(f *faults) { f.room = 30 << 20 })
		time.Sleep(2 * time.Second)
		if st := l.Status(); !st.Low || st.Err != nil || st.Free != 30<<20 {
			t.Errorf("early alarm: %+v", st)
		}
		fs.set(func(f *faults) { f.room = 9 << 20 })
		time.Sleep(2 * time.Second)
		for _, e := range []Event{EventStreamOpen, EventSessionOpen, EventIssued} {
			if _, err := l.Append(t.Context(), Record{Event: e}); !errors.Is(err, ErrNoSpace) {
				t.Errorf("%s: %v", e, err)
			}
		}
		mustAppend(t, l, Record{Event: EventStreamClose, Stream: stream})
		mustAppend(t, l, Record{Event: EventStreamDenied})
		fs.set(func(f *faults) { f.room = 100 << 20 })
		time.Sleep(2 * time.Second)
		mustAppend(t, l, Record{Event: EventStreamOpen})
	})
}
