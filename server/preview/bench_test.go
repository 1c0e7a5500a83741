package preview

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// A company for measurements: people in three groups each, a login a day, thirty days of streams.
const (
	benchPeople   = 2_000
	benchServices = 100
	benchGroups   = 40
	benchDays     = 30
)

// benchPolicy has a rule for each group, with an allow list of its own. strict is what the new one asks for more.
func benchPolicy(strict bool) string {
	var b strings.Builder
	b.WriteString("version: 1\nservices:\n")
	for i := range benchServices {
		fmt.Fprintf(&b, "  s%d: {address: 's%d.internal:443', hostnames: [s%d.corp.example]}\n", i, i, i)
	}
	b.WriteString("  lab: {network: 10.20.0.0/16, ports: [22]}\nrules:\n")
	for g := range benchGroups {
		fmt.Fprintf(&b, "  - {name: g%d, subjects: {groups: [g%d]}, allow: [lab", g, g)
		for i := g % 4; i < benchServices; i += 4 {
			if !strict || i%20 != 3 || g%2 == 0 {
				fmt.Fprintf(&b, ", s%d", i)
			}
		}
		b.WriteString("]")
		if g%5 == 0 {
			b.WriteString(`, when: 'device.os != "windows" && auth.age < duration("12h")'`)
		}
		if strict && g%10 == 7 {
			b.WriteString(`, when: device.disk_encrypted`)
		}
		b.WriteString("}\n")
	}
	b.WriteString("  - {name: no interns, subjects: {groups: [g39]}, deny: [lab]}\n")
	return b.String()
}

// A company makes its streams up as they are asked for, so that the memory measured is that of the preview.
type company struct {
	n      int64
	people [benchPeople]store.AuditStream
	facts  [benchPeople]audit.SubjectFacts
	day    int64
	json   [benchPeople]string // of that day
}

var benchBegan = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

func newCompany(n int64) *company {
	c := &company{n: n, day: -1}
	oses := []string{"linux", "windows", "darwin"}
	for i := range c.people {
		sub := strconv.Itoa(1000 + i)
		c.people[i] = store.AuditStream{
			User: auth.NewUserID("https://idp.example", sub), Provider: "corp", Name: "Person " + sub, Email: "p" + sub + "@corp.example",
			Remote: fmt.Sprintf("192.0.2.%d:40000", i%250), Kind: "tcp",
		}
		c.facts[i] = audit.SubjectFacts{
			Issuer: "https://idp.example", Subject: sub, Login: auth.LoginBrowser, GroupsKnown: true, EmailTrusted: true,
			Groups:  []string{fmt.Sprintf("g%d", i%benchGroups), fmt.Sprintf("g%d", i/7%benchGroups), "staff"},
			Posture: map[string]string{"os": oses[i%3], "arch": "amd64", "client_version": "1.4.0"},
		}
		if i%4 == 0 {
			c.facts[i].Posture["disk_encrypted"] = "true"
		}
	}
	return c
}

// login makes everybody log in on a day.
func (c *company) login(day int64) {
	if day == c.day {
		return
	}
	c.day = day
	for i := range c.facts {
		c.facts[i].AuthTime = benchBegan.AddDate(0, 0, int(day))
		text, err := json.Marshal(c.facts[i])
		if err != nil {
			panic(err)
		}
		c.json[i] = string(text)
	}
}

// stream is the n-th, from 1.
func (c *company) stream(n int64) store.AuditStream {
	c.login((n - 1) * benchDays / c.n)
	x := uint64(n) * 0x9E3779B97F4A7C15 // a number that looks like chance
	who := x >> 33 % benchPeople
	s := c.people[who]
	s.ID, s.Event, s.Subject = n, "stream.open", strings.Clone(c.json[who])
	s.Time = benchBegan.Add(time.Duration(n) * (benchDays * 24 * time.Hour / time.Duration(c.n)))
	service := (int(who)%4 + 4*int(x>>20%25)) % benchServices
	if x>>45%50 == 0 {
		service = int(x >> 50 % benchServices)
		s.Event, s.Code, s.Condition = "stream.denied", "denied", "no_rule_allows"
	}
	s.Service = "s" + strconv.Itoa(service)
	s.Target = s.Service + ".corp.example:443"
	s.Address = "10.1.0.7:443"
	if x>>56%16 == 0 && s.Event == "stream.open" {
		s.Service, s.Address = "lab", "10.20.0."+strconv.Itoa(int(x>>40%200))+":22"
		s.Target = s.Address
	}
	return s
}

