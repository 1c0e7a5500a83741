//go:build linux || darwin

package posture

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// Files and outputs without end are not read, and a program that hangs is ended.
func TestThreatReadingIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(path, make([]byte, maxRead+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := (thisMachine{}).file(path); ok {
		t.Error("a file that is too large was read")
	}
	if _, ok := (thisMachine{}).file(filepath.Join(t.TempDir(), "none")); ok {
		t.Error("a file that is not there was read")
	}
	needPrograms(t, "yes", "sleep")
	if _, ok := (thisMachine{}).run(t.Context(), "yes"); ok {
		t.Error("a program that prints without end was read")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, ok := (thisMachine{}).run(ctx, "sleep", "60"); ok || time.Since(begun) > 30*time.Second {
		t.Errorf("a program that hangs held the reading for %s", time.Since(begun))
	}
}

// A program that somebody put before the system's, by PATH or a name with a path in it, does not run; one that runs is told nothing that is
// not for it, and one that fails is not believed.
func TestThreatReadingRunsOnlyTheSystemsPrograms(t *testing.T) {
	needPrograms(t, "env", "false")
	planted, ran := t.TempDir(), filepath.Join(t.TempDir(), "ran")
	for _, name := range []string{"env", "planted"} {
		if err := os.WriteFile(filepath.Join(planted, name), []byte("#!/bin/sh\ntouch "+ran+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", planted)
	t.Setenv("CULVERT_CANARY", "a secret")
	t.Chdir(planted)
	out, ok := thisMachine{}.run(t.Context(), "env")
	if !ok || !strings.Contains(out, "LC_ALL=C\n") || strings.Contains(out, "CANARY") || strings.Contains(out, planted) {
		t.Errorf("env: %v\n%s", ok, out)
	}
	for _, program := range []string{"planted", "./planted", "../.." + planted + "/planted", "false", "", "no-such-program"} {
		if out, ok := (thisMachine{}).run(t.Context(), program); ok {
			t.Errorf("%q ran: %q", program, out)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a planted program ran")
	}
}

func needPrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if find(name) == "" {
			testenv.Missing(t, "no %s in the system's folders", name)
		}
	}
}
