package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

// Options are what a program gives to New besides the configuration. All are
// optional.
type Options struct {
	// Logger is where the gateway logs. Default: discards.
	Logger *slog.Logger
	// LogLevel is changed to the configuration's level by Reload.
	LogLevel *slog.LevelVar
	// Listener replaces Config.Listen, MetricsListener Config.Metrics.Listen.
	// The Server closes them.
	Listener        net.Listener
	MetricsListener net.Listener
	// Reread returns the configuration for a Reload. Default: the one given to
	// New, so that only files that it names are read again.
	Reread func() (*Config, error)
	// Resolve looks service names up. Default: the system's resolver, or
	// Config.Dial.Resolver.
	Resolve dialer.ResolveFunc
	// ProviderClient makes the HTTP client for a provider. Default: the one of
	// auth/oidc, which refuses redirects into private addresses.
	ProviderClient func(issuer string) *http.Client
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// A Server is one gateway. Make it with New, run it with Serve. Its methods are
// safe for concurrent use.
type Server struct {
	cfg     Config
	opts    Options
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics

	lock       *durable.FileLock
	authority  *ca.Authority
	leaf       *ca.GatewayLeaf
	store      *store.Store
	audit      *audit.Log
	feeds      *audit.Feeds // to the index and the exports
	rolledBack atomic.Bool  // the database knows more of the audit log, or another one
	rules      *rules
	registry   *session.Registry
	dialer     *dialer.Dialer
	newNames   chan struct{} // the policy may dial other names than before
	learned    chan struct{} // open streams have to be decided again by what names resolve to
	gateway    *gateway.Gateway
	standing   *standing
	presence   *presence
	roles      atomic.Pointer[roleTable]

	administration *administration
	providers      []*provider
	cert           webCertificate
	health         *health
	listener       net.Listener
	front          *front
	web            *web

	metricsListener net.Listener
	metricsServer   *http.Server

	policyWatch *fileWatch
	certWatch   *fileWatch
	draining    atomic.Bool
	hurry       chan struct{} // closed by HurryUp
	hurryOnce   sync.Once

	mu      sync.Mutex
	serving bool
	closed  bool
}

// New checks the configuration, takes the state folder for itself, opens the
// CA, the store, the audit log and the policy, and listens. Nothing is accepted
// before Serve. The error says what is wrong, where, and what to do; nothing
// stays open then.
func New(ctx context.Context, cfg Config, opts Options) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, opts: opts, log: opts.Logger, now: opts.Now, metrics: newMetrics(), hurry: make(chan struct{}),
		newNames: make(chan struct{}, 1), learned: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	for _, step := range []func(context.Context) error{
		s.openState, s.openAuthority, s.openStore, s.openAudit, s.openRules, s.openListeners, s.openCertificate, s.assemble,
	} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, s.release())
		}
	}
	return s, nil
}

// Close gives back everything without a drain. After Serve has returned it does
// nothing; during Serve, end its context and call HurryUp instead.
func (s *Server) Close() error {
	s.mu.Lock()
	serving := s.serving
	s.mu.Unlock()
	if serving {
		return errors.New("the gateway is serving: end the context of Serve")
	}
	return s.release()
}

// release closes what is open, in the reverse order of New. A second call does
// nothing.
func (s *Server) release() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	var errs []error
	for _, l := range []net.Listener{s.listener, s.metricsListener} {
		if l != nil {
			_ = l.Close() // twice when Serve did it, which harms nothing
		}
	}
	if c, ok := s.cert.(*acmeCertificate); ok {
		c.stop()
	}
	for _, p := range s.providers {
		p.verifier.CloseIdleConnections()
	}
	errs = append(errs, s.administration.close())
	if s.audit != nil {
		errs = append(errs, drainError(StepAudit, s.audit.Close()))
	}
	errs = append(errs, s.stopFeeds())
	if s.store != nil {
		errs = append(errs, drainError(StepStore, s.store.Close()))
	}
	if s.lock != nil {
		errs = append(errs, removeRunInfo(s.cfg.StateDir), s.lock.Unlock())
	}
	return errors.Join(errs...)
}

// stopFeeds lets the last records get through; what does not in time is sent after
// the next start.
func (s *Server) stopFeeds() error {
	if s.feeds == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	err := s.feeds.Stop(ctx)
	if err != nil && ctx.Err() != nil {
		s.log.Warn("some audit records are not indexed or exported yet; they will be after the next start", "error", err)
		return nil
	}
	return err
}

// HurryUp ends the wait of a drain: open streams are cut now.
func (s *Server) HurryUp() { s.hurryOnce.Do(func() { close(s.hurry) }) }

// Addr is the address of the one port.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// MetricsAddr is the address of the metrics, or nil without them.
func (s *Server) MetricsAddr() net.Addr {
	if s.metricsListener == nil {
		return nil
	}
	return s.metricsListener.Addr()
}

// URL is what people give to "culvert login".
func (s *Server) URL() string { return s.cfg.publicURL(port(s.Addr())) }

// Fingerprint is that of the HTTPS authority in TLS mode "self", else "".
func (s *Server) Fingerprint() auth.Fingerprint {
	if c, ok := s.cert.(*selfCertificate); ok {
		return c.authority.Fingerprint()
	}
	return ""
}

// Readiness is the answer of /readyz now.
func (s *Server) Readiness(ctx context.Context) Readiness {
	s.health.forget()
	return s.health.readiness(ctx)
}

func port(addr net.Addr) int {
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return tcp.Port
	}
	return 443
}
