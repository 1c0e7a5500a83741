package enroll

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/culvert-vpn/culvert/auth"
)

// SaltSize is the length of a login's random salt in bytes.
const SaltSize = 32

// ErrProof says that a signature in a request does not fit its contents.
var ErrProof = errors.New("the signature does not fit the request")

// The contexts separate the signatures of this protocol from each other, and
// from those that the same keys make in TLS and in certificate requests.
const (
	contextDevice  = "culvert/1 device key for enrolment"
	contextRenewal = "culvert/1 certificate renewal"
	contextStepUp  = "culvert/1 fresh login"
	contextPoll    = "culvert/1 device login poll"
)

// NewSalt gives the random salt of a login. It stays on the desktop until the
// gateway gets it together with the ID token.
func NewSalt() []byte {
	salt := make([]byte, SaltSize)
	rand.Read(salt) // never fails: crypto/rand ends the process instead
	return salt
}

// Nonce binds an ID token to a key: base64url(SHA-256(SPKI ‖ salt)), the nonce
// of the authorization request (OpenID Connect Core section 3.1.2.1). spki is
// the DER SubjectPublicKeyInfo of the key in the certificate request.
func Nonce(spki, salt []byte) string {
	h := sha256.New()
	h.Write(spki)
	h.Write(salt)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// proofDigest hashes a context and length-prefixed fields, so that no two
// different requests share a digest.
func proofDigest(context string, fields ...[]byte) []byte {
	h := sha256.New()
	for _, f := range append([][]byte{[]byte(context)}, fields...) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f))))
		h.Write(f)
	}
	return h.Sum(nil)
}

func sign(key crypto.Signer, context string, fields ...[]byte) ([]byte, error) {
	if err := checkKey(key.Public()); err != nil {
		return nil, err
	}
	sig, err := key.Sign(rand.Reader, proofDigest(context, fields...), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", context, err)
	}
	return sig, nil
}

func verify(pub crypto.PublicKey, sig []byte, context string, fields ...[]byte) error {
	if err := checkKey(pub); err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), proofDigest(context, fields...), sig) {
		return ErrProof
	}
	return nil
}

// checkKey holds every key of the protocol to ECDSA P-256.
func checkKey(pub crypto.PublicKey) error {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return errors.New("the key is not ECDSA P-256")
	}
	return nil
}

// DeviceProof is what a device key says about itself: its public half and a
// signature for one certificate request at one gateway's trust domain.
type DeviceProof struct {
	// Key is the DER SubjectPublicKeyInfo, ECDSA P-256.
	Key []byte `json:"device_key"`
	// Signature is ASN.1 DER.
	Signature []byte `json:"device_signature"`
}

// NewDeviceProof signs for the certificate request whose key is csrSPKI (DER).
func NewDeviceProof(device crypto.Signer, td auth.TrustDomain, csrSPKI []byte) (DeviceProof, error) {
	spki, err := x509.MarshalPKIXPublicKey(device.Public())
	if err != nil {
		return DeviceProof{}, fmt.Errorf("encode the device key: %w", err)
	}
	sig, err := sign(device, contextDevice, []byte(td), csrSPKI)
	return DeviceProof{Key: spki, Signature: sig}, err
}

// Verify checks the proof and gives the device that it speaks for.
func (p DeviceProof) Verify(td auth.TrustDomain, csrSPKI []byte) (auth.DeviceID, error) {
	pub, err := x509.ParsePKIXPublicKey(p.Key)
	if err != nil {
		return "", fmt.Errorf("parse the device key: %w", err)
	}
	if err := verify(pub, p.Signature, contextDevice, []byte(td), csrSPKI); err != nil {
		return "", err
	}
	// Hash the canonical encoding: one key must not be several devices.
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encode the device key: %w", err)
	}
	return auth.DeviceIDFromKey(spki), nil
}

// Sign sets the signature of a renewal with the key of the certificate.
// Everything else in the request must be set before.
func (r *RenewRequest) Sign(key crypto.Signer) error {
	sig, err := sign(key, contextRenewal, r.proofFields()...)
	r.Signature = sig
	return err
}

// Verify checks the signature of a renewal; pub is the certificate's key.
func (r *RenewRequest) Verify(pub crypto.PublicKey) error {
	return verify(pub, r.Signature, contextRenewal, r.proofFields()...)
}

func (r *RenewRequest) proofFields() [][]byte {
	id, access := sha256.Sum256([]byte(r.IDToken.Reveal())), sha256.Sum256([]byte(r.AccessToken.Reveal()))
	return [][]byte{r.Challenge, id[:], access[:], []byte(r.Provider), r.Certificate}
}

// Sign sets the signature of a step-up with the key of the certificate.
// Everything else in the request must be set before.
func (r *StepUpRequest) Sign(key crypto.Signer) error {
	sig, err := sign(key, contextStepUp, r.proofFields()...)
	r.Signature = sig
	return err
}

// Verify checks the signature of a step-up; pub is the certificate's key.
func (r *StepUpRequest) Verify(pub crypto.PublicKey) error {
	return verify(pub, r.Signature, contextStepUp, r.proofFields()...)
}

func (r *StepUpRequest) proofFields() [][]byte {
	id, access := sha256.Sum256([]byte(r.IDToken.Reveal())), sha256.Sum256([]byte(r.AccessToken.Reveal()))
	return [][]byte{r.Challenge, id[:], access[:], []byte(r.Provider), r.Certificate, r.Salt}
}

// Sign sets the signature of a poll with the key of the certificate request.
func (r *DevicePollRequest) Sign(key crypto.Signer) error {
	sig, err := sign(key, contextPoll, []byte(r.ID.Reveal()))
	r.Signature = sig
	return err
}

// Verify checks the signature of a poll; pub is the certificate request's key.
func (r *DevicePollRequest) Verify(pub crypto.PublicKey) error {
	return verify(pub, r.Signature, contextPoll, []byte(r.ID.Reveal()))
}
