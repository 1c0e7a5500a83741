package oidc

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// codeOf returns the TokenError's code, "" for success and the text for another error.
func codeOf(err error) string {
	var refused *TokenError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return refused.Code
	}
	return err.Error()
}

func TestVerifyLogin(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	in := func(d time.Duration) int64 { return f.now.Add(d).Unix() }
	for name, test := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"good":                    {nil, ""},
		"audience list":           {map[string]any{"aud": []string{"culvert"}}, ""},
		"expired within skew":     {map[string]any{"exp": in(-50 * time.Second)}, ""},
		"expired":                 {map[string]any{"exp": in(-61 * time.Second)}, "expired"},
		"no exp":                  {map[string]any{"exp": nil}, "malformed"},
		"exp as text":             {map[string]any{"exp": "9999999999"}, "malformed"},
		"exp negative":            {map[string]any{"exp": -1}, "malformed"},
		"exp absurd":              {map[string]any{"exp": 1e300}, "malformed"},
		"exp with fraction":       {map[string]any{"exp": float64(in(time.Minute)) + 0.5}, ""},
		"no iat":                  {map[string]any{"iat": nil}, "malformed"},
		"iat in the near future":  {map[string]any{"iat": in(50 * time.Second)}, ""},
		"iat in the future":       {map[string]any{"iat": in(61 * time.Second)}, "not_yet"},
		"nbf in the near future":  {map[string]any{"nbf": in(50 * time.Second)}, ""},
		"nbf in the future":       {map[string]any{"nbf": in(61 * time.Second)}, "not_yet"},
		"auth_time in the future": {map[string]any{"auth_time": in(61 * time.Second)}, "not_yet"},
		"no auth_time":            {map[string]any{"auth_time": nil}, ""},
		"no subject":              {map[string]any{"sub": nil}, "subject"},
		"empty subject":           {map[string]any{"sub": ""}, "subject"},
		"subject is a number":     {map[string]any{"sub": 7}, "malformed"},
		"subject with NUL":        {map[string]any{"sub": "a\x00b"}, "subject"},
		"long subject":            {map[string]any{"sub": strings.Repeat("a", 256)}, "subject"},
		"other issuer":            {map[string]any{"iss": f.server.URL + "/"}, "issuer"},
		"no issuer":               {map[string]any{"iss": nil}, "issuer"},
	} {
		claims, err := v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(test.changes))}, "nonce-1")
		if codeOf(err) != test.want || (err == nil) != (claims != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClaimsOfALogin(t *testing.T) {
	f := newFake(t)
	token := f.token(t, f.claims(map[string]any{"acr": "2", "amr": []string{"pwd", "otp"}, "sid": "s1"}))
	claims, err := f.verifier(t, f.config()).VerifyLogin(t.Context(), Presented{IDToken: token}, "nonce-1")
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := base64.RawURLEncoding.DecodeString(strings.Split(token.Reveal(), ".")[1])
	if claims.Provider != "corp" || claims.Subject != "subject-1" || claims.Issuer != f.server.URL || claims.ACR != "2" ||
		!slices.Equal(claims.AMR, []string{"pwd", "otp"}) || claims.SID != "s1" || !claims.AuthTime.Equal(f.now) ||
		!claims.IssuedAt.Equal(f.now) || claims.PayloadHash != sha256.Sum256(payload) || !claims.GroupsKnown {
		t.Fatalf("%+v", claims)
	}
}

// Class: audience, issuer, azp skipped (OpenZiti GHSA-4h58).
func TestThreatAudienceAndAzp(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	for name, test := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"another client":            {map[string]any{"aud": "wiki"}, "audience"},
		"case":                      {map[string]any{"aud": "Culvert"}, "audience"},
		"no audience":               {map[string]any{"aud": nil}, "audience"},
		"empty list":                {map[string]any{"aud": []string{}}, "audience"},
		"object":                    {map[string]any{"aud": map[string]any{"culvert": true}}, "malformed"},
		"mixed list":                {map[string]any{"aud": []any{"culvert", 7}}, "malformed"},
		"foreign azp":               {map[string]any{"azp": "wiki"}, "azp"},
		"foreign azp of two":        {map[string]any{"aud": []string{"culvert", "wiki"}, "azp": "wiki"}, "azp"},
		"two without azp":           {map[string]any{"aud": []string{"culvert", "wiki"}}, "azp"},
		"azp is no text":            {map[string]any{"azp": []string{"culvert"}}, "azp"},
		"two with our azp (fine)":   {map[string]any{"aud": []string{"wiki", "culvert"}, "azp": "culvert"}, ""},
		"one with our azp (fine)":   {map[string]any{"azp": "culvert"}, ""},
		"another issuer, same keys": {map[string]any{"iss": "https://idp.example"}, "issuer"},
	} {
		_, err := v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(test.changes))}, "nonce-1")
		if codeOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(map[string]any{"aud": "wiki"}))}, "nonce-1")
	if err == nil || err.Error() != `invalid audience: expected "culvert", got ["wiki"]` {
		t.Errorf("the error does not say what was expected and what came: %v", err)
	}
}

