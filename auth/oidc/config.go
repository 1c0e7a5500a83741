package oidc

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// TokenAuth is how the client authenticates at the token endpoint. It is configured and never probed, because
// a probe that fails burns a one-time code or refresh token.
type TokenAuth string

// The three ways. A desktop application has no secret worth the name (RFC 8252 section 8.5), so none is the rule.
const (
	TokenAuthNone  TokenAuth = "none"
	TokenAuthPost  TokenAuth = "post"
	TokenAuthBasic TokenAuth = "basic"
)

// RefreshIdentity is what proves, at a renewal, that the provider still vouches for the person.
type RefreshIdentity string

// The ways of a renewal's proof.
const (
	// RefreshIDToken: the refresh response carries a new ID token. The strongest and the default.
	RefreshIDToken RefreshIdentity = "id_token"
	// RefreshIntrospect: the gateway introspects the new access token (RFC 7662). Unless groups_source is userinfo,
	// groups are then read from that answer.
	RefreshIntrospect RefreshIdentity = "introspect"
	// RefreshUserInfo: the gateway asks userinfo with the access token. Weak: it cannot prove the audience.
	RefreshUserInfo RefreshIdentity = "userinfo"
	// RefreshReauth: the provider cannot renew; only a new login helps.
	RefreshReauth RefreshIdentity = "reauth"
)

// GroupsSource is where the groups claim is read.
type GroupsSource string

// The two sources.
const (
	GroupsFromIDToken  GroupsSource = "id_token"
	GroupsFromUserInfo GroupsSource = "userinfo"
)

// GroupsShape is how a provider spells a list of groups.
type GroupsShape string

// The shapes. List also takes a lone string, since some providers collapse a list of one; String is one string
// with commas; MapKeys takes the keys of an object (Zitadel's roles).
const (
	ShapeList    GroupsShape = "list"
	ShapeString  GroupsShape = "string"
	ShapeMapKeys GroupsShape = "map_keys"
)

// The values of [RefreshScopes] that are not scopes.
const (
	RefreshScopesGranted = "granted"
	RefreshScopesOmit    = "omit"
)

const (
	defaultSkew = 60 * time.Second
	maxSkew     = 10 * time.Minute
)

// ProviderConfig is one entry of the gateway's "providers" section. Its zero value is not valid; fields that are
// left out take the default that is named here. It is a plain value and safe to copy.
type ProviderConfig struct {
	// Name is how policy and people call the provider: lower-case letters, digits and hyphens. Required.
	Name string `yaml:"name"`
	// Issuer is the provider's identifier, compared byte for byte, also with its final slash. Required.
	Issuer string `yaml:"issuer"`
	// ClientID is what the provider calls this application. Required.
	ClientID string `yaml:"client_id"`
	// ClientSecret is for the few providers that want one from desktop applications (Google). It is handed to
	// every client, so it is no secret.
	ClientSecret Secret `yaml:"client_secret"`
	// TokenAuth: none (default), post or basic.
	TokenAuth TokenAuth `yaml:"token_auth"`
	// Redirect is where the browser returns to on the desktop.
	Redirect Redirect `yaml:"redirect"`
	// Scopes default to openid profile email groups offline_access.
	Scopes []string `yaml:"scopes"`
	// RefreshScopes: granted (default), omit, or a list.
	RefreshScopes RefreshScopes `yaml:"refresh_scopes"`
	// ExtraAuthParams are added to the authorization request.
	ExtraAuthParams map[string]string `yaml:"extra_auth_params"`
	// RefreshIdentity: id_token (default), introspect, userinfo or reauth.
	RefreshIdentity RefreshIdentity `yaml:"refresh_identity"`
	// Claims says where the groups are.
	Claims ClaimsConfig `yaml:"claims"`
	// GroupsSource: id_token (default) or userinfo.
	GroupsSource GroupsSource `yaml:"groups_source"`
	// EmailTrust: verified (default; email_verified must be the JSON value true), never, always, or claim:NAME.
	EmailTrust string `yaml:"email_trust"`
	// EmailDomains are the only domains in which this provider's e-mail addresses count. Empty: none count.
	EmailDomains []string `yaml:"email_domains"`
	// Device: off (default), or gateway, which lets the gateway run the device authorization grant (RFC 8628).
	Device DeviceLogin `yaml:"device"`
	// StepUp is how a fresh login is asked for.
	StepUp StepUp `yaml:"step_up"`
	// Skew is the tolerance for the provider's clock. Default 60s.
	Skew time.Duration `yaml:"skew"`
}

