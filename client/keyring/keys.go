package keyring

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// Files in Config.Dir. The reference says which key new secrets are sealed with; the fall-back key has its
// identifier in its name, so that a reference and a key never get mixed up.
const (
	refPrefix  = "sealing-"
	refSuffix  = ".id"
	fileSuffix = ".key"
	lockFile   = "sealing.lock"
)

func (k *Keyring) refPath(kind Kind) string {
	return filepath.Join(k.config.Dir, refPrefix+string(kind)+refSuffix)
}

func (k *Keyring) keyPath(id string) string {
	return filepath.Join(k.config.Dir, refPrefix+id+fileSuffix)
}

// sealingKey returns the key for new secrets, and makes it at first use. Two processes that do so at once are kept
// apart by a lock, or one of them would seal with a key that the other replaces.
func (k *Keyring) sealingKey(ctx context.Context) (keyRef, []byte, error) {
	if err := durable.MkdirPrivate(k.config.Dir); err != nil {
		return keyRef{}, nil, err
	}
	lock, err := k.lock(ctx)
	if err != nil {
		return keyRef{}, nil, err
	}
	defer lock.Unlock()
	if k.config.Use == KindFile || k.config.Use == "" && k.withoutOS() {
		return k.presentOrNew(ctx, KindFile)
	}
	ref, key, err := k.presentOrNew(ctx, KindOS)
	if k.config.Use == "" && errors.Is(err, ErrUnavailable) {
		k.config.Logger.Info("secrets are sealed with a key in a file", "folder", k.config.Dir, "reason", err)
		k.setWithoutOS()
		return k.presentOrNew(ctx, KindFile)
	}
	return ref, key, err
}

// lock waits as long as another process may take for its calls to the system's keyring, and no longer: that
// process may be stopped.
func (k *Keyring) lock(ctx context.Context) (*durable.FileLock, error) {
	ctx, cancel := context.WithTimeout(ctx, 4*k.config.Timeout)
	defer cancel()
	return durable.Lock(ctx, filepath.Join(k.config.Dir, lockFile))
}

// withoutOS remembers for the process that the system's keyring did not answer: one wait is enough.
func (k *Keyring) withoutOS() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.noOS
}

func (k *Keyring) setWithoutOS() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.noOS = true
}

func (k *Keyring) presentOrNew(ctx context.Context, kind Kind) (keyRef, []byte, error) {
	ref, key, err := k.presentKey(ctx, kind)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrKeyLost) {
		return k.makeKey(ctx, kind)
	}
	return ref, key, err
}

func (k *Keyring) presentKey(ctx context.Context, kind Kind) (keyRef, []byte, error) {
	id, err := durable.ReadPrivate(k.refPath(kind), 64)
	if err != nil {
		return keyRef{}, nil, err
	}
	ref := keyRef{Kind: kind, ID: string(id)}
	if !ref.valid() {
		return keyRef{}, nil, ErrKeyLost // the reference is damaged: a new key, under a new identifier
	}
	key, err := k.key(ctx, ref)
	return ref, key, err
}

// makeKey stores a new key, and then the reference to it: a crash in between leaves an unused key.
func (k *Keyring) makeKey(ctx context.Context, kind Kind) (keyRef, []byte, error) {
	key, id := make([]byte, keySize), make([]byte, 16)
	rand.Read(key)
	rand.Read(id)
	ref := keyRef{Kind: kind, ID: hex.EncodeToString(id)}
	if err := k.storeKey(ctx, ref, key); err != nil {
		return keyRef{}, nil, err
	}
	if err := durable.WriteFile(k.refPath(kind), []byte(ref.ID), 0o600); err != nil {
		return keyRef{}, nil, err
	}
	k.remember(ref, key)
	return ref, key, nil
}

// storeKey reads a key back from the system's keyring: some take it and forget it (a keyring in memory only).
func (k *Keyring) storeKey(ctx context.Context, ref keyRef, key []byte) error {
	text := hex.EncodeToString(key)
	if ref.Kind == KindFile {
		return durable.CreateFile(k.keyPath(ref.ID), []byte(text), 0o600)
	}
	err := k.ask(ctx, func(b Backend) error { return b.Set(defaultService, ref.ID, text) })
	if err != nil {
		return err
	}
	stored, err := k.fetchOS(ctx, ref.ID)
	if err == nil && stored != text || errors.Is(err, ErrKeyLost) {
		err = fmt.Errorf("it did not keep what was stored: %w", ErrUnavailable)
	}
	return err
}

// key returns the key that ref names.
func (k *Keyring) key(ctx context.Context, ref keyRef) ([]byte, error) {
	if !ref.valid() {
		return nil, ErrCorrupt
	}
	k.mu.Lock()
	key, ok := k.keys[ref]
	k.mu.Unlock()
	if ok {
		return key, nil
	}
	text, err := k.fetch(ctx, ref)
	if err != nil {
		return nil, err
	}
	key, err = hex.DecodeString(text)
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("not a key: %w", ErrKeyLost)
	}
	k.remember(ref, key)
	return key, nil
}

func (k *Keyring) fetch(ctx context.Context, ref keyRef) (string, error) {
	if ref.Kind == KindOS {
		return k.fetchOS(ctx, ref.ID)
	}
	data, err := durable.ReadPrivate(k.keyPath(ref.ID), 2*keySize)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%s is not there: %w", k.keyPath(ref.ID), ErrKeyLost)
	}
	return string(data), err
}

func (k *Keyring) fetchOS(ctx context.Context, id string) (string, error) {
	answers := make(chan string, 1) // a call that comes back after its time-out must not block, nor write to our memory
	err := k.ask(ctx, func(b Backend) error {
		text, err := b.Get(defaultService, id)
		answers <- text
		return err
	})
	if err != nil {
		return "", err
	}
	return <-answers, nil
}

func (k *Keyring) remember(ref keyRef, key []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[ref] = key
}
