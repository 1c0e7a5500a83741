package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Test is one entry of "tests": what a person must and must not reach.
type Test struct {
	Name          string
	At            time.Time // zero: now. Nothing depends on the time in this version.
	User          *UserRef  // nil: nobody in particular
	Groups        []GroupRef
	GroupsUnknown bool
	Allow, Deny   []Ref
	Pos           Pos
}

func (t *Test) users() []UserRef {
	if t.User == nil {
		return nil
	}
	return []UserRef{*t.User}
}

// A Failure is one expectation of a test that does not hold.
type Failure struct {
	Test     string
	Pos      Pos // of the expectation
	Target   string
	Want     bool // allowed
	Decision Decision
}

// String returns the difference in one line.
func (f Failure) String() string {
	if f.Want {
		return fmt.Sprintf("test %q: %s: want allow, got deny (%s)", f.Test, f.Target, f.Decision.Reason)
	}
	return fmt.Sprintf("test %q: %s: want deny, got allow (rule %q)", f.Test, f.Target, f.Decision.Rule)
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

// RunTests decides the file's own tests and returns what does not hold, in the file's order.
func (s *Set) RunTests() []Failure {
	var failures []Failure
	for _, t := range s.doc.Tests {
		sub := NewSubject(s.identityOf(t), Device{})
		for _, ref := range t.Allow {
			failures = s.expect(failures, t, sub, ref, true)
		}
		for _, ref := range t.Deny {
			failures = s.expect(failures, t, sub, ref, false)
		}
	}
	return failures
}

// identityOf makes up the person of a test. The e-mail address counts as vouched for; where the test names none, it is one
// that no rule names.
func (s *Set) identityOf(t *Test) auth.Identity {
	id := auth.Identity{Provider: s.provider, GroupsKnown: !t.GroupsUnknown, EmailTrusted: true}
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

// expect compares what an entry names, which may be several services, with what is wanted.
func (s *Set) expect(failures []Failure, t *Test, sub *Subject, ref Ref, want bool) []Failure {
	add := func(target string, d Decision) {
		if d.Allowed != want {
			failures = append(failures, Failure{Test: t.Name, Pos: ref.Pos, Target: target, Want: want, Decision: d})
		}
	}
	if target, ok := testTarget(ref.Text); ok {
		add(ref.Text, s.decideWhole(sub, s.Decide(sub, Request{Target: target})))
		return failures
	}
	for _, idx := range s.expander.byText[ref.Text] {
		add(s.doc.Services[idx].Name, s.decideWhole(sub, s.decideNamed(s.viewOf(sub), idx)))
	}
	return failures
}

// decideWhole decides the address too, where the policy itself says which one it is.
func (s *Set) decideWhole(sub *Subject, d Decision) Decision {
	if !d.Allowed || !d.Service.Addr.IsValid() || d.Dial.Network {
		return d
	}
	return s.DecideAddr(sub, Request{}, d, netip.AddrPortFrom(d.Service.Addr, d.Service.HostPort))
}
