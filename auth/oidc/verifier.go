package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
)

// freshness is how old an ID token without a fresh nonce may be.
const freshness = 5 * time.Minute

// Presented is what a client shows as proof.
type Presented struct {
	// IDToken is required, except at a renewal by introspect or userinfo.
	IDToken Secret
	// AccessToken is required where [ClientSettings.SendAccessToken] is true.
	AccessToken Secret
}

// Previous is what the gateway knows of the session that is renewed.
type Previous struct {
	Issuer, Subject string
	// Nonce is the login's; empty after a device login. After a step-up it is both nonces with a space between,
	// since the refresh token in use may be of either.
	Nonce string
	// AuthTime is when the person signed in; only a step-up looks at it.
	AuthTime time.Time
	// IssuedAt is that of the last token accepted for this session.
	IssuedAt time.Time
}

// VerifyLogin verifies the ID token of an authorization code login. wantNonce is required: it binds the token to
// the key that is being enrolled.
//
// Errors: *[TokenError] when the token proves nothing; [ErrUnavailable] when the provider's keys or userinfo
// could not be had; *[ProviderError] when the provider refused to answer.
func (v *Verifier) VerifyLogin(ctx context.Context, shown Presented, wantNonce string) (*Claims, error) {
	if wantNonce == "" {
		return nil, refuseToken("nonce", "a login needs a nonce")
	}
	return v.verify(ctx, shown, func(c *Claims) error {
		if !equal(c.Nonce, wantNonce) {
			return refuseToken("nonce", "the ID token's nonce does not belong to this key: the token is for another login")
		}
		return nil
	})
}

// VerifyDevice verifies the ID token that the gateway itself got from [Provider.PollDevice]. There is no nonce in
// that flow; a token that has one comes from another flow.
func (v *Verifier) VerifyDevice(ctx context.Context, shown Presented) (*Claims, error) {
	return v.verify(ctx, shown, func(c *Claims) error {
		if c.Nonce != "" {
			return refuseToken("nonce", "the ID token of a device login has a nonce: it is for another login")
		}
		return v.checkFresh(c.IssuedAt)
	})
}

// VerifyRenewal verifies what a client shows to renew its certificate (design section 3.6): the same issuer,
// subject and client; the nonce absent or the login's, since providers differ; issued within 5 minutes and not
// before the last token that was accepted. Times of issue are whole seconds, so that two tokens of one second
// cannot be ordered; redeeming each only once keeps a replay out. The error is [ErrReauth] where the provider is
// configured without renewal; others are those of VerifyLogin.
func (v *Verifier) VerifyRenewal(ctx context.Context, shown Presented, prev Previous) (*Claims, error) {
	if prev.Issuer != v.config.Issuer {
		return nil, refuseToken("issuer", "the session is of %q, not of %q", cleanText(prev.Issuer, 300), v.config.Issuer)
	}
	switch v.config.RefreshIdentity {
	case RefreshReauth:
		return nil, ErrReauth
	case RefreshIntrospect, RefreshUserInfo:
		p, _, err := v.ready(ctx)
		if err != nil {
			return nil, err
		}
		return v.renewByAccessToken(ctx, p, shown.AccessToken, prev)
	}
	return v.verify(ctx, shown, func(c *Claims) error { return v.checkRenewal(c, prev) })
}

func (v *Verifier) checkRenewal(c *Claims, prev Previous) error {
	switch {
	case c.Subject != prev.Subject:
		return refuseToken("subject", "the ID token is of another person: expected subject %q, got %q", prev.Subject, c.Subject)
	case c.Nonce != "" && !slices.ContainsFunc(strings.Fields(prev.Nonce), func(n string) bool { return equal(c.Nonce, n) }):
		return refuseToken("nonce", "the ID token's nonce is not the one of this session's login")
	case c.IssuedAt.Before(prev.IssuedAt.Truncate(time.Second)):
		return refuseToken("stale", "the ID token is older than the last one: issued %s, last %s",
			c.IssuedAt.Format(time.RFC3339), prev.IssuedAt.UTC().Format(time.RFC3339))
	}
	return v.checkFresh(c.IssuedAt)
}

