package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

const (
	// MaxClientLife bounds what may be asked for a client certificate, [Backdate] included.
	MaxClientLife = 24*time.Hour + Backdate

	// GatewayLife is how long a gateway's own certificate is valid. It renews itself at two thirds.
	GatewayLife = 7 * 24 * time.Hour
)

// ClientProfile is everything that distinguishes one client certificate from another.
type ClientProfile struct {
	Identity  auth.Identity    // required
	PublicKey *ecdsa.PublicKey // required, P-256: what [CheckCSR] returned
	NotBefore time.Time        // required; backdate it by [Backdate]. Seconds.
	NotAfter  time.Time        // required; at most [MaxClientLife] later. Seconds.
	Serial    *big.Int         // nil: a new one
}

// Issued is a certificate and what its owner presents.
type Issued struct {
	Leaf  *x509.Certificate
	Chain [][]byte // DER: the leaf, then the issuing certificate; never the root
}

// IssueClient issues a client certificate. It is first signed by a throwaway key and linted; only the very same
// bytes are then signed by the issuing key. The caller has the serial in its inventory before it hands out
// the certificate.
func (a *Authority) IssueClient(ctx context.Context, p ClientProfile) (*Issued, error) {
	if p.PublicKey == nil || p.PublicKey.Curve != elliptic.P256() {
		return nil, errors.New("issue client certificate: the key is not ECDSA P-256")
	}
	ext, err := auth.Embed(p.Identity)
	if err != nil {
		return nil, fmt.Errorf("issue client certificate: %w", err)
	}
	t := a.leafTemplate(p.Serial, p.NotBefore, p.NotAfter)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	t.URIs = []*url.URL{p.Identity.SPIFFEID(a.trustDomain)}
	t.ExtraExtensions = append(t.ExtraExtensions, ext)
	return a.issue(ctx, t, p.PublicKey, func(cert *x509.Certificate) error { return a.lintClient(cert, ext) })
}

// IssueGateway issues this gateway's own server certificate for the tunnel, valid for [GatewayLife] or until the
// issuing certificate ends. [NewGatewayLeaf] does that by itself.
func (a *Authority) IssueGateway(ctx context.Context, pub *ecdsa.PublicKey) (*Issued, error) {
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, errors.New("issue gateway certificate: the key is not ECDSA P-256")
	}
	now := time.Now()
	notBefore, notAfter := now.Add(-Backdate), now.Add(GatewayLife)
	if notBefore.Before(a.issuing.NotBefore) {
		notBefore = a.issuing.NotBefore
	}
	if notAfter.After(a.issuing.NotAfter) {
		notAfter = a.issuing.NotAfter
	}
	t := a.leafTemplate(nil, notBefore, notAfter)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	t.URIs = []*url.URL{auth.GatewayURI(a.trustDomain, a.gateway)}
	return a.issue(ctx, t, pub, a.lintGateway)
}

func (a *Authority) leafTemplate(serial *big.Int, notBefore, notAfter time.Time) *x509.Certificate {
	if serial == nil {
		serial = NewSerial()
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true, // CA:FALSE, spelled out
		KeyUsage:              x509.KeyUsageDigitalSignature,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
}

func (a *Authority) issue(ctx context.Context, t *x509.Certificate, pub *ecdsa.PublicKey, lint func(*x509.Certificate) error) (*Issued, error) {
	if err := checkContext(ctx); err != nil {
		return nil, err
	}
	prepared, err := a.sign(t, pub, a.throwaway)
	if err != nil {
		return nil, fmt.Errorf("prepare certificate: %w", err)
	}
	if err := errors.Join(a.lintLeaf(prepared, pub), lint(prepared)); err != nil {
		return nil, fmt.Errorf("prepared certificate is wrong, not issued: %w", err)
	}
	leaf, err := a.sign(t, pub, a.key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	if !bytes.Equal(leaf.RawTBSCertificate, prepared.RawTBSCertificate) {
		return nil, errors.New("issue certificate: it differs from the prepared one")
	}
	return &Issued{Leaf: leaf, Chain: [][]byte{leaf.Raw, a.issuing.Raw}}, nil
}

// sign makes the certificate under the issuer's name, with the issuing key or the throwaway one.
func (a *Authority) sign(t *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	issuer := *a.issuing
	issuer.PublicKey = &key.PublicKey // x509 compares it with the key, and checks its signature by it
	der, err := x509.CreateCertificate(rand.Reader, t, &issuer, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// lintLeaf checks, on the bytes that would be issued, what every leaf has in common.
func (a *Authority) lintLeaf(cert *x509.Certificate, pub *ecdsa.PublicKey) error {
	switch {
	case cert.Version != 3 || cert.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return errors.New("not an X.509 version 3 certificate signed by ECDSA with SHA-256")
	case cert.SerialNumber.Sign() <= 0 || cert.SerialNumber.BitLen() > 128:
		return errors.New("serial number is not 1 to 128 bits")
	case cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("usable for more than signing a handshake")
	case cert.Subject.String() != "" || !bytes.Equal(cert.RawIssuer, a.issuing.RawSubject):
		return errors.New("subject not empty or issuer not this authority")
	case !bytes.Equal(cert.AuthorityKeyId, a.issuing.SubjectKeyId):
		return errors.New("authority key identifier is not the issuing key's")
	case !pub.Equal(cert.PublicKey) || a.key.PublicKey.Equal(cert.PublicKey) || a.roots[0].PublicKey.(*ecdsa.PublicKey).Equal(cert.PublicKey):
		return errors.New("not the subject's key, or an authority's")
	case !cert.NotBefore.Before(cert.NotAfter):
		return errors.New("ends before it begins")
	case cert.NotBefore.Before(a.issuing.NotBefore) || cert.NotAfter.After(a.issuing.NotAfter):
		return fmt.Errorf("valid outside the issuing certificate's life, which ends on %s; sign a new one", a.issuing.NotAfter.Format(time.DateOnly))
	}
	return lintExtensions(cert)
}

// lintExtensions allows the extensions that docs/certificate.md lists, and no others.
func lintExtensions(cert *x509.Certificate) error {
	allowed := []string{
		"2.5.29.15", // key usage
		"2.5.29.37", // extended key usage
		"2.5.29.19", // basic constraints
		"2.5.29.35", // authority key identifier
		"2.5.29.17", // subject alternative name
		auth.ExtensionOID().String(),
	}
	for _, ext := range cert.Extensions {
		i := slices.Index(allowed, ext.Id.String())
		if i < 0 {
			return fmt.Errorf("extension %s is unexpected or there twice", ext.Id)
		}
		allowed = slices.Delete(allowed, i, i+1)
	}
	return nil
}

// lintClient reads the identity as a gateway would, and compares what it read with what was asked for.
func (a *Authority) lintClient(cert *x509.Certificate, want pkix.Extension) error {
	id, err := auth.FromCertificate(cert, a.trustDomain)
	if err != nil {
		return err
	}
	if got, err := auth.Embed(id); err != nil || !bytes.Equal(got.Value, want.Value) {
		return errors.New("identity read back differs from the one asked for")
	}
	if life := cert.NotAfter.Sub(cert.NotBefore); life > MaxClientLife {
		return fmt.Errorf("valid for %s, at most %s is allowed", life, MaxClientLife)
	}
	return nil
}

func (a *Authority) lintGateway(cert *x509.Certificate) error {
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0 {
		return errors.New("names other than one URI")
	}
	if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		return errors.New("usable for more than server authentication")
	}
	_, err := auth.ParseGatewayURI(cert.URIs[0], a.trustDomain)
	return err
}
