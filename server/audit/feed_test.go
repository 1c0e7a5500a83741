package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A memorySink is an index in memory.
type memorySink struct {
	mu       sync.Mutex
	position string
	rows     map[string]Record
	batches  int
	fail     error
	more     chan struct{}
}

func newMemorySink() *memorySink {
	return &memorySink{rows: make(map[string]Record), more: make(chan struct{}, 1)}
}

func (m *memorySink) IndexBatch(_ context.Context, gateway, position string, records []IndexedRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer signal(m.more)
	if m.fail != nil {
		err := m.fail
		m.fail = nil
		return err
	}
	m.position, m.batches = position, m.batches+1
	for _, r := range records {
		key := fmt.Sprintf("%s/%s/%d", gateway, r.Log, r.Record.Seq)
		if _, there := m.rows[key]; there {
			return fmt.Errorf("%s comes twice", key)
		}
		m.rows[key] = r.Record
	}
	return nil
}

func (m *memorySink) IndexPosition(context.Context, string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.position, nil
}

func (m *memorySink) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rows)
}

func indexable(t testing.TB, dir string) int {
	return len(readAll(t, dir)) - len(only(readAll(t, dir), EventLogCheckpoint))
}

func TestIndexFollowsTheLog(t *testing.T) {
	dir := t.TempDir()
	history(t, dir)
	l := open(t, Config{Dir: dir, SegmentSize: 8 << 10, MinFree: -1, CheckpointRecords: 10})
	sink := newMemorySink()
	sink.fail = errors.New("the database is away")
	feeds, err := StartFeeds(FeedsConfig{Log: l, Sink: sink, Gateway: "edge-1", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		mustAppend(t, l, Record{Event: EventStreamOpen, Actor: ada(), Link: "x"})
	}
	l.Close()
	if err := feeds.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if n, want := sink.count(), indexable(t, dir); n != want {
		t.Errorf("%d of %d records are indexed", n, want)
	}
	if st := feeds.Status(); len(st) != 1 || st[0].Position.Log != l.id || st[0].Err != nil {
		t.Errorf("%+v", st)
	}
	// The next process goes on, and a third builds it anew.
	next := open(t, Config{Dir: dir})
	next.Close()
	x, err := NewIndexer(IndexerConfig{Dir: dir, Gateway: "edge-1", Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for range 2 {
		err := x.Rebuild(t.Context(), func(context.Context) error {
			sink.rows, sink.position = make(map[string]Record), ""
			return nil
		}, func(done, total int64) {
			if last = total - done; last < 0 {
				t.Errorf("%d of %d", done, total)
			}
		})
		if err != nil || sink.count() != indexable(t, dir) || last != 0 {
			t.Errorf("%d of %d records, %d bytes left, %v", sink.count(), indexable(t, dir), last, err)
		}
	}
}

// A reader that has fallen behind retention says so, and goes on.
func TestReaderBehindRetention(t *testing.T) {
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, SegmentSize: 4 << 10, KeepBytes: 16 << 10, MinFree: -1})
	in := l.Follow(Position{})
	defer in.Close()
	first, err := in.Next(t.Context())
	if err != nil || first.Seq != 1 || first.Gap {
		t.Fatalf("%+v, %v", first, err)
	}
	in.Close()
	for range 100 {
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
	}
	e, err := NewReader(dir, first.Position).TryNext()
	if err != nil || !e.Gap || e.Seq < 10 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestPositionText(t *testing.T) {
	p := Position{"20261123T101500Z-k7qw3m9p", 3, 1234, 56}
	var back Position
	if text, err := p.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != p {
		t.Errorf("%s, %+v", text, back)
	}
	for _, bad := range []string{"x", "a/b/c/d", "20261123T101500Z-k7qw3m9p/1/-1/1", "20261123T101500Z-k7qw3m9p/1/1", "../../etc/1/1/1"} {
		if _, err := ParsePosition(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("20261123T101500Z-k7qw3m9p/3/1234/56")
	f.Add("////")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePosition(text)
		if err != nil {
			return
		}
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Errorf("%q becomes %+v, and %+v, %v", text, p, again, err)
		}
	})
}

// A receiver is one end of a syslog connection.
type receiver struct {
	mu       sync.Mutex
	messages []string
}

func (r *receiver) add(m string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, m)
}

