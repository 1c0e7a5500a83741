package preview

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// record is a Source in memory.
type record struct {
	streams []store.AuditStream
	fail    func(after int64) error
}

func (r *record) StreamsSince(ctx context.Context, since time.Time, after int64, limit int) ([]store.AuditStream, error) {
	if r.fail != nil {
		if err := r.fail(after); err != nil {
			return nil, err
		}
	}
	var list []store.AuditStream
	for _, s := range r.streams {
		if s.ID > after && !s.Time.Before(since) && len(list) < limit {
			list = append(list, s)
		}
	}
	return list, ctx.Err()
}

func (r *record) CountStreams(context.Context, time.Time) (int64, error) {
	return int64(len(r.streams)), nil
}

var began = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)

// add appends a stream an hour after the one before.
func (r *record) add(s store.AuditStream) {
	s.ID = int64(len(r.streams) + 1)
	s.Time = began.Add(time.Duration(len(r.streams)) * time.Hour)
	r.streams = append(r.streams, s)
}

// opened is a stream that was allowed, of somebody in groups.
func opened(who, target string, groups ...string) store.AuditStream {
	facts, err := json.Marshal(audit.SubjectFacts{Issuer: "https://idp.example", Subject: who, Groups: groups, GroupsKnown: true, EmailTrusted: true, AuthTime: began})
	if err != nil {
		panic(err)
	}
	service, _, _ := strings.Cut(target, ":")
	return store.AuditStream{
		Event: "stream.open", User: auth.NewUserID("https://idp.example", who), Provider: "corp",
		Email: who + "@corp.example", Kind: "tcp", Target: target, Service: service, Subject: string(facts),
	}
}

// refused is the same, denied.
func refused(who, target string, groups ...string) store.AuditStream {
	s := opened(who, target, groups...)
	s.Event, s.Code, s.Condition = "stream.denied", string(wire.CodeDenied), string(policy.ConditionNoAllow)
	return s
}

