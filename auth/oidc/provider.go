package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
)

// Options are the parts of the environment that a [Provider] and a [Verifier] use. The zero value is ready.
type Options struct {
	// HTTPClient asks the provider. Default: NewHTTPClient of the issuer.
	HTTPClient *http.Client
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

func (o Options) withDefaults(issuer string) Options {
	if o.HTTPClient == nil {
		o.HTTPClient = NewHTTPClient(issuer, HTTPOptions{})
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Provider is a discovered OpenID provider together with how this product is registered there. It is safe for
// concurrent use.
type Provider struct {
	settings ClientSettings
	meta     metadata
	inner    *gooidc.Provider
	http     *http.Client
	now      func() time.Time
}

// metadata are the fields of the discovery document that go-oidc does not give (OpenID Connect Discovery 1.0
// section 3, RFC 8414, RFC 9207 section 3).
type metadata struct {
	Issuer              string   `json:"issuer"`
	AuthURL             string   `json:"authorization_endpoint"`
	TokenURL            string   `json:"token_endpoint"`
	JWKSURL             string   `json:"jwks_uri"`
	UserInfoURL         string   `json:"userinfo_endpoint"`
	IntrospectionURL    string   `json:"introspection_endpoint"`
	DeviceURL           string   `json:"device_authorization_endpoint"`
	Algorithms          []string `json:"id_token_signing_alg_values_supported"`
	CodeChallenges      []string `json:"code_challenge_methods_supported"`
	CallbackIssRequired bool     `json:"authorization_response_iss_parameter_supported"`
}

// Discover fetches the provider's discovery document and checks that it can be used safely: the same issuer
// byte for byte, endpoints on https (or on this machine), PKCE with S256 where methods are listed, and a
// signature algorithm with a public key. An error is ErrUnavailable when trying again later may help.
func Discover(ctx context.Context, settings ClientSettings, opts Options) (*Provider, error) {
	if err := settings.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults(settings.Issuer)
	inner, err := gooidc.NewProvider(gooidc.ClientContext(ctx, opts.HTTPClient), settings.Issuer)
	if err != nil {
		return nil, discoveryError(ctx, settings.Issuer, err)
	}
	p := &Provider{settings: settings, inner: inner, http: opts.HTTPClient, now: opts.Now}
	if err := inner.Claims(&p.meta); err != nil {
		return nil, unavailable(ctx, "read the discovery document of "+settings.Issuer, err)
	}
	if err := p.meta.check(settings.Issuer); err != nil {
		return nil, fmt.Errorf("provider %s: %w", settings.Name, err)
	}
	return p, nil
}

func discoveryError(ctx context.Context, issuer string, err error) error {
	var mismatch *gooidc.IssuerMismatchError
	if errors.As(err, &mismatch) {
		return fmt.Errorf("%w: configured %q, the provider calls itself %q; they must be the same, also in the final slash",
			ErrIssuer, issuer, cleanText(mismatch.Discovered, 300))
	}
	return unavailable(ctx, "discover "+issuer, err)
}

// check refuses what would weaken the login.
func (m metadata) check(issuer string) error {
	endpoints := map[string]string{
		"authorization_endpoint": m.AuthURL, "token_endpoint": m.TokenURL, "jwks_uri": m.JWKSURL,
	}
	for name, value := range endpoints {
		if value == "" {
			return fmt.Errorf("the discovery document has no %s", name)
		}
	}
	endpoints["userinfo_endpoint"], endpoints["introspection_endpoint"] = m.UserInfoURL, m.IntrospectionURL
	endpoints["device_authorization_endpoint"] = m.DeviceURL
	for name, value := range endpoints {
		if err := checkEndpoint(issuer, value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(m.CodeChallenges) > 0 && !slices.Contains(m.CodeChallenges, "S256") {
		return fmt.Errorf("the provider lists PKCE methods %q without S256; logins without it can be intercepted", m.CodeChallenges)
	}
	return m.checkAlgorithms()
}

func (m metadata) checkAlgorithms() error {
	if len(m.Algorithms) == 0 || len(m.allowedAlgorithms()) > 0 {
		return nil
	}
	if slices.ContainsFunc(m.Algorithms, isHMAC) {
		return errors.New(explainHMAC)
	}
	return fmt.Errorf("the provider signs ID tokens only with %q; expected one of %q", m.Algorithms, signatureAlgorithms)
}

// checkEndpoint accepts https, and http on this machine when the issuer is there too. Anything else (file:,
// javascript:) could be opened by the desktop.
func checkEndpoint(issuer, endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || hasControl(endpoint) {
		return fmt.Errorf("%q is not a URL", cleanText(endpoint, 200))
	}
	if u.Scheme == "https" || u.Scheme == "http" && strings.HasPrefix(issuer, "http:") && loopbackHost(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%q must use https", cleanText(endpoint, 200))
}

// Settings returns what the provider was made from.
func (p *Provider) Settings() ClientSettings { return p.settings }

// CloseIdleConnections lets go of idle connections to the provider.
func (p *Provider) CloseIdleConnections() { p.http.CloseIdleConnections() }
