package oidc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
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

// NewCodeVerifier makes a PKCE code verifier of 256 random bits, base64url.
func NewCodeVerifier() Secret { return Secret(oauth2.GenerateVerifier()) }

// NewState makes an unguessable state for one login, of as many bits.
func NewState() string { return oauth2.GenerateVerifier() }

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
	// ACR are the classes of login of which a step-up needs one. Optional: they win over the settings.
	ACR []string
	// LoginHint is optional: whom to offer at the login page.
	LoginHint string
}

// AuthCodeURL returns the URL to open in a browser (OpenID Connect Core 1.0 section 3.1.2.1, PKCE of RFC 7636
// with S256).
func (p *Provider) AuthCodeURL(r AuthRequest) string {
	endpoint, params := p.authEndpoint()
	maps.Copy(params, p.settings.ExtraAuthParams) // none of those that the flow sets: ClientSettings.Validate
	if step := p.settings.StepUp; r.StepUp {
		if len(r.ACR) > 0 {
			step.ACRValues = strings.Join(r.ACR, " ")
		}
		step.apply(params)
	} else if r.MaxAge > 0 && step.sendsMaxAge() && params["max_age"] == "" {
		params["max_age"] = strconv.Itoa(int(r.MaxAge / time.Second))
	}
	if r.LoginHint != "" {
		params["login_hint"] = r.LoginHint
	}
	params["nonce"] = r.Nonce
	opts := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(r.Verifier.Reveal())}
	for name, value := range params {
		opts = append(opts, oauth2.SetAuthURLParam(name, value))
	}
	config := p.oauth2(r.RedirectURI)
	config.Endpoint.AuthURL = endpoint
	return config.AuthCodeURL(r.State, opts...)
}

// authEndpoint splits the authorization endpoint from the parameters that the provider put into it, which must be
// kept (RFC 6749 section 3.1), but for those that the flow sets itself.
func (p *Provider) authEndpoint() (endpoint string, params map[string]string) {
	params = make(map[string]string)
	u, err := url.Parse(p.meta.AuthURL)
	if err != nil { // checked by Discover
		return "", params
	}
	for name, values := range u.Query() {
		if !slices.Contains(reservedParams, name) {
			params[name] = values[0]
		}
	}
	u.RawQuery = ""
	return u.String(), params
}

// oauth2 is the client of the authorization code flow. Its style of authentication is always named: finding one out
// by trial would burn the one-time code.
func (p *Provider) oauth2(redirectURI string) *oauth2.Config {
	c := &oauth2.Config{
		ClientID: p.settings.ClientID, RedirectURL: redirectURI, Scopes: p.settings.Scopes,
		Endpoint: oauth2.Endpoint{AuthURL: p.meta.AuthURL, TokenURL: p.meta.TokenURL, AuthStyle: oauth2.AuthStyleInParams},
	}
	switch p.settings.TokenAuth {
	case TokenAuthPost:
		c.ClientSecret = p.settings.ClientSecret.Reveal()
	case TokenAuthBasic:
		c.ClientSecret = p.settings.ClientSecret.Reveal()
		c.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	}
	return c
}

func (s StepUp) sendsMaxAge() bool { return s.MaxAge == nil || *s.MaxAge }

func (s StepUp) apply(params map[string]string) {
	if s.ACRValues != "" {
		params["acr_values"] = s.ACRValues
	}
	if s.sendsMaxAge() {
		params["max_age"] = "0"
	}
	if s.Prompt != "" {
		params["prompt"] = s.Prompt
	}
}

// Exchange redeems an authorization code. The caller has checked state and [Provider.CheckCallback] before.
func (p *Provider) Exchange(ctx context.Context, code string, verifier Secret, redirectURI string) (Tokens, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, withoutRedirects(p.http))
	token, err := p.oauth2(redirectURI).Exchange(ctx, code, oauth2.VerifierOption(verifier.Reveal()))
	if err != nil {
		return Tokens{}, exchangeError(ctx, err)
	}
	if !strings.EqualFold(token.Type(), "bearer") {
		return Tokens{}, unavailable(ctx, opToken+" answer", fmt.Errorf("no bearer access token in it (token_type %q)", token.TokenType))
	}
	tokens := Tokens{AccessToken: Secret(token.AccessToken), RefreshToken: Secret(token.RefreshToken), Scopes: p.settings.Scopes, Expiry: token.Expiry}
	if scope, _ := token.Extra("scope").(string); scope != "" {
		tokens.Scopes = strings.Fields(scope)
	}
	idToken, _ := token.Extra("id_token").(string)
	if idToken == "" {
		return Tokens{}, errors.New("the provider sent no ID token for the code; is this an OpenID Connect client with the scope openid?")
	}
	tokens.IDToken = Secret(idToken)
	return tokens, nil
}

// exchangeError gives the library's errors our classes. Its own text of an answer may quote the whole answer.
func exchangeError(ctx context.Context, err error) error {
	var refused *oauth2.RetrieveError
	if errors.As(err, &refused) && refused.Response != nil {
		return parseProviderError(opToken, refused.Response.StatusCode, refused.Body)
	}
	return unavailable(ctx, opToken+" request", err)
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
