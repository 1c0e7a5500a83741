package client

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/internal/buildinfo"
)

// Config is what a Client needs.
type Config struct {
	// Profile holds the login. Required.
	Profile *certstore.Profile
	// Logger is optional; by default nothing is logged. Secrets never are.
	Logger *slog.Logger
	// Dial opens plain connections, to the gateway and to an outbound proxy.
	// Default: a net.Dialer.
	Dial DialFunc
	// Proxy chooses the outbound proxy. Default: EnvironmentProxy.
	Proxy ProxyFunc
	// ProviderHTTP asks the login provider at a renewal. Default: that of
	// auth/oidc, with its bounds and its guard against redirects inwards.
	ProviderHTTP *http.Client
	// Prompt is how a fresh login is asked for while a stream waits for it. Optional: without it
	// no stream waits, and such streams are refused at once.
	Prompt *Prompt
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
	// Version is what the gateway is told. Default: this build's.
	Version string
	// Posture reads what this device says of itself, in the background; it may take a second, and returns early when ctx ends. The
	// result is not changed any more. Default: client/posture's.
	Posture func(ctx context.Context) map[string]string
}

func (cfg Config) withDefaults() Config {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	if cfg.Proxy == nil {
		cfg.Proxy = EnvironmentProxy()
	}
	if cfg.Version == "" {
		cfg.Version = buildinfo.Version()
	}
	if cfg.Posture == nil {
		cfg.Posture = cfg.readDevice
	}
	return cfg
}
