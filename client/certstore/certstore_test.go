package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "CANARY-refresh-token-0123456789"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openProfile opens a profile whose keyring is the file, as on a server.
func openProfile(t testing.TB, stateDir, name string) *Profile {
	t.Helper()
	k, err := keyring.New(keyring.Config{Dir: filepath.Join(stateDir, keyringDir), Use: keyring.KindFile, Logger: testenv.Logger(t)})
	must(t, err)
	p, err := Open(stateDir, name, Options{Keyring: k})
	must(t, err)
	return p
}

// testLogin is a complete login, with a certificate from a real authority.
func testLogin(t testing.TB) Login {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	must(t, ca.Init(dir, ca.Options{TrustDomain: "corp.example", GatewayID: "gw-1"}))
	a, err := ca.Load(dir)
	must(t, err)
	key, secret, err := NewKey()
	must(t, err)
	now := time.Now().Truncate(time.Second).UTC()
	id := auth.Identity{Issuer: "https://idp.example.com/", Subject: "1", Provider: "corp", GroupsKnown: true, AuthTime: now, IssuedAt: now,
		Login: auth.LoginBrowser, Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey(nil)}
	issued, err := a.IssueClient(t.Context(), ca.ClientProfile{Identity: id, PublicKey: &key.PublicKey, NotBefore: now.Add(-ca.Backdate), NotAfter: now.Add(time.Hour)})
	must(t, err)
	return Login{
		Gateway: "https://vpn.corp.example", HTTPSFingerprint: auth.FingerprintOf(nil), HTTPSRoots: []byte("PEM"), Tunnel: "vpn.corp.example:8443",
		TrustDomain: "corp.example", Roots: a.RootsDER(), Provider: "corp", ProviderSettings: json.RawMessage(`{"client_id":"culvert"}`),
		Session: id.Session, SessionKey: secret, Chain: issued.Chain, RefreshToken: NewSecretString(canary), Renewable: true,
		Deadline: now.Add(12 * time.Hour), ClockSkew: -1500 * time.Millisecond,
	}
}

func TestALoginComesBack(t *testing.T) {
	state, want := t.TempDir(), testLogin(t)
	must(t, openProfile(t, state, "").Save(t.Context(), want))
	p := openProfile(t, state, "") // another process
	got, err := p.Load(t.Context())
	must(t, err)
	var compact json.RawMessage
	compact, err = json.Marshal(got.ProviderSettings)
	must(t, err)
	got.ProviderSettings, want.UpdatedAt = compact, got.UpdatedAt
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if cert, err := got.Certificate(); err != nil || cert.Leaf == nil {
		t.Errorf("Certificate: %v", err)
	}
	if id, err := got.Identity(); err != nil || id.Session != want.Session {
		t.Errorf("Identity: %+v, %v", id, err)
	}
	peek, err := p.Peek()
	if err != nil || !peek.LoggedIn() || !peek.Renewable || !peek.SessionKey.IsZero() || !peek.RefreshToken.IsZero() || peek.Session != want.Session {
		t.Errorf("Peek: %+v, %v", peek, err)
	}
}

func TestWithoutALogin(t *testing.T) {
	p := openProfile(t, t.TempDir(), "work")
	if _, err := p.Load(t.Context()); !errors.Is(err, ErrNotLoggedIn) || !strings.Contains(err.Error(), "work") {
		t.Errorf("Load: %v", err)
	}
	if _, err := p.Peek(); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("Peek: %v", err)
	}
	must(t, p.Logout(t.Context()))
	if _, err := (Login{}).Certificate(); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("Certificate of nothing: %v", err)
	}
}

func TestLogoutKeepsGatewayPinsAndDevice(t *testing.T) {
	state, l := t.TempDir(), testLogin(t)
	p := openProfile(t, state, "")
	device, err := p.DeviceKey(t.Context())
	must(t, err)
	must(t, p.Save(t.Context(), l))
	must(t, p.Logout(t.Context()))
	if _, err := p.Load(t.Context()); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("Load after logout: %v", err)
	}
	left, err := p.Peek()
	if err != nil || left.LoggedIn() || left.Session != "" || !left.Deadline.IsZero() {
		t.Errorf("left: %+v, %v", left, err)
	}
	if left.Gateway != l.Gateway || left.HTTPSFingerprint != l.HTTPSFingerprint || len(left.Roots) != 1 || left.Provider != "corp" {
		t.Errorf("gateway or pins are gone: %+v", left)
	}
	text, err := os.ReadFile(filepath.Join(p.Dir(), loginFile))
	must(t, err)
	if strings.Contains(string(text), "refresh_token") || strings.Contains(string(text), "session_key") {
		t.Error("sealed secrets are still in the file")
	}
	again, err := openProfile(t, state, "").DeviceKey(t.Context())
	if err != nil || !again.Equal(device) {
		t.Errorf("the device's key did not survive: %v", err)
	}
}

