// Package testenv tells tests what the machine has. A test that needs something
// that is missing skips with one line, or fails where CULVERT_TEST_REQUIRE=1
// says that everything must be there (as it is in CI). It starts nothing.
package testenv

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
)

// Required reports whether a missing part is a failure.
func Required() bool { return os.Getenv("CULVERT_TEST_REQUIRE") == "1" }

// Missing ends a test that lacks something: skipped, or failed where everything is
// required. The text says what is missing, in one line.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if Required() {
		t.Fatalf("CULVERT_TEST_REQUIRE=1, but "+format, args...)
	}
	t.Skipf(format, args...)
}

// NeedRoot ends the test unless it runs as root on Linux.
func NeedRoot(t testing.TB) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		Missing(t, "this test needs root on Linux")
	}
}

// NeedTool returns the path of a program, and ends the test where there is
// none. Folders that a user's PATH leaves out (sbin, PostgreSQL's) are searched
// too.
func NeedTool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/", "/usr/lib/postgresql/*/bin/"} {
		found, _ := filepath.Glob(pattern + name)
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	Missing(t, "this test needs the program %q", name)
	return ""
}

// NeedNodeModule returns the folder from which Node resolves the package, and
// ends the test where Node or the package is missing. CULVERT_TEST_NODE_MODULES
// names the node_modules folder to look in.
func NeedNodeModule(t testing.TB, name string) string {
	t.Helper()
	NeedTool(t, "node")
	dir := os.Getenv("CULVERT_TEST_NODE_MODULES")
	if _, err := os.Stat(filepath.Join(dir, name, "package.json")); dir == "" || err != nil {
		Missing(t, "this test needs the npm package %q under $CULVERT_TEST_NODE_MODULES", name)
	}
	return dir
}

// Logger returns a logger that writes to the test's log, at debug level. What
// comes after the test's end is dropped, as t.Log would panic.
func Logger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.stop)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	done bool
}

func (w *testWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Log(string(bytes.TrimRight(p, "\n")))
	}
	return len(p), nil
}
