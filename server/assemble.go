package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/auth"
	protocol "github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/enroll"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
)

// assemble joins the opened parts. It opens nothing.
func (s *Server) assemble(ctx context.Context) error {
	limits := s.cfg.Limits
	s.registry = session.New(session.Config{
		Limits: session.Limits{
			Sessions: limits.Sessions, SessionsPerUser: limits.SessionsPerUser,
			Streams: limits.Streams, StreamsPerUser: limits.StreamsPerUser, StreamsPerSession: limits.StreamsPerSession,
		},
		Logger: s.log.With("component", "session"), Now: s.now,
	})
	var err error
	s.dialer, err = dialer.New(dialer.Config{
		Resolve: s.opts.Resolve, DNSServer: s.cfg.Dial.Resolver, Timeout: s.cfg.Dial.Timeout,
		Own: s.ownAddresses, Logger: s.log.With("component", "dialer"),
		Resolved: func(host string, addrs []netip.Addr) {
			if s.rules.set().Learn(host, addrs) {
				signal(s.learned)
			}
		},
	})
	if err != nil {
		return err
	}
	enrolment, err := s.enrolment()
	if err != nil {
		return err
	}
	if err := s.assembleGateway(ctx); err != nil {
		return err
	}
	s.health = &health{checks: s.checks(), now: s.now}
	return s.assembleFront(enrolment)
}

func (s *Server) assembleGateway(ctx context.Context) error {
	s.standing = &standing{store: s.store, registry: s.registry, log: s.log, now: s.now, hold: s.cfg.DatabaseHold,
		issuers: make(map[string]string), kicked: make(chan struct{}, 1), looked: make(chan struct{}, 1)}
	for _, p := range s.cfg.Providers {
		s.standing.issuers[p.Name] = p.Issuer
	}
	s.standing.follow = []follower{{what: "approved requests", follow: s.followGrants}}
	if s.rules.source == sourceManaged {
		s.standing.follow = append(s.standing.follow, follower{what: "policy", follow: s.rules.followManaged})
	}
	if err := s.standing.refresh(ctx); err != nil {
		return fmt.Errorf("read the locks: %w", err)
	}
	table, err := newRoleTable(s.cfg.Admin.Roles, s.cfg.providerNames())
	if err != nil {
		return err
	}
	s.roles.Store(table)
	for _, doubt := range s.cfg.Doubts() {
		s.log.Warn("the configuration may not do what was meant", "doubt", doubt)
	}
	if err := s.assembleAdministration(); err != nil {
		return err
	}
	figures := gateway.NewMetrics(s.registry)
	s.metrics.registry.MustRegister(figures)
	s.gateway, err = gateway.New(gateway.Config{
		ID: s.authority.GatewayID(), TrustDomain: s.authority.TrustDomain(),
		Policy: s.rules.set, Dialer: s.dialer, Registry: s.registry, Audit: s.audit, Admit: s.standing.admit,
		Roots: s.authority.Pool, RootsDER: s.authority.RootsDER, Current: s.standing.current, Stale: s.standing.stale, BuiltIn: s.administration.builtIns(),
		Stalls: tunnel.NewStallLimit(0), Metrics: figures, Logger: s.log.With("component", "gateway"), Now: s.now,
	})
	if err != nil {
		return err
	}
	s.presence = s.newPresence()
	return s.followGrants(ctx)
}

// followGrants takes the approved requests over from the database, and has streams
// decided again that lived by one that is gone.
func (s *Server) followGrants(ctx context.Context) error {
	active, err := s.store.ActiveGrants(ctx)
	if err != nil {
		return fmt.Errorf("read the approved requests: %w", err)
	}
	grants := make([]policy.Grant, 0, len(active))
	for _, r := range active {
		grants = append(grants, policy.Grant{ID: r.ID, User: r.User, Service: r.Service, Until: r.Until})
	}
	if s.rules.opts.Grants.Replace(grants) {
		s.gateway.Redecide("approved requests have changed")
	}
	return nil
}

