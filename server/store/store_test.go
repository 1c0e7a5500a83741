package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "state", "gateway.db") }

func TestOpenAgainKeepsEverything(t *testing.T) {
	path := newPath(t)
	s := open(t, path, nil)
	if _, err := s.AcceptPolicy(t.Context(), PolicyVersion{Digest: "d1", Source: "file"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := open(t, path, nil).Policy(t.Context(), "d1"); err != nil || p.Number != 1 {
		t.Errorf("after reopening: %+v, %v", p, err)
	}
}

func TestPragmasAreInForce(t *testing.T) {
	s := open(t, newPath(t), nil)
	for pragma, want := range map[string]string{
		"journal_mode": "wal", "foreign_keys": "1", "synchronous": "2", "busy_timeout": "5000", "secure_delete": "1",
	} {
		var got string
		if err := s.write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", pragma, got, err, want)
		}
	}
	if _, err := s.read.Exec("DELETE FROM users"); err == nil {
		t.Error("a reading connection could write")
	}
}

// Local and administrative surfaces: file modes, symlinks.
func TestThreatDatabaseFilesArePrivate(t *testing.T) {
	path := newPath(t)
	s := open(t, path, nil)
	if _, err := s.AcceptPolicy(t.Context(), PolicyVersion{Digest: "d"}); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", info.Name(), info.Mode().Perm())
		}
	}
	if info, _ := os.Stat(filepath.Dir(path)); info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %o", info.Mode().Perm())
	}
}

func TestThreatPlantedDatabaseIsRefused(t *testing.T) {
	path := newPath(t)
	_ = open(t, path, nil).Close()
	link := filepath.Join(filepath.Dir(path), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, link, options(t, nil), "not a regular file")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, path, options(t, nil), "chmod 600")
}

func wantOpenError(t *testing.T, path string, o Options, want string) {
	t.Helper()
	before, _ := os.ReadFile(path)
	s, err := Open(t.Context(), "sqlite:"+path, o)
	if err == nil {
		_ = s.Close()
		t.Fatalf("opened; want an error with %q", want)
	}
	if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Base(path)) {
		t.Errorf("error is %q; want %q and the file's name in it", err, want)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the file was changed")
	}
}

func TestOpenRefusesADamagedDatabase(t *testing.T) {
	damage := map[string]func(data []byte) []byte{
		"foreign file":   func([]byte) []byte { return []byte("this is a shopping list, not a database at all") },
		"short":          func(data []byte) []byte { return data[:10] },
		"truncated":      func(data []byte) []byte { return data[:len(data)/2] },
		"overwritten":    func(data []byte) []byte { copy(data[4096:], make([]byte, 8192)); return data },
		"mangled schema": func(data []byte) []byte { copy(data[100:], strings.Repeat("x", 300)); return data },
	}
	for name, mangle := range damage {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			_ = open(t, path, nil).Close()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, mangle(data), 0o600); err != nil {
				t.Fatal(err)
			}
			wantOpenError(t, path, options(t, nil), "restore a backup")
		})
	}
}

func TestOpenRefusesALostDatabase(t *testing.T) {
	path := newPath(t)
	_ = open(t, path, nil).Close()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, path, options(t, nil), "it is empty")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, path, options(t, nil), "its journal")
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	path := newPath(t)
	s := open(t, path, nil)
	if _, err := s.write.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	wantOpenError(t, path, options(t, nil), "start the newer program again")
}

func TestOddFileNames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a b?mode=memory&x%20#1.db")
	_ = open(t, path, nil).Close()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestClosedStoreIsUnavailable(t *testing.T) { eachDatabase(t, testClosedStoreIsUnavailable) }

func testClosedStoreIsUnavailable(t *testing.T, db database) {
	s := db.open(t, nil)
	_ = s.Close()
	if err := s.Ping(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ping: %v", err)
	}
	if _, err := s.Locks(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Locks: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.EndSession(ctx, "x", "test"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("EndSession: %v", err)
	}
}

// A file that vanishes under a running gateway is not replaced by an empty one.
func TestFaultDatabaseFileVanishes(t *testing.T) {
	path := newPath(t)
	s := open(t, path, nil)
	s.read.SetMaxIdleConns(0) // the next reader opens the file anew
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Locks(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Locks: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an empty database was made")
	}
}

func TestDatabaseClockIsTheSystems(t *testing.T) { eachDatabase(t, testDatabaseClockIsTheSystems) }

func testDatabaseClockIsTheSystems(t *testing.T, db database) {
	s := db.open(t, nil)
	before := time.Now().Add(-time.Second)
	now, err := s.Now(t.Context())
	if err != nil || now.Before(before) || now.After(time.Now().Add(time.Second)) {
		t.Errorf("the database says %s, %v", now, err)
	}
}

func TestPoliciesAreAHistory(t *testing.T) { eachDatabase(t, testPoliciesAreAHistory) }

func testPoliciesAreAHistory(t *testing.T, db database) {
	s := db.open(t, nil)
	for _, digest := range []string{"a", "a", "b", "a"} {
		if _, err := s.AcceptPolicy(t.Context(), PolicyVersion{Digest: digest, Source: "file", Document: []byte(digest)}); err != nil {
			t.Fatal(err)
		}
	}
	short, err := s.PolicyHistory(t.Context(), 3, 1)
	if err != nil || len(short) != 1 || short[0].Digest != "b" || len(short[0].Document) != 0 {
		t.Errorf("history without documents: %+v, %v", short, err)
	}
	list, err := s.PolicyHistory(t.Context(), 0, 10)
	var got []string
	for _, p := range list {
		got = append(got, p.Digest)
	}
	if strings.Join(got, "") != "aba" || err != nil {
		t.Errorf("history %v, %v", got, err)
	}
	if p, err := s.Policy(t.Context(), "a"); err != nil || p.Number != 3 {
		t.Errorf("newest a: %+v, %v", p, err)
	}
	if _, err := s.Policy(t.Context(), "never"); !errors.Is(err, ErrNotFound) {
		t.Errorf("never accepted: %v", err)
	}
}
