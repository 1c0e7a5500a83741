// Package mtls builds the TLS configurations of both ends of the tunnel and says who the peer is. It is the
// only place in the product where an identity comes from.
//
// The tunnel is TLS 1.3 with the application protocol "culvert/1". Both ends present certificates of
// Culvert's own authority and trust nothing else, never the system's roots. Keys are exchanged with X25519MLKEM768
// (hybrid, post-quantum) between any two Culvert programs. Session tickets are off: a resumed
// session would carry an identity that nobody checked again (CVE-2025-68121).
//
// A gateway serves the tunnel and HTTPS on one port. [OnePort] tells them apart by the application protocols
// that a client offers, and by nothing else: whoever offers culvert/1 gets the tunnel's configuration, with a
// client certificate required, and the other one cannot negotiate culvert/1. The server name never matters.
//
// An identity is read from the leaf of a chain that was verified, with the shape leaf, issuing certificate, root
// ([PeerIdentity], [VerifyClientChain], [GatewayIdentity]). Other certificates that a peer sends are material
// for building that chain and are never looked at for names.
//
// The package does no I/O, keeps no revocations and decides nothing about access.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// ServerOptions configures the gateway's end. A required field left out is an error, not a weaker check.
type ServerOptions struct {
	Certificate func() (*tls.Certificate, error) // required: the gateway's leaf, asked for at each handshake
	Roots       func() *x509.CertPool            // required: asked for at each handshake; nil or empty refuses it
	TrustDomain auth.TrustDomain                 // required
	Now         func() time.Time                 // nil: time.Now
}

// ClientOptions configures the client's end. A required field left out is an error, not a weaker check.
type ClientOptions struct {
	Certificate func() (*tls.Certificate, error) // required: the client's certificate, asked for at each handshake
	Roots       func() *x509.CertPool            // required: pinned at login; nil or empty refuses the handshake
	TrustDomain auth.TrustDomain                 // required
	GatewayID   auth.GatewayID                   // empty: any gateway of the trust domain
	Now         func() time.Time                 // nil: time.Now
}

// ErrIncomplete is returned for options that lack something the check of a peer needs.
var ErrIncomplete = errors.New("TLS configuration of the tunnel is incomplete")

// ServerConfig returns the gateway's TLS configuration for the tunnel. A handshake ends well only with a client
// certificate that [PeerIdentity] accepts.
func ServerConfig(o ServerOptions) (*tls.Config, error) {
	if o.Certificate == nil || o.Roots == nil || o.TrustDomain == "" {
		return nil, ErrIncomplete
	}
	base := tunnelConfig(o.Now)
	base.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return o.Certificate() }
	base.ClientAuth = tls.RequireAndVerifyClientCert
	// A nil pool would mean the system's roots. This one trusts nobody; the hook below puts in the real one.
	base.ClientCAs = x509.NewCertPool()
	base.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := PeerIdentity(state, o.TrustDomain)
		return err
	}
	config := base.Clone()
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		roots, err := usableRoots(o.Roots)
		if err != nil {
			return nil, err
		}
		current := base.Clone()
		current.ClientCAs = roots
		return current, nil
	}
	return config, nil
}

// ClientConfig returns the client's TLS configuration for the tunnel. A handshake ends well only with a gateway
// that [GatewayIdentity] accepts. The caller may set ServerName for the sake of load balancers; it is not
// compared with anything, because a gateway is named by its URI.
func ClientConfig(o ClientOptions) (*tls.Config, error) {
	if o.Certificate == nil || o.Roots == nil || o.TrustDomain == "" {
		return nil, ErrIncomplete
	}
	config := tunnelConfig(o.Now)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Certificate() }
	// Go's own check compares DNS names and cannot do URIs. VerifyConnection is the whole check in its place; it
	// runs in every handshake, and an error from it ends the handshake.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := GatewayIdentity(state, o)
		return err
	}
	return config, nil
}

func tunnelConfig(now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{wire.ALPN},
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		SessionTicketsDisabled: true,
		// One write of the tunnel is already as large as it should be; the ramp from small records only costs.
		DynamicRecordSizingDisabled: true,
		Time:                        now,
	}
}

func usableRoots(hook func() *x509.CertPool) (*x509.CertPool, error) {
	roots := hook()
	if roots == nil || roots.Equal(x509.NewCertPool()) {
		return nil, fmt.Errorf("no roots to trust: %w", ErrIncomplete)
	}
	return roots, nil
}

// OnePort returns the configuration of a listener that serves the tunnel and HTTPS on one port. A client that
// offers culvert/1, alone or among others, gets tunnel; every other one gets public. After the handshake,
// [IsTunnel] says which one it was.
//
// It is an error when public could negotiate culvert/1, or when tunnel does not require a verified client certificate.
func OnePort(public, tunnel *tls.Config) (*tls.Config, error) {
	switch {
	case public == nil || tunnel == nil:
		return nil, ErrIncomplete
	case slices.Contains(public.NextProtos, wire.ALPN):
		return nil, fmt.Errorf("the public configuration offers %s", wire.ALPN)
	case tunnel.ClientAuth != tls.RequireAndVerifyClientCert || tunnel.VerifyConnection == nil:
		return nil, fmt.Errorf("the tunnel requires no verified client certificate: %w", ErrIncomplete)
	case !slices.Equal(tunnel.NextProtos, []string{wire.ALPN}) || !tunnel.SessionTicketsDisabled:
		return nil, fmt.Errorf("the tunnel offers more than %s without tickets", wire.ALPN)
	}
	config := public.Clone()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, wire.ALPN) {
			return configFor(tunnel, hello)
		}
		return publicFor(public, hello)
	}
	return config, nil
}

// configFor asks config's own hook: crypto/tls asks only the listener's.
func configFor(config *tls.Config, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if config.GetConfigForClient == nil {
		return config, nil
	}
	chosen, err := config.GetConfigForClient(hello)
	if chosen == nil {
		chosen = config
	}
	return chosen, err
}

// publicFor looks at what a hook of the public configuration (ACME's, say) came up with.
func publicFor(public *tls.Config, hello *tls.ClientHelloInfo) (*tls.Config, error) {
	config, err := configFor(public, hello)
	if err == nil && slices.Contains(config.NextProtos, wire.ALPN) {
		return nil, fmt.Errorf("the public configuration offers %s", wire.ALPN)
	}
	return config, err
}

// IsTunnel reports whether a finished handshake on a port of [OnePort] was the tunnel's: culvert/1 was negotiated
// and the client's certificate verified.
func IsTunnel(state tls.ConnectionState) bool {
	return state.HandshakeComplete && state.NegotiatedProtocol == wire.ALPN && len(state.VerifiedChains) > 0
}
