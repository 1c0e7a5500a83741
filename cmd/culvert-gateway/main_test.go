package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/server"
)

func TestExitCodeNamesTheStepThatRanOut(t *testing.T) {
	for step, want := range map[server.DrainStep]int{server.StepStreams: 11, server.StepAudit: 12, server.StepStore: 13} {
		var stderr bytes.Buffer
		p := &program{err: &stderr, began: true}
		// As Serve returns it: several steps may go wrong, the first one counts.
		err := errors.Join(fmt.Errorf("serve: %w", &server.DrainError{Step: step, Err: errors.New("because")}), &server.DrainError{Step: server.StepStore})
		if got := p.exitCode(err); got != want {
			t.Errorf("%s: exit code %d, want %d", step, got, want)
		}
		if !strings.Contains(stderr.String(), step.String()) {
			t.Errorf("the message does not name the step: %s", stderr.String())
		}
	}
}
