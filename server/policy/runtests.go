package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A Test is one entry of "tests": what a person must and must not reach.
type Test struct {
	Name          string
	At            time.Time // zero: now
	User          *UserRef  // nil: nobody in particular
	Groups        []GroupRef
	GroupsUnknown bool
	Device        Device
	LoginKnown    bool          // AuthAge says something
	AuthAge       time.Duration // how long ago they logged in
	ACR           string
	AMR           []string
	Login         auth.LoginKind
	Client        netip.Addr // zero: unknown
	Allow, Deny   []Ref
	StepUp        []Ref // what opens only after a fresh login
	Pos           Pos
}

func (t *Test) users() []UserRef {
	if t.User == nil {
		return nil
	}
	return []UserRef{*t.User}
}

// An Expectation is what a test wants of a target, and what it gets.
type Expectation string

// The expectations of a test.
const (
	ExpectAllow  Expectation = "allow"
	ExpectDeny   Expectation = "deny"
	ExpectStepUp Expectation = "step_up" // allowed after a fresh login
)

// A Failure is one expectation of a test that does not hold.
type Failure struct {
	Test     string
	Pos      Pos // of the expectation
	Target   string
	Want     Expectation
	Decision Decision
}

// Got is what came instead.
func (f Failure) Got() Expectation { return expectationOf(f.Decision) }

func expectationOf(d Decision) Expectation {
	switch {
	case d.Allowed:
		return ExpectAllow
	case d.Code == wire.CodeStepUpRequired:
		return ExpectStepUp
	}
	return ExpectDeny
}

// String returns the difference in one line.
func (f Failure) String() string {
	why := f.Decision.Reason
	if f.Decision.Allowed {
		why = fmt.Sprintf("rule %q", f.Decision.Rule)
	}
	return fmt.Sprintf("test %q: %s: want %s, got %s (%s)", f.Test, f.Target, f.Want, f.Got(), why)
}

// A TestError says that a policy compiles but fails its own tests.
type TestError struct {
	File     string
	Failures []Failure
}

// Error lists the failures, one a line, each with its place.
func (e *TestError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d of the policy's own expectations fail", e.File, len(e.Failures))
	for _, f := range e.Failures {
		fmt.Fprintf(&b, "\n%s:%d:%d: %s", e.File, f.Pos.Line, f.Pos.Column, f)
	}
	return b.String()
}

// Bounds of a run: a small file can ask for a hundred million decisions.
const (
	maxFailures = 1_000
	maxTestTime = 30 * time.Second
)

// RunTests decides the file's own tests and returns what does not hold, in the file's order. A service that is hidden is
// decided as it is. It ends after 1,000 failures, and with a failure after 30 s.
func (s *Set) RunTests() []Failure {
	run := testRun{set: s, began: time.Now()}
	for _, t := range s.doc.Tests {
		run.test, run.now = t, t.At
		if run.now.IsZero() {
			run.now = run.began
		}
		run.subject = NewSubject(s.identityOf(t, run.now), t.Device)
		for _, side := range []struct {
			refs []Ref
			want Expectation
		}{{t.Allow, ExpectAllow}, {t.Deny, ExpectDeny}, {t.StepUp, ExpectStepUp}} {
			for _, ref := range side.refs {
				run.expect(ref, side.want)
			}
		}
	}
	return run.failures
}

// identityOf makes up the person of a test. The e-mail address counts as vouched for; where the test names none, it is one
// that no rule names.
func (s *Set) identityOf(t *Test, now time.Time) auth.Identity {
	id := auth.Identity{
		Provider: s.provider, GroupsKnown: !t.GroupsUnknown, EmailTrusted: true, ACR: t.ACR, AMR: t.AMR, Login: t.Login,
	}
	if t.LoginKnown {
		id.AuthTime = now.Add(-t.AuthAge)
	}
	if u := t.User; u != nil {
		id.Provider = cmp.Or(u.Provider, s.provider)
		id.Subject, id.Email = u.Subject, u.Email
	}
	for _, g := range t.Groups {
		name := g.Text
		if provider, rest, ok := strings.Cut(name, "/"); ok && s.several {
			id.Provider, name = provider, rest
		}
		id.Groups = append(id.Groups, name)
	}
	return id
}

// A testRun decides what tests are about, one after the other.
type testRun struct {
	set      *Set
	began    time.Time
	failures []Failure
	over     bool // no further decision

	test    *Test
	subject *Subject
	now     time.Time
}

func (r *testRun) ask(target wire.Target) Request {
	return Request{Target: target, Now: r.now, Client: r.test.Client, Opening: true}
}

// expect compares what an entry names, which may be several services, with what is wanted.
func (r *testRun) expect(ref Ref, want Expectation) {
	add := func(target string, d Decision) {
		d = d.truth()
		if expectationOf(d) != want {
			r.failures = append(r.failures, Failure{Test: r.test.Name, Pos: ref.Pos, Target: target, Want: want, Decision: d})
		}
	}
	if target, ok := testTarget(ref.Text); ok && r.goesOn(ref, want) {
		add(ref.Text, r.whole(r.set.Decide(r.subject, r.ask(target))))
		return
	}
	for _, idx := range r.set.expander.byText[ref.Text] {
		if !r.goesOn(ref, want) {
			return
		}
		add(r.set.doc.Services[idx].Name, r.whole(r.set.decideService(r.subject, r.ask(wire.Target{}), idx)))
	}
}

// goesOn reports whether there is time for one more decision. When the time is up, that is the last failure.
func (r *testRun) goesOn(ref Ref, want Expectation) bool {
	if took := time.Since(r.began); !r.over && took > maxTestTime {
		r.over = true
		late := Decision{Reason: fmt.Sprintf("the tests took longer than %s: what stands from here on was not tried", maxTestTime)}
		r.failures = append(r.failures, Failure{Test: r.test.Name, Pos: ref.Pos, Target: ref.Text, Want: want, Decision: late})
	}
	r.over = r.over || len(r.failures) >= maxFailures
	return !r.over
}

// whole decides the address too, where the policy itself says which one it is.
func (r *testRun) whole(d Decision) Decision {
	if !d.Allowed || !d.Service.Addr.IsValid() || d.Dial.Network {
		return d
	}
	return r.set.DecideAddr(r.subject, r.ask(wire.Target{}), d, netip.AddrPortFrom(d.Service.Addr, d.Service.HostPort))
}