// Class: nonce unchecked or replayed. Redeeming a nonce once is server/enroll's.
func TestThreatNonceAtLogin(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	for name, nonce := range map[string]any{
		"absent": nil, "wrong": "nonce-2", "empty": "", "prefix": "nonce-", "longer": "nonce-11", "number": 1, "null in a list": []any{nil},
	} {
		_, err := v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(map[string]any{"nonce": nonce}))}, "nonce-1")
		if code := codeOf(err); code != "nonce" && code != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(map[string]any{"nonce": ""}))}, ""); codeOf(err) != "nonce" {
		t.Errorf("a login without any nonce: %v", err)
	}
}

// Class: nonce unchecked or replayed, at a renewal: another nonce, another person, an older token.
func TestThreatNonceAtRenewal(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	prev := Previous{Issuer: f.server.URL, Subject: "subject-1", Nonce: "nonce-1", IssuedAt: f.now.Add(-time.Minute)}
	for name, test := range map[string]struct {
		changes map[string]any
		prev    func(*Previous)
		want    string
	}{
		"the login's nonce":       {nil, nil, ""},
		"no nonce":                {map[string]any{"nonce": nil}, nil, ""},
		"another nonce":           {map[string]any{"nonce": "nonce-2"}, nil, "nonce"},
		"nonce after a device":    {nil, func(p *Previous) { p.Nonce = "" }, "nonce"},
		"another person":          {map[string]any{"sub": "subject-2"}, nil, "subject"},
		"another client":          {map[string]any{"aud": "wiki"}, nil, "audience"},
		"an older token":          {map[string]any{"iat": f.now.Add(-2 * time.Minute).Unix()}, nil, "stale"},
		"the same second":         {nil, func(p *Previous) { p.IssuedAt = f.now.Add(900 * time.Millisecond) }, ""},
		"not fresh":               {map[string]any{"iat": f.now.Add(-7 * time.Minute).Unix()}, func(p *Previous) { p.IssuedAt = time.Time{} }, "stale"},
		"of another provider":     {nil, func(p *Previous) { p.Issuer = "https://other.example" }, "issuer"},
		"expired":                 {map[string]any{"exp": f.now.Add(-time.Hour).Unix()}, nil, "expired"},
		"groups gone means so":    {map[string]any{"groups": []string{}}, nil, ""},
		"groups missing: unknown": {map[string]any{"groups": nil}, nil, ""},
	} {
		p := prev
		if test.prev != nil {
			test.prev(&p)
		}
		claims, err := v.VerifyRenewal(t.Context(), Presented{IDToken: f.token(t, f.claims(test.changes))}, p)
		if codeOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
		if _, present := f.claims(test.changes)["groups"]; err == nil && claims.GroupsKnown != present {
			t.Errorf("%s: groups known: %v", name, claims.GroupsKnown)
		}
	}
}

