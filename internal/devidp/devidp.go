// Package devidp is a small OpenID provider for development, demonstrations and tests. It is NOT for real
// people: passwords stand in a file as plain text, keys and sessions live in memory and end with the process,
// and nobody has hardened it against the internet. It says so on every page and at every start.
//
// What it does, it does as a strict provider would, so that a client which works here works elsewhere: PKCE
// with S256 is required, codes and refresh tokens are redeemed once (a second use revokes the login), the
// callback carries iss (RFC 9207), redirects to the loopback address may use any port (RFC 8252 section 7.3),
// and device logins (RFC 8628) are confirmed on a page. There is no single sign-on: every login asks. Logouts are told by the
// back channel (see [Provider.EndSession]).
//
// The protocol is github.com/zitadel/oidc's; accounts, storage and pages are here. The package does not know
// Culvert, except for the settings that it suggests (see [Provider.ClientConfig]).
package devidp

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/strictconf"
)

// Warning is shown wherever people could take this for a real provider.
const Warning = "development only: passwords are plain text and nothing is kept"

// DefaultPassword is that of the embedded accounts.
const DefaultPassword = "culvert"

//go:embed defaults.yaml
var defaultFile []byte

const maxRequest = 64 << 10

// Account is somebody who can log in.
type Account struct {
	// Name is typed at the login page. Required.
	Name string `yaml:"name"`
	// Password is plain text. Required.
	Password string `yaml:"password"`
	// Subject is the sub claim; "sub-" and the name when empty. It never holds a colon.
	Subject string `yaml:"subject"`
	// DisplayName is the name claim; the name when empty.
	DisplayName   string   `yaml:"display_name"`
	Email         string   `yaml:"email"`
	EmailVerified bool     `yaml:"email_verified"`
	Groups        []string `yaml:"groups"`
	// Disabled accounts cannot log in, and their refresh tokens are refused.
	Disabled bool `yaml:"disabled"`
}

// Client is an application that may ask for logins.
type Client struct {
	// ID is the client_id. Required.
	ID string `yaml:"id"`
	// Name is shown at the login page; the ID when empty.
	Name string `yaml:"name"`
	// Secret makes the client confidential; it is then sent by basic or post.
	Secret string `yaml:"secret"`
	// RedirectURIs are compared exactly; those on the loopback address with any port.
	RedirectURIs []string `yaml:"redirect_uris"`
	// UserInfoOnly leaves groups, e-mail and name out of the ID token, as some providers do.
	UserInfoOnly bool `yaml:"userinfo_only"`
}

// Lifetimes bound what is issued. Zero means the default that is named.
type Lifetimes struct {
	IDToken      time.Duration `yaml:"id_token"`      // 5m
	AccessToken  time.Duration `yaml:"access_token"`  // 5m
	RefreshToken time.Duration `yaml:"refresh_token"` // 24h, from each rotation
	Login        time.Duration `yaml:"login"`         // 10m: login page, code and device code
	// DeviceInterval is the least time between two polls of a device login. 5s.
	DeviceInterval time.Duration `yaml:"device_interval"`
}

// File is the YAML form of what a provider knows.
type File struct {
	Accounts  []Account `yaml:"accounts"`
	Clients   []Client  `yaml:"clients"`
	Lifetimes Lifetimes `yaml:"lifetimes"`
}

// ParseFile decodes a File strictly; name is for error messages.
func ParseFile(name string, data []byte) (File, error) {
	var f File
	return f, strictconf.Decode(name, data, &f)
}

// Defaults returns the embedded accounts (ada: engineering, bob: sales, root-admin: admins; password "culvert")
// and the client "culvert".
func Defaults() File {
	f, err := ParseFile("defaults.yaml", defaultFile)
	if err != nil {
		return File{} // a test holds that it parses
	}
	return f
}

