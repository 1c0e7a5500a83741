package oidc

import (
	"crypto/x509"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// logoutClaims is a good logout token's payload, with changes; a nil value deletes.
func (f *fake) logoutClaims(changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": f.server.URL, "aud": "culvert", "sub": "subject-1", "sid": "sid-1", "jti": "jti-1",
		"iat": f.now.Unix(), "exp": f.now.Add(2 * time.Minute).Unix(), "events": map[string]any{logoutEvent: map[string]any{}},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// typed signs with a typ header.
func (f *fake) typed(t testing.TB, typ string, claims map[string]any) Secret {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: f.key, KeyID: "k1"}}, opts)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return Secret(raw)
}

// TestThreatLogoutToken: each step of OpenID Connect Back-Channel Logout 1.0 section 2.6, since a forged or replayed logout token throws
// people out (and one that is taken for something else lets them in).
func TestThreatLogoutToken(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	at := func(d time.Duration) int64 { return f.now.Add(d).Unix() }
	event := func(v any) map[string]any { return map[string]any{"events": v} }
	for name, test := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"good":                          {nil, ""},
		"by session alone":              {map[string]any{"sub": nil}, ""},
		"by person alone":               {map[string]any{"sid": nil}, ""},
		"several audiences":             {map[string]any{"aud": []string{"other", "culvert"}}, ""},
		"without exp, as of 2022":       {map[string]any{"exp": nil}, ""},
		"more events":                   {event(map[string]any{logoutEvent: map[string]any{"x": 1}, "urn:other": map[string]any{}}), ""},
		"neither session nor person":    {map[string]any{"sub": nil, "sid": nil}, "subject"},
		"session is a number":           {map[string]any{"sid": 7}, "subject"},
		"empty person beside a session": {map[string]any{"sub": ""}, "subject"},
		"another audience":              {map[string]any{"aud": "other"}, "audience"},
		"no audience":                   {map[string]any{"aud": nil}, "audience"},
		"another issuer":                {map[string]any{"iss": f.server.URL + "/"}, "issuer"},
		"no events":                     {event(nil), "events"},
		"events as a list":              {event([]string{logoutEvent}), "events"},
		"events of another kind":        {event(map[string]any{"urn:other": map[string]any{}}), "events"},
		"event without an object":       {event(map[string]any{logoutEvent: true}), "events"},
		"nonce":                         {map[string]any{"nonce": "n"}, "nonce"},
		"empty nonce":                   {map[string]any{"nonce": ""}, "nonce"},
		"no jti":                        {map[string]any{"jti": nil}, "jti"},
		"long jti":                      {map[string]any{"jti": strings.Repeat("j", 256)}, "jti"},
		"no iat":                        {map[string]any{"iat": nil}, "malformed"},
		"iat as text":                   {map[string]any{"iat": "now"}, "malformed"},
		"exp as text":                   {map[string]any{"exp": "later"}, "malformed"},
		"old iat":                       {map[string]any{"iat": at(-7 * time.Minute), "exp": at(time.Hour)}, "stale"},
		"iat in the future":             {map[string]any{"iat": at(2 * time.Minute)}, "not_yet"},
		"expired":                       {map[string]any{"iat": at(-3 * time.Minute), "exp": at(-2 * time.Minute)}, "expired"},
	} {
		out, err := v.VerifyLogout(t.Context(), f.token(t, f.logoutClaims(test.changes)))
		if codeOf(err) != test.want {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if err == nil && (out.JTI != "jti-1" || out.Subject == "" && out.SID == "" || !out.Expires.After(f.now)) {
			t.Errorf("%s: %+v", name, out)
		}
	}
}

// TestThreatLogoutTokenSignature: JWT algorithm confusion (Netmaker CVE-2026-38651), for logout tokens.
func TestThreatLogoutTokenSignature(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	payload, err := json.Marshal(f.logoutClaims(nil))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		token Secret
		want  string
	}{
		"nothing":        {"", "malformed"},
		"no algorithm":   {rawToken(`{"alg":"none"}`, string(payload), ""), "algorithm"},
		"HS256":          {signed(t, jose.HS256, public, f.logoutClaims(nil)), "algorithm"},
		"another key":    {signed(t, jose.ES256, jose.JSONWebKey{Key: newECKey(t), KeyID: "k1"}, f.logoutClaims(nil)), "signature"},
		"a foreign type": {f.typed(t, "at+jwt", f.logoutClaims(nil)), "malformed"},
		"typed":          {f.typed(t, "logout+jwt", f.logoutClaims(nil)), ""},
		"typed as MIME":  {f.typed(t, "application/logout+jwt", f.logoutClaims(nil)), ""},
		"typed JWT":      {f.typed(t, "JWT", f.logoutClaims(nil)), ""},
		"an ID token":    {f.token(t, f.claims(nil)), "events"},
	} {
		if _, err := v.VerifyLogout(t.Context(), test.token); codeOf(err) != test.want {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		} else if err != nil && strings.Contains(err.Error(), "ID token") {
			t.Errorf("%s: %v names the wrong kind of token", name, err)
		}
	}
}

// TestThreatLogoutTokenIsNoIDToken: cross-JWT confusion (section 4.1 there). A logout token has no nonce, as a refreshed ID token, and
// must not renew a session.
func TestThreatLogoutTokenIsNoIDToken(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	prev := Previous{Issuer: f.server.URL, Subject: "subject-1", IssuedAt: f.now.Add(-time.Hour)}
	untyped := f.logoutClaims(map[string]any{"events": nil})
	for name, token := range map[string]Secret{
		"by events": f.token(t, f.logoutClaims(nil)),
		"by typ":    f.typed(t, "logout+jwt", untyped),
	} {
		if _, err := v.VerifyRenewal(t.Context(), Presented{IDToken: token}, prev); codeOf(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.VerifyRenewal(t.Context(), Presented{IDToken: f.token(t, untyped)}, prev); err != nil {
		t.Errorf("the rest of it would do for an ID token, or the test shows nothing: %v", err)
	}
}

// FuzzLogoutClaims: whatever a signed payload holds, what is accepted names a session or a person, and an identifier.
func FuzzLogoutClaims(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	v := &Verifier{config: ProviderConfig{Issuer: "https://idp.example", ClientID: "culvert"}.WithDefaults(), opts: Options{Now: func() time.Time { return now }}}
	f.Add([]byte(`{"iss":"https://idp.example","aud":"culvert","sub":"a","jti":"j","iat":1800000000,"events":{"http://schemas.openid.net/event/backchannel-logout":{}}}`))
	f.Add([]byte(`{"iss":"https://idp.example","aud":["culvert"],"sid":7,"jti":null,"iat":1e300,"events":[]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		doc, err := parseDocument(payload)
		if err != nil {
			return
		}
		out, err := v.logout(doc)
		if err != nil {
			return
		}
		if out.Subject == "" && out.SID == "" || out.JTI == "" || out.IssuedAt.After(now.Add(time.Minute)) {
			t.Errorf("accepted %s as %+v", payload, out)
		}
	})
}
