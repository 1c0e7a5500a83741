//go:build linux || darwin

package posture

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFileIsBounded(t *testing.T) {
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
}

func TestRun(t *testing.T) {
	if find("env") == "" || find("yes") == "" || find("sleep") == "" {
		t.Skip("no env, yes and sleep in the system's folders")
	}
	t.Setenv("CULVERT_CANARY", "not passed on")
	out, ok := thisMachine{}.run(t.Context(), "env")
	if !ok || !strings.Contains(out, "LC_ALL=C\n") || strings.Contains(out, "CANARY") {
		t.Errorf("env: %v\n%s", ok, out)
	}
	if _, ok := (thisMachine{}).run(t.Context(), "yes"); ok {
		t.Error("a program that prints without end was read")
	}
	for _, program := range []string{"false", "no-such-program"} {
		if out, ok := (thisMachine{}).run(t.Context(), program); ok {
			t.Errorf("%s: %q", program, out)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, ok := (thisMachine{}).run(ctx, "sleep", "60"); ok || time.Since(begun) > 30*time.Second {
		t.Errorf("a program that hangs held the reading for %s", time.Since(begun))
	}
}
