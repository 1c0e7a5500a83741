package durable

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestWriteFileReplacesWholeAndKeepsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"old", "new and longer"} {
		if err := WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadPrivate(path, 100)
		if err != nil || string(got) != text {
			t.Errorf("read %q, %v; want %q", got, err, text)
		}
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".f.tmp-*"))
	if len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
}

// A planted link in the place of the file is replaced, not followed.
func TestWriteFileDoesNotFollowALink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "f")
	if err := os.WriteFile(victim, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "untouched" {
		t.Errorf("the link's target now holds %q", got)
	}
	if info, _ := os.Lstat(path); info.Mode()&fs.ModeSymlink != 0 {
		t.Error("the link is still there")
	}
}

func TestCreateFileNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := CreateFile(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second CreateFile: %v, want fs.ErrExist", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "first" {
		t.Errorf("the file holds %q", got)
	}
}

func TestReadPrivateRefuses(t *testing.T) {
	if !privateModes {
		t.Log("this system has no permission bits; only links are checked elsewhere")
		return
	}
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := WriteFile(open, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(open, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{open, link, dir} {
		if _, err := ReadPrivate(path, 10); !errors.Is(err, ErrNotPrivate) {
			t.Errorf("ReadPrivate(%s): %v, want ErrNotPrivate", filepath.Base(path), err)
		}
	}
	if _, err := ReadPrivate(filepath.Join(dir, "none"), 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path, 10); !errors.Is(err, ErrTooLarge) {
		t.Errorf("11 bytes with a limit of 10: %v", err)
	}
	if _, err := ReadFile(path, 11); err != nil {
		t.Errorf("11 bytes with a limit of 11: %v", err)
	}
}

func TestMkdirPrivateRefusesWhatOthersMayWrite(t *testing.T) {
	dir := t.TempDir()
	if err := MkdirPrivate(filepath.Join(dir, "a", "b")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "a"), link); err != nil {
		t.Fatal(err)
	}
	if err := MkdirPrivate(link); !errors.Is(err, ErrNotPrivate) {
		t.Errorf("a link: %v, want ErrNotPrivate", err)
	}
	if privateModes {
		if err := os.Chmod(filepath.Join(dir, "a"), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := MkdirPrivate(filepath.Join(dir, "a")); !errors.Is(err, ErrNotPrivate) {
			t.Errorf("mode 0777: %v, want ErrNotPrivate", err)
		}
	}
}

func TestSetAsideKeepsEveryCopy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	seen := map[string]bool{}
	for _, text := range []string{"one", "two", "three"} {
		if err := WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		aside, err := SetAside(path)
		if err != nil || seen[aside] || !strings.Contains(aside, ".corrupt-") {
			t.Fatalf("SetAside: %q, %v", aside, err)
		}
		seen[aside] = true
		if got, _ := os.ReadFile(aside); string(got) != text {
			t.Errorf("%s holds %q, want %q", aside, got, text)
		}
	}
}

func TestLockExcludesAndEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, ErrLocked) || !errors.Is(err, context.Canceled) {
		t.Errorf("Lock with an ended context: %v", err)
	}
	if err := first.Unlock(); err != nil {
		t.Fatal(err)
	}
	second, err := Lock(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Unlock()
}

// A process that is killed leaves no lock behind.
func TestLockEndsWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if os.Getenv("DURABLE_TEST_LOCK") != "" {
		held, err := TryLock(os.Getenv("DURABLE_TEST_LOCK"))
		if err != nil {
			os.Exit(1)
		}
		os.Stdout.WriteString("locked\n")
		for { // until it is killed
			time.Sleep(time.Hour)
			runtime.KeepAlive(held) // an unreachable file is closed by the collector
		}
	}
	if runtime.GOOS == "js" {
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockEndsWithItsProcess$")
	cmd.Env = append(os.Environ(), "DURABLE_TEST_LOCK="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("while the other process lives: %v, want ErrLocked", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := Lock(ctx, path)
	if err != nil {
		t.Fatalf("after the other process was killed: %v", err)
	}
	_ = l.Unlock()
}

// Windows refuses to replace a file that somebody is reading. The reader is soon done, and a refresh token must not be lost over it.
func TestFaultFileInUse(t *testing.T) {
	busy, other := errors.New("in use"), errors.New("disk full")
	inUse := func(err error) bool { return err == busy }
	for name, c := range map[string]struct {
		answers []error
		want    error
	}{
		"soon free":     {[]error{busy, busy, nil}, nil},
		"free at once":  {[]error{nil}, nil},
		"another error": {[]error{busy, other}, other},
	} {
		tries := 0
		err := patiently(func() error { tries++; return c.answers[tries-1] }, inUse)
		if err != c.want || tries != len(c.answers) {
			t.Errorf("%s: %v after %d tries", name, err, tries)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := patiently(func() error { return busy }, inUse); err != busy || time.Since(start) > 2*usePatience {
			t.Errorf("never free: %v after %s", err, time.Since(start))
		}
	})
}