func TestSaveRefusesWhatCouldNotBeUsed(t *testing.T) {
	p := openProfile(t, t.TempDir(), "")
	_, other, err := NewKey()
	must(t, err)
	for name, spoil := range map[string]func(*Login){
		"no gateway":      func(l *Login) { l.Gateway = "" },
		"no trust domain": func(l *Login) { l.TrustDomain = "" },
		"no roots":        func(l *Login) { l.Roots = nil },
		"broken root":     func(l *Login) { l.Roots = [][]byte{{1}} },
		"a leaf as root":  func(l *Login) { l.Roots = append(l.Roots, l.Chain[0]) },
		"too many roots":  func(l *Login) { l.Roots = slices.Repeat(l.Roots, maxRoots+1) },
		"no session":      func(l *Login) { l.Session = "" },
		"no key":          func(l *Login) { l.SessionKey = Secret{} },
		"another key":     func(l *Login) { l.SessionKey = other },
		"broken chain":    func(l *Login) { l.Chain = [][]byte{{1}} },
	} {
		l := testLogin(t)
		spoil(&l)
		if err := p.Save(t.Context(), l); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
	if _, err := p.Peek(); !errors.Is(err, ErrNotLoggedIn) {
		t.Errorf("something was written: %v", err)
	}
}

// A corrupt file is set aside, named, and never overwritten.
func TestCorruptFilesAreSetAside(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "not JSON": "\x00\x00", "cut short": `{"version":1,"gateway":"https://`, "another type": `{"version":1,"roots":7}`,
		"no version": `{"gateway":"x"}`, "version 0": `{"version":0}`, "huge": strings.Repeat("x", maxFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			p := openProfile(t, t.TempDir(), "")
			path := filepath.Join(p.Dir(), loginFile)
			must(t, os.WriteFile(path, []byte(text), 0o600))
			_, err := p.Load(t.Context())
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), corrupt.Aside) || corrupt.Path != path {
				t.Fatalf("Load: %v; want a CorruptError that names the copy", err)
			}
			if kept, _ := os.ReadFile(corrupt.Aside); string(kept) != text {
				t.Error("the copy differs")
			}
			if _, err := p.Load(t.Context()); !errors.Is(err, ErrNotLoggedIn) {
				t.Errorf("second Load: %v", err)
			}
		})
	}
}

func TestSaveSetsACorruptFileAside(t *testing.T) {
	p := openProfile(t, t.TempDir(), "")
	must(t, os.WriteFile(filepath.Join(p.Dir(), loginFile), []byte("precious"), 0o600))
	must(t, p.Save(t.Context(), testLogin(t)))
	kept, _ := filepath.Glob(filepath.Join(p.Dir(), loginFile+".corrupt-*"))
	if len(kept) != 1 {
		t.Fatalf("set aside: %v", kept)
	}
	if text, _ := os.ReadFile(kept[0]); string(text) != "precious" {
		t.Errorf("the copy holds %q", text)
	}
}

func TestNewerFilesAreLeftAlone(t *testing.T) {
	p := openProfile(t, t.TempDir(), "")
	path, newer := filepath.Join(p.Dir(), loginFile), `{"version":2,"gateway":{"url":"x"}}`
	must(t, os.WriteFile(path, []byte(newer), 0o600))
	if _, err := p.Load(t.Context()); !errors.Is(err, ErrNewer) {
		t.Errorf("Load: %v", err)
	}
	if err := p.Save(t.Context(), testLogin(t)); !errors.Is(err, ErrNewer) {
		t.Errorf("Save: %v", err)
	}
	if err := p.Logout(t.Context()); !errors.Is(err, ErrNewer) {
		t.Errorf("Logout: %v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != newer {
		t.Errorf("the file holds %q", text)
	}
}

// Class: file modes and symbolic links (threats.md, local surfaces).
func TestThreatModesWhateverTheUmask(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
	withUmask(t, 0, func() {
		state := filepath.Join(t.TempDir(), "state")
		p := openProfile(t, state, "")
		must(t, p.Save(t.Context(), testLogin(t)))
		_, err := p.DeviceKey(t.Context())
		must(t, err)
		for _, lock := range []func(context.Context) (*durable.FileLock, error){p.LockLogin, p.LockRefresh} {
			l, err := lock(t.Context())
			must(t, err)
			must(t, l.Unlock())
		}
		must(t, filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
			must(t, err)
			info, err := d.Info()
			must(t, err)
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
			}
			return nil
		}))
	})
}

