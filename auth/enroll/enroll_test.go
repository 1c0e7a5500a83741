package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, spki
}

// The nonce is base64url(SHA-256(SPKI ‖ salt)); the value was computed with sha256sum.
func TestNonceVector(t *testing.T) {
	got := Nonce([]byte("spki"), []byte("salt"))
	if want := "qYM7nxeBmWgHSfhu4X1Jn0QZfW965ZniaTD9wLW1Dik"; got != want {
		t.Errorf("nonce %s, want %s", got, want)
	}
	if len(NewSalt()) != SaltSize || bytes.Equal(NewSalt(), NewSalt()) {
		t.Error("salts must be random")
	}
}

func TestDeviceProof(t *testing.T) {
	device, spki := newKey(t)
	_, csr := newKey(t)
	_, otherCSR := newKey(t)
	proof, err := NewDeviceProof(device, "corp.example", csr)
	if err != nil || !bytes.Equal(proof.Key, spki) {
		t.Fatal(err)
	}
	id, err := proof.Verify("corp.example", csr)
	if err != nil || len(id) != 52 {
		t.Fatalf("device %q, %v", id, err)
	}
	if _, err := proof.Verify("corp.example", otherCSR); !errors.Is(err, ErrProof) {
		t.Errorf("for another request: %v", err)
	}
	if _, err := proof.Verify("other.example", csr); !errors.Is(err, ErrProof) {
		t.Errorf("at another trust domain: %v", err)
	}
	if _, err := (DeviceProof{}).Verify("corp.example", csr); err == nil {
		t.Error("an empty proof verified")
	}
}

func TestOnlyP256Signs(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{rsaKey, p384} {
		if _, err := NewDeviceProof(key, "corp.example", []byte("csr")); err == nil {
			t.Errorf("%T signed", key)
		}
		r := &RenewRequest{Signature: []byte("x")}
		if r.Verify(key.Public()) == nil {
			t.Errorf("%T verified", key)
		}
	}
}

// Every part of a renewal is under its signature.
func TestRenewalSignatureCoversEverything(t *testing.T) {
	key, _ := newKey(t)
	base := RenewRequest{
		Provider: "corp", IDToken: "token", AccessToken: "access", Certificate: []byte("leaf"), Challenge: []byte("challenge"),
	}
	if err := base.Sign(key); err != nil {
		t.Fatal(err)
	}
	if err := base.Verify(key.Public()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*RenewRequest){
		"provider":     func(r *RenewRequest) { r.Provider = "other" },
		"ID token":     func(r *RenewRequest) { r.IDToken = "other" },
		"access token": func(r *RenewRequest) { r.AccessToken = "other" },
		"certificate":  func(r *RenewRequest) { r.Certificate = []byte("other") },
		"challenge":    func(r *RenewRequest) { r.Challenge = []byte("other") },
		"signature":    func(r *RenewRequest) { r.Signature = nil },
	} {
		changed := base
		change(&changed)
		if err := changed.Verify(key.Public()); !errors.Is(err, ErrProof) {
			t.Errorf("with another %s: %v", name, err)
		}
	}
}

func TestStepUpSignatureCoversEverything(t *testing.T) {
	key, _ := newKey(t)
	base := StepUpRequest{
		Provider: "corp", IDToken: "token", AccessToken: "access", Salt: []byte("salt"), Certificate: []byte("leaf"), Challenge: []byte("challenge"),
	}
	if err := base.Sign(key); err != nil {
		t.Fatal(err)
	}
	if err := base.Verify(key.Public()); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*StepUpRequest){
		"provider":     func(r *StepUpRequest) { r.Provider = "other" },
		"ID token":     func(r *StepUpRequest) { r.IDToken = "other" },
		"access token": func(r *StepUpRequest) { r.AccessToken = "other" },
		"salt":         func(r *StepUpRequest) { r.Salt = []byte("other") },
		"certificate":  func(r *StepUpRequest) { r.Certificate = []byte("other") },
		"challenge":    func(r *StepUpRequest) { r.Challenge = []byte("other") },
		"signature":    func(r *StepUpRequest) { r.Signature = nil },
	} {
		changed := base
		change(&changed)
		if err := changed.Verify(key.Public()); !errors.Is(err, ErrProof) {
			t.Errorf("with another %s: %v", name, err)
		}
	}
	renewal := RenewRequest{Provider: base.Provider, IDToken: base.IDToken, AccessToken: base.AccessToken, Certificate: base.Certificate,
		Challenge: base.Challenge, Signature: base.Signature}
	if err := renewal.Verify(key.Public()); !errors.Is(err, ErrProof) {
		t.Errorf("as a renewal's: %v", err)
	}
}

