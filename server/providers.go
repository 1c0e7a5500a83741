package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
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
	trouble  atomic.Int32 // what is wrong
}

// Why nobody can log in at a provider.
const (
	noTrouble     int32 = iota
	troubleSilent       // it does not answer
	troubleIssuer       // it calls itself another issuer
	troubleOther        // it answers what cannot be used
)

func troubleOf(err error) int32 {
	switch {
	case err == nil:
		return noTrouble
	case errors.Is(err, oidc.ErrIssuer):
		return troubleIssuer
	case errors.Is(err, oidc.ErrUnavailable):
		return troubleSilent
	default:
		return troubleOther
	}
}

// run has the provider discovered in the background: the gateway starts, and
// carries tunnels, while it is away.
func (p *provider) run(ctx context.Context) {
	p.verifier.Run(ctx, p.report)
}

func (p *provider) report(err error) {
	trouble := troubleOf(err)
	if trouble != noTrouble {
		p.up.Set(0)
	} else {
		p.up.Set(1)
	}
	if p.trouble.Swap(trouble) == trouble {
		return
	}
	switch trouble {
	case noTrouble:
		p.log.Info("the OpenID provider can be used again", "provider", p.name)
	case troubleIssuer:
		p.log.Error("the OpenID provider's answer does not fit the configured issuer; new logins and renewals wait for another setting", "provider", p.name, "error", err)
	default:
		p.log.Error("the OpenID provider cannot be used; new logins and renewals wait for it", "provider", p.name, "error", err)
	}
}

// providerTrouble says what is wrong with the providers; empty when all can be used.
func (s *Server) providerTrouble() string {
	names := make(map[int32][]string)
	for _, p := range s.providers {
		trouble := p.trouble.Load()
		names[trouble] = append(names[trouble], p.name)
	}
	var parts []string
	for _, t := range []struct {
		trouble int32
		text    string
	}{
		{troubleSilent, "no answer from the OpenID provider "},
		{troubleIssuer, "an answer that does not fit the configured issuer from the OpenID provider "},
		{troubleOther, "an answer that cannot be used, the gateway's log says why, from the OpenID provider "},
	} {
		if list := names[t.trouble]; len(list) > 0 {
			parts = append(parts, t.text+strings.Join(list, ", "))
		}
	}
	return strings.Join(parts, "; ")
}
