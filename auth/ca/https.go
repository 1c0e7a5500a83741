package ca

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/net/idna"

	"github.com/culvert-vpn/culvert/auth"
)

const (
	httpsKeyFile  = "https-ca.key"
	httpsCertFile = "https-ca.crt"
	httpsCALife   = 10 * 365 * 24 * time.Hour
	httpsLife     = 7 * 24 * time.Hour
)

// HTTPS is the authority of self-issued HTTPS certificates, for a private network without ACME. People compare
// its fingerprint once, at `culvert login --ca-fingerprint`. It is no part of the tunnel's trust: it has its
// own key and folder, and its certificate is no root there. It is safe for concurrent use.
type HTTPS struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	leaf renewing
}

// SelfIssuedHTTPS opens the authority in dir, a folder of its own, and makes it (https-ca.key, https-ca.crt, mode
// 0600) when the folder is empty or not there. hosts are the DNS names and IP addresses under which people reach the gateway, at least one.
// The leaf's key never leaves memory.
func SelfIssuedHTTPS(dir string, hosts []string) (*HTTPS, error) {
	names, err := parseHosts(hosts)
	if err != nil {
		return nil, err
	}
	h, err := loadHTTPS(dir)
	if errors.Is(err, fs.ErrNotExist) {
		h, err = createHTTPS(dir)
	}
	if err != nil {
		return nil, err
	}
	h.leaf.issue = func() (*tls.Certificate, error) { return h.issue(names) }
	_, err = h.leaf.get()
	return h, err
}

// Certificate returns the certificate to present now: the leaf, its key and the authority's certificate (a
// client that knows only the fingerprint finds it there). It renews itself at two thirds of its seven days.
func (h *HTTPS) Certificate() (*tls.Certificate, error) { return h.leaf.get() }

// GetCertificate is [HTTPS.Certificate] in the form that tls.Config takes.
func (h *HTTPS) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.leaf.get() }

// Fingerprint returns what people compare: the SHA-256 of the authority's certificate.
func (h *HTTPS) Fingerprint() auth.Fingerprint { return auth.FingerprintOf(h.cert.Raw) }

// CertificatePEM returns the authority's certificate, for `culvert login --ca-file` and for browsers.
func (h *HTTPS) CertificatePEM() []byte { return encodeCerts(h.cert) }

func loadHTTPS(dir string) (*HTTPS, error) {
	cert, certErr := readCert(filepath.Join(dir, httpsCertFile))
	key, keyErr := readKey(filepath.Join(dir, httpsKeyFile))
	if errors.Is(certErr, fs.ErrNotExist) != errors.Is(keyErr, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: of %s and %s only one is there; restore the other, or remove both for a new fingerprint", dir, httpsKeyFile, httpsCertFile)
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, err
	}
	switch {
	case !isAuthority(cert) || cert.CheckSignatureFrom(cert) != nil:
		return nil, fmt.Errorf("%s: not a self-signed ECDSA P-256 authority", filepath.Join(dir, httpsCertFile))
	case !key.PublicKey.Equal(cert.PublicKey):
		return nil, fmt.Errorf("%s does not belong to %s", filepath.Join(dir, httpsKeyFile), httpsCertFile)
	case time.Now().After(cert.NotAfter):
		return nil, fmt.Errorf("%s ended on %s; remove it and its key for a new one", filepath.Join(dir, httpsCertFile), cert.NotAfter.Format(time.DateOnly))
	}
	return &HTTPS{cert: cert, key: key}, nil
}

// createHTTPS makes the folder with both files or not at all.
func createHTTPS(dir string) (*HTTPS, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	t := authorityTemplate("Culvert HTTPS", time.Now(), httpsCALife)
	t.MaxPathLenZero = true
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert, err := signAuthority(t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	err = createDir(dir, func(tmp string) error {
		return errors.Join(writeKey(filepath.Join(tmp, httpsKeyFile), key), writeCerts(filepath.Join(tmp, httpsCertFile), cert))
	})
	return &HTTPS{cert: cert, key: key}, err
}

func (h *HTTPS) issue(names hostNames) (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:          NewSerial(),
		NotBefore:             now.Add(-Backdate),
		NotAfter:              now.Add(httpsLife),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		DNSNames:              names.dns,
	}
	for _, ip := range names.ips {
		t.IPAddresses = append(t.IPAddresses, ip.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, t, h.cert, &key.PublicKey, h.key)
	if err != nil {
		return nil, fmt.Errorf("issue HTTPS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issue HTTPS certificate: %w", err)
	}
	return (&Issued{Leaf: leaf, Chain: [][]byte{der, h.cert.Raw}}).tls(key), nil
}

type hostNames struct {
	dns []string
	ips []netip.Addr
}

// parseHosts sorts hosts into addresses and names; names are brought into their ASCII form.
func parseHosts(hosts []string) (hostNames, error) {
	var names hostNames
	for _, host := range hosts {
		if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
			names.ips = append(names.ips, ip.Unmap())
			continue
		}
		name, err := idna.Lookup.ToASCII(strings.TrimSuffix(host, "."))
		if err != nil || name == "" {
			return hostNames{}, fmt.Errorf("HTTPS certificate: %.256q is neither a DNS name nor an IP address", host)
		}
		names.dns = append(names.dns, name)
	}
	if len(hosts) == 0 {
		return hostNames{}, errors.New("HTTPS certificate: no host name to issue it for")
	}
	return names, nil
}
