package mtls

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// ErrUnverified is returned for a connection whose peer was not verified, or not by the tunnel's rules.
var ErrUnverified = errors.New("the peer's certificate is not verified")

// Peer is who is at the other end of a tunnel.
type Peer struct {
	Identity    auth.Identity
	Certificate *x509.Certificate // the verified leaf
	Serial      auth.Serial       // of the leaf: its name in the inventory, in locks and in the audit
}

// PeerIdentity returns the client of a tunnel connection, at the gateway. It reads the chains that crypto/tls
// verified against the tunnel's roots, and nothing else of the state.
func PeerIdentity(state tls.ConnectionState, td auth.TrustDomain) (Peer, error) {
	switch {
	case td == "":
		return Peer{}, ErrIncomplete
	case state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != wire.ALPN || state.DidResume:
		return Peer{}, fmt.Errorf("not a full handshake of %s: %w", wire.ALPN, ErrUnverified)
	case len(state.VerifiedChains) == 0:
		return Peer{}, ErrUnverified
	}
	return peerOf(state.VerifiedChains[0], td)
}

// maxChain bounds a chain presented by [VerifyClientChain]: leaf and issuing certificate, and room for one more
// during a change of roots. maxChainBytes leaves room for the largest identity in the leaf.
const (
	maxChain      = 3
	maxChainBytes = 32 << 10
)

// ChainOptions says what [VerifyClientChain] trusts. Roots and TrustDomain are required.
type ChainOptions struct {
	Roots       *x509.CertPool
	TrustDomain auth.TrustDomain
	Now         time.Time // zero: time.Now
}

// VerifyClientChain verifies a client's chain (DER, leaf first) that came by other ways than a handshake: a
// renewed certificate on the control stream. It proves that the certificate is valid, not that whoever sent it
// has its key: [Peer.CheckRenewal] therefore insists on the connection's key.
func VerifyClientChain(chain [][]byte, o ChainOptions) (Peer, error) {
	if o.Roots == nil || o.Roots.Equal(x509.NewCertPool()) || o.TrustDomain == "" {
		return Peer{}, ErrIncomplete
	}
	certs, err := parseChain(chain)
	if err != nil {
		return Peer{}, err
	}
	verified, err := verify(certs, o.Roots, o.Now, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Peer{}, err
	}
	return peerOf(verified, o.TrustDomain)
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, fmt.Errorf("certificate chain of %d; 1 to %d are allowed", len(chain), maxChain)
	}
	total := 0
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		if total += len(der); total > maxChainBytes {
			return nil, fmt.Errorf("certificate chain of more than %d bytes", maxChainBytes)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
		certs[i] = cert
	}
	return certs, nil
}

// verify returns one verified chain from certs[0] to a root. certs[1:] are only candidates for the way there.
func verify(certs []*x509.Certificate, roots *x509.CertPool, now time.Time, usage x509.ExtKeyUsage) ([]*x509.Certificate, error) {
	candidates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		candidates.AddCert(cert)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: candidates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	return chains[0], nil
}

// checkShape insists on leaf, issuing certificate, root. A chain of one would be a leaf that somebody put among
// the roots; a chain of two, a leaf by the root key, which signs none.
func checkShape(chain []*x509.Certificate) error {
	if len(chain) != 3 {
		return fmt.Errorf("a chain of %d certificates instead of leaf, issuing, root: %w", len(chain), ErrUnverified)
	}
	for _, cert := range chain[1:] {
		if !cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
			return fmt.Errorf("issued by a certificate that is no authority: %w", ErrUnverified)
		}
	}
	return nil
}

func peerOf(chain []*x509.Certificate, td auth.TrustDomain) (Peer, error) {
	if err := checkShape(chain); err != nil {
		return Peer{}, err
	}
	id, err := auth.FromCertificate(chain[0], td)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	return Peer{Identity: id, Certificate: chain[0], Serial: auth.SerialOf(chain[0])}, nil
}

// ErrNotRenewal is returned for a certificate that is valid but does not continue the connection's session.
var ErrNotRenewal = errors.New("the certificate does not renew the one of this connection")

// CheckRenewal reports whether next may take p's place on a live connection. Person, provider, session, device, key and
// kind of login must be the same, the time of login the same or, after a fresh login, later, and next must not be older: neither
// another session's certificate nor an earlier one with groups that were taken away since may come in this way.
func (p Peer) CheckRenewal(next Peer) error {
	was, is := p.Identity, next.Identity
	for _, f := range []struct {
		name string
		same bool
	}{
		{"person", was.Issuer == is.Issuer && was.Subject == is.Subject},
		{"provider", was.Provider == is.Provider},
		{"session", was.Session == is.Session},
		{"device", was.Device == is.Device},
		{"kind of login", was.Login == is.Login},
		{"time of login", !is.AuthTime.Before(was.AuthTime)},
		{"key", sameKey(p.Certificate, next.Certificate)},
	} {
		if !f.same {
			return fmt.Errorf("another %s: %w", f.name, ErrNotRenewal)
		}
	}
	if is.IssuedAt.Before(was.IssuedAt) {
		return fmt.Errorf("an older one: %w", ErrNotRenewal)
	}
	return nil
}

func sameKey(a, b *x509.Certificate) bool {
	if a == nil || b == nil {
		return false
	}
	key, ok := a.PublicKey.(*ecdsa.PublicKey)
	return ok && key.Equal(b.PublicKey)
}

// GatewayIdentity returns the gateway of a tunnel connection, at the client. It verifies the gateway's chain
// against o.Roots, whatever the connection's configuration did: authority and shape of the chain, server
// authentication, trust domain, and the gateway's name where o asks for one.
func GatewayIdentity(state tls.ConnectionState, o ClientOptions) (auth.GatewayID, error) {
	if o.Roots == nil || o.TrustDomain == "" {
		return "", ErrIncomplete
	}
	roots, err := usableRoots(o.Roots)
	if err != nil {
		return "", err
	}
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != wire.ALPN || len(state.PeerCertificates) == 0 {
		return "", fmt.Errorf("the gateway does not speak %s: %w", wire.ALPN, ErrUnverified)
	}
	if len(state.PeerCertificates) > maxChain {
		return "", fmt.Errorf("the gateway sent %d certificates: %w", len(state.PeerCertificates), ErrUnverified)
	}
	chain, err := verify(state.PeerCertificates, roots, now(o.Now), x509.ExtKeyUsageServerAuth)
	if err != nil {
		return "", err
	}
	return gatewayOf(chain, o)
}

func gatewayOf(chain []*x509.Certificate, o ClientOptions) (auth.GatewayID, error) {
	if err := checkShape(chain); err != nil {
		return "", err
	}
	leaf := chain[0]
	names := len(leaf.URIs) + len(leaf.DNSNames) + len(leaf.EmailAddresses) + len(leaf.IPAddresses)
	if leaf.IsCA || names != 1 || len(leaf.URIs) != 1 || len(leaf.ExtKeyUsage) != 1 {
		return "", fmt.Errorf("not a gateway's certificate: %w", ErrUnverified)
	}
	id, err := auth.ParseGatewayURI(leaf.URIs[0], o.TrustDomain)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	if o.GatewayID != "" && id != o.GatewayID {
		return "", fmt.Errorf("this is gateway %q, not %q: %w", id, o.GatewayID, ErrUnverified)
	}
	return id, nil
}

func now(hook func() time.Time) time.Time {
	if hook == nil {
		return time.Now()
	}
	return hook()
}
