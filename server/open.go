package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/enroll"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

const mib = 1 << 20

// The steps of New, in their order. Each leaves what it opened in s, for release.

func (s *Server) openState(ctx context.Context) (err error) {
	s.lock, err = takeState(ctx, s.cfg.StateDir)
	return err
}

// openAuthority loads the CA. A missing, empty or broken one refuses the start;
// there is nothing to fall back to.
func (s *Server) openAuthority(context.Context) error {
	authority, err := loadAuthority(&s.cfg)
	if err != nil {
		return err
	}
	s.authority, s.leaf = authority, ca.NewGatewayLeaf(authority)
	return nil
}

func loadAuthority(cfg *Config) (*ca.Authority, error) {
	authority, err := ca.Load(cfg.CADir)
	if err != nil {
		return nil, fmt.Errorf("load the CA (made by \"culvert-gateway init\"): %w", explain(err, cfg.CADir))
	}
	if got := string(authority.TrustDomain()); got != cfg.TrustDomain {
		return nil, fmt.Errorf("the CA in %s was made for the trust domain %q, and the configuration says %q: set trust_domain to %q, or make another CA",
			cfg.CADir, got, cfg.TrustDomain, got)
	}
	return authority, nil
}

func (s *Server) openStore(ctx context.Context) (err error) {
	s.store, err = store.Open(ctx, s.cfg.databaseURL(), store.Options{
		TrustDomain:    auth.TrustDomain(s.cfg.TrustDomain),
		PolicySource:   s.cfg.Policy.Source,
		AuditRetention: time.Duration(s.cfg.Audit.Index) * 24 * time.Hour,
		Logger:         s.log.With("component", "store"),
	})
	return explain(err, s.cfg.StateDir)
}

func (s *Server) openAudit(context.Context) (err error) {
	dir := filepath.Join(s.cfg.StateDir, "audit")
	id := s.authority.GatewayID()
	s.audit, err = audit.Open(audit.Config{
		Dir:          dir,
		Gateway:      string(id),
		Origin:       AuditOrigin(&s.cfg, id),
		Version:      buildinfo.Version(),
		SegmentSize:  int64(s.cfg.Audit.MaxFile) * mib,
		KeepBytes:    int64(s.cfg.Audit.Keep) * mib,
		MinFree:      int64(s.cfg.Audit.MinFree) * mib,
		OnFailure:    audit.OnFailure(s.cfg.Audit.OnFailure),
		OnCheckpoint: s.keepCheckpoint,
		Logger:       s.log.With("component", "audit"),
	})
	if err != nil {
		return fmt.Errorf("open the audit log: %w", explain(err, dir))
	}
	s.feeds, err = audit.StartFeeds(audit.FeedsConfig{
		Log: s.audit, Targets: s.cfg.exports(), Sink: AuditIndex(s.store), Gateway: string(id), Logger: s.log.With("component", "audit"),
	})
	return explain(err, dir)
}

// AuditOrigin names a gateway's audit logs in checkpoints.
func AuditOrigin(cfg *Config, id auth.GatewayID) string { return cfg.TrustDomain + "/" + string(id) }

// exports are the places that records are sent to.
func (c *Config) exports() []audit.Target {
	var list []audit.Target
	for _, e := range c.Audit.Export {
		list = append(list, audit.Target{Name: e.Name, Kind: e.Kind, Path: e.Path, Address: e.Address})
	}
	return list
}

// keepCheckpoint puts a checkpoint where somebody who has only this machine's files cannot change it.
func (s *Server) keepCheckpoint(c audit.Checkpoint) {
	ctx, cancel := context.WithTimeout(context.Background(), checkpointWait)
	defer cancel()
	err := s.store.PutCheckpoint(ctx, store.Checkpoint{Gateway: s.authority.GatewayID(), Log: c.Log, Size: int64(c.Size), Note: c.Note})
	switch {
	case errors.Is(err, store.ErrOlderCheckpoint):
		s.rolledBack.Store(true)
		s.log.Error("the audit log goes back behind, or differs from, what the database knows of it: an old copy was put in its place, or it was changed; run \"culvert-gateway audit verify --database\"",
			"log", c.Log, "size", c.Size, "error", err)
	case err != nil:
		s.log.Warn("a checkpoint of the audit log could not be put into the database; the next one will be", "size", c.Size, "error", err)
	}
}

const checkpointWait = 10 * time.Second

func (s *Server) openRules(ctx context.Context) error {
	s.policyWatch = newFileWatch(s.log, s.cfg.Policy.File)
	s.rules = &rules{
		source: s.cfg.Policy.Source, file: s.cfg.Policy.File, log: s.log, store: s.store, metrics: s.metrics,
		opts:     s.cfg.PolicyOptions(),
		accepted: s.policyAccepted, refused: s.policyRefused,
	}
	s.rules.opts.Resolved, s.rules.opts.Grants = policy.NewResolved(), policy.NewGrants()
	return s.rules.start(ctx)
}

func (s *Server) openListeners(ctx context.Context) error {
	var err error
	if s.listener, err = listen(ctx, s.opts.Listener, s.cfg.Listen); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	address := s.cfg.Metrics.Listen
	if s.cfg.Metrics.UnsafeListen != "" {
		address = s.cfg.Metrics.UnsafeListen
		s.log.Warn("metrics are open to whoever reaches the address, without a login", "listen", address)
	}
	if address == "" && s.opts.MetricsListener == nil {
		return nil
	}
	if s.metricsListener, err = listen(ctx, s.opts.MetricsListener, address); err != nil {
		return fmt.Errorf("listen for metrics (metrics.listen): %w", err)
	}
	return nil
}

func listen(ctx context.Context, given net.Listener, address string) (net.Listener, error) {
	if given != nil {
		return given, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, explain(err, address)
	}
	return l, nil
}

func (s *Server) openCertificate(context.Context) (err error) {
	s.cert, err = newCertificate(s)
	if err != nil {
		return explain(err, s.cfg.StateDir)
	}
	return nil
}

func newCertificate(s *Server) (webCertificate, error) {
	switch s.cfg.TLS.Mode {
	case "files":
		s.certWatch = newFileWatch(s.log, s.cfg.TLS.Certificate, s.cfg.TLS.Key)
		return newFileCertificate(s.log, s.cfg.TLS.Certificate, s.cfg.TLS.Key, s.cfg.Hostname)
	case "acme":
		return newACMECertificate(s.log, &s.cfg, s.listener.Addr())
	default:
		return newSelfCertificate(&s.cfg)
	}
}

// ownAddresses are those that no service may be: the gateway's own listeners.
func (s *Server) ownAddresses() []netip.AddrPort {
	var own []netip.AddrPort
	for _, l := range []net.Listener{s.listener, s.metricsListener} {
		if l == nil {
			continue
		}
		if addr, err := netip.ParseAddrPort(l.Addr().String()); err == nil {
			own = append(own, addr)
		}
	}
	return own
}

// PolicyOptions are what a policy for this gateway is held against.
func (c *Config) PolicyOptions() policy.Options {
	names := c.providerNames()
	return policy.Options{Providers: names, Kept: enroll.KeptGroups(c.Groups.Keep, names)}
}

// providerNames are the names that the policy may use before a slash.
func (c *Config) providerNames() []string {
	var names []string
	for _, p := range c.Providers {
		names = append(names, p.Name)
	}
	return names
}
