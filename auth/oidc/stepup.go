package oidc

import (
	"context"
	"slices"
	"strings"
	"time"
)

// VerifyStepUp verifies the ID token of an authorization that [AuthRequest.StepUp] asked for, on behalf of a session that is there
// already: as VerifyLogin, and besides the same person as before, signed in after prev.AuthTime and just before the token was
// issued. That providers are asked for a fresh login proves nothing: they may ignore max_age and prompt, and a person may change
// what a browser asks for. The class of login is one of the configured step_up.acr_values, where there are any.
func (v *Verifier) VerifyStepUp(ctx context.Context, shown Presented, wantNonce string, prev Previous) (*Claims, error) {
	if prev.Issuer != v.config.Issuer {
		return nil, refuseToken("issuer", "the session is of %q, not of %q", cleanText(prev.Issuer, 300), v.config.Issuer)
	}
	if wantNonce == "" {
		return nil, refuseToken("nonce", "a login needs a nonce")
	}
	out, err := v.verify(ctx, shown, func(c *Claims) error {
		switch {
		case !equal(c.Nonce, wantNonce):
			return refuseToken("nonce", "the ID token's nonce does not belong to this session's key: the token is for another login")
		case c.Subject != prev.Subject:
			return refuseToken("subject", "another person signed in: expected subject %q, got %q", prev.Subject, c.Subject)
		}
		return v.checkSignedIn(c, prev.AuthTime)
	})
	if err != nil {
		return nil, err
	}
	return out, v.checkACR(out.ACR)
}

// checkSignedIn: there is an auth_time, it is a new one, and the token was made of that login.
func (v *Verifier) checkSignedIn(c *Claims, before time.Time) error {
	switch {
	case c.AuthTime.IsZero():
		return refuseToken("auth_time", "the provider does not say when you signed in (auth_time), so a fresh login cannot be told from an old one")
	case !c.AuthTime.After(before):
		return refuseToken("auth_time", "the provider did not ask you to sign in again: it vouches for the login of %s",
			c.AuthTime.Format(time.RFC3339))
	case c.AuthTime.Before(c.IssuedAt.Add(-freshness)):
		return refuseToken("auth_time", "the provider did not ask you to sign in again: it vouches for the login of %s, and issued the ID token at %s",
			c.AuthTime.Format(time.RFC3339), c.IssuedAt.Format(time.RFC3339))
	}
	return v.checkFresh(c.IssuedAt)
}

// checkACR comes last: acr is read with everything else that describes the login.
func (v *Verifier) checkACR(acr string) error {
	wanted := strings.Fields(v.config.StepUp.ACRValues)
	if len(wanted) == 0 || slices.Contains(wanted, acr) {
		return nil
	}
	return refuseToken("acr", "the login was of the class %q (acr); expected one of %q", cleanText(acr, 100), wanted)
}
