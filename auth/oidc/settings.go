package oidc

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// reservedParams are authorization request parameters that the flow itself sets. An operator's extra parameter
// must not replace them: request and request_uri could smuggle a whole other request in.
var reservedParams = []string{
	"response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state", "nonce",
	"code_challenge", "code_challenge_method", "request", "request_uri",
}

var (
	providerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	guid         = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
	scopeToken   = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`) // RFC 6749 section 3.3
)

// entraHosts are the login hosts of Microsoft's clouds. Their shared tenants sign people of any company in.
var entraHosts = []string{
	"login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn",
	"login.windows.net", "sts.windows.net", "login.microsoft.com",
}

// Validate reports what is wrong with settings that a gateway sent.
func (s ClientSettings) Validate() error {
	p := problems{prefix: s.Name}
	s.check(&p)
	return p.err()
}

func (s ClientSettings) check(p *problems) {
	if !providerName.MatchString(s.Name) {
		p.add("name", "%q is not 1 to 32 lower-case letters, digits and hyphens", s.Name)
	}
	if err := checkIssuer(s.Issuer); err != nil {
		p.add("issuer", "%v", err)
	}
	if s.ClientID == "" || hasControl(s.ClientID) {
		p.add("client_id", "is required: it is what the provider calls this application")
	}
	s.checkTokenAuth(p)
	s.checkRedirect(p)
	s.checkScopes(p)
	s.checkExtra(p)
	p.oneOf("refresh_identity", string(s.RefreshIdentity),
		string(RefreshIDToken), string(RefreshIntrospect), string(RefreshUserInfo), string(RefreshReauth))
	p.oneOf("step_up.prompt", s.StepUp.Prompt, "login", "consent", "select_account", "none", "")
}

func (s ClientSettings) checkTokenAuth(p *problems) {
	p.oneOf("token_auth", string(s.TokenAuth), string(TokenAuthNone), string(TokenAuthPost), string(TokenAuthBasic))
	if s.TokenAuth == TokenAuthNone && s.ClientSecret != "" {
		p.add("client_secret", "is set but token_auth is none; set token_auth to post or basic, as the provider wants it")
	}
	if s.TokenAuth != TokenAuthNone && s.ClientSecret == "" {
		p.add("client_secret", "is required by token_auth %s", s.TokenAuth)
	}
}

func (s ClientSettings) checkRedirect(p *problems) {
	if s.Redirect.Host != "localhost" {
		addr, err := netip.ParseAddr(s.Redirect.Host)
		if err != nil || !addr.IsLoopback() || addr.Zone() != "" {
			p.add("redirect.host", "%q is not 127.0.0.1, ::1 or localhost: a login returns to the desktop itself", s.Redirect.Host)
		}
	}
	u, err := url.Parse(s.Redirect.Path)
	if err != nil || !strings.HasPrefix(s.Redirect.Path, "/") || u.Path != s.Redirect.Path || u.Host != "" {
		p.add("redirect.path", "%q is not a plain absolute path such as /callback", s.Redirect.Path)
	}
	for _, port := range s.Redirect.Ports {
		if port < 1 || port > 65535 {
			p.add("redirect.ports", "%d is not a port", port)
		}
	}
}

func (s ClientSettings) checkScopes(p *problems) {
	if !slices.Contains(s.Scopes, "openid") {
		p.add("scopes", "must contain openid: without it there is no ID token")
	}
	for _, scope := range s.Scopes {
		if !scopeToken.MatchString(scope) {
			p.add("scopes", "%q is not a scope", scope)
		}
	}
	for _, scope := range s.RefreshScopes {
		keyword := scope == RefreshScopesGranted || scope == RefreshScopesOmit
		if keyword && len(s.RefreshScopes) > 1 {
			p.add("refresh_scopes", "%q stands alone or not at all", scope)
		}
		if !scopeToken.MatchString(scope) {
			p.add("refresh_scopes", "%q is not a scope; use granted, omit or a list of scopes", scope)
		}
	}
}

func (s ClientSettings) checkExtra(p *problems) {
	for name := range s.ExtraAuthParams {
		if name == "" || slices.Contains(reservedParams, strings.ToLower(name)) {
			p.add("extra_auth_params", "%q is set by the login itself", name)
		}
	}
}

// checkIssuer accepts an https URL without query and fragment (OpenID Connect Discovery 1.0 section 3), or an
// http URL of this machine for trying things out. A shared Entra tenant is refused: it signs in anybody.
func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case issuer == "":
		return errors.New("is required: the provider's identifier, exactly as its discovery document spells it")
	case err != nil || u.Host == "" || u.Opaque != "" || hasControl(issuer):
		return fmt.Errorf("%q is not a URL", issuer)
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(issuer, "#"):
		return fmt.Errorf("%q must not have a user, a query or a fragment", issuer)
	case u.Scheme == "http" && !loopbackHost(u.Hostname()):
		return fmt.Errorf("%q must use https (http is only for an address of this machine)", issuer)
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%q must use https", issuer)
	case strings.HasSuffix(u.Path, "/.well-known/openid-configuration"):
		return fmt.Errorf("%q is the discovery document; the issuer is what stands in front of /.well-known", issuer)
	}
	return checkEntraTenant(u)
}

// checkEntraTenant pins the tenant by its GUID. A domain name as tenant would work at first and then fail,
// because tokens carry the GUID in iss, byte for byte.
func checkEntraTenant(u *url.URL) error {
	if !slices.Contains(entraHosts, strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))) {
		return nil
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch strings.ToLower(tenant) {
	case "common", "organizations", "consumers":
		return fmt.Errorf("%q is a shared Entra tenant and signs in people of any company; use https://%s/<tenant GUID>/v2.0", tenant, u.Host)
	}
	if !guid.MatchString(tenant) {
		return fmt.Errorf("the Entra tenant %q is not a GUID; use https://%s/<tenant GUID>/v2.0", tenant, u.Host)
	}
	return nil
}

func loopbackHost(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// validDomain accepts a lower- or upper-case ASCII DNS name with at least one dot.
func validDomain(domain string) bool {
	if len(domain) > 253 || !strings.Contains(domain, ".") {
		return false
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
		}) {
			return false
		}
	}
	return true
}

// problems gathers what is wrong, one line per key.
type problems struct {
	prefix string
	errs   []error
}

func (p *problems) add(key, format string, args ...any) {
	text := key + ": " + fmt.Sprintf(format, args...)
	if p.prefix != "" {
		text = "provider " + cleanText(p.prefix, 40) + ": " + text
	}
	p.errs = append(p.errs, errors.New(text))
}

func (p *problems) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(key, "%q is not one of %s", value, strings.Join(slices.DeleteFunc(slices.Clone(allowed), func(s string) bool { return s == "" }), ", "))
	}
}

func (p *problems) err() error { return errors.Join(p.errs...) }
