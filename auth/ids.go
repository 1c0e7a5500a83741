package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
)

// UserID names a person: the lower-case, unpadded base32 of SHA-256(issuer ‖ 0 ‖ subject), 52 characters.
type UserID string

// DeviceID names a device: the lower-case, unpadded base32 of the SHA-256 of its public key (DER
// SubjectPublicKeyInfo), 52 characters. The device's key survives logins.
type DeviceID string

// SessionID names a session, from a login to its deadline: 128 random bits in lower-case, unpadded
// base32, 26 characters.
type SessionID string

// GatewayID names a gateway inside its trust domain: 1 to 63 of a–z, 0–9 and hyphens inside.
type GatewayID string

// Serial is a certificate's serial number: 32 lower-case hexadecimal digits. It names the certificate
// in the inventory and in locks. (A hash would not: anyone can re-encode an ECDSA signature of a valid
// certificate into another valid one, with another hash.)
type Serial string

// TrustDomain names an installation. It is the authority of its SPIFFE IDs.
type TrustDomain string

const (
	userPath    = "/user/"
	gatewayPath = "/gateway/"
)

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewUserID returns the name of the person whom issuer knows as subject. The zero byte between them
// keeps ("ab", "c") and ("a", "bc") apart; neither can contain one, being JSON text of a URL and of at most
// 255 ASCII characters (OpenID Connect Core, section 2).
func NewUserID(issuer, subject string) UserID {
	sum := sha256.Sum256([]byte(issuer + "\x00" + subject))
	return UserID(base32Lower.EncodeToString(sum[:]))
}

// DeviceIDFromKey returns the name of the device with that public key (DER SubjectPublicKeyInfo).
func DeviceIDFromKey(spki []byte) DeviceID {
	sum := sha256.Sum256(spki)
	return DeviceID(base32Lower.EncodeToString(sum[:]))
}

// ParseDeviceID checks the form of a device's name.
func ParseDeviceID(s string) (DeviceID, error) {
	if err := checkBase32(s, sha256.Size); err != nil {
		return "", fmt.Errorf("device id %.64q: %w", s, err)
	}
	return DeviceID(s), nil
}

// NewSessionID returns a new random name for a session.
func NewSessionID() SessionID {
	var b [sessionBytes]byte
	rand.Read(b[:])
	return SessionID(base32Lower.EncodeToString(b[:]))
}

const sessionBytes = 16

// ParseSessionID checks the form of a session's name.
func ParseSessionID(s string) (SessionID, error) {
	if err := checkBase32(s, sessionBytes); err != nil {
		return "", fmt.Errorf("session id %.64q: %w", s, err)
	}
	return SessionID(s), nil
}

// checkBase32 accepts exactly one spelling of n bytes: unused bits at the end must be zero.
func checkBase32(s string, n int) error {
	if len(s) != base32Lower.EncodedLen(n) {
		return fmt.Errorf("%d characters instead of %d", len(s), base32Lower.EncodedLen(n))
	}
	b, err := base32Lower.DecodeString(s)
	if err != nil {
		return errors.New("not lower-case base32")
	}
	if base32Lower.EncodeToString(b) != s {
		return errors.New("not the canonical spelling")
	}
	return nil
}

// SerialOf returns the serial number of a parsed certificate.
func SerialOf(cert *x509.Certificate) Serial { return NewSerial(cert.SerialNumber) }

// NewSerial writes a serial number in the one form that stores and locks use.
func NewSerial(n *big.Int) Serial {
	return Serial(fmt.Sprintf("%032x", n))
}

// ParseSerial checks the form of a serial number.
func ParseSerial(s string) (Serial, error) {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 16 || strings.ToLower(s) != s {
		return "", fmt.Errorf("serial number %.64q: not 32 lower-case hexadecimal digits", s)
	}
	return Serial(s), nil
}

// ParseTrustDomain checks a trust domain: the characters of SPIFFE-ID section 2.1 (a–z, 0–9, dot, hyphen,
// underscore), at most 255, no empty label and no IP address, so that it also serves as a name constraint
// (RFC 5280, section 4.2.1.10).
func ParseTrustDomain(s string) (TrustDomain, error) {
	if s == "" || len(s) > 255 {
		return "", fmt.Errorf("trust domain of %d characters; it must have 1 to 255", len(s))
	}
	if net.ParseIP(s) != nil {
		return "", fmt.Errorf("trust domain %q is an IP address", s)
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "", fmt.Errorf("trust domain %q: labels of a–z, 0–9, hyphen and underscore, joined by single dots", s)
		}
	}
	return TrustDomain(s), nil
}

// ParseGatewayID checks a gateway's name.
func ParseGatewayID(s string) (GatewayID, error) {
	ok := s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	if !ok {
		return "", fmt.Errorf("gateway id %.64q: 1 to 63 of a–z, 0–9 and hyphens inside", s)
	}
	return GatewayID(s), nil
}

// GatewayURI returns spiffe://TRUST-DOMAIN/gateway/ID, the only subject alternative name of a gateway's
// server certificate.
func GatewayURI(td TrustDomain, id GatewayID) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: string(td), Path: gatewayPath + string(id)}
}

// ParseGatewayURI returns the gateway that uri names in trust domain td. It compares the whole URI with
// the one spelling that [GatewayURI] gives: no query, no user, no escape, no other trust domain.
func ParseGatewayURI(uri *url.URL, td TrustDomain) (GatewayID, error) {
	if uri == nil || td == "" {
		return "", errors.New("gateway URI or trust domain missing")
	}
	id, err := ParseGatewayID(strings.TrimPrefix(uri.Path, gatewayPath))
	if err != nil || uri.String() != GatewayURI(td, id).String() {
		return "", fmt.Errorf("%.256q is no gateway of trust domain %q", uri.String(), td)
	}
	return id, nil
}

// Fingerprint is the SHA-256 of a certificate's DER form, written "sha256:" and 64 lower-case
// hexadecimal digits. People compare it, and `culvert login --ca-fingerprint` takes it.
type Fingerprint string

const fingerprintPrefix = "sha256:"

// FingerprintOf returns the fingerprint of a certificate in DER form.
func FingerprintOf(der []byte) Fingerprint {
	sum := sha256.Sum256(der)
	return Fingerprint(fingerprintPrefix + hex.EncodeToString(sum[:]))
}

// ParseFingerprint reads a fingerprint as a person may have copied it: in either case, and with colons
// between the bytes as openssl prints them.
func ParseFingerprint(s string) (Fingerprint, error) {
	algorithm, digits, found := strings.Cut(strings.ToLower(strings.TrimSpace(s)), ":")
	if !found || algorithm+":" != fingerprintPrefix {
		return "", fmt.Errorf(`fingerprint %.128q: it starts with "sha256:"`, s)
	}
	digits = strings.ReplaceAll(digits, ":", "")
	if b, err := hex.DecodeString(digits); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("fingerprint %.128q: 64 hexadecimal digits follow %q", s, fingerprintPrefix)
	}
	return Fingerprint(fingerprintPrefix + digits), nil
}
