package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"runtime"

	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// New returns a client that is not started; see Up.
func New(cfg Config) *Client {
	cfg = cfg.withDefaults()
	creds := &stored{cfg: cfg}
	network := &network{cfg: cfg, dialer: &dialer{dial: cfg.Dial, proxy: cfg.Proxy}, creds: creds}
	c := newClient(cfg, creds, network.connect)
	c.profile, c.via = cfg.Profile.Name(), network.dialer.shownProxy
	return c
}

// network makes sessions over the network.
type network struct {
	cfg    Config
	dialer *dialer
	creds  *stored
}

// connect implements connectFunc.
func (n *network) connect(ctx context.Context, login *Login, ev events) (session, error) {
	conf, err := n.tlsConfig(login)
	if err != nil {
		return nil, err
	}
	raw, err := n.dialer.connect(ctx, login.Tunnel)
	if err != nil {
		return nil, err
	}
	s, err := tunnel.Client(ctx, raw, conf, tunnel.ClientConfig{
		Hello: wire.Hello{Versions: []int{wire.ProtocolVersion}, Client: n.cfg.Version, OS: runtime.GOOS, Arch: runtime.GOARCH,
			Session: string(login.Session()), Posture: ev.device(), StepUp: n.cfg.Prompt != nil},
		Logger:     n.cfg.Logger,
		OnServices: ev.onServices,
		OnDraining: ev.onDraining,
		OnStepUp:   ev.onStepUp,
	})
	if err != nil {
		return nil, err
	}
	n.pin(ctx, login, s.Welcome().Roots)
	return &liveSession{s, func(ctx context.Context, roots [][]byte) { n.pin(ctx, login, roots) }}, nil
}

// pin takes roots that a gateway announced over the tunnel, whose own roots it
// proved there.
func (n *network) pin(ctx context.Context, login *Login, roots [][]byte) {
	if len(roots) == 0 {
		return
	}
	if err := n.creds.PinRoots(ctx, login, roots); err != nil {
		n.cfg.Logger.Warn("the gateway's new roots could not be stored", "error", err)
	}
}

// tlsConfig is auth/mtls's, and what it refuses is told apart from what the
// network did.
func (n *network) tlsConfig(login *Login) (*tls.Config, error) {
	conf, err := mtls.ClientConfig(mtls.ClientOptions{
		Certificate: func() (*tls.Certificate, error) { return &login.Certificate, nil },
		Roots:       func() *x509.CertPool { return login.Roots },
		TrustDomain: login.TrustDomain,
		Now:         n.cfg.Now,
	})
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(login.Tunnel)
	if err != nil {
		return nil, fmt.Errorf("the tunnel's address: %w", err)
	}
	conf.ServerName = host // for balancers that route by it; nothing compares it
	check := conf.VerifyConnection
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		err := check(state)
		if err == nil {
			return nil
		}
		wrong := &InterceptionError{Address: login.Tunnel, Err: err}
		if len(state.PeerCertificates) > 0 {
			wrong.Issuer = issuerName(state.PeerCertificates[0])
		}
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) {
			wrong.Invalid = &invalid
		}
		return wrong
	}
	return conf, nil
}

func issuerName(leaf *x509.Certificate) string {
	name := leaf.Issuer.CommonName
	if name == "" {
		name = leaf.Issuer.String()
	}
	return wire.CleanText(name)
}

// liveSession is a *tunnel.Session as a session.
type liveSession struct {
	*tunnel.Session
	pin func(ctx context.Context, roots [][]byte)
}

// Open implements session.
func (s *liveSession) Open(ctx context.Context, target wire.Target, opts OpenOptions) (Stream, error) {
	stream, err := s.Session.Open(ctx, target, tunnel.OpenOptions{Wait: opts.Wait, TraceID: opts.TraceID})
	if err != nil {
		return nil, err // not a nil *tunnel.Stream in an interface
	}
	return stream, nil
}

// Renew implements session.
func (s *liveSession) Renew(ctx context.Context, chain [][]byte) (wire.Renewed, error) {
	reply, err := s.Session.Renew(ctx, chain)
	if err == nil {
		s.pin(ctx, reply.Roots)
	}
	return reply, err
}

// Counters implements session.
func (s *liveSession) Counters() counters {
	stats := s.Stats()
	opened := max(0, stats.Opened-1) // without the control stream
	return counters{streams: stats.Streams, opened: uint64(opened), sent: uint64(stats.Sent), received: uint64(stats.Received)}
}

// TLS implements session.
func (s *liveSession) TLS() tls.ConnectionState { return s.State() }

// Close implements session.
func (s *liveSession) Close(why wire.Termination) { _ = s.CloseWith(why) }
