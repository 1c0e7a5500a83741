package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// A step is one line of the demonstration.
type step struct {
	who, what, detail string
	took              time.Duration
	err               error
}

// A report prints the steps as they happen and keeps them for the summary.
type report struct {
	out    io.Writer
	steps  []step
	failed int
}

func newReport(out io.Writer) *report { return &report{out: out} }

func (r *report) title(text string) {
	fmt.Fprintf(r.out, "%s\n%s\n", text, strings.Repeat("=", len(text)))
}

func (r *report) scene(text string) { fmt.Fprintf(r.out, "\n%s\n", text) }

// step runs do and prints what came of it. It reports whether it went well.
func (r *report) step(who, what string, do func() (detail string, err error)) bool {
	start := time.Now()
	detail, err := do()
	s := step{who, what, detail, time.Since(start), err}
	r.steps = append(r.steps, s)
	mark := "ok    "
	if err != nil {
		mark = "FAILED"
		s.detail = err.Error()
		r.failed++
	}
	lines := strings.Split(s.detail, "\n")
	fmt.Fprintf(r.out, "  %s  %-28s %9s   %s\n", mark, what, round(s.took), lines[0])
	for _, line := range lines[1:] {
		fmt.Fprintf(r.out, "  %50s%s\n", "", line)
	}
	return err == nil
}

// round prints a duration with a unit that suits it.
func round(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

func (r *report) summary() {
	fmt.Fprintf(r.out, "\nSummary\n  %-10s  %-28s  %-6s  %9s\n", "who", "what", "result", "time")
	var total time.Duration
	for _, s := range r.steps {
		result := "ok"
		if s.err != nil {
			result = "FAILED"
		}
		total += s.took
		fmt.Fprintf(r.out, "  %-10s  %-28s  %-6s  %9s\n", s.who, s.what, result, round(s.took))
	}
	fmt.Fprintf(r.out, "  %-10s  %-28s  %-6s  %9s\n", "", fmt.Sprintf("%d steps, %d failed", len(r.steps), r.failed), "", round(total))
}

// byHand says what stays up and how to use it from another terminal.
func (r *report) byHand(w *world) {
	fmt.Fprintf(r.out, `
What stays up, until you press Ctrl-C
  gateway            %-28s tunnel and HTTPS on one port
  OpenID provider    %-28s accounts ada, bob, root-admin; password %q
  wiki               %-28s reached through the tunnel as wiki.corp.example
  echo               %-28s reached through the tunnel as echo.corp.example:7
  everything it keeps is in %s

By hand, from a second terminal in this folder
  export CULVERT_STATE_DIR=%s
  go run ./cmd/culvert login %s \
      --ca-fingerprint %s
  go run ./cmd/culvert services
  go run ./cmd/culvert up --http-proxy 127.0.0.1:3128
and from a third
  curl --proxy http://127.0.0.1:3128 http://wiki.corp.example/
`, w.gateway.URL(), w.issuer, w.password, "http://"+w.wiki.String(), w.echo.String(), w.dir,
		w.handStateDir(), w.gateway.URL(), w.gateway.Fingerprint())
}
