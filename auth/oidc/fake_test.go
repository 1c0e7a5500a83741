package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a provider that says whatever a test wants, over real HTTP on loopback.
type fake struct {
	*http.ServeMux
	server    *httptest.Server
	key       *ecdsa.PrivateKey
	discovery map[string]any
	keyHits   atomic.Int32
	now       time.Time
}

func newFake(t testing.TB) *fake {
	t.Helper()
	f := &fake{ServeMux: http.NewServeMux(), key: newECKey(t), now: time.Now().Truncate(time.Second)}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	base := f.server.URL
	f.discovery = map[string]any{
		"issuer": base, "authorization_endpoint": base + "/auth", "token_endpoint": base + "/token",
		"jwks_uri": base + "/keys", "userinfo_endpoint": base + "/userinfo", "introspection_endpoint": base + "/introspect",
		"device_authorization_endpoint":         base + "/device",
		"id_token_signing_alg_values_supported": []string{"ES256", "RS256"},
		"code_challenge_methods_supported":      []string{"S256"},
	}
	f.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { answer(w, f.discovery) })
	f.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		f.keyHits.Add(1)
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &f.key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	})
	return f
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// refuse answers as a token endpoint does.
func refuse(w http.ResponseWriter, status int, code, description string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
}

func (f *fake) config() ProviderConfig {
	return ProviderConfig{Name: "corp", Issuer: f.server.URL, ClientID: "culvert", EmailDomains: []string{"corp.example"}}
}

func (f *fake) options(t testing.TB) Options {
	client := NewHTTPClient(f.server.URL, HTTPOptions{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	t.Cleanup(client.CloseIdleConnections)
	return Options{HTTPClient: client, Now: func() time.Time { return f.now }}
}

func (f *fake) provider(t testing.TB, config ProviderConfig) *Provider {
	t.Helper()
	p, err := Discover(t.Context(), config.ClientSettings(), f.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (f *fake) verifier(t testing.TB, config ProviderConfig) *Verifier {
	t.Helper()
	v, err := NewVerifier(config, f.options(t))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// claims is a good login's payload, with changes; a nil value deletes.
func (f *fake) claims(changes map[string]any) map[string]any {
	claims := map[string]any{
		"iss": f.server.URL, "sub": "subject-1", "aud": "culvert", "nonce": "nonce-1",
		"iat": f.now.Unix(), "exp": f.now.Add(5 * time.Minute).Unix(), "auth_time": f.now.Unix(),
		"name": "Ada", "email": "ada@corp.example", "email_verified": true, "groups": []string{"engineering"},
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// token signs a payload as the fake provider.
func (f *fake) token(t testing.TB, claims map[string]any) Secret {
	t.Helper()
	return signed(t, jose.ES256, jose.JSONWebKey{Key: f.key, KeyID: "k1"}, claims)
}

func signed(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) Secret {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
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

// rawToken puts a token together by hand.
func rawToken(header, payload, signature string) Secret {
	parts := []string{header, payload, signature}
	for i := range parts {
		parts[i] = base64.RawURLEncoding.EncodeToString([]byte(parts[i]))
	}
	return Secret(strings.Join(parts, "."))
}