// Redirect is the loopback address that a login returns to (RFC 8252 section 7.3).
type Redirect struct {
	// Host: 127.0.0.1 (default), ::1 or localhost. Listened on is always the loopback address.
	Host string `yaml:"host" json:"host"`
	// Path: /callback by default.
	Path string `yaml:"path" json:"path"`
	// Ports: any free port when empty, else the first free one of the list (for providers that compare ports).
	Ports []int `yaml:"ports" json:"ports,omitempty"`
}

// ClaimsConfig says where and how the provider puts groups.
type ClaimsConfig struct {
	// Groups is a literal key ("groups", "https://corp.example/groups") or, when it starts with a slash, a JSON
	// pointer (RFC 6901: "/realm_access/roles"). Default groups.
	Groups string `yaml:"groups"`
	// Shape: list (default), string or map_keys.
	Shape GroupsShape `yaml:"shape"`
}

// StepUp is what is added to the authorization request when a fresh login is wanted. That it had an effect is
// verified by auth_time and acr of the new token, never assumed.
type StepUp struct {
	// ACRValues is sent as acr_values when not empty.
	ACRValues string `yaml:"acr_values" json:"acr_values,omitempty"`
	// MaxAge sends max_age=0. Default true.
	MaxAge *bool `yaml:"max_age" json:"max_age,omitempty"`
	// Prompt is sent as prompt. Default login.
	Prompt string `yaml:"prompt" json:"prompt,omitempty"`
}

// RefreshScopes says what the refresh request sends as scope: the single word "granted" (what the login was
// granted), the single word "omit" (no scope parameter), or these scopes.
type RefreshScopes []string

// UnmarshalYAML takes a word or a list.
func (s *RefreshScopes) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*s = RefreshScopes{node.Value}
		return nil
	}
	var list []string
	if err := node.Decode(&list); err != nil {
		return err
	}
	*s = list
	return nil
}

// DeviceLogin says whether logins by device code are allowed. It is written off or gateway: the gateway runs them,
// never the client, since whoever holds the device code gets the tokens.
type DeviceLogin bool

// UnmarshalYAML takes off and gateway.
func (d *DeviceLogin) UnmarshalYAML(node *yaml.Node) error {
	switch node.Value {
	case "off":
		*d = false
	case "gateway":
		*d = true
	default:
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: device is not one of off, gateway", node.Line)}}
	}
	return nil
}

// MarshalYAML is the reverse of UnmarshalYAML.
func (d DeviceLogin) MarshalYAML() (any, error) {
	if d {
		return "gateway", nil
	}
	return "off", nil
}

// Secret is a string that does not print itself in logs and errors.
type Secret string

// Reveal returns the value, for the one place that sends or stores it.
func (s Secret) Reveal() string { return string(s) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[secret]"
}

