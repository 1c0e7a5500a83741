package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a system keyring that works, or answers with err, or hangs until its channel is closed.
type memory struct {
	mu      sync.Mutex
	entries map[string]string
	err     error
	hang    chan struct{}
	forget  bool
	calls   int
}

func (m *memory) Get(service, user string) (string, error) {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return "", m.err
	}
	text, ok := m.entries[service+"/"+user]
	if !ok {
		return "", ErrNotFound
	}
	return text, nil
}

func (m *memory) Set(service, user, text string) error {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && !m.forget {
		m.entries[service+"/"+user] = text
	}
	return m.err
}

func (m *memory) wait() {
	m.mu.Lock()
	m.calls++
	hang := m.hang
	m.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func newMemory() *memory { return &memory{entries: map[string]string{}} }

func open(t *testing.T, dir string, b Backend, use Kind) *Keyring {
	t.Helper()
	k, err := New(Config{Dir: dir, Use: use, Backend: b, Timeout: 5 * time.Second, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t *testing.T, k *Keyring, name, secret string) []byte {
	t.Helper()
	data, err := k.Seal(t.Context(), name, []byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSecretsComeBack(t *testing.T) {
	for _, use := range []Kind{KindOS, KindFile} {
		dir, os := t.TempDir(), newMemory()
		data := seal(t, open(t, dir, os, use), "token", "hunter2")
		if kindOf(data) != use || bytes.Contains(data, []byte("hunter2")) {
			t.Errorf("%s: sealed by %q as %s", use, kindOf(data), data)
		}
		later := open(t, dir, os, "") // another process, without a wish
		if got, err := later.Unseal(t.Context(), "token", data); err != nil || string(got) != "hunter2" {
			t.Errorf("%s: %q, %v", use, got, err)
		}
		big := strings.Repeat("x", 100_000) // far above what Windows keeps in an entry
		if got, err := later.Unseal(t.Context(), "big", seal(t, later, "big", big)); err != nil || string(got) != big {
			t.Errorf("%s: 100,000 bytes: %v", use, err)
		}
		for key, text := range os.entries {
			if len(text) > 2560 {
				t.Errorf("entry %s has %d bytes", key, len(text))
			}
		}
	}
}

func TestEveryoneSealsWithOneKey(t *testing.T) {
	dir, backend := t.TempDir(), newMemory()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { seal(t, open(t, dir, backend, ""), "x", "y") })
	}
	wg.Wait()
	if len(backend.entries) != 1 {
		t.Errorf("%d keys in the system's keyring", len(backend.entries))
	}
}

func TestWithoutASystemKeyringTheFileServes(t *testing.T) {
	dir, broken := t.TempDir(), &memory{err: errors.New("no bus")}
	k := open(t, dir, broken, "")
	data := seal(t, k, "token", "hunter2")
	seal(t, k, "other", "x")
	if kindOf(data) != KindFile || broken.calls != 1 {
		t.Errorf("sealed by %q after %d calls; want a file, and one call", kindOf(data), broken.calls)
	}
	checkModes(t, dir)
	back := open(t, dir, newMemory(), "") // the keyring is there now: what the file sealed still opens
	if got, err := back.Unseal(t.Context(), "token", data); err != nil || string(got) != "hunter2" {
		t.Errorf("%q, %v", got, err)
	}
	if again := seal(t, back, "token", "hunter2"); kindOf(again) != KindOS {
		t.Errorf("sealed by %q though there is a keyring", kindOf(again))
	}
}

func checkModes(t *testing.T, dir string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if info, _ := d.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestAHangingKeyringDoesNotHangUs(t *testing.T) {
	stuck := newMemory()
	stuck.hang = make(chan struct{})
	defer close(stuck.hang)
	k, err := New(Config{Dir: t.TempDir(), Backend: stuck, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if data := seal(t, k, "token", "x"); kindOf(data) != KindFile {
		t.Errorf("sealed by %q", kindOf(data))
	}
	insist, err := New(Config{Dir: t.TempDir(), Backend: stuck, Timeout: 20 * time.Millisecond, Use: KindOS})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := insist.Seal(t.Context(), "token", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with the system's keyring alone: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("user gave up"))
	if _, err := insist.fetchOS(ctx, "x"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "user gave up") {
		t.Errorf("with an ended context: %v", err)
	}
}

// A keyring that is away is not a keyring that lost its key.
func TestUnsealTellsAwayFromLost(t *testing.T) {
	dir, backend := t.TempDir(), newMemory()
	data := seal(t, open(t, dir, backend, ""), "token", "x")
	away := open(t, dir, &memory{err: errors.New("locked")}, "")
	if _, err := away.Unseal(t.Context(), "token", data); !errors.Is(err, ErrUnavailable) {
		t.Errorf("away: %v, want ErrUnavailable", err)
	}
	lost := open(t, dir, newMemory(), "")
	if _, err := lost.Unseal(t.Context(), "token", data); !errors.Is(err, ErrKeyLost) {
		t.Errorf("lost: %v, want ErrKeyLost", err)
	}
	fresh := seal(t, lost, "token", "y") // a new key, under a new name
	if got, err := lost.Unseal(t.Context(), "token", fresh); err != nil || string(got) != "y" {
		t.Errorf("after the loss: %q, %v", got, err)
	}
	fileDir := t.TempDir()
	byFile := seal(t, open(t, fileDir, nil, KindFile), "token", "x")
	keys, _ := filepath.Glob(filepath.Join(fileDir, "*"+fileSuffix))
	if len(keys) != 1 || os.Remove(keys[0]) != nil {
		t.Fatalf("key files: %v", keys)
	}
	if _, err := open(t, fileDir, nil, KindFile).Unseal(t.Context(), "token", byFile); !errors.Is(err, ErrKeyLost) {
		t.Errorf("file removed: %v, want ErrKeyLost", err)
	}
}

func TestAForgetfulKeyringIsNotTrusted(t *testing.T) {
	forgetful := newMemory()
	forgetful.forget = true
	_, err := open(t, t.TempDir(), forgetful, KindOS).Seal(t.Context(), "token", nil)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("sealed with a key that the keyring did not keep: %v", err)
	}
	if data := seal(t, open(t, t.TempDir(), forgetful, ""), "token", "x"); kindOf(data) != KindFile {
		t.Errorf("sealed by %q", kindOf(data))
	}
}

// One secret does not open in another's place, and no bit of it can be changed.
func TestSealedBytesAreBound(t *testing.T) {
	k := open(t, t.TempDir(), newMemory(), "")
	data := seal(t, k, "default/refresh token", "hunter2")
	if _, err := k.Unseal(t.Context(), "default/session key", data); !errors.Is(err, ErrCorrupt) {
		t.Errorf("under another name: %v", err)
	}
	change := func(f func(*sealed)) []byte {
		var s sealed
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		f(&s)
		out, _ := json.Marshal(s)
		return out
	}
	for name, spoilt := range map[string][]byte{
		"empty": nil, "not JSON": []byte("x"), "no fields": []byte("{}"),
		"version":   change(func(s *sealed) { s.Version = 2 }),
		"text":      change(func(s *sealed) { s.Text[0] ^= 1 }),
		"cut short": change(func(s *sealed) { s.Text = s.Text[:3] }),
		"nonce":     change(func(s *sealed) { s.Nonce[0] ^= 1 }),
		"no nonce":  change(func(s *sealed) { s.Nonce = nil }),
		"kind":      change(func(s *sealed) { s.Ref.Kind = "cloud" }),
		"traversal": change(func(s *sealed) { s.Ref = keyRef{KindFile, "../../../etc/passwd"} }),
	} {
		if _, err := k.Unseal(t.Context(), "default/refresh token", spoilt); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
	}
	if kindOf([]byte("{}")) != "" {
		t.Error("a kind of nothing")
	}
}

func TestNewRefuses(t *testing.T) {
	for _, c := range []Config{{}, {Dir: "x", Use: "cloud"}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v: accepted", c)
		}
	}
}

// kindOf returns where the key of a sealed secret is, or "" when data is not one. It asks nobody.
func kindOf(data []byte) Kind {
	var s sealed
	if json.Unmarshal(data, &s) != nil || !s.Ref.valid() {
		return ""
	}
	return s.Ref.Kind
}

func TestDamagedReferenceMakesANewKey(t *testing.T) {
	dir, backend := t.TempDir(), newMemory()
	k := open(t, dir, backend, KindOS)
	seal(t, k, "a", "x")
	if err := os.WriteFile(k.refPath(KindOS), []byte("../nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	seal(t, open(t, dir, backend, KindOS), "a", "x")
	if len(backend.entries) != 2 {
		t.Errorf("%d entries", len(backend.entries))
	}
}

// The system's keyring itself, where there is one; anything but an error within the time-out is fine.
func TestSystemKeyringAnswersInTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("would leave an entry in a person's keyring")
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	start := time.Now()
	k, err := New(Config{Dir: t.TempDir(), Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if data := seal(t, k, "token", "x"); kindOf(data) != KindFile {
		t.Errorf("sealed by %q without a bus", kindOf(data))
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %s to find that there is no bus", took)
	}
}
