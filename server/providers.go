package server

import (
	"context"
	"log/slog"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// A provider is an OpenID provider and whether it answers.
type provider struct {
	name     string
	verifier *oidc.Verifier
	log      *slog.Logger
	up       prometheus.Gauge
	down     atomic.Bool
}

// run has the provider discovered in the background: the gateway starts, and
// carries tunnels, while it is away.
func (p *provider) run(ctx context.Context) {
	p.verifier.Run(ctx, p.report)
}

func (p *provider) report(err error) {
	down := err != nil
	if down {
		p.up.Set(0)
	} else {
		p.up.Set(1)
	}
	if p.down.Swap(down) == down {
		return
	}
	if down {
		p.log.Error("the OpenID provider cannot be used; new logins and renewals wait for it", "provider", p.name, "error", err)
	} else {
		p.log.Info("the OpenID provider can be used again", "provider", p.name)
	}
}

func (s *Server) providersDown() []string {
	var names []string
	for _, p := range s.providers {
		if p.down.Load() {
			names = append(names, p.name)
		}
	}
	return names
}
