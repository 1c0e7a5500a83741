package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const trustDomain = auth.TrustDomain("corp.example")

// testClock is the clock of provider, gateway and database; tests move it.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// idp is an OpenID provider that signs whatever a test wants it to.
type idp struct {
	*httptest.Server
	key *ecdsa.PrivateKey

	mu    sync.Mutex
	calls int
	// answer overrides the token, userinfo and introspection endpoints.
	answer func(w http.ResponseWriter, r *http.Request)
}

func newIDP(t testing.TB) *idp {
	p := &idp{key: newKey(t)}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		reply(w, 200, map[string]any{
			"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token",
			"userinfo_endpoint": p.URL + "/userinfo", "introspection_endpoint": p.URL + "/introspect",
			"device_authorization_endpoint": p.URL + "/device", "response_types_supported": []string{"code"},
			"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
			"code_challenge_methods_supported": []string{"S256"},
		})
	case "/keys":
		reply(w, 200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	case "/device":
		reply(w, 200, map[string]any{
			"device_code": "canary-device-code", "user_code": "ABCD-EFGH", "verification_uri": p.URL + "/activate", "expires_in": 600, "interval": 5,
		})
	default:
		p.mu.Lock()
		answer := p.answer
		p.calls++
		p.mu.Unlock()
		answer(w, r)
	}
}

func (p *idp) answerWith(status int, body map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = func(w http.ResponseWriter, _ *http.Request) { reply(w, status, body) }
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// token signs claims.
func (p *idp) token(t testing.TB, claims map[string]any) oidc.Secret {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.key, KeyID: "k"}}, nil)
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
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return oidc.Secret(text)
}

// fixture is a gateway's enrolment with real parts: store, CA, audit log, verifier.
type fixture struct {
	t       testing.TB
	dir     string
	clock   *testClock
	idp     *idp
	log     *testenv.Buffer
	logger  *slog.Logger
	conf    Config
	store   *store.Store
	audit   *audit.Log
	handler *Handler
	client  *enroll.Client
	srv     *httptest.Server
}

// newFixture starts one; change may alter the provider's and the handler's
// configuration.
func newFixture(t testing.TB, change ...func(*oidc.ProviderConfig, *Config)) *fixture {
	f := &fixture{t: t, dir: t.TempDir(), clock: &testClock{t: time.Now().UTC().Truncate(time.Second)}, idp: newIDP(t), log: &testenv.Buffer{}}
	f.logger = slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(f.log.String())
		}
	})
	caDir := filepath.Join(f.dir, "ca")
	if err := ca.Init(caDir, ca.Options{TrustDomain: trustDomain, GatewayID: "gw1"}); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Load(caDir)
	if err != nil {
		t.Fatal(err)
	}
	p := oidc.ProviderConfig{Name: "corp", Issuer: f.idp.URL, ClientID: "culvert", EmailDomains: []string{"corp.example"}}
	f.conf = Config{
		Authority: authority, Now: f.clock.now, Logger: f.logger,
		Limits: Limits{AddressPerMinute: 10000, UserPerMinute: 10000},
	}
	for _, c := range change {
		c(&p, &f.conf)
	}
	verifier, err := oidc.NewVerifier(p, oidc.Options{Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.CloseIdleConnections)
	f.conf.Providers = append([]Provider{verifier}, f.conf.Providers...)
	f.start()
	t.Cleanup(f.stop)
	return f
}

// start opens what a restart of the gateway opens.
func (f *fixture) start() {
	f.t.Helper()
	options := store.Options{TrustDomain: trustDomain, Logger: f.logger}
	if f.clock != nil {
		options.Clock = f.clock.now
	}
	var err error
	if f.store, err = store.Open(context.Background(), "sqlite:"+filepath.Join(f.dir, "state", "gateway.db"), options); err != nil {
		f.t.Fatal(err)
	}
	if f.audit, err = audit.Open(audit.Config{Dir: filepath.Join(f.dir, "audit"), MinFree: -1, Logger: f.logger}); err != nil {
		f.t.Fatal(err)
	}
	f.conf.Store, f.conf.Audit = f.store, f.audit
	if f.handler, err = New(f.conf); err != nil {
		f.t.Fatal(err)
	}
	f.srv = httptest.NewTLSServer(f.handler)
	f.client = &enroll.Client{BaseURL: f.srv.URL, HTTP: f.srv.Client()}
}

func (f *fixture) stop() {
	f.srv.Close()
	_ = f.store.Close()
	_ = f.audit.Close()
}

func (f *fixture) restart() { f.t.Helper(); f.stop(); f.start() }

// auditText is all that the audit log holds.
func (f *fixture) auditText() string {
	f.t.Helper()
	var text strings.Builder
	files, _ := filepath.Glob(filepath.Join(f.dir, "audit", "*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.t.Fatal(err)
		}
		text.Write(data)
	}
	return text.String()
}

