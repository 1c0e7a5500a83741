package audit

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crash(os.Getenv(crashEnv))
	}
	goleak.VerifyTestMain(m)
}

// faults is the system's files with faults, and counts.
type faults struct {
	osFileSystem
	mu       sync.Mutex
	write    error // of the next writes; half of the bytes get through
	truncate error
	sync     error
	create   error
	hang     chan struct{} // syncs wait for it
	room     int64         // what free says; 0: the truth
	writes   int
	syncs    int
}

type faultyFile struct {
	file
	f *faults
}

func (f *faults) set(change func(*faults)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faults) counts() (writes, syncs int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes, f.syncs
}

type faultFS struct{ *faults }

func (fs faultFS) create(path string) (file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.faults.create != nil {
		return nil, fs.faults.create
	}
	f, err := fs.osFileSystem.create(path)
	if err != nil {
		return nil, err
	}
	return faultyFile{f, fs.faults}, nil
}

func (fs faultFS) free(dir string) int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.room != 0 {
		return fs.room
	}
	return fs.osFileSystem.free(dir)
}

func (f faultyFile) Write(p []byte) (int, error) {
	f.f.mu.Lock()
	defer f.f.mu.Unlock()
	if f.f.write != nil {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, f.f.write
	}
	f.f.writes++
	return f.file.Write(p)
}

func (f faultyFile) Truncate(size int64) error {
	f.f.mu.Lock()
	defer f.f.mu.Unlock()
	if f.f.truncate != nil {
		return f.f.truncate
	}
	return f.file.Truncate(size)
}

func (f faultyFile) Sync() error {
	f.f.mu.Lock()
	hang := f.f.hang
	f.f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	f.f.mu.Lock()
	defer f.f.mu.Unlock()
	f.f.syncs++
	if f.f.sync != nil {
		return f.f.sync
	}
	return f.file.Sync()
}

