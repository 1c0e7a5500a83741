package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const tracePolicy = `version: 1
services:
  wiki: {address: "wiki.internal:8080", hostnames: [wiki.corp.example], port: 80}
  vault: {address: "10.20.1.1:443", hidden: true}
  lab: {network: 10.20.0.0/16, ports: [22, 443]}
rules:
  - name: engineers
    subjects: {groups: [engineering], users: [ada@corp.example]}
    allow: [wiki, lab]
    when: device.os == "linux" && device.disk_encrypted && auth.age < duration("12h")
    reauth_within: 15m
  - {name: later, subjects: {users: ["*"]}, allow: [wiki], not_before: 2026-12-01T00:00:00Z}
  - {name: over, subjects: {groups: [sales]}, allow: [wiki], expires: 2026-11-01T00:00:00Z, strict: true}
  - {name: vaulters, subjects: {groups: [security]}, allow: [vault], strict: true}
  - {name: contractors stay out, subjects: {groups: [contractors]}, deny: [lab], when: 'request.port == 22'}
  - {name: no windows, subjects: {users: ["*"]}, deny: [wiki], when: 'device.os == "windows"'}
`

var traceNow = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// describe writes traces as a person would read them.
func describe(rules []RuleTrace) string {
	var b strings.Builder
	for _, r := range rules {
		fmt.Fprintf(&b, "%s: %s %s for %s\n", r.Outcome, r.Name, r.Effect, r.Service)
		for _, c := range r.Failed {
			fmt.Fprintf(&b, "    %s\n", c.Detail)
		}
		for _, c := range r.Doubts {
			fmt.Fprintf(&b, "  ? %s\n", c.Detail)
		}
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	set := mustLoad(t, tracePolicy, "corp")
	as := func(dev Device, age time.Duration, email string, groups ...string) *Subject {
		id := person(email, groups...)
		id.AuthTime = traceNow.Add(-age)
		return NewSubject(id, dev)
	}
	nothing := person("")
	nothing.EmailTrusted, nothing.GroupsKnown = false, false
	linux := Device{OS: "linux", DiskEncrypted: Yes}
	tests := []struct {
		name   string
		sub    *Subject
		target wire.Target
		stale  bool
		want   string
	}{
		{"somebody else", as(linux, 40*time.Minute, "eve@corp.example", "sales", "it"), service("wiki"), true, `no: engineers allow for wiki
    group engineering or user ada@corp.example: you are in sales, it, you are corp:eve@corp.example
    reauth_within 15m: last login 40m ago
nearly: later allow for wiki
    not before 2026-12-01 (in 7 days)
no: over allow for wiki
    expired 2026-11-01 (23 days ago)
    strict: the gateway cannot ask its database at the moment
nearly: no windows deny for wiki
    when: device.os == "windows" is false (device.os is "linux")
`},
		{"allowed", as(linux, 0, "eve@corp.example", "engineering"), host("WIKI.corp.example.", 80), false, `decides: engineers allow for wiki
nearly: later allow for wiki
    not before 2026-12-01 (in 7 days)
no: over allow for wiki
    group sales: you are in engineering
    expired 2026-11-01 (23 days ago)
nearly: no windows deny for wiki
    when: device.os == "windows" is false (device.os is "linux")
`},
		{"step up", as(linux, 40*time.Minute, "ada@corp.example"), service("wiki"), false, `decides: engineers allow for wiki
    reauth_within 15m: last login 40m ago
nearly: later allow for wiki
    not before 2026-12-01 (in 7 days)
no: over allow for wiki
    group sales: you are in no group
    expired 2026-11-01 (23 days ago)
nearly: no windows deny for wiki
    when: device.os == "windows" is false (device.os is "linux")
`},
		{"unknown device", as(Device{}, 13*time.Hour, "ada@corp.example"), service("wiki"), false, `no: engineers allow for wiki
    when: auth.age < duration("12h") is false (auth.age is 13h)
    when: device.os is unknown
    when: device.disk_encrypted is unknown
    reauth_within 15m: last login 13h ago
nearly: later allow for wiki
    not before 2026-12-01 (in 7 days)
no: over allow for wiki
    group sales: you are in no group
    expired 2026-11-01 (23 days ago)
decides: no windows deny for wiki
  ? when: device.os is unknown
`},
		{"an address, nothing known of the person", NewSubject(nothing, linux), host("10.20.1.1", 443), false, `no: engineers allow for lab
    group engineering or user ada@corp.example: your provider did not say which groups you are in, your provider did not say your e-mail address
    when: auth.age is unknown
    reauth_within 15m: nobody knows when you logged in
nearly: vaulters allow for vault
    group security: your provider did not say which groups you are in
nearly: contractors stay out deny for lab
    when: request.port == 22 is false (request.port is 443)
`},
		{"an address, denied in doubt", NewSubject(nothing, linux), host("10.20.1.2", 22), false, `no: engineers allow for lab
    group engineering or user ada@corp.example: your provider did not say which groups you are in, your provider did not say your e-mail address
    when: auth.age is unknown
    reauth_within 15m: nobody knows when you logged in
decides: contractors stay out deny for lab
  ? group contractors: your provider did not say which groups you are in
`},
		{"hidden", as(linux, 0, "eve@corp.example", "security"), service("vault"), true, `nearly: vaulters allow for vault
    strict: the gateway cannot ask its database at the moment
`},
		{"nobody", nil, service("wiki"), false, `nearly: engineers allow for wiki
    group engineering or user ada@corp.example: nobody is logged in
no: later allow for wiki
    user *: nobody is logged in
    not before 2026-12-01 (in 7 days)
no: over allow for wiki
    group sales: nobody is logged in
    expired 2026-11-01 (23 days ago)
nearly: no windows deny for wiki
    user *: nobody is logged in
`},
		{"nothing there", as(linux, 0, ""), service("wikki"), false, ""},
		{"not a name", as(linux, 0, ""), host("0x7f.1", 80), false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Target: tt.target, Now: traceNow, Opening: true, Stale: tt.stale}
			e := set.Explain(tt.sub, r)
			if got := describe(e.Rules); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			checkExplanation(t, set, e, set.Decide(tt.sub, r))
		})
	}
	if e := (*Set)(nil).Explain(nil, Request{}); e.Decision.Allowed || e.Rules != nil {
		t.Errorf("no policy: %+v", e)
	}
}