// LogValue hides the value from handlers that would marshal it.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// WithDefaults returns c with every field that was left out filled in.
func (c ProviderConfig) WithDefaults() ProviderConfig {
	setDefault(&c.TokenAuth, TokenAuthNone)
	setDefault(&c.Redirect.Host, "127.0.0.1")
	setDefault(&c.Redirect.Path, "/callback")
	setDefault(&c.RefreshIdentity, RefreshIDToken)
	setDefault(&c.Claims.Groups, "groups")
	setDefault(&c.Claims.Shape, ShapeList)
	setDefault(&c.GroupsSource, GroupsFromIDToken)
	setDefault(&c.EmailTrust, "verified")
	setDefault(&c.Skew, defaultSkew)
	setDefault(&c.StepUp.Prompt, "login")
	if c.StepUp.MaxAge == nil {
		yes := true
		c.StepUp.MaxAge = &yes
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"openid", "profile", "email", "groups", "offline_access"}
	}
	if len(c.RefreshScopes) == 0 {
		c.RefreshScopes = RefreshScopes{RefreshScopesGranted}
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// ClientSettings returns what the gateway's discovery document tells clients about this provider.
func (c ProviderConfig) ClientSettings() ClientSettings {
	c = c.WithDefaults()
	return ClientSettings{
		Name: c.Name, Issuer: c.Issuer, ClientID: c.ClientID, ClientSecret: c.ClientSecret,
		TokenAuth: c.TokenAuth, Redirect: c.Redirect, Scopes: slices.Clone(c.Scopes),
		RefreshScopes: slices.Clone(c.RefreshScopes), ExtraAuthParams: maps.Clone(c.ExtraAuthParams),
		RefreshIdentity: c.RefreshIdentity, Device: bool(c.Device), StepUp: c.StepUp,
		SendAccessToken: c.GroupsSource == GroupsFromUserInfo ||
			c.RefreshIdentity == RefreshIntrospect || c.RefreshIdentity == RefreshUserInfo,
	}
}

// ClientSettings is the part of a provider's configuration that a desktop needs to run a login. It comes from
// the gateway as JSON and is validated before use.
type ClientSettings struct {
	Name            string            `json:"name"`
	Issuer          string            `json:"issuer"`
	ClientID        string            `json:"client_id"`
	ClientSecret    Secret            `json:"client_secret,omitempty"`
	TokenAuth       TokenAuth         `json:"token_auth"`
	Redirect        Redirect          `json:"redirect"`
	Scopes          []string          `json:"scopes"`
	RefreshScopes   RefreshScopes     `json:"refresh_scopes"`
	ExtraAuthParams map[string]string `json:"extra_auth_params,omitempty"`
	RefreshIdentity RefreshIdentity   `json:"refresh_identity"`
	// SendAccessToken: the gateway asks the provider itself and needs the access token with each request.
	SendAccessToken bool `json:"send_access_token,omitempty"`
	// Device: the gateway offers the device grant with this provider.
	Device bool   `json:"device,omitempty"`
	StepUp StepUp `json:"step_up"`
}

// ValidateProviders checks a whole "providers" section: every entry, and that names and issuers are unique.
func ValidateProviders(configs []ProviderConfig) error {
	if len(configs) == 0 {
		return errors.New("providers: none is configured; people need one to log in with")
	}
	var errs []error
	names, issuers := map[string]bool{}, map[string]bool{}
	for i, c := range configs {
		if err := c.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("providers[%d]: %w", i, err))
		}
		if names[c.Name] {
			errs = append(errs, fmt.Errorf("providers[%d]: name: %q is used twice", i, c.Name))
		}
		if issuers[c.Issuer] {
			errs = append(errs, fmt.Errorf("providers[%d]: issuer: %q is used twice; people are known by issuer and subject", i, c.Issuer))
		}
		names[c.Name], issuers[c.Issuer] = true, true
	}
	return errors.Join(errs...)
}

// Validate reports everything that is wrong with c, each problem with its key, after filling in the defaults.
func (c ProviderConfig) Validate() error {
	c = c.WithDefaults()
	p := problems{prefix: c.Name}
	c.ClientSettings().check(&p)
	p.oneOf("claims.shape", string(c.Claims.Shape), string(ShapeList), string(ShapeString), string(ShapeMapKeys))
	p.oneOf("groups_source", string(c.GroupsSource), string(GroupsFromIDToken), string(GroupsFromUserInfo))
	if _, err := parsePointer(c.Claims.Groups); err != nil {
		p.add("claims.groups", "%v", err)
	}
	c.checkEmail(&p)
	if c.Skew < 0 || c.Skew > maxSkew {
		p.add("skew", "%s is not between 0s and %s", c.Skew, maxSkew)
	}
	return p.err()
}

func (c ProviderConfig) checkEmail(p *problems) {
	name, isClaim := strings.CutPrefix(c.EmailTrust, "claim:")
	if isClaim && name == "" {
		p.add("email_trust", "claim: needs the claim's name, as in claim:xms_edov")
	}
	if !isClaim {
		p.oneOf("email_trust", c.EmailTrust, "verified", "never", "always", "claim:NAME")
	}
	for _, domain := range c.EmailDomains {
		if !validDomain(domain) {
			p.add("email_domains", "%q is not a plain domain name such as corp.example (ASCII; no @, no wildcard)", domain)
		}
	}
}
