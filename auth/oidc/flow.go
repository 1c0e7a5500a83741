package oidc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Tokens is what a token endpoint gave. Every field but AccessToken may be empty.
type Tokens struct {
	AccessToken  Secret
	RefreshToken Secret
	IDToken      Secret
	// Scopes are what was granted; what was asked for, when the provider did not say.
	Scopes []string
	// Expiry is the access token's; zero when unknown. It decides nothing about the session.
	Expiry time.Time
}

// NewVerifier makes a PKCE code verifier, and NewState a state: 256 random bits each, base64url.
func NewCodeVerifier() Secret { return Secret(randomText()) }

// NewState makes an unguessable state for one login.
func NewState() string { return randomText() }

func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// AuthRequest are the values of one authorization request.
type AuthRequest struct {
	State, Nonce string
	Verifier     Secret // PKCE code verifier, from NewCodeVerifier
	RedirectURI  string
	// MaxAge asks for a login that is at most this old, by max_age; zero leaves it to the provider. Providers
	// that cannot are configured with step_up.max_age: false.
	MaxAge time.Duration
	// StepUp asks for a fresh login as the provider's step_up settings say. It wins over MaxAge.
	StepUp bool
	// LoginHint is optional: whom to offer at the login page.
	LoginHint string
}

// AuthCodeURL returns the URL to open in a browser (OpenID Connect Core 1.0 section 3.1.2.1, PKCE of RFC 7636
// with S256).
func (p *Provider) AuthCodeURL(r AuthRequest) string {
	u, err := url.Parse(p.meta.AuthURL)
	if err != nil { // checked by Discover
		return ""
	}
	q := u.Query()
	for _, name := range slices.Sorted(maps.Keys(p.settings.ExtraAuthParams)) {
		q.Set(name, p.settings.ExtraAuthParams[name])
	}
	if step := p.settings.StepUp; r.StepUp {
		step.apply(q)
	} else if r.MaxAge > 0 && step.sendsMaxAge() && !q.Has("max_age") {
		q.Set("max_age", strconv.Itoa(int(r.MaxAge/time.Second)))
	}
	if r.LoginHint != "" {
		q.Set("login_hint", r.LoginHint)
	}
	challenge := sha256.Sum256([]byte(r.Verifier))
	for name, value := range map[string]string{
		"response_type": "code", "client_id": p.settings.ClientID, "redirect_uri": r.RedirectURI,
		"scope": strings.Join(p.settings.Scopes, " "), "state": r.State, "nonce": r.Nonce,
		"code_challenge":        base64.RawURLEncoding.EncodeToString(challenge[:]),
		"code_challenge_method": "S256",
	} {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func (s StepUp) sendsMaxAge() bool { return s.MaxAge == nil || *s.MaxAge }

func (s StepUp) apply(q url.Values) {
	if s.ACRValues != "" {
		q.Set("acr_values", s.ACRValues)
	}
	if s.sendsMaxAge() {
		q.Set("max_age", "0")
	}
	if s.Prompt != "" {
		q.Set("prompt", s.Prompt)
	}
}

// Exchange redeems an authorization code. The caller has checked state and [Provider.CheckCallback] before.
func (p *Provider) Exchange(ctx context.Context, code string, verifier Secret, redirectURI string) (Tokens, error) {
	tokens, err := p.tokenRequest(ctx, opToken, url.Values{
		"grant_type": {"authorization_code"}, "code": {code},
		"redirect_uri": {redirectURI}, "code_verifier": {verifier.Reveal()},
	}, p.settings.Scopes)
	if err == nil && tokens.IDToken == "" {
		return Tokens{}, fmt.Errorf("the provider sent no ID token for the code; is this an OpenID Connect client with the scope openid?")
	}
	return tokens, err
}

// Refresh redeems a refresh token. granted are the Scopes of the tokens that it came with. The answer's
// RefreshToken is empty when the provider keeps the old one in force.
//
// The error is ErrRefreshRefused when only a login helps, ErrReauth when the provider is configured without
// renewal, and ErrUnavailable when it should be tried again.
func (p *Provider) Refresh(ctx context.Context, refreshToken Secret, granted []string) (Tokens, error) {
	if p.settings.RefreshIdentity == RefreshReauth {
		return Tokens{}, ErrReauth
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refreshToken.Reveal()}}
	scopes := p.refreshScopes(granted)
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	return p.tokenRequest(ctx, opRefresh, form, granted)
}

func (p *Provider) refreshScopes(granted []string) []string {
	configured := p.settings.RefreshScopes
	switch {
	case len(configured) == 0 || configured[0] == RefreshScopesGranted:
		return granted
	case configured[0] == RefreshScopesOmit:
		return nil
	}
	return configured
}