// fataler is what a test and a property have in common.
type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

// checkExplanation holds an explanation against the decision.
func checkExplanation(t fataler, set *Set, e Explanation, d Decision) {
	t.Helper()
	if !reflect.DeepEqual(e.Decision, d) {
		t.Fatalf("explained %+v\ndecided %+v", e.Decision, d)
	}
	d = d.truth() // who may not know of a service is told something else
	deciding := 0
	for _, r := range e.Rules {
		if r.Outcome == OutcomeDecides {
			deciding++
			mended := d.StepUp != nil && len(r.Failed) == 1 && r.Failed[0].What == criterionReauth
			if r.Name != d.Rule || len(r.Failed) > 0 && !mended {
				t.Fatalf("%s decides, and the decision is by %q: %+v", r.Name, d.Rule, r)
			}
			if denied := !d.Allowed && d.StepUp == nil; denied != (r.Effect == EffectDeny) {
				t.Fatalf("%s decides by its %s: %+v", r.Name, r.Effect, d)
			}
		}
		matches := len(r.Failed) == 0
		if r.Effect == EffectDeny && matches && (d.Allowed || d.StepUp != nil) {
			t.Fatalf("%s denies, and yet: %+v", r.Name, d)
		}
		if r.Effect == EffectAllow && matches && d.Condition == ConditionNoAllow {
			t.Fatalf("%s allows, and yet: %+v", r.Name, d)
		}
		for _, c := range slices.Concat(r.Failed, r.Doubts) {
			if c.What == "" || c.Detail == "" || strings.ContainsFunc(c.Detail, unprintable) {
				t.Fatalf("criterion %+q", c)
			}
		}
	}
	if byRule := d.Rule != "" && d.Grant == ""; byRule != (deciding == 1) {
		t.Fatalf("%d rules decide, and the decision is by %q", deciding, d.Rule)
	}
}

