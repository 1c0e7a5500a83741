package server

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/culvert-vpn/culvert/auth"
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
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// A Server is one gateway. Make it with New, run it with Serve. Its methods are
// safe for concurrent use.
type Server struct {
	cfg  Config
	opts Options
}

// New checks the configuration, takes the state folder for itself, opens the
// store, the CA, the policy and the audit log, and listens. Nothing is accepted
// before Serve. The error says what is wrong, where, and what to do; nothing
// stays open then.
func New(ctx context.Context, cfg Config, opts Options) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return nil, errors.New("not assembled yet")
}

// Serve runs the gateway until ctx ends, and then drains in order: not ready,
// no new connections, clients told, streams waited for until DrainTimeout,
// sessions terminated, audit log and store closed. The error is a *DrainError
// when a step ran out of time.
func (s *Server) Serve(ctx context.Context) error { return nil }

// Close stops at once, without a drain. After Serve it does nothing.
func (s *Server) Close() error { return nil }

// Reload reads the policy, the TLS files and the changeable settings again.
// What is broken leaves the old in force; the error says what.
func (s *Server) Reload(ctx context.Context) error { return nil }

// Addr is the address of the one port.
func (s *Server) Addr() net.Addr { return nil }

// MetricsAddr is the address of the metrics, or nil.
func (s *Server) MetricsAddr() net.Addr { return nil }

// URL is what people give to "culvert login".
func (s *Server) URL() string { return "" }

// Fingerprint is that of the HTTPS authority in TLS mode "self", else "".
func (s *Server) Fingerprint() auth.Fingerprint { return "" }

// Roots are the roots of the tunnel's CA.
func (s *Server) Roots() *x509.CertPool { return nil }

// Readiness is the answer of /readyz now.
func (s *Server) Readiness(ctx context.Context) Readiness { return Readiness{} }
