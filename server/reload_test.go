package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestReloadTakesTheLogLevelAndNamesWhatTakesARestart(t *testing.T) {
	i := newInstallation(t, nil)
	path := filepath.Join(i.dir, ConfigFile)
	var logged testenv.Buffer
	level := new(slog.LevelVar)
	r := i.serve(Options{
		Logger:   slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level})),
		LogLevel: level,
		Reread:   func() (*Config, error) { return LoadConfig(path, nil) },
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "#level: info", "level: debug", 1)
	changed = strings.Replace(changed, "#https: 2000", "https: 9", 1)
	writeFile(t, path, changed)
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("level is %s", level.Level())
	}
	if !strings.Contains(logged.String(), "limits.https") || strings.Contains(logged.String(), "log.level") {
		t.Errorf("the log does not name what takes a restart:\n%s", logged.String())
	}
	writeFile(t, path, "lisen: x\n")
	if err := r.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), `did you mean "listen"`) {
		t.Errorf("a broken configuration: %v", err)
	}
	if body := get(t, r.https(), r.URL()+"/healthz"); body != "ok\n" {
		t.Errorf("after a refused reload: %q", body)
	}
}

// A balancer that polls needs time to notice that a gateway stops; until then no
// new connection may fail.
func TestDrainDelayKeepsAccepting(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.DrainDelay = 10 * time.Minute })
	r := i.serve(Options{})
	eventually(t, "it is ready", func() bool { return r.Readiness(t.Context()).Ready })
	r.cancel()
	eventually(t, "it is not ready any more", func() bool { return !r.Readiness(t.Context()).Ready })
	client := r.https()
	if body := get(t, client, r.URL()+"/healthz"); body != "ok\n" {
		t.Errorf("a new connection during the delay: %q", body)
	}
	resp, err := client.Get(r.URL() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", resp.StatusCode)
	}
	client.CloseIdleConnections()
	r.HurryUp()
	if err := r.stop(); err != nil {
		t.Errorf("nothing was open, and yet: %v", err)
	}
}

// Threat class: configuration escalation (cloudflared CVE-2023-1314).
// The address of a denied service is refused as part of a network, too, from the moment on in which the policy says so and not from
// the next round of look-ups; and a stream that is open to it by then is decided again.
func TestThreatNameLearnedLate(t *testing.T) {
	i := everything(t, nil)
	const network = `
version: 1
services:
  lab: {network: 10.20.0.0/16, ports: [443]}
%s
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab]}
`
	writeFile(t, i.cfg.Policy.File, fmt.Sprintf(network, ""))
	resolve := func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("10.20.1.8")}, nil
	}
	r := i.serve(Options{Resolve: resolve})
	ada := auth.Identity{Issuer: "https://idp.example.com/", Subject: "ada", Provider: "corp", Groups: []string{"engineering"}, GroupsKnown: true, Session: auth.NewSessionID()}
	subject, target := policy.NewSubject(ada, policy.Device{}), wire.HostTarget(wire.KindTCP, "10.20.1.8", 443)
	decide := func() error {
		if d := r.rules.set().Decide(subject, policy.Request{Target: target}); !d.Allowed {
			return errors.New(d.Reason)
		}
		return nil
	}
	if err := decide(); err != nil {
		t.Fatal(err)
	}
	live, err := r.registry.Add(t.Context(), session.Spec{Identity: ada, Serial: "1", NotAfter: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Remove()
	stream, err := live.OpenStream(session.StreamSpec{Target: target, Recheck: decide})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	writeFile(t, i.cfg.Policy.File, fmt.Sprintf(network, "  payroll: {address: \"payroll.internal:443\"}")+"  - {name: nobody, subjects: {users: [\"*\"]}, deny: [payroll]}\n")
	if err := r.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-stream.Context().Done():
	case <-time.After(10 * time.Second):
		t.Error("the stream lives on")
	}
	if err := decide(); err == nil {
		t.Error("the address is open")
	}
}

// A deny for a group that groups.keep leaves out of certificates would never match.
func TestThreatDenyOfAGroupThatIsNotKept(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.Groups.Keep = []string{"eng*"} })
	r := i.serve(Options{})
	const deny = "  - {name: out, subjects: {groups: [%s]}, deny: [echo]}\n"
	rules := echoPolicy(echoService(t), "engineering")
	for group, fits := range map[string]bool{"contractors": false, "corp/contractors": false, "engineers": true, "corp/engineers": true} {
		writeFile(t, i.cfg.Policy.File, rules+fmt.Sprintf(deny, group))
		err := r.Reload(t.Context())
		if fits != (err == nil) {
			t.Errorf("%s: %v", group, err)
		}
		if !fits && !strings.Contains(err.Error(), "groups.keep") {
			t.Errorf("%s: %v does not say why", group, err)
		}
		if err := CheckFiles(i.cfg); fits != (err == nil) {
			t.Errorf("checked %s: %v", group, err)
		}
	}
}

func TestThreatFilesThatEverybodyMayWriteAreRefused(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no such modes on Windows")
	}
	i := newInstallation(t, nil)
	path := filepath.Join(i.dir, ConfigFile)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(path, nil); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("configuration: %v", err)
	}
	if err := os.Chmod(i.cfg.Policy.File, 0o666); err != nil {
		t.Fatal(err)
	}
	srv, err := New(t.Context(), *i.cfg, Options{})
	if err == nil {
		srv.Close()
	}
	if !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("policy: %v", err)
	}
}
