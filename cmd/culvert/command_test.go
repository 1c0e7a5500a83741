package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitError},
		{&usageError{errors.New("x")}, exitUsage},
		{client.ErrNotLoggedIn, exitNotLoggedIn},
		{&status.Error{Status: status.Status{State: status.Expired}}, exitNotLoggedIn},
		{&status.Error{Status: status.Status{State: status.Locked}}, exitDenied},
		{&status.Error{Status: status.Status{State: status.Reconnecting}}, exitGateway},
		{&status.Error{Status: status.Status{State: status.Terminated}}, exitError},
		{fmt.Errorf("open stream: %w", &wire.Refusal{Code: wire.CodeDenied}), exitDenied},
		{&wire.Refusal{Code: wire.CodeNoSuchService}, exitDenied},
		{&wire.Refusal{Code: wire.CodeUnreachable}, exitService},
		{&wire.Refusal{Code: wire.CodeTimedOut}, exitService},
		{&wire.Refusal{Code: wire.CodeExpired}, exitNotLoggedIn},
		{&wire.Refusal{Code: wire.CodeUnavailable}, exitGateway},
		{&wire.Refusal{Code: "something new"}, exitError},
		{&wire.Termination{Code: wire.TerminateExpired}, exitNotLoggedIn},
		{&wire.Termination{Code: wire.TerminateLocked}, exitDenied},
		{&wire.Termination{Code: wire.TerminateShutdown}, exitGateway},
		{&tunnel.AbortError{Code: wire.AbortRevoked}, exitDenied},
		{&tunnel.AbortError{Code: wire.AbortTerminated}, exitGateway},
		{&tunnel.AbortError{Code: wire.AbortReset}, exitError},
		{fmt.Errorf("%w: the peer closed it", tunnel.ErrLost), exitGateway},
		{&enroll.Problem{Code: enroll.CodeLocked}, exitDenied},
		{&enroll.Problem{Code: enroll.CodeTokenInvalid}, exitError},
		{&net.OpError{Op: "dial", Err: errors.New("x")}, exitGateway},
		{&net.DNSError{Name: "gw"}, exitGateway},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("exitCode(%v) = %d, want %d", c.err, got, c.want)
		}
	}
}

// threats.md, "Local and administrative surfaces": log injection (CVE-2025-58189),
// here into a terminal: what a gateway or provider says cannot move its cursor.
func TestThreatErrorsAreOneCleanLine(t *testing.T) {
	var out bytes.Buffer
	a := &app{streams: streams{err: &out}}
	a.report(&wire.Refusal{Code: wire.CodeDenied, Reason: "a\x1b[2Jb\nculvert: fake\r\x9b", Remedy: "\x07c", Reference: "r-1"})
	if strings.ContainsAny(out.String(), "\x1b\r\x07\u009b") || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("printed %q", out.String())
	}
}

// A browser that tries again and again fills no screen; another refusal, or the
// same one later, is shown.
func TestRepeatedRefusalsAreShownOnce(t *testing.T) {
	var out bytes.Buffer
	a := &app{streams: streams{err: &out}}
	for _, reference := range []string{"r-1", "r-1", "r-2", "r-1"} {
		a.refused(&wire.Refusal{Code: wire.CodeDenied, Reason: "no", Reference: reference})
	}
	a.refused(&wire.Refusal{Code: wire.CodeRefused})
	a.refused(&wire.Refusal{Code: wire.CodeRefused})
	if got := strings.Count(out.String(), "culvert: "); got != 4 {
		t.Errorf("%d refusals shown, want 4:\n%s", got, out.String())
	}
	if !a.isNews("r-1", time.Now().Add(repeatAfter)) {
		t.Error("the refusal is not shown again after a while")
	}
}