func open(t testing.TB, cfg Config) *Log {
	t.Helper()
	cfg.Logger = testenv.Logger(t)
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func mustAppend(t testing.TB, l *Log, r Record) Receipt {
	t.Helper()
	receipt, err := l.Append(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func readAll(t testing.TB, dir string) []Record {
	t.Helper()
	var list []Record
	if err := eachRecord(dir, func(_ string, r *Record) error {
		list = append(list, *r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func only(list []Record, e Event) []Record {
	var out []Record
	for _, r := range list {
		if r.Event == e {
			out = append(out, r)
		}
	}
	return out
}

func ada() *Actor {
	return NewActor(auth.Identity{Issuer: "https://idp.example.com", Subject: "ada", Provider: "corp", Name: "Ada", Email: "ada@corp.example", Session: "s1", Device: "d1"},
		"0123456789abcdef0123456789abcdef", netip.MustParseAddrPort("[::ffff:192.0.2.1]:4711"))
}

func TestRecordsOfAStream(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, Config{Dir: dir, Gateway: "edge-1", Version: "v1"})
	receipt := mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Kind: "tcp", Target: "wiki", Service: "wiki", Address: "10.0.0.1:8080", Rule: "staff", Policy: "sha256:00"})
	mustAppend(t, l, Record{Event: EventStreamClose, Actor: ada(), Stream: receipt.Stream, Service: "wiki", Reason: "done", Transfer: &Transfer{Sent: 1, Received: 2, DurationMS: 3}})
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	list := readAll(t, dir)
	if len(list) != 4 || list[0].Event != EventLogOpened || list[3].Event != EventLogClosed || list[0].Process.Gateway != "edge-1" || list[0].Process.Log != l.id {
		t.Fatalf("%+v", list)
	}
	for i, r := range list {
		if r.Seq != uint64(i+1) || r.Time.IsZero() || r.Time.Location() != time.UTC {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	opened, closed := list[1], list[2]
	if opened.Stream == "" || opened.Stream != closed.Stream || *opened.Actor != *ada() || opened.Actor.Remote != "192.0.2.1:4711" || opened.Actor.User == "" {
		t.Errorf("opened %+v by %+v", opened, opened.Actor)
	}
	if *closed.Transfer != (Transfer{1, 2, 3}) {
		t.Errorf("closed %+v", closed.Transfer)
	}
	if _, err := l.Append(t.Context(), Record{Event: EventStreamOpen}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*"+lockSuffix)); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestNothingIsOpenToOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no such modes")
	}
	dir := filepath.Join(t.TempDir(), "audit")
	open(t, Config{Dir: dir})
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if l, err := Open(Config{Dir: link}); err == nil {
		l.Close()
		t.Error("a planted link is followed")
	}
	if _, err := Open(Config{}); err == nil {
		t.Error("no folder, no error")
	}
}

// Streams are synced within 100 ms, everything else before Append returns.
func TestSyncRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &faults{}
		l := open(t, Config{Dir: t.TempDir(), fs: faultFS{fs}})
		for _, e := range []Event{EventStreamDenied, EventIssued, EventEnrollRefused, EventConfigLoaded, EventPolicyLoaded, EventSessionRefused, EventGatewayStart, "something.new"} {
			_, before := fs.counts()
			mustAppend(t, l, Record{Event: e, Target: string(e)})
			if _, after := fs.counts(); after == before {
				t.Errorf("%s is not synced", e)
			}
		}
		for _, e := range []Event{EventStreamOpen, EventStreamClose, EventStreamFailed, EventSessionOpen, EventSessionClose} {
			synctest.Wait()
			written, before := fs.counts()
			mustAppend(t, l, Record{Event: e})
			if w, s := fs.counts(); w != written+1 || s != before {
				t.Errorf("%s: %d writes, %d syncs before the return", e, w-written, s-before)
			}
			time.Sleep(100 * time.Millisecond)
			if _, s := fs.counts(); s != before+1 {
				t.Errorf("%s: %d syncs within 100 ms", e, s-before)
			}
		}
		for range 100 { // one sync for all of them
			mustAppend(t, l, Record{Event: EventStreamOpen})
		}
		_, before := fs.counts()
		time.Sleep(time.Second)
		if _, s := fs.counts(); s != before+1 {
			t.Errorf("%d syncs for 100 records", s-before)
		}
	})
}

func TestManyWritersShareOneOrder(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: 8 << 10})
	shared := ada()
	shared.Name = strings.Repeat("x", 2*maxField)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 50 {
				r := Record{Event: EventStreamOpen, Actor: shared}
				if i%10 == w {
					r.Event = EventConfigLoaded
				}
				if _, err := l.Append(context.Background(), r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	list := readAll(t, dir)
	for i, r := range list {
		if r.Seq != uint64(i+1) {
			t.Fatalf("record %d has number %d", i+1, r.Seq)
		}
	}
	segments := len(only(list, EventLogSegment)) + 1
	if paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)); len(paths) != segments || segments < 10 || len(list) != 400+segments+1 {
		t.Errorf("%d files, %d segments, %d records", len(paths), segments, len(list))
	}
}

func TestOldSegmentsAreRemovedAndThatIsSaid(t *testing.T) {
	dir := t.TempDir()
	first := open(t, Config{Dir: dir, SegmentSize: 4 << 10})
	for range 100 {
		mustAppend(t, first, Record{Event: EventStreamOpen, Actor: ada()})
	}
	live := open(t, Config{Dir: dir})
	first.Close()
	const keep = 16 << 10
	l := open(t, Config{Dir: dir, SegmentSize: 4 << 10, KeepBytes: keep})
	for range 100 {
		mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada()})
	}
	l.Close()
	var total int64
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	for _, p := range paths {
		total += sizeOf(p)
	}
	if total > keep+4<<10+2048 || len(only(readAll(t, dir), EventLogRemoved)) == 0 {
		t.Errorf("%d bytes are kept", total)
	}
	if live.Close(); len(only(readAll(t, dir), EventLogClosed)) < 2 {
		t.Error("the log of a process that lives was removed")
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	fs := &faults{}
	l := open(t, Config{Dir: t.TempDir(), fs: faultFS{fs}})
	ctx, cancel := context.WithCancelCause(t.Context())
	hang := make(chan struct{})
	fs.set(func(f *faults) { f.hang = hang })
	done := make(chan error)
	go func() {
		_, err := l.Append(ctx, Record{Event: EventIssued})
		done <- err
	}()
	cause := errors.New("the client went away")
	cancel(cause)
	if err := <-done; !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
	close(hang)
}

func BenchmarkAppendStream(b *testing.B) {
	l := open(b, Config{Dir: b.TempDir()})
	r := Record{Event: EventStreamOpen, Actor: ada(), Kind: "tcp", Target: "wiki", Service: "wiki", Address: "10.0.0.1:8080", Rule: "staff", Policy: "sha256:00"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}
