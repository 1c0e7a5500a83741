package server

import (
	"context"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// followProvider keeps an OpenID provider's metadata current in the background,
// so that an operator reads at the start, and not at the first login, that it
// cannot be used. Only changes are logged.
func (s *Server) followProvider(ctx context.Context, v *oidc.Verifier) {
	log := s.log.With("provider", v.Config().Name, "issuer", v.Config().Issuer)
	usable := true
	v.Run(ctx, func(err error) {
		switch {
		case err != nil && usable:
			log.Warn("the OpenID provider cannot be used; new logins and renewals wait for it", "error", err)
		case err == nil && !usable:
			log.Info("the OpenID provider can be used again")
		}
		usable = err == nil
	})
	v.CloseIdleConnections()
}
