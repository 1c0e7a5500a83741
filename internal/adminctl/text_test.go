package adminctl

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func TestDurationsAsPeopleWriteThem(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"30d": 30 * 24 * time.Hour, "1w": 7 * 24 * time.Hour, "1w2d3h": 9*24*time.Hour + 3*time.Hour, "1d12h": 36 * time.Hour,
		"90m": 90 * time.Minute, "2h30m": 150 * time.Minute, "0s": 0, "1.5h": 90 * time.Minute,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "30", "d", "-1h", "-1d", "1d-1h", "d30", "30D", "1.5d", "99999999d", "2d1w", "1h ", "ten days", "1d1d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", in, got)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"30d", "1w2d3h", "90m", "-1h", "9999w9999d", "1.5h", "9223372036s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}

// night is a moment that tests stand at: 3 a.m. of a summer night, two hours east of Greenwich.
var night = time.Date(2026, 7, 14, 3, 0, 0, 0, time.FixedZone("CEST", 2*3600))

func TestMomentsAsPeopleWriteThem(t *testing.T) {
	c := calendar{night}
	for in, want := range map[string]string{
		"now": "2026-07-14T03:00:00+02:00", "2h": "2026-07-14T01:00:00+02:00", "30d": "2026-06-14T03:00:00+02:00",
		"2h ago": "2026-07-14T01:00:00+02:00", "in 2h": "2026-07-14T05:00:00+02:00", "2026-12-24": "2026-12-24T00:00:00+02:00",
		"2026-12-24 10:00": "2026-12-24T10:00:00+02:00", "2026-12-24T10:00:00Z": "2026-12-24T12:00:00+02:00", "09:30": "2026-07-14T09:30:00+02:00",
	} {
		got, err := c.parseMoment(in)
		if err != nil || got.In(night.Location()).Format(time.RFC3339) != want {
			t.Errorf("parseMoment(%q) = %v, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "yesterday", "2026-13-01", "25:00", "in", "in  ", "24.12.2026"} {
		if got, err := c.parseMoment(in); err == nil {
			t.Errorf("parseMoment(%q) = %v, want an error", in, got)
		}
	}
}

func TestTimesAreRelativeAndAbsolute(t *testing.T) {
	c := calendar{night}
	for _, test := range []struct {
		ago         time.Duration
		short, full string
	}{
		{0, "03:00:00 (now)", "2026-07-14 03:00:00 CEST (now)"},
		{2 * time.Minute, "02:58:00 (2m ago)", "2026-07-14 02:58:00 CEST (2m ago)"},
		{-(2*time.Hour - 3*time.Second), "04:59:57 (in 2h)", "2026-07-14 04:59:57 CEST (in 2h)"},
		{-90 * time.Minute, "04:30:00 (in 1h)", "2026-07-14 04:30:00 CEST (in 1h)"},
		{5 * time.Hour, "2026-07-13 22:00 (5h ago)", "2026-07-13 22:00:00 CEST (5h ago)"},
		{400 * 24 * time.Hour, "2025-06-09 03:00 (400d ago)", "2025-06-09 03:00:00 CEST (400d ago)"},
	} {
		at := night.Add(-test.ago)
		if got := c.short(at.UTC()); got != test.short {
			t.Errorf("short(%v ago) = %q, want %q", test.ago, got, test.short)
		}
		if got := c.full(at.UTC()); got != test.full {
			t.Errorf("full(%v ago) = %q, want %q", test.ago, got, test.full)
		}
	}
	if c.short(time.Time{}) != "" || c.full(time.Time{}) != "" {
		t.Error("the zero time says something")
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 5 * time.Millisecond: "5ms", 61 * time.Second: "1m 1s", 2 * time.Hour: "2h", 11*time.Hour + 20*time.Minute: "11h 20m",
		36 * time.Hour: "1d 12h", 30 * 24 * time.Hour: "30d", -time.Minute: "-1m",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 10_000_000: "10,000,000", -1234: "-1,234", 1_002_003: "1,002,003"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1024: "1.0 KiB", 1 << 20: "1.0 MiB", 1000: "1.0 KiB", 250 << 30: "250 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for _, test := range []struct {
		n         int
		one, want string
	}{{1, "session", "1 session"}, {0, "session", "0 sessions"}, {2, "policy", "2 policies"}, {1200, "day", "1,200 days"}} {
		if got := plural(test.n, test.one); got != test.want {
			t.Errorf("plural(%d, %s) = %q, want %q", test.n, test.one, got, test.want)
		}
	}
}

// What may be copied stays whole, what may be long is broken or cut, and the line fits.
func TestTablesFit(t *testing.T) {
	tb := newTable(column{name: "ID"}, column{name: "USER", most: 20}, column{name: "N", right: true}, column{name: "EMPTY"}, column{name: "REASON", words: true})
	tb.add("k7qw-3m9p", "corp:"+strings.Repeat("x", 50)+"@corp.example", "7", "", strings.Repeat("Ask the help desk. ", 10))
	tb.add("k7qw-3m9q", "corp:ada@corp.example", "12,345", "", "")
	var out bytes.Buffer
	if err := tb.write(&out, 100); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); width(line) > 100 || strings.HasSuffix(line, " ") {
			t.Errorf("line of %d characters: %q", width(line), line)
		}
	}
	if strings.Contains(text, "EMPTY") || !strings.Contains(text, "k7qw-3m9q") || strings.Count(strings.Join(strings.Fields(text), " "), "Ask the help desk.") != 10 {
		t.Errorf("printed\n%s", text)
	}
	out.Reset() // to a file or a pipe: one line for each row, whole
	if err := tb.write(&out, 0); err != nil {
		t.Fatal(err)
	}
	if text = out.String(); strings.Count(text, "\n") != 3 || !strings.Contains(text, strings.Repeat("x", 50)) || strings.Contains(text, "…") {
		t.Errorf("printed\n%s", text)
	}
}

