package oidc

import (
	"net/url"
	"testing"
	"time"
)

// TestThreatStepUp: an ID token counts as a fresh login for the person, the key and the moment that it is of, and for nothing else (nonce
// unchecked or replayed; a provider that ignores max_age).
func TestThreatStepUp(t *testing.T) {
	f := newFake(t)
	config := f.config()
	config.StepUp.ACRValues = "phr mfa"
	v := f.verifier(t, config)
	at := func(d time.Duration) int64 { return f.now.Add(d).Unix() }
	prev := Previous{Issuer: f.server.URL, Subject: "subject-1", Nonce: "login", AuthTime: f.now.Add(-time.Hour)}
	for name, test := range map[string]struct {
		changes map[string]any
		nonce   string
		want    string
	}{
		"good":                           {nil, "nonce-1", ""},
		"good, signed in a minute ago":   {map[string]any{"auth_time": at(-time.Minute)}, "nonce-1", ""},
		"good, token of 4 minutes ago":   {map[string]any{"iat": at(-4 * time.Minute), "auth_time": at(-8 * time.Minute)}, "nonce-1", ""},
		"good, the other class":          {map[string]any{"acr": "phr"}, "nonce-1", ""},
		"nonce of another key":           {nil, "nonce-2", "nonce"},
		"nonce of the login":             {map[string]any{"nonce": "login"}, "nonce-1", "nonce"},
		"no nonce":                       {map[string]any{"nonce": nil}, "nonce-1", "nonce"},
		"nothing to compare with":        {map[string]any{"nonce": ""}, "", "nonce"},
		"another person":                 {map[string]any{"sub": "subject-2"}, "nonce-1", "subject"},
		"another client's token":         {map[string]any{"aud": "other"}, "nonce-1", "audience"},
		"issued to another client":       {map[string]any{"aud": []string{"culvert", "other"}, "azp": "other"}, "nonce-1", "azp"},
		"no auth_time":                   {map[string]any{"auth_time": nil}, "nonce-1", "auth_time"},
		"auth_time of the session":       {map[string]any{"auth_time": at(-time.Hour)}, "nonce-1", "auth_time"},
		"auth_time before the session":   {map[string]any{"auth_time": at(-2 * time.Hour)}, "nonce-1", "auth_time"},
		"auth_time long before iat":      {map[string]any{"auth_time": at(-6 * time.Minute)}, "nonce-1", "auth_time"},
		"auth_time in the future":        {map[string]any{"auth_time": at(2 * time.Minute)}, "nonce-1", "not_yet"},
		"auth_time as text":              {map[string]any{"auth_time": "now"}, "nonce-1", "malformed"},
		"a token that was kept for long": {map[string]any{"iat": at(-7 * time.Minute), "auth_time": at(-7 * time.Minute)}, "nonce-1", "stale"},
		"no class":                       {map[string]any{"acr": nil}, "nonce-1", "acr"},
		"another class":                  {map[string]any{"acr": "pwd"}, "nonce-1", "acr"},
		"both classes as one":            {map[string]any{"acr": "phr mfa"}, "nonce-1", "acr"},
		"class as a list":                {map[string]any{"acr": []string{"mfa"}}, "nonce-1", "acr"},
	} {
		claims := f.claims(map[string]any{"acr": "mfa"})
		for k, value := range test.changes {
			claims[k] = value
			if value == nil {
				delete(claims, k)
			}
		}
		out, err := v.VerifyStepUp(t.Context(), Presented{IDToken: f.token(t, claims)}, test.nonce, prev)
		if codeOf(err) != test.want {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if err == nil && out.AuthTime.IsZero() {
			t.Errorf("%s: no auth_time", name)
		}
	}
	prev.Issuer += "/"
	if _, err := v.VerifyStepUp(t.Context(), Presented{IDToken: f.token(t, f.claims(nil))}, "nonce-1", prev); codeOf(err) != "issuer" {
		t.Errorf("another issuer's session: %v", err)
	}
}

// After a step-up the refresh token may be of either login, and so may the nonce of refreshed tokens.
func TestRenewalWithEitherNonce(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	prev := Previous{Issuer: f.server.URL, Subject: "subject-1", Nonce: "login step-up", IssuedAt: f.now}
	for nonce, want := range map[string]string{"login": "", "step-up": "", "login step-up": "nonce", "other": "nonce"} {
		token := f.token(t, f.claims(map[string]any{"nonce": nonce}))
		if _, err := v.VerifyRenewal(t.Context(), Presented{IDToken: token}, prev); codeOf(err) != want {
			t.Errorf("%s: %v, want %q", nonce, err, want)
		}
	}
}

func TestStepUpParameters(t *testing.T) {
	f := newFake(t)
	config := f.config()
	config.StepUp = StepUp{ACRValues: "mfa"}
	p := f.provider(t, config)
	for _, tc := range []struct {
		request AuthRequest
		want    map[string]string
	}{
		{AuthRequest{StepUp: true}, map[string]string{"max_age": "0", "prompt": "login", "acr_values": "mfa"}},
		{AuthRequest{StepUp: true, ACR: []string{"phr", "phrh"}, MaxAge: time.Hour}, map[string]string{"max_age": "0", "prompt": "login", "acr_values": "phr phrh"}},
		{AuthRequest{MaxAge: time.Hour}, map[string]string{"max_age": "3600", "prompt": "", "acr_values": ""}},
	} {
		u, err := url.Parse(p.AuthCodeURL(tc.request))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range tc.want {
			if got := u.Query().Get(name); got != want {
				t.Errorf("%+v: %s is %q, want %q", tc.request, name, got, want)
			}
		}
	}
}
