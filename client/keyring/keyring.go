// Package keyring seals secrets, so that a file that holds them is of no use without a key kept elsewhere.
//
// The key (32 bytes, AES-256-GCM) lies in the operating system's keyring: Keychain, Windows Credential Manager, or a
// Secret Service on D-Bus. The secrets themselves do not: Windows keeps 2,560 bytes per entry only. Where there is no
// keyring, as on servers, the key lies in a file of mode 0600 beside the secrets; then sealing protects against
// copies of single files, and the folder's permissions against everything else. A sealed secret
// names the one that its key is in.
//
// A keyring may hang: a daemon that does not answer, a prompt that nobody sees. No call here waits longer than its
// context and [Config.Timeout] allow.
//
// The package knows nothing of what the secrets mean, and writes no file but the fall-back key.
package keyring

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Kind says where the sealing key is.
type Kind string

const (
	KindOS   Kind = "os"   // the operating system's keyring
	KindFile Kind = "file" // a file of mode 0600
)

// Errors that callers branch on.
var (
	// ErrUnavailable reports a keyring that is not there, is locked, or did not answer in time. What was sealed
	// with it is not lost: it opens again where the keyring does.
	ErrUnavailable = errors.New("the system's keyring is not available")

	// ErrKeyLost reports a sealed secret whose key is gone from where it was: the keyring entry or file was removed.
	ErrKeyLost = errors.New("the key that sealed this is gone")

	// ErrCorrupt reports sealed bytes that were damaged, cut short, exchanged, or sealed by another key.
	ErrCorrupt = errors.New("sealed secret is damaged")
)

const (
	keySize        = 32
	sealVersion    = 1
	defaultTimeout = 10 * time.Second
	defaultService = "culvert"
)

// Config configures [New].
type Config struct {
	Dir     string        // required: a private folder for the fall-back key; the state folder
	Use     Kind          // KindOS or KindFile insist on one; empty: the system's keyring where there is one
	Backend Backend       // nil: the operating system's keyring
	Timeout time.Duration // of one call to the keyring, the wait for a person to unlock it included; 0: 10 s
	Logger  *slog.Logger  // nil: silent
}

// Keyring seals and opens secrets. It is safe for concurrent use.
type Keyring struct {
	config Config

	mu   sync.Mutex
	noOS bool              // the system's keyring was not available when it was last needed
	keys map[keyRef][]byte // keys that were fetched, so that a keyring is asked once per process
}

// keyRef names a key: where it is and its random identifier there.
type keyRef struct {
	Kind Kind   `json:"kind"`
	ID   string `json:"key"`
}

// New returns a keyring. It does nothing yet: the system's keyring is asked, and a key made, when something is
// sealed or unsealed.
func New(c Config) (*Keyring, error) {
	if c.Dir == "" {
		return nil, errors.New("keyring: no folder given")
	}
	if c.Use != "" && c.Use != KindOS && c.Use != KindFile {
		return nil, fmt.Errorf("keyring: unknown kind %q", c.Use)
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Backend == nil {
		c.Backend = systemBackend{}
	}
	return &Keyring{config: c, keys: make(map[keyRef][]byte)}, nil
}

// sealed is the form of a sealed secret. The additional data of the AEAD are the version, key and name, so that
// one secret cannot stand in another's place.
type sealed struct {
	Version int    `json:"v"`
	Ref     keyRef `json:"by"`
	Nonce   []byte `json:"nonce"`
	Text    []byte `json:"text"`
}

// Seal encrypts secret under a name that [Keyring.Unseal] must be given again. The result is JSON. The key is the system's
// keyring's where that answers within the time-out, and otherwise the file's; with KindOS in Config.Use there is no
// otherwise, but an [ErrUnavailable].
func (k *Keyring) Seal(ctx context.Context, name string, secret []byte) ([]byte, error) {
	ref, key, err := k.sealingKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	s := sealed{Version: sealVersion, Ref: ref, Nonce: nonce, Text: aead.Seal(nil, nonce, secret, ref.bind(name))}
	return json.Marshal(s)
}

// Unseal decrypts what [Keyring.Seal] returned for the same name. The error wraps [ErrCorrupt], [ErrUnavailable] or
// [ErrKeyLost].
func (k *Keyring) Unseal(ctx context.Context, name string, data []byte) ([]byte, error) {
	var s sealed
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, ErrCorrupt)
	}
	if s.Version != sealVersion {
		return nil, fmt.Errorf("unseal %s: version %d, this program reads version %d: %w", name, s.Version, sealVersion, ErrCorrupt)
	}
	key, err := k.key(ctx, s.Ref)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, err)
	}
	aead, err := newAEAD(key)
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, err)
	}
	if len(s.Nonce) != aead.NonceSize() {
		return nil, fmt.Errorf("unseal %s: %w", name, ErrCorrupt)
	}
	secret, err := aead.Open(nil, s.Nonce, s.Text, s.Ref.bind(name))
	if err != nil {
		return nil, fmt.Errorf("unseal %s: %w", name, ErrCorrupt)
	}
	return secret, nil
}

// bind returns the additional data. Lengths need no marks: kind and id have no NUL byte, and name ends it.
func (r keyRef) bind(name string) []byte {
	return fmt.Appendf(nil, "culvert sealed v%d\x00%s\x00%s\x00%s", sealVersion, r.Kind, r.ID, name)
}

func (r keyRef) valid() bool {
	id, err := hex.DecodeString(r.ID)
	return err == nil && len(id) == 16 && (r.Kind == KindOS || r.Kind == KindFile)
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