func (s *Server) assembleFront(enrolment http.Handler) error {
	config, err := s.portTLS()
	if err != nil {
		return err
	}
	proxies, err := parseProxyTrust(s.cfg.ProxyProtocol.From)
	if err != nil {
		return fmt.Errorf("proxy_protocol.from: %w", err)
	}
	limits := s.cfg.Limits
	handler := webHandler(s.log, s.health, enrolment, s.metrics.panics.Inc)
	if s.cfg.TLS.Mode != "self" {
		handler = strictTransport(handler)
	}
	s.front = &front{
		log: s.log, listener: s.listener, tls: config, timeout: limits.HandshakeTimeout, max: int64(limits.Connections), proxies: proxies,
		rates: newAddressRates(limits.ConnectionRate, limits.ConnectionBurst, s.now),
		handshakes: newCrowd(limits.Handshakes, limits.HandshakesPerAddress, func(n int) {
			s.metrics.displaced.Add(float64(n))
		}),
		tunnel: s.gateway.HandleTunnel, metrics: s.metrics,
	}
	crowd := newCrowd(limits.HTTPS, limits.HTTPSPerAddress, func(n int) {
		s.metrics.refused.WithLabelValues("https").Add(float64(n))
	})
	s.web = newWeb(newWebServer(s.log.With("component", "https"), handler), s.listener.Addr(), crowd, s.front.released)
	s.front.web = s.web
	if s.metricsListener != nil {
		s.metricsServer = metricsServer(s.metrics, s.health, s.cfg.Metrics.UnsafeListen != "")
	}
	s.gauges()
	return nil
}

func (s *Server) gauges() {
	s.metrics.gauge("culvert_connections", "Open connections on the one port.", func() float64 { return float64(s.front.open.Load()) })
	s.metrics.gauge("culvert_handshakes_pending", "TLS handshakes under way.", func() float64 { return float64(s.front.handshakes.len()) })
	s.metrics.gauge("culvert_https_connections", "Open HTTPS connections.", func() float64 { return float64(s.web.open()) })
	s.metrics.gauge("culvert_issuing_certificate_expiry_timestamp_seconds", "When the issuing certificate ends, in seconds since 1970.",
		func() float64 { return float64(s.authority.Issuing().NotAfter.Unix()) })
	s.metrics.gauge("culvert_policy_differs", "1 while another gateway has decided by another policy for 5 minutes.", func() float64 { return oneIf(s.presence.differ.Load()) })
	s.auditGauges()
}

func (s *Server) auditGauges() {
	of := func(value func(audit.Status) float64) func() float64 {
		return func() float64 { return value(s.audit.Status()) }
	}
	s.metrics.gauge("culvert_audit_failing", "1 while audit records cannot be written.", of(func(a audit.Status) float64 { return oneIf(a.Err != nil) }))
	s.metrics.gauge("culvert_audit_unrecorded", "1 while streams are opened although they cannot be recorded.", of(func(a audit.Status) float64 { return oneIf(a.Unrecorded) }))
	s.metrics.gauge("culvert_audit_lost", "Records of this process that could neither be written nor kept for later.", of(func(a audit.Status) float64 { return float64(a.Lost) }))
	s.metrics.gauge("culvert_audit_queued", "Records on their way to the disk.", of(func(a audit.Status) float64 { return float64(a.Queued) }))
	s.metrics.gauge("culvert_audit_unsigned", "Records since the last signed checkpoint.", of(func(a audit.Status) float64 { return float64(a.Unsigned) }))
	s.metrics.gauge("culvert_audit_free_bytes", "Free space for the audit log.", of(func(a audit.Status) float64 { return float64(a.Free) }))
	s.metrics.gauge("culvert_audit_rolled_back", "1 once the database has known more of the audit log, or another one.", func() float64 { return oneIf(s.rolledBack.Load()) })
	s.metrics.registry.MustRegister(newFeedFigures(s.feeds))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// portTLS is the TLS of the one port: ALPN separates the tunnel from HTTPS, and
// nothing falls back from the one to the other.
func (s *Server) portTLS() (*tls.Config, error) {
	tunnelTLS, err := mtls.ServerConfig(mtls.ServerOptions{
		Certificate: s.leaf.Certificate, Roots: s.authority.Pool,
		TrustDomain: auth.TrustDomain(s.cfg.TrustDomain), Now: s.now,
	})
	if err != nil {
		return nil, err
	}
	return mtls.OnePort(publicTLS(s.cert), tunnelTLS)
}

// enrolment is the handler of the paths of auth/enroll. Without a provider
// nobody can log in, but who has a certificate still gets through: the gateway
// starts, and says what is missing.
func (s *Server) enrolment() (http.Handler, error) {
	if len(s.cfg.Providers) == 0 {
		s.log.Warn("nobody can log in: no OpenID provider is configured; add one under providers and restart")
		return http.HandlerFunc(refuseEnrolment), nil
	}
	var providers []enroll.Provider
	up := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "culvert_provider_up", Help: "1 while the OpenID provider answered when it was last asked for its keys."}, []string{"provider"})
	s.metrics.registry.MustRegister(up)
	for _, config := range s.cfg.Providers {
		opts := oidc.Options{Now: s.now}
		if s.opts.ProviderClient != nil {
			opts.HTTPClient = s.opts.ProviderClient(config.Issuer)
		}
		verifier, err := oidc.NewVerifier(config, opts)
		if err != nil {
			return nil, fmt.Errorf("provider %s: %w", config.Name, err)
		}
		providers = append(providers, verifier)
		s.providers = append(s.providers, &provider{name: config.Name, verifier: verifier, log: s.log, up: up.WithLabelValues(config.Name)})
	}
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "culvert_enrolments_total", Help: "Enrolment requests, by kind and outcome."}, []string{"kind", "outcome"})
	s.metrics.registry.MustRegister(outcomes)
	return enroll.New(enroll.Config{
		Store: s.store, Authority: s.authority, Providers: providers, Audit: s.audit,
		Logger: s.log.With("component", "enroll"), Tunnel: s.cfg.Tunnel,
		CertificateTTL: s.cfg.Certificates.TTL, SessionTTL: s.cfg.Certificates.Session, KeepGroups: s.cfg.Groups.Keep,
		Limits:  enroll.Limits{AddressPerMinute: s.cfg.Limits.EnrolmentRate, UserPerMinute: s.cfg.Limits.EnrolmentRatePerUser},
		Observe: func(kind, outcome string) { outcomes.WithLabelValues(kind, outcome).Inc() },
		Now:     s.now,
	})
}