// Config is what [New] needs.
type Config struct {
	// Issuer is the URL at which the handler is reached, without a final slash. Required unless Listener is set.
	Issuer string
	// Listener only names the address: the issuer is then http://ADDRESS. New neither accepts nor closes.
	Listener net.Listener
	// Accounts and Clients default to those of Defaults.
	Accounts  []Account
	Clients   []Client
	Lifetimes Lifetimes
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Provider is an OpenID provider as an http.Handler. It is safe for concurrent use and starts no goroutine.
type Provider struct {
	issuer  string
	store   *storage
	logger  *slog.Logger
	handler http.Handler
	inner   *op.Provider
	pages   *template.Template
}

// New returns a provider. It generates a signing key and does no I/O.
func New(config Config) (*Provider, error) {
	if config.Issuer == "" && config.Listener != nil {
		config.Issuer = "http://" + config.Listener.Addr().String()
	}
	if config.Issuer == "" {
		return nil, errors.New("devidp: neither an issuer nor a listener is given")
	}
	if len(config.Accounts) == 0 {
		config.Accounts = Defaults().Accounts
	}
	if len(config.Clients) == 0 {
		config.Clients = Defaults().Clients
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	store, err := newStorage(config)
	if err != nil {
		return nil, fmt.Errorf("devidp: %w", err)
	}
	p := &Provider{issuer: config.Issuer, store: store, logger: config.Logger}
	if err := p.build(); err != nil {
		return nil, fmt.Errorf("devidp: %w", err)
	}
	return p, nil
}

func (p *Provider) build() error {
	config := &op.Config{
		CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		SupportedScopes: []string{"openid", "profile", "email", "groups", "offline_access"},
		SupportedClaims: []string{"sub", "aud", "exp", "iat", "iss", "auth_time", "nonce", "acr", "amr", "at_hash",
			"azp", "sid", "name", "preferred_username", "email", "email_verified", "groups"},
		DeviceAuthorization: op.DeviceAuthorizationConfig{
			Lifetime: p.store.lifetimes.Login, PollInterval: p.store.lifetimes.DeviceInterval,
			UserFormPath: p.path("/device"), UserCode: op.UserCodeBase20,
		},
	}
	pages, err := template.ParseFS(pageFiles, "pages/page.html")
	if err != nil {
		return err
	}
	_, _ = rand.Read(config.CryptoKey[:]) // never fails (crypto/rand)
	options := []op.Option{op.WithCORSOptions(nil)}
	if strings.HasPrefix(p.issuer, "http:") {
		options = append(options, op.WithAllowInsecure())
	}
	inner, err := op.NewProvider(config, p.store, op.StaticIssuer(p.issuer), options...)
	if err != nil {
		return err
	}
	p.inner, p.pages = inner, pages
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+zoidc.DiscoveryEndpoint, p.discovery)
	mux.HandleFunc("GET /login", p.loginPage)
	mux.HandleFunc("POST /login", p.loginSubmit)
	mux.HandleFunc("GET /device", p.devicePage)
	mux.HandleFunc("POST /device", p.deviceSubmit)
	mux.HandleFunc("POST /device/confirm", p.deviceConfirm)
	mux.HandleFunc("GET /style.css", p.style)
	mux.HandleFunc("GET /{$}", p.welcome)
	mux.Handle("/authorize", p.withIssuer(inner))
	mux.Handle("/authorize/callback", p.withIssuer(inner))
	mux.Handle("/", inner)
	p.handler = http.StripPrefix(p.path(""), mux)
	return nil
}

func (p *Provider) path(rest string) string { return issuerPath(p.issuer) + rest }

// issuerPath is what stands in front of every path.
func issuerPath(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil { // op refuses it later
		return ""
	}
	return strings.TrimSuffix(u.Path, "/")
}

// ServeHTTP bounds the request and serves it.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	p.handler.ServeHTTP(w, r)
}

// Issuer returns the issuer URL.
func (p *Provider) Issuer() string { return p.issuer }

// ClientConfig returns the gateway's configuration for this provider and the given client.
func (p *Provider) ClientConfig(name, clientID string) (oidc.ProviderConfig, error) {
	client, ok := p.store.clients[clientID]
	if !ok {
		return oidc.ProviderConfig{}, fmt.Errorf("devidp: there is no client %q", clientID)
	}
	config := oidc.ProviderConfig{
		Name: name, Issuer: p.issuer, ClientID: clientID, ClientSecret: oidc.Secret(client.Secret),
		EmailDomains: p.store.emailDomains(), Device: true,
	}
	if client.Secret != "" {
		config.TokenAuth = oidc.TokenAuthBasic
	}
	if client.UserInfoOnly {
		config.GroupsSource = oidc.GroupsFromUserInfo
	}
	return config, nil
}

// Disable makes an account unable to log in and to refresh, at once. What was issued runs out by itself.
func (p *Provider) Disable(account string) error {
	return p.store.change(account, func(a *Account) { a.Disabled = true })
}

// Enable undoes Disable. Logins that were refused meanwhile stay ended.
func (p *Provider) Enable(account string) error {
	return p.store.change(account, func(a *Account) { a.Disabled = false })
}

// SetGroups replaces an account's groups; the next token has them.
func (p *Provider) SetGroups(account string, groups ...string) error {
	return p.store.change(account, func(a *Account) { a.Groups = slices.Clone(groups) })
}

// RememberLogin makes the provider behave as one that has a cookie of the account since age ago: logins report that time
// as auth_time, unless the application asked for a fresher one (max_age) or for a new one (prompt=login).
func (p *Provider) RememberLogin(account string, age time.Duration) error {
	return p.store.change(account, func(a *Account) { p.store.ages[a.Name] = age })
}

// discovery is op's document with what we add and without what we refuse.
func (p *Provider) discovery(w http.ResponseWriter, r *http.Request) {
	ctx := op.ContextWithIssuer(r.Context(), p.issuer)
	data, err := json.Marshal(op.CreateDiscoveryConfig(ctx, p.inner, p.store))
	var doc map[string]any
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	if err != nil {
		http.Error(w, "discovery failed", http.StatusInternalServerError)
		return
	}
	maps.Copy(doc, map[string]any{
		"authorization_response_iss_parameter_supported": true,
		"scopes_supported":             []string{"openid", "profile", "email", "groups", "offline_access"},
		"backchannel_logout_supported": true, "backchannel_logout_session_supported": true,
		"response_types_supported": []string{"code"},
		"response_modes_supported": []string{"query"},
		"grant_types_supported":    []string{"authorization_code", "refresh_token", string(zoidc.GrantTypeDeviceCode)},
	})
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(doc)
}

// withIssuer adds iss to the redirect that ends a login, also to an error (RFC 9207 section 2).
func (p *Provider) withIssuer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&issuerWriter{ResponseWriter: w, issuer: p.issuer}, r)
	})
}

type issuerWriter struct {
	http.ResponseWriter
	issuer string
}

func (w *issuerWriter) WriteHeader(status int) {
	u, err := url.Parse(w.Header().Get("Location"))
	if status == http.StatusFound && err == nil && u.Host != "" {
		q := u.Query()
		q.Set("iss", w.issuer)
		u.RawQuery = q.Encode()
		w.Header().Set("Location", u.String())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Health is always nil: everything is in memory.
func (s *storage) Health(context.Context) error { return nil }
