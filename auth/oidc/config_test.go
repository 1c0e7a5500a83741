package oidc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/internal/strictconf"
)

// The example of the design, with every key.
const designExample = `
providers:
  - name: corp
    issuer: https://idp.example.com/
    client_id: culvert
    client_secret: ""
    token_auth: none
    redirect: {host: 127.0.0.1, path: /callback, ports: []}
    scopes: [openid, profile, email, groups, offline_access]
    refresh_scopes: granted
    extra_auth_params: {}
    refresh_identity: id_token
    claims: {groups: groups, shape: list}
    groups_source: id_token
    email_trust: verified
    email_domains: [corp.example]
    device: off
    step_up: {acr_values: "", max_age: true, prompt: login}
    skew: 60s
`

type section struct {
	Providers []ProviderConfig `yaml:"providers"`
}

func TestEveryKeyOfTheDesign(t *testing.T) {
	var s section
	if err := strictconf.Decode("gateway.yaml", []byte(designExample), &s); err != nil {
		t.Fatal(err)
	}
	if err := ValidateProviders(s.Providers); err != nil {
		t.Fatal(err)
	}
	want := ProviderConfig{Name: "corp", Issuer: "https://idp.example.com/", ClientID: "culvert", EmailDomains: []string{"corp.example"}}.WithDefaults()
	got := s.Providers[0]
	got.ExtraAuthParams, got.Redirect.Ports = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("the example is not the defaults (-want +got):\n%s", diff)
	}
	for field := range reflect.TypeFor[ProviderConfig]().Fields() {
		if key := field.Tag.Get("yaml"); !strings.Contains(designExample, key+":") {
			t.Errorf("the key %q is not in the example", key)
		}
	}
}

func TestRefreshScopesForms(t *testing.T) {
	for text, want := range map[string]RefreshScopes{
		"granted": {"granted"}, "omit": {"omit"}, "[openid]": {"openid"}, "[openid, email]": {"openid", "email"},
	} {
		var c ProviderConfig
		if err := strictconf.Decode("x", []byte("refresh_scopes: "+text), &c); err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(want, c.RefreshScopes) {
			t.Errorf("%s: %v", text, c.RefreshScopes)
		}
	}
}

// Class: device-code phishing (RFC 8628 section 5.4): off unless an operator says otherwise, and clients are told.
func TestThreatDeviceCodePhishingOffByDefault(t *testing.T) {
	var s section
	if err := strictconf.Decode("x", []byte("providers: [{name: corp, issuer: https://idp.example, client_id: c}]"), &s); err != nil {
		t.Fatal(err)
	}
	if c := s.Providers[0].WithDefaults(); bool(c.Device) || c.ClientSettings().Device {
		t.Error("device logins are on although nobody asked for them")
	}
}

func TestDeviceForms(t *testing.T) {
	for text, want := range map[string]DeviceLogin{"off": false, "gateway": true} {
		var c ProviderConfig
		if err := strictconf.Decode("x", []byte("device: "+text), &c); err != nil || c.Device != want {
			t.Errorf("%s: %v, %v", text, c.Device, err)
		}
		if back, err := c.Device.MarshalYAML(); err != nil || back != text {
			t.Errorf("%s comes back as %v, %v", text, back, err)
		}
	}
	for _, text := range []string{"on", "true", "client", "[gateway]"} {
		var c ProviderConfig
		if err := strictconf.Decode("x.yaml", []byte("name: a\ndevice: "+text), &c); err == nil || !strings.Contains(err.Error(), "off, gateway") || !strings.Contains(err.Error(), "x.yaml:2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestValidateNamesTheKey(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ProviderConfig)
		want   string
	}{
		"name":           {func(c *ProviderConfig) { c.Name = "Corp/x" }, "name:"},
		"no issuer":      {func(c *ProviderConfig) { c.Issuer = "" }, "issuer: is required"},
		"client":         {func(c *ProviderConfig) { c.ClientID = "" }, "client_id:"},
		"token_auth":     {func(c *ProviderConfig) { c.TokenAuth = "probe" }, `token_auth: "probe" is not one of none, post, basic`},
		"secret unused":  {func(c *ProviderConfig) { c.ClientSecret = "x" }, "client_secret: is set but token_auth is none"},
		"secret missing": {func(c *ProviderConfig) { c.TokenAuth = TokenAuthPost }, "client_secret: is required"},
		"redirect host":  {func(c *ProviderConfig) { c.Redirect.Host = "0.0.0.0" }, "redirect.host:"},
		"redirect name":  {func(c *ProviderConfig) { c.Redirect.Host = "desk.corp.example" }, "redirect.host:"},
		"redirect path":  {func(c *ProviderConfig) { c.Redirect.Path = "//evil.example/x" }, "redirect.path:"},
		"redirect query": {func(c *ProviderConfig) { c.Redirect.Path = "/cb?x=1" }, "redirect.path:"},
		"redirect port":  {func(c *ProviderConfig) { c.Redirect.Ports = []int{0} }, "redirect.ports:"},
		"openid":         {func(c *ProviderConfig) { c.Scopes = []string{"profile"} }, "scopes: must contain openid"},
		"scope":          {func(c *ProviderConfig) { c.Scopes = []string{"openid", "a b"} }, "scopes:"},
		"refresh mix":    {func(c *ProviderConfig) { c.RefreshScopes = RefreshScopes{"granted", "openid"} }, "refresh_scopes:"},
		"refresh scope":  {func(c *ProviderConfig) { c.RefreshScopes = RefreshScopes{"gra nted"} }, "refresh_scopes:"},
		"extra":          {func(c *ProviderConfig) { c.ExtraAuthParams = map[string]string{"Nonce": "x"} }, "extra_auth_params:"},
		"identity":       {func(c *ProviderConfig) { c.RefreshIdentity = "trust" }, "refresh_identity:"},
		"shape":          {func(c *ProviderConfig) { c.Claims.Shape = "map" }, "claims.shape:"},
		"pointer":        {func(c *ProviderConfig) { c.Claims.Groups = "/a~2" }, "claims.groups:"},
		"source":         {func(c *ProviderConfig) { c.GroupsSource = "ldap" }, "groups_source:"},
		"email trust":    {func(c *ProviderConfig) { c.EmailTrust = "maybe" }, "email_trust:"},
		"email claim":    {func(c *ProviderConfig) { c.EmailTrust = "claim:" }, "email_trust:"},
		"email domain":   {func(c *ProviderConfig) { c.EmailDomains = []string{"@corp.example"} }, "email_domains:"},
		"wildcard":       {func(c *ProviderConfig) { c.EmailDomains = []string{"*.corp.example"} }, "email_domains:"},
		"skew":           {func(c *ProviderConfig) { c.Skew = time.Hour }, "skew:"},
		"prompt":         {func(c *ProviderConfig) { c.StepUp.Prompt = "ask" }, "step_up.prompt:"},
	} {
		c := ProviderConfig{Name: "corp", Issuer: "https://idp.example", ClientID: "culvert"}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		test.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, test.want)
		}
	}
}

