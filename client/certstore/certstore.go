// Package certstore keeps what a login left behind, one profile per gateway and person, in files of the state folder.
//
//	STATE/keyring/                      the fall-back key, where there is no system keyring
//	STATE/profiles/NAME/login.json      gateway, pins, certificate, session; session key and refresh token, sealed
//	STATE/profiles/NAME/device.json     the device's key, sealed; it survives logins and logout
//	STATE/profiles/NAME/login.lock      held while a person logs in
//	STATE/profiles/NAME/refresh.lock    held while login.json is read, changed and written
//
// Files are versioned JSON of mode 0600 in folders of mode 0700, replaced atomically and synced, whatever the umask.
// Symbolic links in their place are refused. A corrupt file is set aside under a name that the error gives, never
// overwritten; a file of a newer version is left alone. A process that dies releases its locks.
//
// The package talks to no gateway and no provider, and renews nothing.
package certstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/internal/durable"
)

// ErrNotLoggedIn is returned where there is no session in the profile.
var ErrNotLoggedIn = errors.New("not logged in")

// DefaultProfile is the profile's name when none is given.
const DefaultProfile = "default"

// Sealer protects secrets at rest: [keyring.Keyring] does. What Seal returned is JSON, and Unseal opens it
// under the same name only.
type Sealer interface {
	Seal(ctx context.Context, name string, secret []byte) ([]byte, error)
	Unseal(ctx context.Context, name string, data []byte) ([]byte, error)
}

// Options configures [Open]. The zero value is fine.
type Options struct {
	Keyring Sealer           // nil: the system's keyring, or a key in STATE/keyring
	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil: silent
}

// Profile is one profile's files. It keeps nothing in memory, so that each call sees what other processes wrote. It is
// safe for concurrent use as far as the locks are held that its methods name.
type Profile struct {
	name    string
	dir     string
	keyring Sealer
	now     func() time.Time
}

// Open returns a profile and makes its folders. An empty name is [DefaultProfile].
func Open(stateDir, profile string, o Options) (*Profile, error) {
	if profile == "" {
		profile = DefaultProfile
	}
	if err := CheckName(profile); err != nil {
		return nil, err
	}
	if stateDir == "" {
		return nil, errors.New("open profile: no state folder given")
	}
	p := &Profile{name: profile, dir: filepath.Join(stateDir, profilesDir, profile), keyring: o.Keyring, now: o.Now}
	// One after the other: durable.MkdirPrivate looks at the last element only, and a link may stand in any.
	for _, dir := range []string{stateDir, filepath.Dir(p.dir), p.dir} {
		if err := durable.MkdirPrivate(dir); err != nil {
			return nil, err
		}
	}
	if p.now == nil {
		p.now = time.Now
	}
	if p.keyring == nil {
		k, err := keyring.New(keyring.Config{Dir: filepath.Join(stateDir, keyringDir), Logger: o.Logger})
		if err != nil {
			return nil, err
		}
		p.keyring = k
	}
	return p, nil
}

const (
	profilesDir = "profiles"
	keyringDir  = "keyring"
	loginFile   = "login.json"
	deviceFile  = "device.json"
	loginLock   = "login.lock"
	refreshLock = "refresh.lock"
)

// Name returns the profile's name.
func (p *Profile) Name() string { return p.name }

// Dir returns the profile's folder, for other files of the same profile (a socket, for one). It has mode 0700.
func (p *Profile) Dir() string { return p.dir }

// LockLogin waits until no other process is logging in to this profile, or until ctx ends.
func (p *Profile) LockLogin(ctx context.Context) (*durable.FileLock, error) {
	return p.lock(ctx, loginLock)
}

// LockRefresh waits until no other process refreshes or writes this profile's login, or until ctx ends. Hold it
// around every sequence of reading the login, using its refresh token, and [Profile.Save].
func (p *Profile) LockRefresh(ctx context.Context) (*durable.FileLock, error) {
	return p.lock(ctx, refreshLock)
}

func (p *Profile) lock(ctx context.Context, name string) (*durable.FileLock, error) {
	path := filepath.Join(p.dir, name)
	// The lock would be taken on whatever a link points to.
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("lock %s: not a regular file: %w", path, durable.ErrNotPrivate)
	}
	return durable.Lock(ctx, path)
}

// CheckName refuses a profile's name that would not be a plain folder of its own on every system: anything but a–z, 0–9,
// dot, hyphen and underscore inside, and the names that Windows reserves for devices.
func CheckName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	ok := name != "" && len(name) <= 64 && strings.Trim(name, letters+".-_") == "" &&
		strings.ContainsRune(letters, rune(name[0])) && strings.ContainsRune(letters, rune(name[len(name)-1]))
	if !ok {
		return fmt.Errorf("profile name %.80q: use 1 to 64 of a–z, 0–9, and dot, hyphen, underscore inside", name)
	}
	stem, _, _ := strings.Cut(name, ".")
	if slices.Contains([]string{"con", "prn", "aux", "nul"}, stem) || isPort(stem) {
		return fmt.Errorf("profile name %q is reserved on Windows", name)
	}
	return nil
}

func isPort(stem string) bool {
	return len(stem) == 4 && (strings.HasPrefix(stem, "com") || strings.HasPrefix(stem, "lpt")) &&
		stem[3] >= '0' && stem[3] <= '9'
}
