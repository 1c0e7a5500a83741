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

// RunTests decides the file's own tests and returns what does not hold, in the file's order. A service that is hidden is
// decided as it is.
func (s *Set) RunTests() []Failure {
	var failures []Failure
	now := time.Now()
	for _, t := range s.doc.Tests {
		run := testRun{set: s, test: t, now: t.At}
		if run.now.IsZero() {
			run.now = now
		}
		run.subject = NewSubject(s.identityOf(t, run.now), t.Device)
		for _, ref := range t.Allow {
			run.expect(ref, ExpectAllow)
		}
		for _, ref := range t.Deny {
			run.expect(ref, ExpectDeny)
		}
		for _, ref := range t.StepUp {
			run.expect(ref, ExpectStepUp)
		}
		failures = append(failures, run.failures...)
	}
	return failures
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

// A testRun decides what one test is about.
type testRun struct {
	set      *Set
	test     *Test
	subject  *Subject
	now      time.Time
	failures []Failure
}

func (r *testRun) ask(target wire.Target) Request {
	return Request{Target: target, Now: r.now, Client: r.test.Client, Opening: true}
}

// expect compares what an entry names, which may be several services, with what is wanted.
func (r *testRun) expect(ref Ref, want Expectation) {
	add := func(target string, d Decision) {
		if d.Hidden != nil {
			d = *d.Hidden
		}
		if expectationOf(d) != want {
			r.failures = append(r.failures, Failure{Test: r.test.Name, Pos: ref.Pos, Target: target, Want: want, Decision: d})
		}
	}
	if target, ok := testTarget(ref.Text); ok {
		add(ref.Text, r.whole(r.set.Decide(r.subject, r.ask(target))))
		return
	}
	for _, idx := range r.set.expander.byText[ref.Text] {
		add(r.set.doc.Services[idx].Name, r.whole(r.set.decideService(r.subject, r.ask(wire.Target{}), idx)))
	}
}

// whole decides the address too, where the policy itself says which one it is.
func (r *testRun) whole(d Decision) Decision {
	if !d.Allowed || !d.Service.Addr.IsValid() || d.Dial.Network {
		return d
	}
	return r.set.DecideAddr(r.subject, r.ask(wire.Target{}), d, netip.AddrPortFrom(d.Service.Addr, d.Service.HostPort))
}
