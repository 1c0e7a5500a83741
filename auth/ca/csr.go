package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
)

// MaxCSR is the largest certificate request, in bytes of DER, that is looked at.
const MaxCSR = 8 << 10

// CheckCSR returns the public key of a certificate request (PKCS #10, DER), after checking that it is on
// P-256 and that its private key signed the request. Whatever else the request asks for (names, extensions,
// authority) is ignored: it never reaches a certificate.
func CheckCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > MaxCSR {
		return nil, fmt.Errorf("certificate request of %d bytes; at most %d are allowed", len(der), MaxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	// The kind of key comes first: checking the signature of a 16,384-bit RSA key costs something.
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || csr.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, errors.New("certificate request: the key must be ECDSA P-256, signing with SHA-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: the signature is not by its key: %w", err)
	}
	return key, nil
}