func TestDefaultStateDir(t *testing.T) {
	home := func() (string, error) { return filepath.FromSlash("/home/ada"), nil }
	for _, c := range []struct{ goos, variable, value, want string }{
		{"linux", "", "", "/home/ada/.local/state/culvert"},
		{"linux", "XDG_STATE_HOME", "/x", "/x/culvert"},
		{"linux", "XDG_STATE_HOME", "relative", "/home/ada/.local/state/culvert"},
		{"darwin", "XDG_STATE_HOME", "/x", "/home/ada/Library/Application Support/culvert"},
		{"windows", "LOCALAPPDATA", "/local", "/local/culvert"},
		{"windows", "", "", "/home/ada/AppData/Local/culvert"},
	} {
		env := func(name string) string {
			if name == c.variable {
				return c.value
			}
			return ""
		}
		got, err := defaultStateDir(c.goos, env, home)
		if err != nil || filepath.ToSlash(got) != c.want {
			t.Errorf("%s %s=%s: %q, %v; want %q", c.goos, c.variable, c.value, got, err, c.want)
		}
	}
	broken := func() (string, error) { return "", errors.New("no home") }
	if _, err := defaultStateDir("linux", func(string) string { return "" }, broken); err == nil {
		t.Error("no home and no error")
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"wiki": "wiki", "wiki.corp.example:80": "wiki.corp.example:80", "10.0.0.1:22": "10.0.0.1:22", "[fd00::1]:22": "[fd00::1]:22",
		"": "", "a b": "", ":22": "", "host:": "", "host:99999": "", "host:ssh": "", "fd00::1": "", "host:0": "",
	} {
		target, err := parseTarget(wire.KindTCP, in)
		var usage *usageError
		switch {
		case want == "" && !errors.As(err, &usage):
			t.Errorf("parseTarget(%q) = %v, %v; want a usage error", in, target, err)
		case want != "" && (err != nil || target.String() != want):
			t.Errorf("parseTarget(%q) = %v, %v; want %s", in, target, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"wiki", "h:22", "[::1]:22", "dns/udp", "a\x00:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		target, err := parseTarget(wire.KindTCP, in)
		if err == nil && target.Validate() != nil {
			t.Fatalf("parseTarget(%q) = %#v, which is not valid", in, target)
		}
	})
}

func TestLocalAddress(t *testing.T) {
	for in, want := range map[string]string{
		"5432": "127.0.0.1:5432", ":5432": "127.0.0.1:5432", "[::1]:1": "[::1]:1", "0.0.0.0:1": "0.0.0.0:1", "": "",
	} {
		if got := localAddress(in); got != want {
			t.Errorf("localAddress(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCutKind(t *testing.T) {
	for in, want := range map[string]wire.Kind{"dns/udp": wire.KindUDP, "dns": wire.KindTCP, "dns/tcp": wire.KindTCP} {
		if name, kind, told := cutKind(in); name != "dns" || kind != want || told != (in != "dns") {
			t.Errorf("cutKind(%q) = %q, %s, %t", in, name, kind, told)
		}
	}
}

// abortedStream fails its reader as a refusal or a reset behind the tunnel does.
type abortedStream struct {
	relay.Conn
	err     error
	aborted error
}

func (s *abortedStream) Read([]byte) (int, error)    { return 0, s.err }
func (s *abortedStream) Write(p []byte) (int, error) { return len(p), nil }
func (s *abortedStream) CloseWrite() error           { return nil }
func (s *abortedStream) Abort(cause error)           { s.aborted = cause }

// A stream that fails must not look complete to the program that reads stdout:
// the exit code says so.
func TestPipeReportsFailure(t *testing.T) {
	refused := &wire.Refusal{Code: wire.CodeDenied}
	stream := &abortedStream{err: refused}
	in, stop := io.Pipe() // stays open, as a terminal does
	defer stop.Close()
	defer in.Close()
	err := pipe(context.Background(), stream, in, io.Discard)
	if !errors.Is(err, error(refused)) || stream.aborted == nil {
		t.Errorf("pipe = %v, aborted with %v", err, stream.aborted)
	}
}

func TestEmptyAuthoritiesAreNoAuthorities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := loginFlags{file: file}.trust()
	if err != nil || trust.Roots == nil {
		t.Errorf("trust = %#v, %v; nil roots would mean the system's", trust, err)
	}
}

// An allowed service that the login is too old for asks for a fresh one, and says so; the gateway's clock counts.
func TestFreshLogin(t *testing.T) {
	for _, c := range []struct {
		service wire.Service
		age     time.Duration
		want    string
	}{
		{wire.Service{Allowed: true}, 40 * time.Minute, ""},
		{wire.Service{Allowed: true, MaxAge: 15 * time.Minute}, 15 * time.Minute, ""},
		{wire.Service{Allowed: true, MaxAge: 15 * time.Minute}, 40 * time.Minute, "asks for a fresh login (at most 15m old; yours is 40m old)"},
		{wire.Service{Allowed: true, MaxAge: 15 * time.Minute}, 9*time.Hour + 5*time.Minute + 3*time.Second, "asks for a fresh login (at most 15m old; yours is 9h5m old)"},
		{wire.Service{Allowed: true, MaxAge: 15 * time.Minute}, -1, "asks for a fresh login (at most 15m old)"},
		{wire.Service{MaxAge: 15 * time.Minute}, time.Hour, ""},
	} {
		if got := freshLogin(c.service, c.age); got != c.want {
			t.Errorf("%+v at %s: %q, want %q", c.service, c.age, got, c.want)
		}
	}
}

// A gateway does not know the person's zone; what it says of moments is printed as everything else is.
func TestMomentsOfAGatewayAreLocal(t *testing.T) {
	at := time.Date(2026, 7, 14, 21, 30, 0, 0, time.UTC)
	var out bytes.Buffer
	a := &app{streams: streams{err: &out}}
	a.report(&enroll.Problem{Code: enroll.CodeLocked, Detail: "locked", Remedy: "the lock ends at " + at.Format(time.RFC3339)})
	if want := "hint: the lock ends at " + at.Local().Format("2006-01-02 15:04") + "\n"; !strings.Contains(out.String(), want) {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	if got := localTimes("2026-99-99T00:00:00Z x"); got != "2026-99-99T00:00:00Z x" {
		t.Errorf("made %q of what is no time", got)
	}
}

// culvert up says what has become of a request, and of a fresh login, and nothing of what else changes.
func TestTurns(t *testing.T) {
	ask := wire.Service{Name: "vault", Requestable: time.Hour, Reason: "no rule allows it"}
	open, ends := wire.Service{Name: "vault", Allowed: true}, wire.Service{Name: "vault", Allowed: true, Reason: "what you asked for ends at 10:00:00 UTC"}
	for _, c := range []struct {
		before, now wire.Service
		want        string
	}{
		{ask, ask, ""},
		{ask, open, "vault is open to you now"},
		{open, ends, "vault: what you asked for ends at 10:00:00 UTC"},
		{ends, ends, ""},
		{ends, ask, "vault is no longer open to you; ask: culvert request vault --for 1h --reason …"},
		{wire.Service{Name: "wiki"}, wire.Service{Name: "wiki", Allowed: true}, ""},
		{wire.Service{Name: "other"}, open, ""},
	} {
		if got := strings.Join(turns([]wire.Service{c.before}, []wire.Service{c.now}), "|"); got != c.want {
			t.Errorf("%+v → %+v: %q, want %q", c.before, c.now, got, c.want)
		}
	}
	at := time.Now()
	one := status.Session{ID: "s-1", AuthTime: at}
	if !fresher(one, status.Session{ID: "s-1", AuthTime: at.Add(time.Second)}) || fresher(one, one) || fresher(status.Session{}, one) ||
		fresher(one, status.Session{ID: "s-2", AuthTime: at.Add(time.Second)}) {
		t.Error("a step-up is told from other logins by the session")
	}
}
