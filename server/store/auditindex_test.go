package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/google/go-cmp/cmp"
)

// auditRow is the n-th record of a log, of one of a few users.
func auditRow(n int, at time.Time) AuditRow {
	user := fmt.Sprint("u", n%5)
	return AuditRow{
		Gateway: "a", Log: "log1", Seq: uint64(n + 1), Time: at.Add(time.Duration(n) * time.Second).UTC(), Event: "stream.open",
		User: auth.UserID(user), Provider: "corp", Name: "Ada", Email: user + "@corp.example", Session: auth.SessionID("s" + user),
		Device: "laptop", Serial: "00", Remote: "192.0.2.1:4711", Service: "db", Kind: "tcp", Target: "db", Address: "10.0.0.1:5432",
		Rule: "engineers", Policy: "p1", Stream: fmt.Sprint("stream", n), Link: "link" + user,
	}
}

func mustIndex(t testing.TB, s *Store, gateway auth.GatewayID, position string, rows ...AuditRow) {
	t.Helper()
	if err := s.IndexBatch(context.Background(), gateway, position, rows); err != nil {
		t.Fatal(err)
	}
}

func TestAuditIndex(t *testing.T) { eachDatabase(t, testAuditIndex) }

func testAuditIndex(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	var rows []AuditRow
	for i := range 1000 {
		rows = append(rows, auditRow(i, clock.now()))
	}
	special := &rows[500]
	special.Event, special.Code, special.Condition, special.Reason, special.Detail = "stream.denied", "denied", "c", "because", "d"
	special.Reference, special.Sent, special.Received, special.DurationMS, special.Repeated = "k7qw-3m9p", 1, 1<<40, 3, 4
	for range 2 { // the second time changes nothing
		mustIndex(t, s, "a", "position 1", rows...)
	}
	if position, err := s.IndexPosition(t.Context(), "a"); err != nil || position != "position 1" {
		t.Errorf("%q, %v", position, err)
	}
	if position, err := s.IndexPosition(t.Context(), "b"); err != nil || position != "" {
		t.Errorf("%q, %v", position, err)
	}
	other := auditRow(2000, clock.now())
	mustIndex(t, s, "b", "p", other) // the same log's name at another gateway

	list := func(f AuditFilter) []AuditRow {
		t.Helper()
		list, err := s.AuditRows(t.Context(), f, 2000)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	all := list(AuditFilter{})
	if len(all) != 1001 || !slices.IsSortedFunc(all, func(a, b AuditRow) int { return b.Time.Compare(a.Time) }) {
		t.Errorf("%d rows, or not the newest first", len(all))
	}
	at := clock.now()
	for _, c := range []struct {
		f    AuditFilter
		want int
	}{
		{AuditFilter{User: "u3"}, 200},
		{AuditFilter{User: "nobody"}, 0},
		{AuditFilter{Session: "su0", Gateway: "a"}, 200},
		{AuditFilter{Gateway: "b"}, 1},
		{AuditFilter{Device: "laptop", Service: "db"}, 1001},
		{AuditFilter{Service: "wiki"}, 0},
		{AuditFilter{Event: "stream.denied"}, 1},
		{AuditFilter{Since: at.Add(10 * time.Second), Until: at.Add(20 * time.Second)}, 10},
		{AuditFilter{Since: at.Add(10 * time.Second), Until: at.Add(20 * time.Second), User: "u1"}, 2},
	} {
		if got := list(c.f); len(got) != c.want {
			t.Errorf("%+v: %d rows, want %d", c.f, len(got), c.want)
		}
	}
	got := list(AuditFilter{Reference: "k7qw-3m9p"})
	if len(got) != 1 {
		t.Fatalf("%d rows of the reference", len(got))
	}
	want := *special
	want.ID = got[0].ID
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	wantPages(t, s, all)
}

// wantPages reads everything again in pages, with cursors as text.
func wantPages(t *testing.T, s *Store, want []AuditRow) {
	t.Helper()
	var got []AuditRow
	for f := (AuditFilter{}); ; {
		page, err := s.AuditRows(t.Context(), f, 37)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		if f.Before, err = ParseAuditCursor(page[len(page)-1].Cursor().String()); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(want, got) {
		t.Errorf("pages: %d rows, want %d", len(got), len(want))
	}
}

func TestAuditCursors(t *testing.T) {
	for _, text := range []string{"x", "1", "1-", "-1-2", "1-2-3", "1-2 ", "01-2", "0-1", "1-0"} {
		if c, err := ParseAuditCursor(text); err == nil {
			t.Errorf("%q is %+v", text, c)
		}
	}
	if c, err := ParseAuditCursor(""); err != nil || c != (AuditCursor{}) || c.String() != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Streams are given the facts that their connection told last, whichever batch it
// was in.
func TestStreamsKnowTheirSubject(t *testing.T) { eachDatabase(t, testStreamSubjects) }

func testStreamSubjects(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	n := 0
	row := func(event, link, stream, subject string) AuditRow {
		n++
		r := auditRow(n, clock.now())
		r.Event, r.Link, r.Stream, r.Subject = event, link, stream, subject
		return r
	}
	mustIndex(t, s, "a", "1",
		row("session.open", "", "link1", `{"groups":["it"]}`), // its own Stream is what the others link to
		row("stream.open", "link1", "s1", ""),
		row("session.renewed", "link1", "", `{"groups":["ops"]}`),
		row("stream.denied", "link1", "s2", ""))
	mustIndex(t, s, "a", "2",
		row("stream.failed", "link1", "s3", ""),
		row("stream.open", "unknown", "s4", ""),
		row("stream.close", "link1", "s1", ""),
		row("session.open", "", "link2", `{"groups":["it"]}`),
		row("stream.open", "link2", "s5", ""))
	if n, err := s.CountStreams(t.Context(), time.Time{}); err != nil || n != 5 {
		t.Errorf("%d streams, %v", n, err)
	}
	var got []string
	var after int64
	for {
		page, err := s.StreamsSince(t.Context(), clock.now(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			after = r.ID
			got = append(got, r.Event+" "+r.Subject)
		}
	}
	want := []string{
		`stream.open {"groups":["it"]}`, `stream.denied {"groups":["ops"]}`, `stream.failed {"groups":["ops"]}`, `stream.open `,
		`stream.open {"groups":["it"]}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if late, err := s.StreamsSince(t.Context(), clock.now().Add(4*time.Second), 0, 10); err != nil || len(late) != 4 {
		t.Errorf("%d later streams, %v", len(late), err)
	}
	if facts := mustRead(t, s, "SELECT facts FROM audit_subjects"); len(facts) != 2 {
		t.Errorf("subjects: %q", facts)
	}
}

// Two gateways that index at once, with the same people in their records.
func TestGatewaysIndexAtOnce(t *testing.T) { eachDatabase(t, testIndexAtOnce) }

func testIndexAtOnce(t *testing.T, db database) {
	gateways := two(t, db)
	var wg sync.WaitGroup
	for g, s := range gateways {
		wg.Go(func() {
			for batch := range 10 {
				var rows []AuditRow
				for i := range 50 {
					r := auditRow(batch*50+i, time.Now())
					r.Remote, r.Subject = fmt.Sprint("192.0.2.1:", rand.IntN(20)), fmt.Sprint(rand.IntN(20))
					rows = append(rows, r)
				}
				if err := s.IndexBatch(context.Background(), auth.GatewayID(fmt.Sprint("g", g)), fmt.Sprint(batch), rows); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, err := gateways[0].CountStreams(t.Context(), time.Time{}); err != nil || n != 1000 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestIndexRetentionAndDrop(t *testing.T) { eachDatabase(t, testIndexRetention) }

func testIndexRetention(t *testing.T, db database) {
	clock := newClock()
	s := db.open(t, clock)
	s.auditRetention = 24 * time.Hour
	index := func(gateway auth.GatewayID, from int) {
		var rows []AuditRow
		for i := range bite + 100 {
			r := auditRow(from+i, clock.now())
			r.Time, r.Remote, r.Subject = clock.now(), fmt.Sprint(from), fmt.Sprint(from)
			rows = append(rows, r)
		}
		mustIndex(t, s, gateway, "p", rows...)
	}
	index("a", 0)
	clock.advance(23 * time.Hour)
	index("a", 100_000)
	index("b", 100_000)
	clock.advance(time.Hour)
	if done, err := s.Cleanup(t.Context()); err != nil || done.AuditRows != bite+100 {
		t.Errorf("%+v, %v", done, err)
	}
	if facts := mustRead(t, s, "SELECT facts FROM audit_subjects"); !slices.Equal(facts, []string{"100000"}) {
		t.Errorf("subjects: %q", facts)
	}
	if err := s.DropIndex(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.CountStreams(t.Context(), time.Time{}); err != nil || n != bite+100 {
		t.Errorf("%d rows are left, %v", n, err)
	}
	if position, err := s.IndexPosition(t.Context(), "a"); err != nil || position != "" {
		t.Errorf("%q, %v", position, err)
	}
	clock.advance(48 * time.Hour)
	if _, err := s.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"audit_rows", "audit_actors", "audit_subjects", "audit_links"} {
		if left := mustRead(t, s, "SELECT 'x' FROM "+table); len(left) != 0 {
			t.Errorf("%s has %d rows left", table, len(left))
		}
	}
}

// The queries of the index use its indices.
func TestAuditQueriesAreIndexed(t *testing.T) {
	s := open(t, newPath(t), nil)
	for _, c := range []struct {
		f    AuditFilter
		want string
	}{
		{AuditFilter{}, "audit_rows_at"},
		{AuditFilter{Reference: "r"}, "audit_rows_reference"},
		{AuditFilter{User: "u"}, "audit_rows_actor"},
		{AuditFilter{Service: "s"}, "audit_rows_service"},
		{AuditFilter{Event: "e"}, "audit_rows_event"},
	} {
		query, args := c.f.query(10)
		rows, err := s.read.Query("EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatal(err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, c.want) {
			t.Errorf("%+v does not use %s:\n%s", c.f, c.want, text)
		}
	}
}

var indexRows = flag.Int("index-rows", 100_000, "how many audit rows the benchmark of the index writes")

// BenchmarkAuditIndex prints how fast rows are indexed, and how fast a preview and
// a page read them.
func BenchmarkAuditIndex(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			for range b.N {
				benchmarkIndex(b, kind)
			}
		})
	}
}

func benchmarkIndex(b *testing.B, kind string) {
	location := "sqlite:" + b.TempDir() + "/state/gateway.db"
	if kind == "postgres" {
		location = postgres.Database(b)
	}
	s, err := Open(b.Context(), location, benchmarkOptions())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	began := time.Now()
	const batch = 1000
	for n := 0; n < *indexRows; n += batch {
		rows := make([]AuditRow, batch)
		for i := range rows {
			rows[i] = realisticRow(n + i)
		}
		mustIndex(b, s, "gateway-1", fmt.Sprint(n), rows...)
	}
	b.ReportMetric(float64(*indexRows)/time.Since(began).Seconds(), "rows-indexed/s")
	began = time.Now()
	var after int64
	for {
		page, err := s.StreamsSince(b.Context(), time.Time{}, after, 5000)
		if err != nil {
			b.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].ID
	}
	b.ReportMetric(float64(*indexRows)/time.Since(began).Seconds(), "rows-scanned/s")
	for name, f := range map[string]AuditFilter{"page": {}, "user-page": {User: realisticRow(7).User}, "event-page": {Event: "stream.denied"}} {
		began = time.Now()
		if _, err := s.AuditRows(b.Context(), f, 100); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, name+"-ms")
	}
	size := "SELECT CAST(page_count * page_size AS TEXT) FROM pragma_page_count(), pragma_page_size()"
	if kind == "postgres" {
		size = "SELECT CAST(pg_database_size(current_database()) AS TEXT)"
	}
	text, err := one(b.Context(), s.read, readText, size)
	if err != nil {
		b.Fatal(err)
	}
	var bytes float64
	fmt.Sscan(text, &bytes)
	b.ReportMetric(bytes/float64(*indexRows), "B/row")
}

// realisticRow has fields as long as real ones: 500 users, each with a connection
// that changes every few hundred streams; half of the records close a stream.
func realisticRow(n int) AuditRow {
	user := n % 500
	name := auth.NewUserID("https://idp.corp.example", fmt.Sprint(user))
	link := fmt.Sprintf("%s-%08d", name[:12], n/200_000)
	r := AuditRow{
		Log: "20261123T120000Z-4711", Seq: uint64(n + 1), Time: time.UnixMilli(1_795_000_000_000 + int64(n)*50), Event: "stream.open",
		User: name, Provider: "corp", Name: fmt.Sprint("Person Number ", user), Email: fmt.Sprint("person", user, "@corp.example"),
		Session: auth.SessionID(name[:26]), Device: auth.DeviceID(name), Serial: auth.Serial(fmt.Sprintf("%032x", n/200_000)),
		Remote: fmt.Sprint("192.0.2.", user%250, ":", 40000+n/200_000), Service: fmt.Sprint("service-", n%40), Kind: "tcp",
		Target: fmt.Sprint("service-", n%40), Address: "10.20.30.40:5432", Rule: "engineers reach it", Policy: string(name) + "abcdefghijkl",
		Stream: fmt.Sprintf("%020d", n), Link: link,
	}
	switch {
	case n%200_000 < 500:
		r.Event, r.Stream, r.Link, r.Service = "session.open", link, "", ""
		r.Subject = fmt.Sprintf(`{"groups":["engineering","team-%d"],"groups_known":true,"posture":{"os":"linux"}}`, user%20)
	case n%100 == 99:
		r.Event, r.Reference, r.Code = "stream.denied", fmt.Sprintf("%08d", n), "denied"
	}
	return r
}