// Class: file modes and symbolic links: a planted link is not followed, neither for reading nor for writing.
func TestThreatPlantedLinks(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(victim, []byte(`{"version":1}`), 0o600))
	plant := func(name string) *Profile {
		p := openProfile(t, t.TempDir(), "")
		must(t, os.Symlink(victim, filepath.Join(p.Dir(), name)))
		return p
	}
	p := plant(loginFile)
	if _, err := p.Load(t.Context()); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("Load: %v, want ErrNotPrivate", err)
	}
	if err := p.Save(t.Context(), testLogin(t)); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("Save: %v, want ErrNotPrivate", err)
	}
	if _, err := plant(deviceFile).DeviceKey(t.Context()); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("DeviceKey: %v, want ErrNotPrivate", err)
	}
	if _, err := plant(loginLock).LockLogin(t.Context()); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("LockLogin: %v, want ErrNotPrivate", err)
	}
	if text, _ := os.ReadFile(victim); string(text) != `{"version":1}` {
		t.Errorf("the link's target holds %q", text)
	}
	for _, level := range []string{"state", "state/profiles", "state/profiles/default"} {
		base := t.TempDir()
		path := filepath.Join(base, level)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.Symlink(t.TempDir(), path))
		if _, err := Open(filepath.Join(base, "state"), "", Options{}); !errors.Is(err, durable.ErrNotPrivate) {
			t.Errorf("a link as %s: %v, want ErrNotPrivate", level, err)
		}
	}
}

func TestOthersMayNotReadTheLogin(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
	p := openProfile(t, t.TempDir(), "")
	must(t, p.Save(t.Context(), testLogin(t)))
	must(t, os.Chmod(filepath.Join(p.Dir(), loginFile), 0o644))
	if _, err := p.Load(t.Context()); !errors.Is(err, durable.ErrNotPrivate) {
		t.Errorf("Load of a file with mode 0644: %v", err)
	}
}

// Class: secrets leak (Boundary CVE-2023-0690).
func TestThreatSecretsAreNotInTheFiles(t *testing.T) {
	state := t.TempDir()
	p, l := openProfile(t, state, ""), testLogin(t)
	must(t, p.Save(t.Context(), l))
	must(t, filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), canary) || strings.Contains(string(text), string(l.SessionKey.Reveal())) {
			t.Errorf("a secret stands in %s", path)
		}
		return err
	}))
}

// Class: secrets leak: no way of printing shows one.
func TestThreatSecretsAreNotPrintable(t *testing.T) {
	l := testLogin(t)
	hexed := fmt.Sprintf("%x", canary)
	var texts []string
	for _, v := range []any{l.RefreshToken, &l.RefreshToken, l, &l, []Secret{l.RefreshToken}, map[string]Secret{"x": l.RefreshToken}, struct{ S Secret }{l.RefreshToken}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%c", "%U", "%T"} {
			texts = append(texts, fmt.Sprintf(verb, v))
		}
		marshalled, err := json.Marshal(v)
		must(t, err)
		texts = append(texts, string(marshalled))
		for _, handler := range []func(*strings.Builder) slog.Handler{
			func(b *strings.Builder) slog.Handler { return slog.NewTextHandler(b, nil) },
			func(b *strings.Builder) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b strings.Builder
			slog.New(handler(&b)).Info("x", "secret", v)
			texts = append(texts, b.String())
		}
	}
	decimal := strings.Trim(fmt.Sprint([]byte(canary)), "[]")
	for _, text := range texts {
		for _, form := range []string{canary, hexed, strings.ToUpper(hexed), decimal, "Q0FOQVJZ"} {
			if strings.Contains(text, form) {
				t.Errorf("shown: %.200s", text)
			}
		}
	}
	if !l.RefreshToken.Equal(NewSecretString(canary)) || l.RefreshToken.Equal(Secret{}) || l.RefreshToken.RevealString() != canary {
		t.Error("Equal or RevealString is wrong")
	}
}