// Several columns of sentences share the lines of a row; what is no terminal gets each row on one line.
func TestList(t *testing.T) {
	print := func(width int) string {
		var out bytes.Buffer
		err := List(&out, width, []string{"NAME", "ACCESS", "DESCRIPTION"}, 1, [][]string{
			{"payroll", "no: " + strings.Repeat("Salaries are for accounting. ", 3), strings.Repeat("What people earn. ", 4)},
			{"wiki", "yes", "Team\x1b[2J wiki"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	text := print(80)
	for line := range strings.Lines(text) {
		if width(line) > 81 {
			t.Errorf("line of %d characters: %q", width(line), line)
		}
	}
	if n := strings.Count(text, "\n"); n < 4 || strings.Contains(text, "\x1b") {
		t.Errorf("%d lines:\n%s", n, text)
	}
	if text = print(0); strings.Count(text, "\n") != 3 {
		t.Errorf("printed\n%s", text)
	}
	if n := LineWidth(new(bytes.Buffer)); n != 0 {
		t.Errorf("the width of a buffer is %d", n)
	}
}

// A record is one sentence that can be read out: ids are short, nothing is said twice, and root at the socket has a name and no account.
func TestRecordsRead(t *testing.T) {
	id := strings.Repeat("a2", 26)
	for want, r := range map[string]adminapi.AuditRecord{
		"db: request k7qw-3m9p of user a2a2a2a2a2a2 (corp:bob@corp.example); ticket 7": {Service: "db", Reason: "ticket 7",
			Target: "request k7qw-3m9p of user " + id + " (corp:bob@corp.example)", Detail: "request k7qw-3m9p of user " + id + " (corp:bob@corp.example)", User: &adminapi.Person{}},
		"10.0.0.1:80 as wiki": {Kind: "tcp", Service: "wiki", Target: "10.0.0.1:80", User: &adminapi.Person{}},
		"start; at gw1":       {Detail: "start", Gateway: "gw1"},
	} {
		if got := auditWhat(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := person(adminapi.Person{Name: "root via socket (uid 0)"}); got != "root via socket (uid 0)" {
		t.Errorf("root is %q", got)
	}
}

// Where it is no terminal, that all is done is said once.
func TestProgressEnds(t *testing.T) {
	var out bytes.Buffer
	bar := &progress{out: &out, now: func() time.Time { return night }}
	for range 3 {
		bar.tell(adminapi.DiffProgress{Done: 41, Total: 41})
	}
	if out.String() != "41 of 41 streams, 100 %\n" {
		t.Errorf("%q", out.String())
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		in   string
		want []string
	}{
		{"", []string{""}}, {"a b c", []string{"a b c"}}, {"aaaa bbbb cccc", []string{"aaaa bbbb", "cccc"}},
		{strings.Repeat("x", 25), []string{"xxxxxxxxxx", "xxxxxxxxxx", "xxxxx"}},
	} {
		if diff := cmp.Diff(test.want, wrap(test.in, 10)); diff != "" {
			t.Errorf("wrap(%q):\n%s", test.in, diff)
		}
	}
}

// threats.md, "Local and administrative surfaces": log injection, here from a gateway into an administrator's terminal.
func TestDocumentsOnATerminalAreInert(t *testing.T) {
	got := cleanDocument("a: b\n\tc\x1b[2J\u202ed\u009b\r\n\xff")
	if want := "a: b\n\tc<U+001B>[2J<U+202E>d<U+009B><U+000D>\n\uFFFD"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