// A signature for one purpose serves no other, whatever the fields hold.
func TestSignaturesAreSeparatedByPurpose(t *testing.T) {
	a := proofDigest(contextDevice, []byte("ab"), []byte("c"))
	for name, b := range map[string][]byte{
		"context": proofDigest(contextPoll, []byte("ab"), []byte("c")),
		"split":   proofDigest(contextDevice, []byte("a"), []byte("bc")),
		"joined":  proofDigest(contextDevice, []byte("abc")),
	} {
		if bytes.Equal(a, b) {
			t.Errorf("another %s has the same digest", name)
		}
	}
	key, _ := newKey(t)
	poll := DevicePollRequest{ID: "id"}
	if err := poll.Sign(key); err != nil || poll.Verify(key.Public()) != nil {
		t.Errorf("poll: %v", err)
	}
}

// Secrets must not appear where a message is printed by accident.
func TestThreatTokensDoNotPrint(t *testing.T) {
	const canary = "canary-token"
	for _, m := range []any{
		LoginRequest{IDToken: canary, AccessToken: canary}, &RenewRequest{IDToken: canary, AccessToken: canary}, StepUpRequest{IDToken: canary, AccessToken: canary},
		DevicePollRequest{ID: canary}, DeviceReply{ID: canary}, Response{RefreshToken: canary},
	} {
		if text := fmt.Sprintf("%v %+v %#v", m, m, m); strings.Contains(text, canary) {
			t.Errorf("%T prints its token: %s", m, text)
		}
		if data, _ := json.Marshal(m); !bytes.Contains(data, []byte(canary)) {
			t.Errorf("%T does not send its token", m)
		}
	}
}

