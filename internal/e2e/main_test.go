//go:build linux

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// bin is where the programs under test are built, once for all tests.
var bin struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %v\n", err)
			code = 1
		}
	}
	if bin.dir != "" {
		_ = os.RemoveAll(bin.dir)
	}
	os.Exit(code)
}

// program returns the path of a program of this repository, built as it is
// shipped but for the race detector where the tests have it.
func program(t testing.TB, name string) string {
	t.Helper()
	bin.once.Do(func() {
		if bin.dir, bin.err = os.MkdirTemp("", "culvert-e2e-"); bin.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", bin.dir+string(filepath.Separator),
			"github.com/culvert-vpn/culvert/cmd/culvert", "github.com/culvert-vpn/culvert/cmd/culvert-gateway")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			bin.err = fmt.Errorf("go build: %w\n%s", err, out)
		}
		// sshd runs commands as another user than the one who built.
		_ = os.Chmod(bin.dir, 0o755)
	})
	if bin.err != nil {
		t.Fatal(bin.err)
	}
	return filepath.Join(bin.dir, name)
}
