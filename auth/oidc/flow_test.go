package oidc

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func query(t *testing.T, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}

func TestAuthCodeURL(t *testing.T) {
	f := newFake(t)
	f.discovery["authorization_endpoint"] = f.server.URL + "/auth?tenant=1&state=evil"
	config := f.config()
	config.ExtraAuthParams = map[string]string{"access_type": "offline"}
	config.StepUp.ACRValues = "mfa"
	p := f.provider(t, config)
	// The verifier and challenge of RFC 7636 appendix B.
	r := AuthRequest{State: "s1", Nonce: "n1", Verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", RedirectURI: "http://127.0.0.1:1/callback", MaxAge: 6 * time.Hour, LoginHint: "ada"}
	want := url.Values{
		"tenant": {"1"}, "response_type": {"code"}, "client_id": {"culvert"}, "redirect_uri": {"http://127.0.0.1:1/callback"},
		"scope": {"openid profile email groups offline_access"}, "state": {"s1"}, "nonce": {"n1"}, "login_hint": {"ada"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
		"access_type": {"offline"}, "max_age": {"21600"},
	}
	if diff := cmp.Diff(want, query(t, p.AuthCodeURL(r))); diff != "" {
		t.Error(diff)
	}
	r.StepUp = true
	if q := query(t, p.AuthCodeURL(r)); q.Get("max_age") != "0" || q.Get("prompt") != "login" || q.Get("acr_values") != "mfa" {
		t.Errorf("step-up sends %v", q)
	}
	no := false
	config.StepUp.MaxAge = &no
	r.StepUp = false
	if q := query(t, f.provider(t, config).AuthCodeURL(r)); q.Has("max_age") {
		t.Errorf("max_age is sent although the provider cannot: %v", q)
	}
}

// Class: PKCE downgrade.
func TestThreatPKCEDowngradeByDiscovery(t *testing.T) {
	f := newFake(t)
	for _, methods := range [][]string{{"plain"}, {"s256"}} {
		f.discovery["code_challenge_methods_supported"] = methods
		if _, err := Discover(t.Context(), f.config().ClientSettings(), f.options(t)); err == nil || !strings.Contains(err.Error(), "S256") {
			t.Errorf("%q: %v", methods, err)
		}
	}
	delete(f.discovery, "code_challenge_methods_supported") // Entra lists none and does it
	p := f.provider(t, f.config())
	if q := query(t, p.AuthCodeURL(AuthRequest{Verifier: NewCodeVerifier()})); q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" {
		t.Errorf("no PKCE in %v", q)
	}
}

func TestDiscoverRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		key   string
		value any
		want  string
	}{
		"another issuer":     {"issuer", "https://evil.example", "issuer mismatch"},
		"a final slash":      {"issuer", nil, "final slash"},
		"no token endpoint":  {"token_endpoint", "", "no token_endpoint"},
		"no keys":            {"jwks_uri", "", "no jwks_uri"},
		"plain http":         {"token_endpoint", "http://idp.example/token", "must use https"},
		"javascript":         {"authorization_endpoint", "javascript:alert(1)", "authorization_endpoint"},
		"file":               {"authorization_endpoint", "file:///etc/passwd", "authorization_endpoint"},
		"credentials":        {"jwks_uri", "https://a:b@idp.example/keys", "jwks_uri"},
		"HS256 only":         {"id_token_signing_alg_values_supported", []string{"HS256"}, "configure a signing key"},
		"unknown algorithms": {"id_token_signing_alg_values_supported", []string{"ES256K"}, "expected one of"},
		"no JSON fields":     {"token_endpoint", 7, "discover"},
	} {
		f := newFake(t)
		if f.discovery[test.key] = test.value; name == "a final slash" {
			f.discovery["issuer"] = f.server.URL + "/"
		}
		if _, err := Discover(t.Context(), f.config().ClientSettings(), f.options(t)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Class: provider mix-up (RFC 9207).
func TestThreatProviderMixUp(t *testing.T) {
	f := newFake(t)
	quiet := f.provider(t, f.config())
	f.discovery["authorization_response_iss_parameter_supported"] = true
	promised := f.provider(t, f.config())
	own := f.server.URL
	for name, test := range map[string]struct {
		p    *Provider
		iss  string
		good bool
	}{
		"promised and right":           {promised, own, true},
		"promised and absent":          {promised, "", false},
		"promised and another":         {promised, "https://evil.example", false},
		"promised and a slash more":    {promised, own + "/", false},
		"not promised and absent":      {quiet, "", true},
		"not promised and right":       {quiet, own, true},
		"not promised and another":     {quiet, "https://evil.example", false},
		"not promised, and upper case": {quiet, strings.ToUpper(own), false},
	} {
		if err := test.p.CheckCallback(Callback{Code: "c", Iss: test.iss}); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseCallback(t *testing.T) {
	cb, err := ParseCallback("code=c1&state=s1&iss=https%3A%2F%2Fidp.example&session_state=x")
	if err != nil || cb.Code != "c1" || cb.State != "s1" || cb.Iss != "https://idp.example" || cb.Err != nil {
		t.Errorf("%+v, %v", cb, err)
	}
	cb, err = ParseCallback("error=access_denied&error_description=Not+you%1b%5B2J&state=s1&code=c1")
	if err != nil || cb.Code != "" || cb.Err == nil || cb.Err.Error() != `the provider answered the login request: access_denied: Not you\x1b[2J` {
		t.Errorf("%+v, %v", cb, err)
	}
	for _, bad := range []string{
		"", "state=s1", "code=a&code=b&state=s", "code=a&state=s&state=t", "code=a&iss=x&iss=y", "code=%zz", "code=a;state=b",
		"error=a&error=b", "code=" + strings.Repeat("a", maxCallbackQuery),
	} {
		if cb, err := ParseCallback(bad); err == nil {
			t.Errorf("%.40q gave %+v", bad, cb)
		}
	}
}

func FuzzParseCallback(f *testing.F) {
	for _, seed := range []string{"code=c&state=s", "error=access_denied&state=s", "code=a&code=b", "code=%zz", "iss=https%3A%2F%2Fx&code=c", "&&;=&code"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		cb, err := ParseCallback(raw)
		if err != nil {
			return
		}
		if (cb.Code == "") == (cb.Err == nil) {
			t.Fatalf("neither or both of code and error: %+v", cb)
		}
		if cb.Err != nil && hasControl(cb.Err.Error()) {
			t.Fatalf("an error that a terminal would obey: %q", cb.Err.Error())
		}
	})
}

func FuzzTokenShape(f *testing.F) {
	f.Add("e30.e30.x")
	f.Add(rawToken(`{"alg":"ES256","kid":"k"}`, `{}`, "x").Reveal())
	f.Add(rawToken(`{"alg":"none"}`, `{}`, "").Reveal())
	f.Fuzz(func(t *testing.T, raw string) {
		if err := checkShape(raw, signatureAlgorithms); err == nil && strings.Count(raw, ".") != 2 {
			t.Fatal("not three parts")
		}
	})
}