func TestIssuers(t *testing.T) {
	const tenant = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
	for _, good := range []string{
		"https://idp.example", "https://idp.example/", "https://idp.example:8443/realms/corp", "http://127.0.0.1:9400",
		"http://[::1]:9400", "http://localhost:9400", "https://login.microsoftonline.com/" + tenant + "/v2.0",
		"https://10.1.2.3/idp",
	} {
		if err := checkIssuer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"http://idp.example":         "must use https",
		"http://127.0.0.1.nip.io":    "must use https",
		"ftp://idp.example":          "must use https",
		"https://a:b@idp.example":    "must not have a user",
		"https://idp.example?x=1":    "must not have a user, a query",
		"https://idp.example?":       "must not have a user, a query",
		"https://idp.example#x":      "fragment",
		"https://idp.example#":       "fragment",
		"idp.example":                "is not a URL",
		"https://":                   "is not a URL",
		"https://idp.example/\nx":    "is not a URL",
		"https://idp.example/\u202e": "is not a URL",
		"https://idp.example/.well-known/openid-configuration": "the issuer is what stands in front",
		"https://login.microsoftonline.com/common/v2.0":        "shared Entra tenant",
		"https://login.microsoftonline.com/Organizations/v2.0": "shared Entra tenant",
		"https://LOGIN.microsoftonline.com./consumers/v2.0":    "shared Entra tenant",
		"https://login.microsoftonline.com/corp.example/v2.0":  "is not a GUID",
		"https://sts.windows.net/":                             "is not a GUID",
	} {
		if err := checkIssuer(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", bad, err, want)
		}
	}
}

func TestProvidersMustDiffer(t *testing.T) {
	c := ProviderConfig{Name: "corp", Issuer: "https://idp.example", ClientID: "culvert"}
	for name, list := range map[string][]ProviderConfig{
		"none": {}, "same name": {c, {Name: "corp", Issuer: "https://b.example", ClientID: "c"}},
		"same issuer": {c, {Name: "other", Issuer: "https://idp.example", ClientID: "c"}},
	} {
		if err := ValidateProviders(list); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// Class: secrets leak (Boundary CVE-2023-0690).
func TestThreatSecretsDoNotPrint(t *testing.T) {
	c := ProviderConfig{Name: "corp", ClientSecret: "canary-1"}
	tokens := Tokens{AccessToken: "canary-2", RefreshToken: "canary-3", IDToken: "canary-4"}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "secret", tokens.AccessToken)
	for _, text := range []string{
		logged.String(), fmt.Sprintf("%v %+v %#v %s %q", c, c, c, c.ClientSecret, c.ClientSecret), fmt.Sprintf("%v %+v %#v", tokens, &tokens, tokens),
	} {
		if strings.Contains(text, "canary") {
			t.Errorf("a secret is in %s", text)
		}
	}
}

func TestClientSettingsTravelAsJSON(t *testing.T) {
	c := ProviderConfig{
		Name: "corp", Issuer: "https://idp.example", ClientID: "culvert", ClientSecret: "public", TokenAuth: TokenAuthPost,
		GroupsSource: GroupsFromUserInfo, ExtraAuthParams: map[string]string{"access_type": "offline"},
		Redirect: Redirect{Ports: []int{8400, 8401}}, Device: true,
	}
	data, err := json.Marshal(c.ClientSettings())
	if err != nil {
		t.Fatal(err)
	}
	var got ClientSettings
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.ClientSettings(), got); diff != "" || !got.SendAccessToken || got.Validate() != nil {
		t.Fatalf("%s\n%v", diff, got.Validate())
	}
}
