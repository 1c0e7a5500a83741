package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// HTTPSOptions says how a client verifies the gateway's HTTPS certificate. With neither Fingerprint nor Roots, the
// system's roots do: HTTPS belongs to the web's trust, the tunnel never does.
type HTTPSOptions struct {
	Host        string           // required with Fingerprint: the gateway's DNS name or IP address, without port
	Fingerprint auth.Fingerprint // of an authority in the served chain, as given to `login --ca-fingerprint`
	Roots       *x509.CertPool   // as given to `login --ca-file`; ignored with Fingerprint
	Now         func() time.Time // nil: time.Now
}

// HTTPSClientConfig returns the client's TLS configuration for enrolment. The host name is compared in every case.
func HTTPSClientConfig(o HTTPSOptions) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, RootCAs: o.Roots, Time: o.Now}
	if o.Fingerprint == "" {
		return config, nil
	}
	pin, err := auth.ParseFingerprint(string(o.Fingerprint))
	if err != nil {
		return nil, err
	}
	if o.Host == "" {
		return nil, fmt.Errorf("no host name to compare with: %w", ErrIncomplete)
	}
	// The authority is not known yet, only its hash, so that crypto/tls cannot verify. VerifyConnection does
	// the same with the authority that the server sent, once its hash fits.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return verifyPinned(state, o.Host, pin, now(o.Now))
	}
	return config, nil
}

// ErrFingerprint is returned when the served chain holds no authority with the pinned fingerprint: a wrong
// fingerprint, or somebody in between.
var ErrFingerprint = errors.New("the gateway's certificate is not from the authority with the given fingerprint")

// verifyPinned takes the host from the options: the state has none when the host is an IP address.
func verifyPinned(state tls.ConnectionState, host string, pin auth.Fingerprint, now time.Time) error {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates) > maxServed {
		return fmt.Errorf("the gateway sent %d certificates: %w", len(state.PeerCertificates), ErrUnverified)
	}
	root, err := pinned(state.PeerCertificates, pin)
	if err != nil {
		return err
	}
	roots, candidates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, cert := range state.PeerCertificates[1:] {
		candidates.AddCert(cert)
	}
	_, err = state.PeerCertificates[0].Verify(x509.VerifyOptions{
		DNSName: host, Roots: roots, Intermediates: candidates, CurrentTime: now,
	})
	return err
}

// maxServed is room for a public certificate's chain with cross-signed authorities.
const maxServed = 10

// pinned finds the pinned certificate in the chain. It must be an authority: a pinned leaf would be trusted for
// any name it likes.
func pinned(chain []*x509.Certificate, pin auth.Fingerprint) (*x509.Certificate, error) {
	for _, cert := range chain {
		if auth.FingerprintOf(cert.Raw) != pin {
			continue
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("the fingerprint is that of a server's certificate; give that of its authority: %w", ErrFingerprint)
		}
		return cert, nil
	}
	return nil, ErrFingerprint
}