// A service whose address a network denies is allowed by its name, and refused when it is dialed: the explanation says so.
func TestExplainFollowsToTheAddress(t *testing.T) {
	set := mustLoad(t, `version: 1
services:
  wiki: {address: "wiki.internal:22"}
  literal: {address: "10.20.1.1:22"}
  lab: {network: 10.20.0.0/16, ports: [22]}
rules:
  - {name: staff, subjects: {users: ["*"]}, allow: [wiki, literal]}
  - {name: contractors, subjects: {groups: [contractors]}, deny: [lab]}
`, "corp")
	set.Learn("wiki.internal", []netip.Addr{netip.MustParseAddr("10.20.3.3"), netip.MustParseAddr("10.30.3.3")})
	for name, at := range map[string]string{"wiki": "10.20.3.3:22", "literal": "10.20.1.1:22"} {
		e := set.Explain(sub("a@b.c", "contractors")(), Request{Target: service(name)})
		if !e.Decision.Allowed || len(e.Addresses) != 1 || e.Addresses[0].Address != netip.MustParseAddrPort(at) || e.Addresses[0].Decision.Rule != "contractors" {
			t.Fatalf("%s: %+v", name, e)
		}
		if got := describe(e.Addresses[0].Rules); !strings.Contains(got, "decides: contractors deny for lab\n") {
			t.Errorf("%s: got\n%s", name, got)
		}
		if e := set.Explain(sub("a@b.c")(), Request{Target: service(name)}); len(e.Addresses) != 0 {
			t.Errorf("%s: %+v", name, e.Addresses)
		}
	}
}

// drawTerms gives a policy's rules conditions, times and the rest.
func drawTerms(t *rapid.T, text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if !strings.Contains(line, "{name: r") {
			continue
		}
		var terms string
		if rapid.Bool().Draw(t, "when") {
			terms += ", when: '" + rapid.SampledFrom([]string{
				`device.os == "linux"`, `device.disk_encrypted`, `device.os == "linux" && device.firewall`, `!device.disk_encrypted || request.port == 80`,
				`auth.age < duration("1h")`, `"corp/a" in user.groups`, `request.service == "s0"`, `user.email.endsWith("x.y")`, `now.getHours() < 12`,
				`1 / (request.port - 22) > 0`,
			}).Draw(t, "condition") + "'"
		}
		terms += rapid.SampledFrom([]string{
			"", "", "", ", not_before: 2026-11-23T23:00:00Z", ", not_before: 2026-11-25T00:00:00Z", ", expires: 2026-11-23T23:30:00Z",
			", expires: 2026-11-26T00:00:00Z", ", not_before: 2026-11-25T00:00:00Z, expires: 2026-11-26T00:00:00Z",
		}).Draw(t, "times")
		if strings.Contains(line, "allow:") {
			if rapid.IntRange(0, 3).Draw(t, "fresh") == 0 {
				terms += ", reauth_within: 15m"
			}
			if rapid.IntRange(0, 3).Draw(t, "is strict") == 0 {
				terms += ", strict: true"
			}
		}
		lines[i] = strings.TrimSuffix(line, "}") + terms + "}"
	}
	return strings.Join(lines, "\n")
}

func drawSubject(t *rapid.T) *Subject {
	if rapid.IntRange(0, 20).Draw(t, "nobody") == 0 {
		return nil
	}
	id := drawIdentity(t)
	if rapid.Bool().Draw(t, "login known") {
		id.AuthTime = traceNow.Add(-time.Duration(rapid.SampledFrom([]int{1, 30, 90}).Draw(t, "minutes")) * time.Minute)
	}
	tri := func(name string) Tri { return rapid.SampledFrom([]Tri{Unknown, Yes, No}).Draw(t, name) }
	return NewSubject(id, Device{
		OS: rapid.SampledFrom([]string{"", "linux", "windows"}).Draw(t, "os"), DiskEncrypted: tri("disk"), Firewall: tri("firewall"),
	})
}

func drawGrants(t *rapid.T, sub *Subject) *Grants {
	g := NewGrants()
	if sub == nil || rapid.Bool().Draw(t, "no grant") {
		return g
	}
	id := sub.Identity()
	g.Replace([]Grant{{ID: "k7qw-3m9p", User: id.UserID(), Service: "s0", Until: traceNow.Add(time.Hour)}})
	return g
}

func TestExplainAgreesWithDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sub := drawSubject(t)
		text := drawTerms(t, drawPolicy(t))
		if rapid.Bool().Draw(t, "requestable") {
			text = strings.Replace(text, "  s0: {", "  s0: {requestable: {max: 4h, approvers: {groups: [corp/a]}}, ", 1)
		}
		if rapid.Bool().Draw(t, "hidden") {
			text = strings.Replace(text, "  s1: {", "  s1: {hidden: true, ", 1)
		}
		set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders, Grants: drawGrants(t, sub)})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		for _, h := range set.Hosts() {
			set.Learn(h, []netip.Addr{netip.MustParseAddr(rapid.SampledFrom(someAddrs).Draw(t, "learned"))})
		}
		r := Request{Now: traceNow, Opening: rapid.Bool().Draw(t, "opening"), Stale: rapid.Bool().Draw(t, "stale")}
		for _, target := range everyTarget(set) {
			r.Target = target
			checkExplanation(t, set, set.Explain(sub, r), set.Decide(sub, r))
		}
	})
}

// everyTarget are the services by their names, and addresses in and out of networks.
func everyTarget(set *Set) []wire.Target {
	var list []wire.Target
	for _, s := range set.Document().Services {
		list = append(list, wire.ServiceTarget(s.Kind, s.Name))
		if len(s.Hostnames) > 0 {
			list = append(list, wire.HostTarget(s.Kind, s.Hostnames[0], s.Port))
		}
	}
	for _, a := range someAddrs {
		for _, port := range somePorts {
			list = append(list, wire.HostTarget(wire.KindTCP, a, uint16(port)), wire.HostTarget(wire.KindUDP, a, uint16(port)))
		}
	}
	return list
}

// What Diff says of two policies is what a person is answered by both, as far as conditions can be seen through.
func TestWhatAgreesWithDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sub := drawSubject(t)
		text := drawTerms(t, drawPolicy(t))
		set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		what := set.What(sub, traceNow)
		for i, s := range set.Document().Services {
			a := what[i]
			who, err := set.Who(s.Name, []*Subject{nil, sub}, traceNow)
			if err != nil || !reflect.DeepEqual(who[1], a) || who[0].Decision.Allowed {
				t.Fatalf("%v %+v\n%+v", err, who, a)
			}
			if !s.IsNetwork() {
				d := set.Decide(sub, Request{Target: wire.ServiceTarget(s.Kind, s.Name), Now: traceNow, Opening: true})
				if a.Decision.Allowed != d.Allowed || a.Rule != d.Rule || a.Decision.Code != d.Code {
					t.Fatalf("%s: %+v, decided %+v", s.Name, a, d)
				}
			}
			if a.Decision.Allowed && a.Grant == "" || a.Grant == "always" && !a.Decision.Allowed {
				t.Fatalf("%s: grant %q, decided %+v", s.Name, a.Grant, a.Decision)
			}
		}
	})
}

func TestWho(t *testing.T) {
	set := mustLoad(t, tracePolicy, "corp")
	eve := person("eve@corp.example", "security")
	list, err := set.Who("vault", []*Subject{NewSubject(eve, Device{}), nil, sub("a@b.c")()}, traceNow)
	if err != nil || len(list) != 3 || !list[0].Decision.Allowed || list[0].Grant != "while the database answers" || list[1].Decision.Allowed || list[2].Grant != "" {
		t.Errorf("%v %+v", err, list)
	}
	if _, err := set.Who("wikki", nil, traceNow); err == nil || err.Error() != `there is no service "wikki" (did you mean "wiki"?)` {
		t.Error(err)
	}
	if _, err := (*Set)(nil).Who("wiki", nil, traceNow); err == nil {
		t.Error("no policy: no error")
	}
	if list := (*Set)(nil).What(nil, traceNow); list != nil {
		t.Error(list)
	}
	grants := map[string]string{}
	for _, a := range set.What(NewSubject(auth.Identity{Provider: "corp", Email: "ada@corp.example", EmailTrusted: true, GroupsKnown: true}, Device{}), traceNow) {
		grants[a.Service] = a.Grant
	}
	want := map[string]string{
		"vault": "", "lab": `when auth.age < duration("12h") && device.disk_encrypted && device.os == "linux", with a login at most 15m old`,
		"wiki": `from 2026-12-01, or when auth.age < duration("12h") && device.disk_encrypted && device.os == "linux", with a login at most 15m old; not when device.os == "windows"`,
	}
	if fmt.Sprint(grants) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", grants, want)
	}
}
