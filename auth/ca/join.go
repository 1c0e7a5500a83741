package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/plaintext"
)

// Request makes an issuing key in dir, on the gateway that will use it, and returns a certificate request (PEM)
// to be carried to where the root key is. A key that is there already is kept and requested for again: for a
// request that got lost, or when issuing.crt is about to end.
func Request(dir string, id auth.GatewayID) (csrPEM []byte, err error) {
	if _, err := auth.ParseGatewayID(string(id)); err != nil {
		return nil, err
	}
	if err := durable.MkdirPrivate(dir); err != nil {
		return nil, err
	}
	key, err := loadOrCreateKey(filepath.Join(dir, issuingKeyFile))
	if err != nil {
		return nil, err
	}
	t := &x509.CertificateRequest{Subject: pkix.Name{CommonName: string(id)}, SignatureAlgorithm: x509.ECDSAWithSHA256}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, key)
	if err != nil {
		return nil, fmt.Errorf("request certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: csrBlock, Bytes: der}), nil
}

func loadOrCreateKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = newKey(); err != nil {
		return nil, err
	}
	return key, writeKey(path, key)
}

// Sign answers a request of [Request] with the root key in dir. The result (PEM) is the issuing certificate,
// then the roots. The gateway's name is the caller's word, never the request's; the operator has compared the
// request's [RequestFingerprint] with what the other gateway printed. A request for a key that already is an
// authority in dir is refused.
func Sign(dir string, csrPEM []byte, id auth.GatewayID) (chainPEM []byte, err error) {
	pub, err := checkCSRPEM(csrPEM)
	if err != nil {
		return nil, err
	}
	roots, err := readRoots(filepath.Join(dir, rootCertFile))
	if err != nil {
		return nil, err
	}
	rootKey, err := readKey(filepath.Join(dir, rootKeyFile))
	if err != nil {
		return nil, err
	}
	if !rootKey.PublicKey.Equal(roots[0].PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s", filepath.Join(dir, rootKeyFile), rootCertFile)
	}
	if err := refuseOtherName(csrPEM, id); err != nil {
		return nil, err
	}
	if err := refuseOwnKeys(dir, roots, pub); err != nil {
		return nil, err
	}
	o := Options{TrustDomain: auth.TrustDomain(roots[0].PermittedURIDomains[0]), GatewayID: id}
	if err := o.validate(); err != nil {
		return nil, err
	}
	issuing, err := signIssuing(roots[0], rootKey, pub, o, time.Now())
	if err != nil {
		return nil, err
	}
	return encodeCerts(append([]*x509.Certificate{issuing}, roots...)...), nil
}

// refuseOtherName finds a mix-up of requests. The name in a request is no authority, and one without a name is signed.
func refuseOtherName(csrPEM []byte, id auth.GatewayID) error {
	ders, err := decodePEM(csrPEM, csrBlock, 1)
	if err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(ders[0])
	if err != nil {
		return fmt.Errorf("certificate request: %w", err)
	}
	if name := csr.Subject.CommonName; name != "" && name != string(id) {
		return fmt.Errorf("sign: the request was made for gateway %q, not for %q: sign it under its own name, or make another one there", plaintext.Clip(name, 64), id)
	}
	return nil
}

// refuseOwnKeys keeps two gateways from sharing a key.
func refuseOwnKeys(dir string, roots []*x509.Certificate, pub *ecdsa.PublicKey) error {
	certs := roots
	if issuing, err := readCert(filepath.Join(dir, issuingCertFile)); err == nil {
		certs = append(certs[:len(certs):len(certs)], issuing)
	}
	for _, cert := range certs {
		if pub.Equal(cert.PublicKey) {
			return errors.New("sign: the request's key already is an authority here; each gateway needs its own")
		}
	}
	return nil
}

// RequestFingerprint returns the fingerprint of the key in a request, for comparison by people.
func RequestFingerprint(csrPEM []byte) (auth.Fingerprint, error) {
	pub, err := checkCSRPEM(csrPEM)
	if err != nil {
		return "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("certificate request: %w", err)
	}
	return auth.FingerprintOf(spki), nil
}

func checkCSRPEM(csrPEM []byte) (*ecdsa.PublicKey, error) {
	if len(csrPEM) > maxFile {
		return nil, errors.New("certificate request is too large")
	}
	ders, err := decodePEM(csrPEM, csrBlock, 1)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return CheckCSR(ders[0])
}

// Install puts the answer of [Sign] in place, after checking that it is for the key in dir. It replaces an
// issuing certificate of the same key by one that ends later, and never a root: where root.crt is there
// already, the answer must come from its first root.
func Install(dir string, chainPEM []byte) error {
	if len(chainPEM) > maxFile {
		return errors.New("install certificate: too large")
	}
	certs, err := parseCerts(chainPEM, 1+maxRoots)
	if err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	if len(certs) < 2 {
		return errors.New("install certificate: the answer must hold the issuing certificate and the root")
	}
	issuing, roots := certs[0], certs[1:]
	if err := checkAnswer(dir, issuing, roots); err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	rootPath := filepath.Join(dir, rootCertFile)
	if _, err := os.Lstat(rootPath); errors.Is(err, fs.ErrNotExist) {
		if err := writeCerts(rootPath, roots...); err != nil {
			return err
		}
	}
	return durable.WriteFile(filepath.Join(dir, issuingCertFile), encodeCerts(issuing), 0o600)
}

func checkAnswer(dir string, issuing *x509.Certificate, roots []*x509.Certificate) error {
	for _, root := range roots {
		if err := checkRoot(root); err != nil {
			return err
		}
	}
	if _, _, err := checkIssuing(issuing, roots[:1], time.Now()); err != nil {
		return err
	}
	key, err := readKey(filepath.Join(dir, issuingKeyFile))
	if err != nil {
		return err
	}
	if !key.PublicKey.Equal(issuing.PublicKey) {
		return errors.New("it is for another key than the one here")
	}
	return checkReplaces(dir, issuing, roots[0])
}

func checkReplaces(dir string, issuing, root *x509.Certificate) error {
	present, err := readRoots(filepath.Join(dir, rootCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !present[0].Equal(root) {
		return fmt.Errorf("it comes from another root: %w", ErrExists)
	}
	old, err := readCert(filepath.Join(dir, issuingCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !issuing.NotAfter.After(old.NotAfter) {
		err = fmt.Errorf("it ends no later than the one that is there: %w", ErrExists)
	}
	return err
}