func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		`{"serial":"a"}`:                         "",
		`{"serial":"a","newer":{"x":[1,{}]}}`:    "",
		`{"serial":"a","serial":"b"}`:            "twice",
		`{"serial":"a","Serial":"b"}`:            "twice",
		`{"x":{"y":1,"y":2}}`:                    "twice",
		`{"x":[{"y":1},{"y":2}],"z":{"y":3}}`:    "",
		`{"serial":1}`:                           `"serial"`,
		`{"serial":"a"} {}`:                      "follows",
		`{"serial":"a"}]`:                        "follows",
		``:                                       "not JSON",
		` `:                                      "not JSON",
		`[`:                                      "not JSON",
		`{"serial"`:                              "not JSON",
		`"text"`:                                 "",
		strings.Repeat("[", 100000):              "deeper",
		`{"a":` + strings.Repeat(`{"a":`, 50000): "deeper",
	} {
		var m ChallengeRequest
		err := Decode([]byte(text), &m)
		if text == `"text"` {
			want = "cannot be" // JSON, and not an object
		}
		if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

// gateway answers every request with one response, as a gateway or a liar would.
func gateway(t *testing.T, status int, contentType, body string) *Client {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return &Client{BaseURL: srv.URL + "/", HTTP: srv.Client()}
}

func TestClientReadsProblems(t *testing.T) {
	c := gateway(t, 503, "application/problem+json; charset=utf-8",
		`{"title":"Service Unavailable","code":"provider_unavailable","detail":"down\u001b[2J","remedy":"wait","reference":"ABC"}`)
	_, err := c.Login(t.Context(), &LoginRequest{})
	var p *Problem
	if !errors.As(err, &p) || p.Code != CodeProviderUnavailable || p.Status != 503 || !p.Temporary() ||
		p.RetryAfter != 7*time.Second || p.Reference != "ABC" || strings.Contains(p.Detail, "\x1b") {
		t.Fatalf("%#v", err)
	}
	if !errors.Is(err, &Problem{Code: CodeProviderUnavailable}) || errors.Is(err, &Problem{Code: CodeLocked}) {
		t.Error("problems must compare by code")
	}
}

func TestClientSaysWhenItIsNoGateway(t *testing.T) {
	for name, c := range map[string]*Client{
		"portal":      gateway(t, 200, "text/html", "<html>sign in to the hotel</html>"),
		"bad gateway": gateway(t, 502, "text/html", "<html>nginx</html>"),
		"no code":     gateway(t, 400, "application/problem+json", `{"title":"x"}`),
		"not JSON":    gateway(t, 400, "application/problem+json", `nope`),
	} {
		_, err := c.Discover(t.Context())
		var p *Problem
		if !errors.As(err, &p) || p.Code != CodeForeignAnswer || p.Remedy == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClientIsBounded(t *testing.T) {
	c := gateway(t, 200, "application/json", `{"x":"`+strings.Repeat("a", MaxReply)+`"}`)
	if _, err := c.Discover(t.Context()); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge reply: %v", err)
	}
	req := &LoginRequest{IDToken: oidc.Secret(strings.Repeat("a", MaxRequest))}
	if _, err := c.Login(t.Context(), req); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("huge request: %v", err)
	}
}

func TestClientNamesBothVersions(t *testing.T) {
	c := gateway(t, 200, "application/json", `{"versions":[2,3]}`)
	_, err := c.Discover(t.Context())
	var v *VersionError
	if !errors.As(err, &v) || !strings.Contains(err.Error(), "[2 3]") || !strings.Contains(err.Error(), "speaks 1") {
		t.Error(err)
	}
}

func TestClientRefusesAHalfAnswer(t *testing.T) {
	for name, body := range map[string]string{
		"no chain":   `{"roots":["AA=="],"session":"s"}`,
		"no roots":   `{"chain":["AA=="],"session":"s"}`,
		"no session": `{"chain":["AA=="],"roots":["AA=="]}`,
	} {
		c := gateway(t, 200, "application/json", body)
		if r, err := c.Renew(t.Context(), &RenewRequest{}); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
		if r, _, err := c.DevicePoll(t.Context(), &DevicePollRequest{}); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestClientPollsWithBoundedWaits(t *testing.T) {
	for interval, want := range map[string]time.Duration{"5": 5 * time.Second, "0": time.Second, "86400": time.Minute} {
		c := gateway(t, 202, "application/json", `{"interval":`+interval+`}`)
		r, wait, err := c.DevicePoll(t.Context(), &DevicePollRequest{})
		if r != nil || err != nil || wait != want {
			t.Errorf("interval %s: %v %v %v", interval, r, wait, err)
		}
	}
}

func TestClientRefusesURLsAndRedirects(t *testing.T) {
	for _, u := range []string{"http://gw.example", "gw.example", "https://", "https://gw\n", ""} {
		if _, err := (&Client{BaseURL: u}).Discover(t.Context()); err == nil {
			t.Errorf("%q was asked", u)
		}
	}
	srv := httptest.NewTLSServer(http.RedirectHandler("https://evil.example/", http.StatusFound))
	defer srv.Close()
	hc := NewHTTPClient(srv.Client().Transport.(*http.Transport).TLSClientConfig)
	defer hc.CloseIdleConnections()
	_, err := (&Client{BaseURL: srv.URL, HTTP: hc}).Discover(t.Context())
	if err == nil || !strings.Contains(err.Error(), "redirects to evil.example") {
		t.Error(err)
	}
}

func TestClientEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // or an empty answer might overtake the end
	}))
	defer srv.Close()
	_, err := (&Client{BaseURL: srv.URL, HTTP: srv.Client()}).Challenge(ctx, &ChallengeRequest{})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// FuzzDecode holds the decoder to three things: it neither panics nor hangs; what it
// accepts encoding/json accepts; and what it read, written again, reads the same.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"provider":"corp","id_token":"a.b.c","salt":"AA==","csr":"AA==","device_key":"AA==","client":{"os":"linux"}}`))
	f.Add([]byte(`{"serial":"00"}`))
	f.Add([]byte(`{"certificate":"AA==","challenge":"AA==","signature":"AA=="}`))
	f.Add([]byte(`{"a":{"a":[{},[]]}}`))
	f.Add([]byte(`{"A":1,"a":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []any{
			new(LoginRequest), new(ChallengeRequest), new(RenewRequest), new(StepUpRequest), new(DeviceRequest), new(DevicePollRequest),
			new(Response), new(Discovery), new(Problem),
		} {
			if Decode(data, m) != nil {
				continue
			}
			text, err := json.Marshal(m)
			if err != nil {
				continue // times outside of RFC 3339
			}
			again := reflect.New(reflect.TypeOf(m).Elem()).Interface()
			if err := Decode(text, again); err != nil {
				t.Fatalf("%T: %s: %v", m, text, err)
			}
			if text2, _ := json.Marshal(again); !bytes.Equal(text, text2) {
				t.Fatalf("%T: %s became %s", m, text, text2)
			}
		}
	})
}
