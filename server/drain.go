package server

import "fmt"

// A DrainStep is a step of the drain that ran out of time or failed.
type DrainStep int

// The steps, in their order; the exit code is 10 more.
const (
	StepStreams DrainStep = 1 + iota // streams were still open at the deadline and were cut
	StepAudit                        // the audit log could not be closed
	StepStore                        // the database could not be closed
)

func (s DrainStep) String() string {
	switch s {
	case StepStreams:
		return "waiting for open streams"
	case StepAudit:
		return "closing the audit log"
	case StepStore:
		return "closing the database"
	default:
		return fmt.Sprintf("step %d", int(s))
	}
}

// A DrainError says that the gateway has stopped, but not as it should have.
type DrainError struct {
	Step DrainStep // the first that went wrong
	Err  error
}

func (e *DrainError) Error() string {
	return fmt.Sprintf("stopped, but %s went wrong: %v", e.Step, e.Err)
}

func (e *DrainError) Unwrap() error { return e.Err }
