package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-vpn/culvert/server"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"culvert-gateway": main})
}

// The scripts run the real binary: what an operator types and reads.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"running":  running,
			"modes":    modes,
			"contains": contains,
			"logged":   logged,
			"signal":   sendSignal,
			"tamper":   tamper,
			"fingerprint": func(ts *testscript.TestScript, _ bool, args []string) {
				_, rest, _ := strings.Cut(ts.ReadFile(args[0]), `"fingerprint": "`)
				value, _, _ := strings.Cut(rest, `"`)
				ts.Setenv("FINGERPRINT", value)
			},
		},
		Setup: func(env *testscript.Env) error {
			// Whatever the machine has set must not reach the scripts.
			for _, entry := range os.Environ() {
				if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, server.EnvPrefix) {
					env.Setenv(name, "")
				}
			}
			return nil
		},
	})
}

// exits CODE PROGRAM ARGS… runs a program that must end with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		got = ended.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// running STATE_DIR waits until a gateway has said that it runs there.
func running(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	poll(ts, "no gateway runs on "+dir, func() bool {
		_, err := server.ReadRunInfo(dir)
		return err == nil
	})
}

// logged STATE_DIR TEXT waits until the audit log has the text.
func logged(ts *testscript.TestScript, _ bool, args []string) {
	pattern := filepath.Join(ts.MkAbs(args[0]), "audit", "*")
	poll(ts, "the audit log lacks "+args[1], func() bool {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), args[1]) {
				return true
			}
		}
		return false
	})
}

func poll(ts *testscript.TestScript, what string, ok func() bool) {
	deadline, tick := time.Now().Add(30*time.Second), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", what)
		}
		<-tick.C
	}
}

// modes DIR checks that folders are 0700 and files 0600.
func modes(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			ts.Fatalf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	}))
}

// contains FILE TEXT (or "! contains") looks for literal text.
func contains(ts *testscript.TestScript, neg bool, args []string) {
	if strings.Contains(ts.ReadFile(args[0]), args[1]) == neg {
		ts.Fatalf("%s: %q; contained: %v", args[0], args[1], !neg)
	}
}

// tamper DIR OLD NEW changes the first place in the audit log that has the text.
func tamper(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "*.jsonl"))
	ts.Check(err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		ts.Check(err)
		if changed := strings.Replace(string(data), args[1], args[2], 1); changed != string(data) {
			ts.Check(os.WriteFile(file, []byte(changed), 0o600))
			return
		}
	}
	ts.Fatalf("no audit log has %q", args[1])
}

var signals = map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM}

// signal NAME STATE_DIR sends a signal to the gateway that runs there.
func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	info, err := server.ReadRunInfo(ts.MkAbs(args[1]))
	ts.Check(err)
	process, err := os.FindProcess(info.PID)
	ts.Check(err)
	ts.Check(process.Signal(signals[args[0]]))
}
