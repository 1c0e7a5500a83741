package login

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway answers the enrolment API with a real CA and real verification of tokens, but without a store: what it
// must remember, it remembers in these fields.
type gateway struct {
	t         *testing.T
	server    *httptest.Server
	discovery enroll.Discovery
	authority *ca.Authority
	verifier  *oidc.Verifier

	mu        sync.Mutex
	requests  []string          // paths, in order
	fail      []*enroll.Problem // answers for the next enrolments
	identity  auth.Identity
	prev      oidc.Previous
	challenge []byte
	device    oidc.DeviceAuthorization
	deviceKey *ecdsa.PublicKey
}

func newGateway(t *testing.T, config oidc.ProviderConfig) *gateway {
	t.Helper()
	dir := t.TempDir()
	if err := ca.Init(dir, ca.Options{TrustDomain: "corp.example", GatewayID: "g1"}); err != nil {
		t.Fatal(err)
	}
	authority, err := ca.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	http0 := oidc.NewHTTPClient(config.Issuer, oidc.HTTPOptions{})
	t.Cleanup(http0.CloseIdleConnections)
	verifier, err := oidc.NewVerifier(config, oidc.Options{HTTPClient: http0})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, authority: authority, verifier: verifier}
	g.discovery = enroll.Discovery{
		Versions: []int{enroll.Version}, TrustDomain: "corp.example", Gateway: "g1",
		Providers: []oidc.ClientSettings{config.ClientSettings()}, CertificateTTL: 3600, SessionTTL: 43200,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enroll.PathDiscovery, func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, g.discovery) })
	mux.HandleFunc("POST "+enroll.PathLogin, handle(g, g.login))
	mux.HandleFunc("POST "+enroll.PathChallenge, handle(g, g.giveChallenge))
	mux.HandleFunc("POST "+enroll.PathRenew, handle(g, g.renew))
	mux.HandleFunc("POST "+enroll.PathStepUp, handle(g, g.stepUp))
	mux.HandleFunc("POST "+enroll.PathDevice, handle(g, g.startDevice))
	mux.HandleFunc("POST "+enroll.PathDevicePoll, handle(g, g.pollDevice))
	g.server = httptest.NewTLSServer(mux)
	t.Cleanup(g.server.Close)
	return g
}

func (g *gateway) client() *enroll.Client {
	return &enroll.Client{BaseURL: g.server.URL, HTTP: g.server.Client()}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	if status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func refusal(status int, code enroll.Code, detail string) *enroll.Problem {
	return &enroll.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// handle decodes a message, and answers with what f gives: a *enroll.Problem is an error answer.
func handle[T any](g *gateway, f func(*http.Request, *T) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.requests = append(g.requests, r.URL.Path)
		var msg T
		if err := json.NewDecoder(r.Body).Decode(&msg); err != nil {
			reply(w, http.StatusBadRequest, refusal(http.StatusBadRequest, enroll.CodeBadRequest, err.Error()))
			return
		}
		answer := f(r, &msg)
		status := http.StatusOK
		switch a := answer.(type) {
		case *enroll.Problem:
			status = a.Status
		case enroll.DevicePending:
			status = http.StatusAccepted
		}
		reply(w, status, answer)
	}
}

func (g *gateway) injected() *enroll.Problem {
	if len(g.fail) == 0 {
		return nil
	}
	p := g.fail[0]
	g.fail = g.fail[1:]
	return p
}

func (g *gateway) login(r *http.Request, m *enroll.LoginRequest) any {
	if p := g.injected(); p != nil {
		return p
	}
	pub, err := ca.CheckCSR(m.CSR)
	if err != nil {
		return refusal(http.StatusBadRequest, enroll.CodeCSRInvalid, err.Error())
	}
	spki, _ := x509.MarshalPKIXPublicKey(pub)
	claims, err := g.verifier.VerifyLogin(r.Context(), oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, enroll.Nonce(spki, m.Salt))
	if err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeTokenInvalid, err.Error())
	}
	device, err := m.DeviceProof.Verify(g.discovery.TrustDomain, spki)
	if err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeDeviceProof, err.Error())
	}
	return g.open(claims, pub, device, auth.LoginBrowser)
}

// open starts a session.
func (g *gateway) open(claims *oidc.Claims, pub *ecdsa.PublicKey, device auth.DeviceID, kind auth.LoginKind) any {
	g.prev = oidc.Previous{Issuer: claims.Issuer, Subject: claims.Subject, Nonce: claims.Nonce, IssuedAt: claims.IssuedAt}
	g.identity = auth.Identity{
		Issuer: claims.Issuer, Subject: claims.Subject, Provider: claims.Provider, Name: claims.Name, Email: claims.Email,
		Groups: claims.Groups, GroupsKnown: claims.GroupsKnown, AuthTime: claims.AuthTime, Login: kind,
		Session: auth.NewSessionID(), Device: device, IssuedAt: time.Now().Truncate(time.Millisecond),
	}
	return g.issue(pub)
}

func (g *gateway) issue(pub *ecdsa.PublicKey) any {
	now := time.Now().Truncate(time.Second)
	issued, err := g.authority.IssueClient(g.t.Context(), ca.ClientProfile{
		Identity: g.identity, PublicKey: pub, NotBefore: now.Add(-ca.Backdate), NotAfter: now.Add(time.Hour)})
	if err != nil {
		return refusal(http.StatusInternalServerError, enroll.CodeInternal, err.Error())
	}
	return enroll.Response{Chain: issued.Chain, Roots: g.authority.RootsDER(), Session: g.identity.Session,
		Deadline: now.Add(12 * time.Hour), NotAfter: now.Add(time.Hour), Time: time.Now().Add(9 * time.Minute)}
}