func load(t testing.TB, text string) *policy.Set {
	t.Helper()
	s, err := policy.Load("policy.yaml", []byte(text), policy.Options{Providers: []string{"corp"}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const services = `version: 1
services:
  wiki: {address: "wiki.internal:80"}
  db: {address: "10.1.0.5:5432"}
  lab: {network: 10.20.0.0/16, ports: [22]}
rules:
`

const (
	oldRules = services + `
  - {name: staff, subjects: {users: ["*"]}, allow: [wiki]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [db, lab]}
`
	newRules = services + `
  - {name: staff, subjects: {groups: [staff]}, allow: [wiki]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab, wiki]}
  - {name: no interns, subjects: {groups: [interns]}, deny: [lab], reason: Not yet.}
`
)

func hour(n int) time.Time { return began.Add(time.Duration(n) * time.Hour) }

func TestPreview(t *testing.T) {
	var r record
	r.add(opened("ada", "wiki", "engineering"))                    // 0 stays
	r.add(opened("ada", "db", "engineering"))                      // 1 lost
	r.add(opened("bob", "wiki", "sales"))                          // 2 lost
	r.add(opened("ada", "db", "engineering"))                      // 3 lost
	r.add(opened("eve", "10.20.0.1:22", "engineering"))            // 4 stays
	r.add(opened("eve", "10.20.0.1:22", "engineering", "interns")) // 5 lost
	r.add(refused("joe", "lab", "sales"))                          // 6 stays: a network by name
	r.add(refused("joe", "wiki", "staff"))                         // 7 gained; Old says it was allowed
	many := refused("joe", "wiki", "staff")
	many.Repeated = 41
	r.add(many) // 8
	failed := opened("bob", "wiki", "sales")
	failed.Event = "stream.failed"
	r.add(failed) // 9 lost
	bare := opened("ada", "wiki")
	bare.Subject = ""
	r.add(bare) // 10 undecidable
	limit := refused("ada", "wiki", "staff")
	limit.Condition, limit.Code = "", string(wire.CodeLimit)
	r.add(limit) // 11 not by policy
	admin := opened("ada", "culvert-admin")
	admin.Rule = "built-in"
	r.add(admin) // 12 not by policy

	change := func(who, service string, was, becomes Outcome, rule, reason string, n int64, first, last int) Change {
		return Change{User: auth.NewUserID("https://idp.example", who), Email: who + "@corp.example", Service: service, Was: was, Becomes: becomes, Rule: rule, Reason: reason, Count: n, First: hour(first), Last: hour(last)}
	}
	noDB, noWiki := "no rule allows db to you", "no rule allows wiki to you; it is open to the groups staff, engineering"
	lost := []Change{
		change("ada", "db", Allowed, Denied, "", noDB, 2, 1, 3),
		change("bob", "wiki", Allowed, Denied, "", noWiki, 1, 2, 2),
		change("bob", "wiki", Failed, Denied, "", noWiki, 1, 9, 9),
		change("eve", "10.20.0.1", Allowed, Denied, "no interns", "Not yet.", 1, 5, 5),
	}
	without := Result{
		Streams: 53, Unchanged: 3, Undecidable: 1, NotByPolicy: 2, Changed: 47,
		Transitions: []Transition{{Denied, Allowed, 42}, {Allowed, Denied, 4}, {Failed, Denied, 1}},
		Changes:     append([]Change{change("joe", "wiki", Denied, Allowed, "staff", "", 42, 7, 8)}, lost...),
	}
	with := Result{
		Streams: 53, Unchanged: 3, Drifted: 42, Undecidable: 1, NotByPolicy: 2, Changed: 5,
		Transitions: []Transition{{Allowed, Denied, 4}, {Failed, Denied, 1}}, Changes: lost,
	}
	old, new := load(t, oldRules), load(t, newRules)
	without.New, with.New, with.Old = new.Version(), new.Version(), old.Version()
	for name, tt := range map[string]struct {
		old  *policy.Set
		want Result
	}{"against the record": {nil, without}, "against the policy in force": {old, with}} {
		got, err := Run(t.Context(), Config{New: new, Old: tt.old, Source: &r})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func TestSince(t *testing.T) {
	var r record
	for range 5 {
		r.add(opened("ada", "db", "engineering"))
	}
	got, err := Run(t.Context(), Config{New: load(t, newRules), Source: &r, Since: hour(3)})
	if err != nil || got.Streams != 2 || !got.Since.Equal(hour(3)) || len(got.Changes) != 1 || !got.Changes[0].First.Equal(hour(3)) {
		t.Errorf("%v %+v", err, got)
	}
}

// Beyond the bound, counts stay right and details are left out.
func TestManyChanges(t *testing.T) {
	var r record
	for i := range 3 * 50 {
		r.add(opened(fmt.Sprintf("p%02d", i%50), "db", "engineering"))
	}
	got, err := Run(t.Context(), Config{New: load(t, newRules), Source: &r, MaxChanges: 10})
	if err != nil {
		t.Fatal(err)
	}
	if got.Changed != 150 || len(got.Changes) != 10 || got.Omitted == nil || got.Omitted.Streams != 120 ||
		got.Omitted.First != hour(10) || got.Omitted.Last != hour(149) || got.Transitions[0].Count != 150 {
		t.Errorf("%+v, omitted %+v", got, got.Omitted)
	}
	for _, c := range got.Changes {
		if c.Count != 3 {
			t.Errorf("%+v", c)
		}
	}
}

// What is remembered of people is dropped in time, and comes again.
func TestManyPeople(t *testing.T) {
	var r record
	for i := range 3 * maxPeople {
		r.add(opened(fmt.Sprintf("p%d", i%(2*maxPeople+1)), "db", "engineering"))
	}
	got, err := Run(t.Context(), Config{New: load(t, oldRules), Source: &r})
	if err != nil || got.Unchanged != 3*maxPeople {
		t.Errorf("%v %+v", err, got)
	}
	p := newPeople()
	for i := range r.streams {
		p.of(&r.streams[i])
		if len(p.young) > maxPeople || len(p.old) > maxPeople {
			t.Fatalf("%d and %d people are remembered", len(p.young), len(p.old))
		}
	}
}

// Progress is told at the beginning, now and then, and at the end.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40*PageSize + 10
		r := slowRecord{n: n, pause: 30 * time.Millisecond}
		var got []string
		_, err := Run(t.Context(), Config{New: load(t, oldRules), Source: &r, Progress: func(done, total int64) {
			got = append(got, fmt.Sprintf("%d/%d", done, total))
		}})
		if err != nil || len(got) < 8 || len(got) > 15 || got[0] != fmt.Sprintf("%d/%d", PageSize, n) || got[len(got)-1] != fmt.Sprintf("%d/%d", n, n) {
			t.Errorf("%v %q", err, got)
		}
	})
}

// A slowRecord takes its time for each page.
type slowRecord struct {
	n     int64
	pause time.Duration
}

func (r *slowRecord) StreamsSince(_ context.Context, _ time.Time, after int64, limit int) ([]store.AuditStream, error) {
	time.Sleep(r.pause)
	list := make([]store.AuditStream, min(int64(limit), r.n-after))
	for i := range list {
		list[i].ID = after + int64(i) + 1
	}
	return list, nil
}

func (r *slowRecord) CountStreams(context.Context, time.Time) (int64, error) { return r.n, nil }

func TestCancelled(t *testing.T) {
	var r record
	for range 3 * PageSize {
		r.add(opened("ada", "db", "engineering"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, err := Run(ctx, Config{New: load(t, newRules), Source: &r, Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) || got.Changed < PageSize || got.Changed >= 3*PageSize {
		t.Errorf("%v, %d changed", err, got.Changed)
	}
}

func TestSourceFails(t *testing.T) {
	var r record
	for range 2 * PageSize {
		r.add(opened("ada", "db", "engineering"))
	}
	down := errors.New("the database does not answer")
	r.fail = func(after int64) error {
		if after > 0 {
			return down
		}
		return nil
	}
	got, err := Run(t.Context(), Config{New: load(t, newRules), Source: &r})
	if !errors.Is(err, down) || got.Changed != PageSize {
		t.Errorf("%v, %d changed", err, got.Changed)
	}
	if _, err := Run(t.Context(), Config{New: load(t, newRules)}); err == nil {
		t.Error("no source: no error")
	}
}

func TestTargetOf(t *testing.T) {
	for _, target := range []wire.Target{
		wire.ServiceTarget(wire.KindTCP, "wiki"), wire.ServiceTarget(wire.KindUDP, "dns"), wire.HostTarget(wire.KindTCP, "10.0.0.1", 22),
		wire.HostTarget(wire.KindUDP, "2001:db8::1", 53), wire.HostTarget(wire.KindTCP, "wiki.corp.example", 80),
	} {
		got, ok := targetOf(&store.AuditStream{Kind: string(target.Kind), Target: target.String()})
		if !ok || got != target {
			t.Errorf("%s: %+v, %v", target, got, ok)
		}
	}
	for _, s := range []store.AuditStream{{}, {Kind: "tcp"}, {Kind: "icmp", Target: "wiki"}, {Kind: "tcp", Target: "wiki:http"}, {Kind: "tcp", Target: "wiki:0"}, {Kind: "tcp", Target: "wiki:65536"}} {
		if got, ok := targetOf(&s); ok {
			t.Errorf("%+v: %+v", s, got)
		}
	}
}

// What an approved request had opened goes on while the service can be requested and nothing denies it. Requests that are
// approved today say nothing of the past.
func TestApprovedRequests(t *testing.T) {
	const head = "version: 1\nservices:\n  db: {address: 'db.internal:5432', requestable: {max: 4h, approvers: {groups: [it]}}}\nrules:\n"
	var r record
	granted := opened("ada", "db")
	granted.Rule = "request k7qw-3m9p"
	r.add(granted)
	r.add(refused("ada", "db"))
	id := auth.NewUserID("https://idp.example", "ada")
	grants := policy.NewGrants()
	grants.Replace([]policy.Grant{{ID: "now", User: id, Service: "db", Until: hour(1000)}})
	for name, tt := range map[string]struct {
		text string
		lost bool
	}{
		"still requestable":            {head + "  - {name: it, subjects: {groups: [it]}, allow: [db]}\n", false},
		"denied":                       {head + "  - {name: out, subjects: {users: ['*']}, deny: [db]}\n", true},
		"a fresh login is no obstacle": {head + "  - {name: all, subjects: {users: ['*']}, allow: [db], when: device.firewall, reauth_within: 1m}\n", false},
		"no more requestable":          {"version: 1\nservices:\n  db: {address: 'db.internal:5432'}\nrules:\n  - {name: it, subjects: {groups: [it]}, allow: [db]}\n", true},
	} {
		set, err := policy.Load("p.yaml", []byte(tt.text), policy.Options{Providers: []string{"corp"}, Grants: grants})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Run(t.Context(), Config{New: set, Source: &r})
		if err != nil || got.Streams != 2 || (got.Changed == 1) != tt.lost || got.Changed > 1 {
			t.Errorf("%s: %v %+v", name, err, got)
		}
	}
}

// A stream is decided at its own time, with the login and the device of then.
func TestThenAndNotNow(t *testing.T) {
	var r record
	for range 30 {
		s := opened("ada", "wiki", "staff")
		facts := audit.SubjectFacts{GroupsKnown: true, AuthTime: began, Posture: map[string]string{"os": "linux"}}
		if len(r.streams) >= 20 {
			facts.Posture["os"] = "windows"
		}
		text, err := json.Marshal(facts)
		if err != nil {
			t.Fatal(err)
		}
		s.Subject, s.Remote = string(text), "192.0.2.7:4711"
		r.add(s)
	}
	rules := func(rule string) *policy.Set {
		return load(t, services+"  - {name: r, subjects: {users: ['*']}, allow: [wiki], "+rule+"}\n")
	}
	for name, tt := range map[string]struct {
		set  *policy.Set
		want []Transition
	}{
		"a condition on the login": {rules(`when: 'auth.age <= duration("9h")'`), []Transition{{Allowed, Denied, 20}}},
		"a fresh login":            {rules(`reauth_within: 4h`), []Transition{{Allowed, StepUp, 25}}},
		"the device":               {rules(`when: 'device.os == "linux" && request.client == "192.0.2.7"'`), []Transition{{Allowed, Denied, 10}}},
		"a rule that began":        {rules(`not_before: ` + hour(12).Format(time.RFC3339)), []Transition{{Allowed, Denied, 12}}},
		"a rule that ended":        {rules(`expires: ` + hour(25).Format(time.RFC3339)), []Transition{{Allowed, Denied, 5}}},
	} {
		got, err := Run(t.Context(), Config{New: tt.set, Source: &r})
		if err != nil || !slices.Equal(got.Transitions, tt.want) {
			t.Errorf("%s: %v %+v", name, err, got.Transitions)
		}
		if got, err = Run(t.Context(), Config{New: tt.set, Old: tt.set, Source: &r}); err != nil || got.Changed != 0 || got.Drifted != tt.want[0].Count {
			t.Errorf("%s: what only time changes is taken for the policy's doing: %+v", name, got)
		}
	}
}

func FuzzTargetOf(f *testing.F) {
	for _, seed := range []string{"wiki", "10.0.0.1:22", "[2001:db8::1]:53/udp", "a:b:c", "x:80/udp", ":80", "[::1%eth0]:1"} {
		f.Add("tcp", seed)
		f.Add("udp", seed)
	}
	f.Fuzz(func(t *testing.T, kind, text string) {
		target, ok := targetOf(&store.AuditStream{Kind: kind, Target: text})
		if !ok {
			return
		}
		again, ok := targetOf(&store.AuditStream{Kind: kind, Target: target.String()})
		if !ok || again != target {
			t.Errorf("%q is %+v, and then %+v, %v", text, target, again, ok)
		}
	})
}