func (v *Verifier) checkFresh(issued time.Time) error {
	if now := v.now(); now.Sub(issued) > freshness+v.config.Skew {
		return refuseToken("stale", "the ID token was issued at %s; it must be at most %s old (this gateway's clock: %s)",
			issued.Format(time.RFC3339), freshness, now.UTC().Format(time.RFC3339))
	}
	return nil
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// verify does what is common to every ID token. check sees the claims before userinfo is asked, so that a token
// which proves nothing causes no request.
func (v *Verifier) verify(ctx context.Context, shown Presented, check func(*Claims) error) (*Claims, error) {
	// Before discovery: a bomb must not even cause a request.
	if err := checkShape(shown.IDToken.Reveal(), signatureAlgorithms); err != nil {
		return nil, err
	}
	p, keys, err := v.ready(ctx)
	if err != nil {
		return nil, err
	}
	token, payload, err := v.signed(ctx, p, keys, shown.IDToken.Reveal())
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(payload)
	if err != nil {
		return nil, refuseToken("malformed", "the ID token's payload is not a JSON object")
	}
	if err := noLogout(shown.IDToken.Reveal(), doc); err != nil {
		return nil, err
	}
	out := &Claims{Provider: v.config.Name, PayloadHash: sha256.Sum256(payload)}
	if err := v.standard(doc, out); err != nil {
		return nil, err
	}
	if err := check(out); err != nil {
		return nil, err
	}
	if shown.AccessToken != "" && token.AccessTokenHash != "" {
		if err := token.VerifyAccessToken(shown.AccessToken.Reveal()); err != nil {
			return nil, refuseToken("at_hash", "the access token does not belong to the ID token")
		}
	}
	if err := v.describe(ctx, p, doc, nil, shown.AccessToken, out); err != nil {
		return nil, err
	}
	return out, nil
}

// signed checks the signature and returns the payload that it covers. go-oidc's own checks of claims are off:
// ours follow, with the configured skew and with messages that say what was expected and what came.
func (v *Verifier) signed(ctx context.Context, p *Provider, keys gooidc.KeySet, raw string) (*gooidc.IDToken, []byte, error) {
	allowed := p.meta.allowedAlgorithms()
	if err := checkShape(raw, allowed); err != nil {
		return nil, nil, err
	}
	watched := &watchedKeys{KeySet: keys}
	token, err := gooidc.NewVerifier(v.config.Issuer, watched, &gooidc.Config{
		SupportedSigningAlgs: allowed, SkipClientIDCheck: true, SkipExpiryCheck: true, SkipIssuerCheck: true,
	}).Verify(ctx, raw)
	switch {
	case errors.Unwrap(watched.err) != nil: // go-oidc wraps why it has no keys; that none fits is an error of its own
		return nil, nil, unavailable(ctx, "fetch the keys of "+v.config.Issuer, watched.err)
	case watched.err != nil:
		return nil, nil, refuseToken("signature", "the ID token's signature is not by a key of %s", v.config.Issuer)
	case err != nil:
		return nil, nil, &TokenError{Code: "malformed", Text: "the ID token cannot be read", Err: err}
	}
	var payload json.RawMessage
	if err := token.Claims(&payload); err != nil {
		return nil, nil, refuseToken("malformed", "the ID token's payload is not JSON")
	}
	return token, payload, nil
}

// standard checks the claims of OpenID Connect Core 1.0 sections 2 and 3.1.3.7.
func (v *Verifier) standard(doc document, out *Claims) error {
	if iss, _ := doc["iss"].(string); iss != v.config.Issuer {
		return refuseToken("issuer", "invalid issuer: expected %q, got %q", v.config.Issuer, cleanText(iss, 300))
	}
	if err := v.checkAudience(doc); err != nil {
		return err
	}
	sub := doc.text("sub", maxSubject)
	if sub == "" {
		return refuseToken("subject", "the ID token has no usable subject (1 to %d printable bytes)", maxSubject)
	}
	out.Issuer, out.Subject = v.config.Issuer, sub
	out.Nonce, _ = doc["nonce"].(string)
	if value, present := doc["nonce"]; present && out.Nonce == "" {
		return refuseToken("nonce", "the ID token's nonce is not a text: %q", cleanText(fmt.Sprint(value), 40))
	}
	return v.checkTimes(doc, out)
}

// checkAudience: the token is for us, and if it is for others too, then it was issued to us (azp).
func (v *Verifier) checkAudience(doc document) error {
	if err := v.checkAddressee(doc); err != nil {
		return err
	}
	aud, _ := doc.list("aud")
	azp, present := doc["azp"]
	switch {
	case present && azp != v.config.ClientID:
		return refuseToken("azp", "invalid azp: the ID token was issued to %q, expected %q", cleanText(fmt.Sprint(azp), 100), v.config.ClientID)
	case !present && len(aud) > 1:
		return refuseToken("azp", "the ID token has %d audiences and does not say to which it was issued (azp)", len(aud))
	}
	return nil
}

// checkAddressee: we are one of those that the token is for.
func (v *Verifier) checkAddressee(doc document) error {
	aud, ok := doc.list("aud")
	if ok && slices.Contains(aud, v.config.ClientID) {
		return nil
	}
	for i := range aud {
		aud[i] = cleanText(aud[i], 100)
	}
	return refuseToken("audience", "invalid audience: expected %q, got %q", v.config.ClientID, aud[:min(len(aud), 10)])
}

func (v *Verifier) checkTimes(doc document, out *Claims) error {
	exp, hasExp, errExp := doc.date("exp")
	iat, hasIat, errIat := doc.date("iat")
	nbf, hasNbf, errNbf := doc.date("nbf")
	auth, _, errAuth := doc.date("auth_time")
	if err := errors.Join(errExp, errIat, errNbf, errAuth); err != nil {
		return refuseToken("malformed", "the ID token: %v", err)
	}
	if !hasExp || !hasIat {
		return refuseToken("malformed", "the ID token has no exp or no iat")
	}
	now, skew := v.now(), v.config.Skew
	clock := now.UTC().Format(time.RFC3339)
	switch {
	case now.After(exp.Add(skew)):
		return refuseToken("expired", "the ID token expired at %s (this gateway's clock: %s)", exp.Format(time.RFC3339), clock)
	case iat.After(now.Add(skew)):
		return refuseToken("not_yet", "the ID token is issued in the future, at %s (this gateway's clock: %s, tolerance %s)", iat.Format(time.RFC3339), clock, skew)
	case hasNbf && nbf.After(now.Add(skew)):
		return refuseToken("not_yet", "the ID token is not valid before %s (this gateway's clock: %s, tolerance %s)", nbf.Format(time.RFC3339), clock, skew)
	case auth.After(now.Add(skew)):
		return refuseToken("not_yet", "the ID token's auth_time %s is in the future (this gateway's clock: %s)", auth.Format(time.RFC3339), clock)
	}
	out.Expiry, out.IssuedAt, out.AuthTime = exp, iat, auth
	return nil
}
