package certstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/culvert-vpn/culvert/internal/durable"
)

const (
	fileVersion = 1
	maxFile     = 1 << 20

	sessionKeyName   = "session key"
	refreshTokenName = "refresh token"
	deviceKeyName    = "device key"
)

// CorruptError reports a file that could not be read and was set aside.
type CorruptError struct {
	Path   string // where it was
	Aside  string // where it is now
	Reason error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s is corrupt (%v); it was set aside as %s", e.Path, e.Reason, e.Aside)
}

func (e *CorruptError) Unwrap() error { return e.Reason }

// ErrNewer is returned for a file that a newer program wrote. It is neither read nor overwritten.
var ErrNewer = errors.New("written by a newer version of culvert")

func (p *Profile) notLoggedIn() error { return fmt.Errorf("profile %q: %w", p.name, ErrNotLoggedIn) }

func (p *Profile) readLogin() (loginDocument, error) {
	var doc loginDocument
	err := p.read(loginFile, &doc)
	if errors.Is(err, fs.ErrNotExist) {
		return loginDocument{}, p.notLoggedIn()
	}
	if err != nil {
		return loginDocument{}, err
	}
	return doc, nil
}

// read decodes one file of the profile. What does not decode is set aside; what is newer is left alone.
func (p *Profile) read(name string, into any) error {
	path := filepath.Join(p.dir, name)
	data, err := durable.ReadPrivate(path, maxFile)
	if errors.Is(err, durable.ErrTooLarge) {
		return p.setAside(path, err)
	}
	if err != nil {
		return err
	}
	if err := decode(data, into); errors.Is(err, ErrNewer) {
		return fmt.Errorf("%s: %w", path, err)
	} else if err != nil {
		return p.setAside(path, err)
	}
	return nil
}

func decode(data []byte, into any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	switch {
	case head.Version > fileVersion:
		return fmt.Errorf("version %d, this program reads version %d: %w", head.Version, fileVersion, ErrNewer)
	case head.Version < fileVersion:
		return fmt.Errorf("version %d is not known", head.Version)
	}
	return json.Unmarshal(data, into)
}

func (p *Profile) setAside(path string, reason error) error {
	aside, err := durable.SetAside(path)
	if err != nil {
		return fmt.Errorf("%s is corrupt (%w) and stays, because: %w", path, reason, err)
	}
	return &CorruptError{Path: path, Aside: aside, Reason: reason}
}

// write replaces one file of the profile, but not one that it could not read.
func (p *Profile) write(name string, doc any) error {
	var head struct{}
	var corrupt *CorruptError
	if err := p.read(name, &head); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &corrupt) {
		return err
	}
	data, err := json.MarshalIndent(doc, "", "\t")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return durable.WriteFile(filepath.Join(p.dir, name), append(data, '\n'), 0o600)
}

// The profile is part of the name that a secret is sealed under: copied into another profile, it does not open.
func (p *Profile) seal(ctx context.Context, name string, s Secret) (json.RawMessage, error) {
	if s.IsZero() {
		return nil, nil
	}
	return p.keyring.Seal(ctx, p.name+"/"+name, s.b)
}

func (p *Profile) unseal(ctx context.Context, name string, sealed json.RawMessage) (Secret, error) {
	if len(sealed) == 0 {
		return Secret{}, nil
	}
	b, err := p.keyring.Unseal(ctx, p.name+"/"+name, sealed)
	return Secret{b}, err
}

// NewKey returns a new ECDSA P-256 key and its form as a secret (PKCS #8), for [Login.SessionKey].
func NewKey() (*ecdsa.PrivateKey, Secret, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Secret{}, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, Secret{}, fmt.Errorf("generate key: %w", err)
	}
	return key, Secret{der}, nil
}

func parseKey(s Secret) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(s.b)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("stored key is not an ECDSA P-256 key in PKCS #8")
	}
	return ec, nil
}

type deviceDocument struct {
	Version int             `json:"version"`
	Key     json.RawMessage `json:"key"` // sealed
}

// DeviceKey returns the key that names this device, and makes it at first use. It survives logins and logout. A key that is
// there but cannot be opened is an error, not a reason for a new one: the device would silently become another.
func (p *Profile) DeviceKey(ctx context.Context) (*ecdsa.PrivateKey, error) {
	lock, err := p.lock(ctx, deviceLock)
	if err != nil {
		return nil, err
	}
	defer lock.Unlock()
	var doc deviceDocument
	err = p.read(deviceFile, &doc)
	if errors.Is(err, fs.ErrNotExist) {
		return p.newDeviceKey(ctx)
	}
	if err != nil {
		return nil, err
	}
	secret, err := p.unseal(ctx, deviceKeyName, doc.Key)
	if err != nil {
		return nil, err
	}
	return parseKey(secret)
}

const deviceLock = "device.lock"

func (p *Profile) newDeviceKey(ctx context.Context) (*ecdsa.PrivateKey, error) {
	key, secret, err := NewKey()
	if err != nil {
		return nil, err
	}
	sealed, err := p.seal(ctx, deviceKeyName, secret)
	if err != nil {
		return nil, err
	}
	return key, p.write(deviceFile, deviceDocument{Version: fileVersion, Key: sealed})
}

// ResetDevice sets the device's key aside and returns where. The next [Profile.DeviceKey] makes a new one. It is the way
// on when the key that sealed it is lost.
func (p *Profile) ResetDevice() (aside string, err error) {
	return durable.SetAside(filepath.Join(p.dir, deviceFile))
}