func TestVerifyDevice(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	for name, test := range map[string]struct {
		changes map[string]any
		want    string
	}{
		"good":             {map[string]any{"nonce": nil}, ""},
		"from a browser":   {nil, "nonce"},
		"not fresh at all": {map[string]any{"nonce": nil, "iat": f.now.Add(-7 * time.Minute).Unix()}, "stale"},
	} {
		if _, err := v.VerifyDevice(t.Context(), Presented{IDToken: f.token(t, f.claims(test.changes))}); codeOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Class: JWT algorithm confusion (Netmaker CVE-2026-38651).
func TestThreatAlgorithmConfusion(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	good := f.claims(nil)
	payload, _ := json.Marshal(good)
	public, _ := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	hmac := signed(t, jose.HS256, jose.JSONWebKey{Key: public, KeyID: "k1"}, good)
	parts := strings.Split(f.token(t, good).Reveal(), ".")
	attacker := newECKey(t)
	withHeader := func(header string) Secret {
		return Secret(base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2])
	}
	multi, err := jose.NewMultiSigner([]jose.SigningKey{
		{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: f.key, KeyID: "k1"}}, {Algorithm: jose.ES256, Key: attacker}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	both, err := multi.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	embedded := signed(t, jose.ES256, attacker, good)
	for name, test := range map[string]struct {
		token Secret
		want  string
	}{
		"none":                   {rawToken(`{"alg":"none"}`, string(payload), ""), "algorithm"},
		"None":                   {rawToken(`{"alg":"NoNe"}`, string(payload), "x"), "algorithm"},
		"no algorithm":           {withHeader(`{}`), "algorithm"},
		"algorithm is a list":    {withHeader(`{"alg":["ES256"]}`), "algorithm"},
		"HS256 by the public":    {hmac, "algorithm"},
		"ES384 is not announced": {withHeader(`{"alg":"ES384","kid":"k1"}`), "algorithm"},
		"RS256 over an EC key":   {withHeader(`{"alg":"RS256","kid":"k1"}`), "signature"},
		"jku":                    {withHeader(`{"alg":"ES256","jku":"https://evil.example/keys"}`), "algorithm"},
		"x5u":                    {withHeader(`{"alg":"ES256","x5u":"https://evil.example/cert"}`), "algorithm"},
		"jwk":                    {withHeader(`{"alg":"ES256","jwk":{"kty":"EC"}}`), "algorithm"},
		"x5c":                    {withHeader(`{"alg":"ES256","x5c":["x"]}`), "algorithm"},
		"crit":                   {withHeader(`{"alg":"ES256","crit":["b64"],"b64":false}`), "algorithm"},
		"alg twice":              {withHeader(`{"alg":"none","alg":"ES256"}`), "malformed"},
		"several signatures":     {Secret(both.FullSerialize()), "malformed"},
		"another key":            {embedded, "signature"},
		"changed header":         {withHeader(`{"alg":"ES256","kid":"k1","x":1}`), "signature"},
		"no signature":           {Secret(parts[0] + "." + parts[1] + "."), "signature"},
		"changed payload":        {Secret(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"x"}`)) + "." + parts[2]), "signature"},
	} {
		if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: test.token}, "nonce-1"); codeOf(err) != test.want {
			t.Errorf("%s: %v (%s)", name, err, codeOf(err))
		}
	}
	if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: hmac}, "nonce-1"); !strings.Contains(err.Error(), "configure a signing key") {
		t.Errorf("HS256 is not explained: %v", err)
	}
}

// Class: JOSE bombs (go-jose CVE-2024-28180): refused fast, without a request and without memory.
func TestThreatJOSEBombs(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"` + strings.Repeat("k", 8<<10) + `"}`))
	deep := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","x":` + strings.Repeat("[", 3000)))
	bombs := map[string]Secret{
		"dots":          Secret(strings.Repeat(".", 60<<10)),
		"a huge token":  Secret("e30." + strings.Repeat("A", 10<<20) + ".x"),
		"a huge header": Secret(header + ".e30.x"),
		"a deep header": Secret(deep + ".e30.x"),
		"JWE":           rawToken(`{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}`, "key", "iv") + ".AAAA.AAAA",
		"JSON":          Secret(`{"payload":"e30","signatures":[` + strings.Repeat(`{"signature":"x"},`, 3000) + `{}]}`),
		"empty":         "",
		"one part":      "abc",
		"no base64":     "!!!.e30.x",
		"padded base64": "e30=.e30.x",
		"header number": rawToken("7", "{}", "x"),
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	started := time.Now()
	for range 100 {
		for name, bomb := range bombs {
			_, err := v.VerifyLogin(t.Context(), Presented{IDToken: bomb}, "nonce-1")
			if code := codeOf(err); code != "malformed" && code != "algorithm" {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 100<<20 {
		t.Errorf("1,100 bombs allocated %d MiB", grown>>20)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("1,100 bombs took %s", took)
	}
	if f.keyHits.Load() != 0 {
		t.Error("a bomb caused a request for keys")
	}
}

func TestForgedTokensDoNotFloodTheProvider(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	attacker := newECKey(t)
	forged := signed(t, jose.ES256, jose.JSONWebKey{Key: attacker, KeyID: "k9"}, f.claims(nil))
	for range 50 {
		if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: forged}, "nonce-1"); codeOf(err) != "signature" {
			t.Fatal(err)
		}
	}
	if hits := f.keyHits.Load(); hits != 1 {
		t.Errorf("50 forged tokens caused %d requests for keys", hits)
	}
	f.key = attacker // the provider rotates its keys (the fake announces k1)
	f.now = f.now.Add(keysFresh)
	var err error
	for range 1000 { // go-oidc may still hand out the answer of the fetch that has just ended
		if _, err = v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(nil))}, "nonce-1"); err == nil {
			break
		}
		runtime.Gosched()
	}
	if err != nil || f.keyHits.Load() != 2 {
		t.Errorf("after a rotation: %v, %d requests for keys", err, f.keyHits.Load())
	}
}

func TestProviderDownIsNotARefusal(t *testing.T) {
	f := newFake(t)
	config := f.config()
	f.Handle("GET /broken", http.NotFoundHandler())
	f.discovery["jwks_uri"] = f.server.URL + "/broken"
	_, err := f.verifier(t, config).VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(nil))}, "nonce-1")
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("keys cannot be fetched: %v", err)
	}
	f.server.Close()
	_, err = f.verifier(t, config).VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(nil))}, "nonce-1")
	if !errors.Is(err, ErrUnavailable) || len(err.Error()) > 600 {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestUnusableKeysAreLeftOut(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := func(k any, use string) json.RawMessage {
		data, err := json.Marshal(jose.JSONWebKey{Key: k, KeyID: "k", Use: use})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	huge := `{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("_", 1400) + `"}`
	set, _ := json.Marshal(map[string]any{"keys": []json.RawMessage{
		key(&small.PublicKey, "sig"), key(&newECKey(t).PublicKey, ""), // these two stay
		key(&small.PublicKey, "enc"), key(newECKey(t), "sig"), key([]byte("symmetric"), "sig"),
		json.RawMessage(huge), json.RawMessage(`{"kty":"OKP","crv":"Ed448","x":"AA"}`), json.RawMessage(`7`),
	}})
	filtered, err := filterKeys(set)
	if err != nil {
		t.Fatal(err)
	}
	var kept jose.JSONWebKeySet
	if err := json.Unmarshal(filtered, &kept); err != nil || len(kept.Keys) != 2 {
		t.Fatalf("%d keys were kept: %s, %v", len(kept.Keys), filtered, err)
	}
	many := `{"keys":[` + strings.Repeat("7,", maxKeys) + `7]}`
	if _, err := filterKeys([]byte(many)); err == nil {
		t.Error("a set of too many keys was accepted")
	}
}

func TestAccessTokenMustBelongToTheIDToken(t *testing.T) {
	f := newFake(t)
	v := f.verifier(t, f.config())
	sum := sha256.Sum256([]byte("access-1"))
	token := f.token(t, f.claims(map[string]any{"at_hash": base64.RawURLEncoding.EncodeToString(sum[:16])}))
	if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: token, AccessToken: "access-1"}, "nonce-1"); err != nil {
		t.Error(err)
	}
	if _, err := v.VerifyLogin(t.Context(), Presented{IDToken: token, AccessToken: "access-2"}, "nonce-1"); codeOf(err) != "at_hash" {
		t.Error(err)
	}
}
