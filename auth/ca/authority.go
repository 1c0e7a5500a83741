package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

const (
	rootLife    = 20 * 365 * 24 * time.Hour
	issuingLife = 5 * 365 * 24 * time.Hour

	// Backdate is how long before its making a certificate begins to be valid: the clock skew that is
	// tolerated between two machines.
	Backdate = 60 * time.Second

	// An authority begins earlier: what it issues must not begin before it, also on a machine whose clock is behind
	// that of the machine with the root key.
	authorityBackdate = time.Hour

	issuerPath = "/issuer/"
)

// signRoot makes the root of a trust domain: an authority over issuing authorities only, for names of this trust
// domain only.
func signRoot(key *ecdsa.PrivateKey, td auth.TrustDomain, now time.Time) (*x509.Certificate, error) {
	t := authorityTemplate("Culvert root "+string(td), now, rootLife)
	t.MaxPathLen = 1
	constrain(t, td)
	return signAuthority(t, t, &key.PublicKey, key)
}

// signIssuing makes the certificate of one gateway's issuing key. Its path length of 0 and its extended key usages
// bound what a stolen issuing key is good for: leaves, of this trust domain, for TLS.
func signIssuing(root *x509.Certificate, rootKey *ecdsa.PrivateKey, pub *ecdsa.PublicKey, o Options, now time.Time) (*x509.Certificate, error) {
	t := authorityTemplate("Culvert issuing "+string(o.GatewayID), now, issuingLife)
	if t.NotAfter.After(root.NotAfter) {
		t.NotAfter = root.NotAfter
	}
	t.MaxPathLenZero = true
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	t.URIs = []*url.URL{issuerURI(o.TrustDomain, o.GatewayID)}
	constrain(t, o.TrustDomain)
	return signAuthority(t, root, pub, rootKey)
}

func authorityTemplate(name string, now time.Time, life time.Duration) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          NewSerial(),
		Subject:               pkix.Name{CommonName: truncate(name, 64)}, // ub-common-name, RFC 5280 appendix A.1
		NotBefore:             now.Add(-authorityBackdate),
		NotAfter:              now.Add(life),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
}

func truncate(s string, n int) string { return s[:min(len(s), n)] }

// constrain permits URIs of the trust domain and no other kind of name. A kind of name that no constraint
// mentions would be free (RFC 5280, section 4.2.1.10), so DNS names and mail addresses are permitted in
// "invalid" only, a domain that does not exist (RFC 2606), and every IP address is excluded.
func constrain(t *x509.Certificate, td auth.TrustDomain) {
	t.PermittedDNSDomainsCritical = true
	t.PermittedURIDomains = []string{string(td)}
	t.PermittedDNSDomains = []string{"invalid"}
	t.PermittedEmailAddresses = []string{"invalid"}
	t.ExcludedIPRanges = []*net.IPNet{
		{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
		{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
	}
}

func signAuthority(t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func issuerURI(td auth.TrustDomain, id auth.GatewayID) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: string(td), Path: issuerPath + string(id)}
}

// checkRoot refuses, as a trust anchor, anything but a self-signed authority: a leaf among the roots would
// vouch for itself (CVE-2024-2048).
func checkRoot(cert *x509.Certificate) error {
	switch {
	case !isAuthority(cert):
		return errors.New("not an ECDSA P-256 certificate authority")
	case cert.CheckSignatureFrom(cert) != nil:
		return errors.New("not signed by itself")
	case len(cert.PermittedURIDomains) != 1:
		return errors.New("not constrained to one trust domain")
	}
	_, err := auth.ParseTrustDomain(cert.PermittedURIDomains[0])
	return err
}

func isAuthority(cert *x509.Certificate) bool {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && key.Curve == elliptic.P256() &&
		cert.BasicConstraintsValid && cert.IsCA && cert.KeyUsage&x509.KeyUsageCertSign != 0
}

// checkIssuing checks that one of the roots made cert for an issuing key, and returns what for.
func checkIssuing(cert *x509.Certificate, roots []*x509.Certificate, now time.Time) (auth.TrustDomain, auth.GatewayID, error) {
	if !isAuthority(cert) || !cert.MaxPathLenZero || len(cert.URIs) != 1 {
		return "", "", errors.New("not an issuing certificate of Culvert")
	}
	pool := x509.NewCertPool()
	for _, root := range roots {
		if root.PublicKey.(*ecdsa.PublicKey).Equal(cert.PublicKey) {
			return "", "", errors.New("the issuing key is the root key")
		}
		pool.AddCert(root)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: usages}); err != nil {
		return "", "", err
	}
	td := auth.TrustDomain(roots[0].PermittedURIDomains[0])
	id, err := auth.ParseGatewayID(strings.TrimPrefix(cert.URIs[0].Path, issuerPath))
	if err != nil || cert.URIs[0].String() != issuerURI(td, id).String() {
		return "", "", fmt.Errorf("%.256q is no issuer of trust domain %q", cert.URIs[0], td)
	}
	if !slices.Equal(cert.PermittedURIDomains, []string{string(td)}) {
		return "", "", fmt.Errorf("not constrained to trust domain %q", td)
	}
	return td, id, nil
}