// StreamsSince implements Source.
func (c *company) StreamsSince(ctx context.Context, _ time.Time, after int64, limit int) ([]store.AuditStream, error) {
	list := make([]store.AuditStream, 0, limit)
	for n := after + 1; n <= c.n && len(list) < limit; n++ {
		list = append(list, c.stream(n))
	}
	return list, ctx.Err()
}

// CountStreams implements Source.
func (c *company) CountStreams(context.Context, time.Time) (int64, error) { return c.n, nil }

// measure previews a source and reports how fast it was and how much memory it took.
func measure(b *testing.B, source Source, n int64) {
	load := func(strict bool) *policy.Set {
		set, err := policy.Load("policy.yaml", []byte(benchPolicy(strict)), policy.Options{Providers: []string{"corp"}})
		if err != nil {
			b.Fatal(err)
		}
		return set
	}
	cfg := Config{Old: load(false), New: load(true), Source: source}
	for b.Loop() {
		var peak, before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		cfg.Progress = func(int64, int64) {
			var now runtime.MemStats
			if runtime.ReadMemStats(&now); now.HeapInuse > peak.HeapInuse {
				peak = now
			}
		}
		started, cpu := time.Now(), cpuTime(b)
		got, err := Run(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		if got.Streams != n || got.Changed == 0 || got.Undecidable != 0 {
			b.Fatalf("%d of %d streams, %d changed, %d undecidable", got.Streams, n, got.Changed, got.Undecidable)
		}
		b.ReportMetric(float64(n)/time.Since(started).Seconds(), "streams/s")
		b.ReportMetric((cpuTime(b) - cpu).Seconds(), "cpu-s")
		b.ReportMetric(float64(peak.HeapInuse)/(1<<20), "peak-heap-MiB")
		b.ReportMetric(float64(before.HeapInuse)/(1<<20), "heap-before-MiB")
		b.Logf("%d streams: %d unchanged, %d drifted, %d changed in %d lines, omitted %+v", got.Streams, got.Unchanged, got.Drifted, got.Changed, len(got.Changes), got.Omitted)
	}
}

// cpuTime is what this process has used so far, user and system; 0 where the system does not tell it in /proc.
func cpuTime(b *testing.B) time.Duration {
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0
	}
	// Behind the name, which may hold anything, the 12th and 13th fields are in hundredths of a second: proc(5).
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// howMany reads a number of streams from the environment.
func howMany(b *testing.B, name string, otherwise int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < benchDays {
		b.Fatalf("%s=%q is no number of streams", name, text)
	}
	return n
}

// BenchmarkTenMillion previews streams that are made up on the way: what deciding them costs.
func BenchmarkTenMillion(b *testing.B) {
	n := howMany(b, "CULVERT_PREVIEW_STREAMS", 10_000_000)
	measure(b, newCompany(n), n)
}

// BenchmarkStore previews streams that lie in a SQLite file: what a gateway does.
func BenchmarkStore(b *testing.B) {
	n := howMany(b, "CULVERT_PREVIEW_ROWS", 1_000_000)
	s := openStore(b, filepath.Join(b.TempDir(), "culvert.db"))
	c := newCompany(n)
	started := time.Now()
	var rows []store.AuditRow
	for i := int64(1); i <= n; i++ {
		rows = append(rows, rowOf(c.stream(i), uint64(i)))
		if len(rows) == 2_000 || i == n {
			if err := s.IndexBatch(b.Context(), "gw", strconv.FormatInt(i, 10), rows); err != nil {
				b.Fatal(err)
			}
			rows = rows[:0]
		}
	}
	b.Logf("%d rows indexed in %.0f s", n, time.Since(started).Seconds())
	measure(b, s, n)
}