// seqs are the numbers of the records of a log that arrived.
func (r *receiver) seqs(t testing.TB, log string) (list []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := ""
	for _, m := range r.messages {
		header, text, ok := strings.Cut(m, " - {")
		if fields := strings.Fields(header); !ok || len(fields) != 6 || !strings.HasPrefix(fields[0], "<1") || !strings.HasSuffix(fields[0], ">1") || fields[3] != "culvert-gateway" {
			t.Errorf("message %.60q", m)
			continue
		}
		ln := line{text: []byte("{" + text)}
		rec, err := ln.decode()
		if err != nil {
			t.Errorf("message %.60q: %v", m, err)
			continue
		}
		if rec.Event == EventLogOpened {
			in = rec.Process.Log
		}
		if in == log {
			list = append(list, rec.Seq)
		}
	}
	return list
}

// readFrames reads messages with octet counting (RFC 6587, 3.4.1), at most n.
func readFrames(conn io.Reader, n int, each func(string)) error {
	in := bufio.NewReader(conn)
	for range n {
		length, err := in.ReadString(' ')
		if err != nil {
			return err
		}
		size, err := strconv.Atoi(strings.TrimSpace(length))
		if err != nil {
			return err
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(in, text); err != nil {
			return err
		}
		each(string(text))
	}
	return nil
}

// The server takes a few messages and hangs up, and takes the rest after that: nothing is missing.
func TestExportToSyslogOverTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var got receiver
	var wg sync.WaitGroup
	wg.Go(func() {
		for limit := 20; ; limit = 1 << 30 {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = readFrames(conn, limit, got.add)
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
	dir := t.TempDir()
	l := open(t, Config{Dir: dir, MinFree: -1})
	feeds, err := StartFeeds(FeedsConfig{Log: l, Targets: []Target{{Name: "siem", Kind: ExportSyslog, Address: "tcp://" + listener.Addr().String()}}, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
	}
	l.Close()
	if err := feeds.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	listener.Close()
	wg.Wait()
	want := len(readAll(t, dir))
	seqs := got.seqs(t, l.id)
	slices.Sort(seqs)
	if seqs = slices.Compact(seqs); len(seqs) != want || seqs[want-1] != uint64(want) {
		t.Errorf("%d of %d records arrived", len(seqs), want)
	}
}

func TestExportToSyslogOverDatagrams(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "log.sock")
	unix, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	for address, conn := range map[string]net.PacketConn{"udp://" + udp.LocalAddr().String(): udp, "unix://" + path: unix} {
		t.Run(address[:4], func(t *testing.T) {
			var got receiver
			dir := t.TempDir()
			l := open(t, Config{Dir: dir})
			for range 10 {
				mustAppend(t, l, Record{Event: EventIssued, Actor: ada()})
			}
			feeds, err := StartFeeds(FeedsConfig{Log: l, Targets: []Target{{Name: "local", Kind: ExportSyslog, Address: address}}, Logger: testenv.Logger(t)})
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			buf := make([]byte, 64<<10)
			for n := len(readAll(t, dir)); n > 0; n-- {
				size, _, err := conn.ReadFrom(buf)
				if err != nil {
					t.Fatal(err)
				}
				got.add(string(buf[:size]))
			}
			if err := feeds.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			for i, seq := range got.seqs(t, l.id) {
				if seq != uint64(i+1) {
					t.Errorf("message %d has record %d", i, seq)
				}
			}
			conn.Close()
		})
	}
}

// A file is moved away by a rotation; the next process goes on where this one ended; nothing comes twice or not at all.
func TestExportToAFile(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "audit.out")
	for i := range 3 {
		l := open(t, Config{Dir: dir})
		feeds, err := StartFeeds(FeedsConfig{Log: l, Targets: []Target{{Name: "f", Kind: ExportFile, Path: path}}, Logger: testenv.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		mustAppend(t, l, Record{Event: EventIssued, Actor: ada(), Detail: fmt.Sprint(i)})
		l.Close()
		if err := feeds.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if i == 0 {
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	rotated, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	rest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, p := range segments(t, dir) {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	if got := append(rotated, rest...); !bytes.Equal(got, all) {
		t.Errorf("%d bytes are exported of %d", len(got), len(all))
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// An export that hangs, or whose place is not there, holds up neither the log nor its end.
func TestFaultExportHangs(t *testing.T) {
	in, out := io.Pipe() // nobody reads
	l := open(t, Config{Dir: t.TempDir()})
	feeds, err := StartFeeds(FeedsConfig{Log: l, Stdout: out, Logger: testenv.Logger(t), Targets: []Target{
		{Name: "hangs", Kind: ExportStdout}, {Name: "nowhere", Kind: ExportSyslog, Address: "unix:///nonexistent/log"}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		mustAppend(t, l, Record{Event: EventIssued})
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	go func() {
		<-ctx.Done()
		in.Close()
	}()
	if err := feeds.Stop(ctx); err == nil {
		t.Error("nothing is said of what did not arrive")
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		target Target
		ok     bool
	}{
		{Target{Name: "a", Kind: "stdout"}, true},
		{Target{Name: "", Kind: "stdout"}, false},
		{Target{Name: "../x", Kind: "stdout"}, false},
		{Target{Name: "a", Kind: "file"}, false},
		{Target{Name: "a", Kind: "file", Path: "/x"}, true},
		{Target{Name: "a", Kind: "http"}, false},
		{Target{Name: "a", Kind: "syslog", Address: "tcp://log.internal:514"}, true},
		{Target{Name: "a", Kind: "syslog", Address: "udp://[::1]:514"}, true},
		{Target{Name: "a", Kind: "syslog", Address: "unix:///dev/log"}, true},
		{Target{Name: "a", Kind: "syslog", Address: "tcp://log.internal"}, false},
		{Target{Name: "a", Kind: "syslog", Address: "log.internal:514"}, false},
		{Target{Name: "a", Kind: "syslog", Address: "unix://dev/log"}, false},
	} {
		if err := c.target.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.target, err)
		}
	}
	l := open(t, Config{Dir: t.TempDir()})
	if _, err := StartFeeds(FeedsConfig{Log: l, Targets: []Target{{Name: "a", Kind: "stdout"}, {Name: "a", Kind: "stdout"}}}); err == nil {
		t.Error("two exports of one name")
	}
}

func TestSyslogHeader(t *testing.T) {
	e := Entry{Event: EventStreamDenied, Time: time.Date(2026, 11, 23, 10, 0, 0, 5e6, time.UTC), Line: []byte(`{"seq":1}`)}
	got := string(Syslog{Host: printable("höst 1", 255), App: "culvert-gateway", PID: 7}.Append(nil, &e))
	if want := `<109>1 2026-11-23T10:00:00.005Z h?st?1 culvert-gateway 7 stream.denied - {"seq":1}`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := cutText([]byte("abcü"), 4); string(got) != "abc" {
		t.Errorf("%q", got)
	}
}

// Class: secrets leak (Boundary CVE-2023-0690). What is cut out of the log is in no index and in no export either.
func TestThreatSecretsInIndexAndExports(t *testing.T) {
	const canary = "CANARY7f3a"
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "audit.out")
	l := open(t, Config{Dir: dir})
	sink := newMemorySink()
	feeds, err := StartFeeds(FeedsConfig{Log: l, Sink: sink, Gateway: "edge-1", Targets: []Target{{Name: "f", Kind: ExportFile, Path: path}}, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	token := "token=" + canary
	mustAppend(t, l, Record{Event: EventPolicyChanged, Reason: token, Detail: token, Actor: ada(),
		Admin:   &AdminFacts{Via: "tunnel", Path: "/v1/policy?" + token, Object: token, Comment: "password: " + canary},
		Subject: &SubjectFacts{Posture: map[string]string{"os": token}}})
	l.Close()
	if err := feeds.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || len(data) == 0 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if strings.Contains(string(data), canary) || strings.Contains(fmt.Sprintf("%+v", sink.rows), canary) {
		t.Errorf("%s", data)
	}
	key, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil || strings.Contains(string(data), strings.TrimSpace(string(key))) {
		t.Errorf("the key is exported, %v", err)
	}
}