func (g *gateway) giveChallenge(_ *http.Request, _ *enroll.ChallengeRequest) any {
	if p := g.injected(); p != nil {
		return p
	}
	g.challenge = []byte(rand.Text())
	return enroll.ChallengeReply{Challenge: g.challenge, Expires: time.Now().Add(time.Minute)}
}

func (g *gateway) renew(r *http.Request, m *enroll.RenewRequest) any {
	if p := g.injected(); p != nil {
		return p
	}
	leaf, err := x509.ParseCertificate(m.Certificate)
	if err != nil {
		return refusal(http.StatusBadRequest, enroll.CodeBadRequest, err.Error())
	}
	if string(m.Challenge) != string(g.challenge) || g.challenge == nil {
		return refusal(http.StatusConflict, enroll.CodeChallengeInvalid, "another challenge")
	}
	g.challenge = nil
	if err := m.Verify(leaf.PublicKey); err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeSignatureInvalid, err.Error())
	}
	claims, err := g.verifier.VerifyRenewal(r.Context(), oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, g.prev)
	if err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeTokenInvalid, err.Error())
	}
	g.identity.Groups, g.identity.GroupsKnown = claims.Groups, claims.GroupsKnown
	return g.issue(leaf.PublicKey.(*ecdsa.PublicKey))
}

func (g *gateway) stepUp(r *http.Request, m *enroll.StepUpRequest) any {
	if p := g.injected(); p != nil {
		return p
	}
	leaf, err := x509.ParseCertificate(m.Certificate)
	if err != nil {
		return refusal(http.StatusBadRequest, enroll.CodeBadRequest, err.Error())
	}
	if string(m.Challenge) != string(g.challenge) || g.challenge == nil {
		return refusal(http.StatusConflict, enroll.CodeChallengeInvalid, "another challenge")
	}
	g.challenge = nil
	if err := m.Verify(leaf.PublicKey); err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeSignatureInvalid, err.Error())
	}
	spki, _ := x509.MarshalPKIXPublicKey(leaf.PublicKey)
	prev := g.prev
	prev.AuthTime = g.identity.AuthTime
	claims, err := g.verifier.VerifyStepUp(r.Context(), oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, enroll.Nonce(spki, m.Salt), prev)
	if err != nil {
		return refusal(http.StatusForbidden, enroll.CodeTokenInvalid, err.Error())
	}
	g.identity.AuthTime, g.identity.ACR = claims.AuthTime, claims.ACR
	return g.issue(leaf.PublicKey.(*ecdsa.PublicKey))
}

func (g *gateway) startDevice(r *http.Request, m *enroll.DeviceRequest) any {
	p, err := g.verifier.Provider(r.Context())
	if err == nil {
		g.deviceKey, err = ca.CheckCSR(m.CSR)
	}
	if err == nil {
		g.device, err = p.StartDevice(r.Context())
	}
	if err != nil {
		return refusal(http.StatusBadGateway, enroll.CodeInternal, err.Error())
	}
	return enroll.DeviceReply{ID: "grant-1", UserCode: g.device.UserCode, VerificationURI: g.device.VerificationURI,
		VerificationURIComplete: g.device.VerificationURIComplete, Interval: 1, Expires: g.device.Expires}
}

func (g *gateway) pollDevice(r *http.Request, m *enroll.DevicePollRequest) any {
	if p := g.injected(); p != nil {
		return p
	}
	if err := m.Verify(g.deviceKey); err != nil || m.ID != "grant-1" {
		return refusal(http.StatusUnauthorized, enroll.CodeSignatureInvalid, "another key")
	}
	p, err := g.verifier.Provider(r.Context())
	if err != nil {
		return refusal(http.StatusBadGateway, enroll.CodeProviderUnavailable, err.Error())
	}
	tokens, err := p.PollDevice(r.Context(), g.device.DeviceCode)
	if err != nil {
		if strings.Contains(err.Error(), "authorization_pending") || strings.Contains(err.Error(), "slow_down") {
			return enroll.DevicePending{Interval: 1}
		}
		return refusal(http.StatusForbidden, enroll.CodeDeviceDenied, err.Error())
	}
	claims, err := g.verifier.VerifyDevice(r.Context(), oidc.Presented{IDToken: tokens.IDToken})
	if err != nil {
		return refusal(http.StatusUnauthorized, enroll.CodeTokenInvalid, err.Error())
	}
	resp, ok := g.open(claims, g.deviceKey, auth.DeviceIDFromKey([]byte("d")), auth.LoginDevice).(enroll.Response)
	if !ok {
		return refusal(http.StatusInternalServerError, enroll.CodeInternal, "no certificate")
	}
	resp.RefreshToken = tokens.RefreshToken
	return resp
}

func (g *gateway) seen(path string) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.requests {
		if p == path {
			n++
		}
	}
	return n
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// startIDP runs the development provider and counts its token requests.
func startIDP(t *testing.T) (idp *devidp.Provider, config oidc.ProviderConfig, exchanges func() int) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	idp, err := devidp.New(devidp.Config{Listener: server.Listener, Logger: testenv.Logger(t), Lifetimes: devidp.Lifetimes{DeviceInterval: 1}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	count := 0
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/oauth/token" {
			mu.Lock()
			count++
			mu.Unlock()
		}
		idp.ServeHTTP(w, r)
	})
	server.Start()
	t.Cleanup(server.Close)
	if config, err = idp.ClientConfig("corp", "culvert"); err != nil {
		t.Fatal(err)
	}
	return idp, config, func() int { mu.Lock(); defer mu.Unlock(); return count }
}