// A login copied into another profile does not open: secrets are sealed under the profile's name.
func TestSecretsBelongToTheirProfile(t *testing.T) {
	state := t.TempDir()
	a, b := openProfile(t, state, "a"), openProfile(t, state, "b")
	must(t, a.Save(t.Context(), testLogin(t)))
	text, err := os.ReadFile(filepath.Join(a.Dir(), loginFile))
	must(t, err)
	must(t, durable.WriteFile(filepath.Join(b.Dir(), loginFile), text, 0o600))
	if _, err := b.Load(t.Context()); !errors.Is(err, keyring.ErrCorrupt) {
		t.Errorf("Load in another profile: %v", err)
	}
}

func TestADeviceKeyThatDoesNotOpenIsNotReplaced(t *testing.T) {
	state := t.TempDir()
	p := openProfile(t, state, "")
	first, err := p.DeviceKey(t.Context())
	must(t, err)
	must(t, os.RemoveAll(filepath.Join(state, keyringDir)))
	p = openProfile(t, state, "") // a new process: keys are remembered within one
	if _, err := p.DeviceKey(t.Context()); !errors.Is(err, keyring.ErrKeyLost) {
		t.Errorf("DeviceKey: %v, want ErrKeyLost", err)
	}
	aside, err := p.ResetDevice()
	must(t, err)
	second, err := p.DeviceKey(t.Context())
	if err != nil || second.Equal(first) || aside == "" {
		t.Errorf("after the reset (%s): %v", aside, err)
	}
}

func TestProfileNames(t *testing.T) {
	for _, good := range []string{"default", "a", "corp.example", "work-2", "a_b", "com", "com10", "connie"} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/b", `a\b`, "A", "a b", "-a", "a-", ".a", "a.", "ä", "a\x00", "a\n", "con", "nul.txt", "com1", "lpt9.x",
		strings.Repeat("a", 65), "a:b", "a%2fb", "~"} {
		if err := CheckName(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
		if bad != "" {
			if _, err := Open(t.TempDir(), bad, Options{}); err == nil {
				t.Errorf("Open(%q): accepted", bad)
			}
		}
	}
	if _, err := Open("", "a", Options{}); err == nil {
		t.Error("no state folder: accepted")
	}
}

// Two logins, or a refresh and a login, do not run at once, and a process that is killed leaves no lock behind.
func TestLocksHoldAcrossProcessesAndDieWithThem(t *testing.T) {
	if state := os.Getenv("CERTSTORE_TEST_LOCK"); state != "" {
		holdLocks(state)
	}
	state := t.TempDir()
	p := openProfile(t, state, "")
	cmd := exec.Command(os.Args[0], "-test.run=^TestLocksHoldAcrossProcessesAndDieWithThem$")
	cmd.Env = append(os.Environ(), "CERTSTORE_TEST_LOCK="+state)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for name, lock := range map[string]func(context.Context) (*durable.FileLock, error){"login": p.LockLogin, "refresh": p.LockRefresh} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := lock(ctx); !errors.Is(err, durable.ErrLocked) {
			t.Errorf("%s lock while the other process lives: %v, want ErrLocked", name, err)
		}
		cancel()
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for name, lock := range map[string]func(context.Context) (*durable.FileLock, error){"login": p.LockLogin, "refresh": p.LockRefresh} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		l, err := lock(ctx)
		if err != nil {
			t.Errorf("%s lock after the other process was killed: %v", name, err)
		} else {
			must(t, l.Unlock())
		}
		cancel()
	}
}

// holdLocks is the other process: it takes both locks, says so, and lives until it is killed.
func holdLocks(state string) {
	p, err := Open(state, "", Options{})
	if err != nil {
		os.Exit(1)
	}
	login, loginErr := p.LockLogin(context.Background())
	refresh, refreshErr := p.LockRefresh(context.Background())
	if loginErr != nil || refreshErr != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString("locked\n")
	<-make(chan struct{})
	runtime.KeepAlive([]*durable.FileLock{login, refresh}) // a collected file would be closed, and unlocked
}

// FuzzDecode: whatever stands in a file, reading it ends in a login or in an error.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1,"gateway":"https://x","trust_domain":"x","roots":["AAAA"],"deadline":"2026-12-01T00:00:00Z"}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var doc loginDocument
		if decode(data, &doc) != nil {
			return
		}
		l := doc.login()
		_ = l.check()
		again := newLoginDocument(l)
		if again.Version != fileVersion || again.Gateway != doc.Gateway {
			t.Fatalf("%+v", again)
		}
	})
}
