//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait. Nothing waits that long unless it fails.
const patience = 60 * time.Second

// A process is a program that runs beside the test. It is stopped with the
// test, and what it printed is shown when the test fails.
type process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *transcript
	done  chan struct{}
	err   error // after done
}

// start runs a program with its two outputs joined.
func start(t testing.TB, env []string, path string, args ...string) *process {
	t.Helper()
	return startCmd(t, env, exec.Command(path, args...))
}

func startCmd(t testing.TB, env []string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: cmd.Args[0], cmd: cmd, lines: newTranscript(), done: make(chan struct{})}
	cmd.Env = append(os.Environ(), env...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd, err)
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		p.lines.copyFrom(r)
	}()
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
		_ = w.Close()
		<-copied
	}()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd, p.lines)
		}
	})
	return p
}

// stop asks the process to end, and kills it when it does not.
func (p *process) stop() {
	_ = p.stdin.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Errorf("%s did not end within 20 s of SIGTERM", p.name)
		p.kill()
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// expect waits for output that matches the pattern and returns the submatches.
func (p *process) expect(pattern string) []string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	match, err := p.lines.wait(ctx, regexp.MustCompile(pattern), p.done)
	if err != nil {
		p.t.Fatalf("%s: no output that matches %q: %v\n%s", p.name, pattern, err, p.lines)
	}
	return match
}

// A transcript is the text that a process has printed so far.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at each line
}

func newTranscript() *transcript { return &transcript{changed: make(chan struct{})} }

func (tr *transcript) copyFrom(r io.Reader) {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		tr.mu.Lock()
		tr.text.WriteString(line)
		close(tr.changed)
		tr.changed = make(chan struct{})
		tr.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (tr *transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.text.String()
}

func (tr *transcript) wait(ctx context.Context, pattern *regexp.Regexp, ended <-chan struct{}) ([]string, error) {
	for {
		tr.mu.Lock()
		match, changed := pattern.FindStringSubmatch(tr.text.String()), tr.changed
		tr.mu.Unlock()
		if match != nil {
			return match, nil
		}
		select {
		case <-changed:
		case <-ended:
			if match := pattern.FindStringSubmatch(tr.String()); match != nil {
				return match, nil
			}
			return nil, errors.New("the process ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A result is what a command that ended came to.
type result struct {
	code           int
	stdout, stderr string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

// run runs a command to its end.
func run(t testing.TB, env []string, stdin io.Reader, path string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", cmd, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}