// desktop is an employee's machine.
type desktop struct {
	f           *fixture
	key, device *ecdsa.PrivateKey
	spki, csr   []byte
	salt        []byte
	subject     string
	refreshes   int
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newDesktop(f *fixture) *desktop {
	f.t.Helper()
	d := &desktop{f: f, key: newKey(f.t), device: newKey(f.t), salt: enroll.NewSalt(), subject: "ada"}
	var err error
	if d.spki, err = x509.MarshalPKIXPublicKey(d.key.Public()); err != nil {
		f.t.Fatal(err)
	}
	if d.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "ignored"},
	}, d.key); err != nil {
		f.t.Fatal(err)
	}
	return d
}

// claims are those of a token issued now, with extra over them; a nil value removes.
func (d *desktop) claims(extra map[string]any) map[string]any {
	now := d.f.clock.now()
	c := map[string]any{
		"iss": d.f.idp.URL, "aud": "culvert", "sub": d.subject, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"auth_time": now.Unix(), "nonce": enroll.Nonce(d.spki, d.salt), "name": "Ada", "email": "ada@corp.example",
		"email_verified": true, "groups": []string{"engineering"}, "acr": "mfa",
	}
	maps.Copy(c, extra)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (d *desktop) loginRequest(extra map[string]any) *enroll.LoginRequest {
	d.f.t.Helper()
	proof, err := enroll.NewDeviceProof(d.device, trustDomain, d.spki)
	if err != nil {
		d.f.t.Fatal(err)
	}
	return &enroll.LoginRequest{
		Provider: "corp", IDToken: d.f.idp.token(d.f.t, d.claims(extra)), Salt: d.salt, CSR: d.csr, DeviceProof: proof,
		Client: enroll.ClientInfo{Version: "1.0", OS: "linux", Arch: "amd64"},
	}
}

func (d *desktop) login(extra map[string]any) *enroll.Response {
	d.f.t.Helper()
	resp, err := d.f.client.Login(d.f.t.Context(), d.loginRequest(extra))
	if err != nil {
		d.f.t.Fatal(err)
	}
	return resp
}

// renewRequest is a signed renewal of resp with a refreshed token.
func (d *desktop) renewRequest(resp *enroll.Response, extra map[string]any) *enroll.RenewRequest {
	d.f.t.Helper()
	d.refreshes++
	claims := d.claims(map[string]any{"nonce": nil, "jti": d.refreshes})
	maps.Copy(claims, extra)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return d.signed(&enroll.RenewRequest{
		Provider: "corp", IDToken: d.f.idp.token(d.f.t, claims), Certificate: resp.Chain[0], Challenge: d.challenge(resp),
	})
}

func (d *desktop) signed(r *enroll.RenewRequest) *enroll.RenewRequest {
	d.f.t.Helper()
	if err := r.Sign(d.key); err != nil {
		d.f.t.Fatal(err)
	}
	return r
}

func (d *desktop) challenge(resp *enroll.Response) []byte {
	d.f.t.Helper()
	c, err := d.f.client.Challenge(d.f.t.Context(), &enroll.ChallengeRequest{Serial: auth.SerialOf(leafOf(d.f.t, resp))})
	if err != nil {
		d.f.t.Fatal(err)
	}
	return c.Challenge
}

// renew waits a minute and renews.
func (d *desktop) renew(resp *enroll.Response, extra map[string]any) *enroll.Response {
	d.f.t.Helper()
	d.f.clock.advance(time.Minute)
	next, err := d.f.client.Renew(d.f.t.Context(), d.renewRequest(resp, extra))
	if err != nil {
		d.f.t.Fatal(err)
	}
	return next
}

func leafOf(t testing.TB, resp *enroll.Response) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(resp.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// identityOf verifies the chain against the roots of the answer, as the tunnel does.
func identityOf(f *fixture, resp *enroll.Response) auth.Identity {
	f.t.Helper()
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	for _, der := range resp.Roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			f.t.Fatal(err)
		}
		roots.AddCert(cert)
	}
	for _, der := range resp.Chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			f.t.Fatal(err)
		}
		issuers.AddCert(cert)
	}
	leaf := leafOf(f.t, resp)
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: issuers, CurrentTime: f.clock.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		f.t.Fatal(err)
	}
	id, err := auth.FromCertificate(leaf, trustDomain)
	if err != nil {
		f.t.Fatal(err)
	}
	return id
}

// wantCode asserts that a request was refused with the code, and well.
func wantCode(t *testing.T, err error, code enroll.Code) *enroll.Problem {
	t.Helper()
	var p *enroll.Problem
	if err == nil {
		t.Fatalf("accepted; want %s", code)
	}
	if !asProblem(err, &p) || p.Code != code {
		t.Fatalf("error is %v; want %s", err, code)
	}
	if p.Detail == "" || p.Reference == "" || p.Title == "" || p.Status != statusOf(code) {
		t.Errorf("incomplete problem: %+v", p)
	}
	return p
}
