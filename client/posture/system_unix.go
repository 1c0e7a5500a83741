//go:build linux || darwin

package posture

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// maxRead bounds a file and the output of a program, in bytes; a mount table with thousands of mounts is smaller.
const maxRead = 1 << 20

// thisMachine is the machine that this process runs on.
type thisMachine struct{}

func (thisMachine) file(path string) (string, bool) {
	f, err := os.Open(path)
	if err != nil {
		return "", false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	return string(data), err == nil && len(data) <= maxRead
}

func (thisMachine) entries(path string) []string {
	list, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	names := make([]string, len(list))
	for i, entry := range list {
		names[i] = entry.Name()
	}
	return names
}

func (thisMachine) link(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return ""
	}
	return target
}

func (thisMachine) env(name string) string { return os.Getenv(name) }

func (thisMachine) home() string {
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return home
}

// passed are the variables that a program finds its person's settings with; it is given no others.
var passed = []string{"HOME", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_DIRS", "XDG_RUNTIME_DIR",
	"XDG_CURRENT_DESKTOP", "DCONF_PROFILE", "DBUS_SESSION_BUS_ADDRESS"}

// run implements machine.
func (thisMachine) run(ctx context.Context, program string, args ...string) (string, bool) {
	path := find(program)
	if path == "" {
		return "", false
	}
	var out bounded
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &out, &out
	cmd.WaitDelay = 100 * time.Millisecond // for what a killed program left behind with our pipe
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin:/usr/sbin:/sbin"}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	if err := cmd.Run(); err != nil {
		return "", false
	}
	return string(out.text), true
}

// find looks a program up in the system's folders.
func find(program string) string {
	if program == "" || program != filepath.Base(program) {
		return ""
	}
	for _, dir := range programDirs {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// bounded keeps what a program prints and ends it when that is too much.
type bounded struct {
	text []byte // not a bytes.Buffer, whose ReadFrom knows no bound
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.text)+len(p) > maxRead {
		return 0, errors.New("it prints too much")
	}
	b.text = append(b.text, p...)
	return len(p), nil
}