func refuseEnrolment(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "60")
	w.WriteHeader(http.StatusServiceUnavailable)
	_ = json.NewEncoder(w).Encode(protocol.Problem{
		Type: "about:blank", Title: "no provider", Status: http.StatusServiceUnavailable, Code: protocol.CodeUnavailable,
		Detail: "this gateway has no OpenID provider yet, so nobody can log in",
		Remedy: "tell your administrator",
	})
}

// checks are what /readyz asks. What only new logins need (provider, HTTPS
// certificate) does not make the gateway unready: a balancer would then cut off
// those who hold certificates, on all gateways at once.
func (s *Server) checks() []func(context.Context) Check {
	return []func(context.Context) Check{
		s.checkStore, s.checkAudit, s.checkIssuing,
		func(context.Context) Check {
			c := Check{Name: "policy", OK: !s.rules.alarm.Load()}
			return c.because("the newest policy cannot be used; the one accepted before is in force")
		},
		func(context.Context) Check {
			c := Check{Name: "certificate", OK: s.certificateOK()}
			return c.because("there is no valid HTTPS certificate, so nobody can log in; tunnels are not affected")
		},
		func(context.Context) Check {
			c := Check{Name: "providers", Required: true, OK: len(s.providers) > 0}
			return c.because("no OpenID provider is configured, so nobody can log in; add one under providers")
		},
		func(context.Context) Check {
			trouble := s.providerTrouble()
			c := Check{Name: "logins", OK: trouble == ""}
			return c.because(trouble + "; who has a certificate is not affected")
		},
		func(context.Context) Check {
			c := Check{Name: "serving", Required: true, OK: !s.draining.Load()}
			return c.because("the gateway is stopping")
		},
	}
}

func (s *Server) checkStore(ctx context.Context) Check {
	// While the last view of the locks holds, so does the gateway: all of them share the database, and a
	// balancer that finds none ready would cut off those whom it does not concern.
	c := Check{Name: "store", Required: true, OK: s.standing.current() == nil}
	if c.OK && s.store.Ping(ctx) != nil {
		c.Detail = "the database does not answer: nobody can log in, and who is connected goes on for a while; the gateway's log says why"
	}
	return c.because("the database has not answered for too long, so no stream is opened; the gateway's log says why")
}

func (s *Server) checkAudit(context.Context) Check {
	status := s.audit.Status()
	c := Check{Name: "audit", Required: true, OK: status.Err == nil || status.Unrecorded}
	switch {
	case status.Unrecorded:
		c.Detail = "AUDIT RECORDS CANNOT BE WRITTEN; streams go on unrecorded, as audit.on_failure says"
	case c.OK && status.Low:
		c.Detail = "little space is left for the audit log; without it no stream is opened"
	}
	return c.because("audit records cannot be written, so no stream is opened; the disk may be full")
}

func (s *Server) checkIssuing(context.Context) Check {
	left := s.authority.Issuing().NotAfter.Sub(s.now())
	c := Check{Name: "ca", Required: true, OK: left > 0}
	if c.OK && left < 30*24*time.Hour {
		c.Detail = fmt.Sprintf("the issuing certificate ends in %d days; renew it with \"ca csr\" and \"ca sign\"", int(left.Hours()/24))
	}
	return c.because("the issuing certificate has ended; renew it with \"ca csr\" and \"ca sign\"")
}

// because sets the detail of a check that is not OK.
func (c Check) because(detail string) Check {
	if !c.OK {
		c.Detail = detail
	}
	return c
}
