package enroll

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// The purposes keep a sealed code from being taken for a sealed token.
const (
	purposeCode    = "culvert/1 device code"
	purposeRefresh = "culvert/1 refresh token"
)

var errSealed = errors.New("a sealed value does not open")

// seal encrypts what a device login must keep in the database. The key comes from
// the id, 256 random bits that only the polling client has, so that neither the
// database nor a copy of it gives the value away.
func seal(id oidc.Secret, purpose string, plain []byte) ([]byte, error) {
	aead, err := sealer(id, purpose)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, plain, nil), nil
}

func unseal(id oidc.Secret, purpose string, sealed []byte) ([]byte, error) {
	aead, err := sealer(id, purpose)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, errSealed // the cause would say nothing more
	}
	return plain, nil
}

func sealer(id oidc.Secret, purpose string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(id.Reveal()), nil, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive a sealing key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make a cipher: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}
