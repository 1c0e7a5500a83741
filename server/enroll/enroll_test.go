package enroll

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

func asProblem(err error, p **enroll.Problem) bool { return errors.As(err, p) }

func TestDiscovery(t *testing.T) {
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) { c.Tunnel = "gw.example:443" })
	d, err := f.client.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d.TrustDomain != trustDomain || d.Gateway != "gw1" || d.Tunnel != "gw.example:443" || len(d.Providers) != 1 ||
		d.Providers[0].Issuer != f.idp.URL || !d.Time.Equal(f.clock.now()) || d.CertificateTTL != 3600 || d.SessionTTL != 12*3600 {
		t.Errorf("%+v", d)
	}
	if err := d.Providers[0].Validate(); err != nil {
		t.Error(err)
	}
}

func TestLogin(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	resp := d.login(nil)
	id := identityOf(f, resp)
	want := auth.Identity{
		Issuer: f.idp.URL, Subject: "ada", Provider: "corp", Name: "Ada", Email: "ada@corp.example", EmailTrusted: true,
		Groups: []string{"engineering"}, GroupsKnown: true, ACR: "mfa", AuthTime: f.clock.now(), Login: auth.LoginBrowser,
		Session: resp.Session, Device: auth.DeviceIDFromKey(spkiOf(t, d.device)), IssuedAt: f.clock.now(),
	}
	if !reflect.DeepEqual(id, want) {
		t.Errorf("identity\n%+v, want\n%+v", id, want)
	}
	leaf := leafOf(t, resp)
	if !leaf.NotAfter.Equal(f.clock.now().Add(time.Hour)) || !leaf.NotBefore.Equal(f.clock.now().Add(-time.Minute)) ||
		!resp.NotAfter.Equal(leaf.NotAfter) || !resp.Deadline.Equal(f.clock.now().Add(12*time.Hour)) || !resp.Time.Equal(f.clock.now()) {
		t.Errorf("times: %s to %s, %+v", leaf.NotBefore, leaf.NotAfter, resp)
	}
	if _, err := f.store.Certificate(t.Context(), auth.SerialOf(leaf)); err != nil {
		t.Errorf("inventory: %v", err)
	}
	text := f.auditText()
	if !strings.Contains(text, string(audit.EventIssued)) || !strings.Contains(text, string(auth.SerialOf(leaf))) {
		t.Errorf("audit: %s", text)
	}
}

func spkiOf(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return spki
}

// Login: nonce unchecked or replayed. A stolen ID token cannot enrol another key.
func TestThreatLoginNonce(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	for name, nonce := range map[string]any{"absent": nil, "empty": "", "wrong": "wrong", "a number": 1} {
		_, err := f.client.Login(t.Context(), d.loginRequest(map[string]any{"nonce": nonce}))
		t.Log(name)
		wantCode(t, err, enroll.CodeTokenInvalid)
	}
	stolen, thief := d.loginRequest(nil), newDesktop(f)
	thief.salt = d.salt
	theft := thief.loginRequest(nil)
	theft.IDToken = stolen.IDToken
	_, err := f.client.Login(t.Context(), theft)
	wantCode(t, err, enroll.CodeTokenInvalid)
	stolen.Salt = enroll.NewSalt()
	_, err = f.client.Login(t.Context(), stolen)
	wantCode(t, err, enroll.CodeTokenInvalid)
	for _, salt := range [][]byte{nil, {1}, make([]byte, 64)} {
		stolen.Salt = salt
		_, err = f.client.Login(t.Context(), stolen)
		wantCode(t, err, enroll.CodeBadRequest)
	}
}

// Login: audience, issuer, azp skipped (OpenZiti GHSA-4h58), and old tokens.
func TestThreatLoginTokenOfSomebodyElse(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	for name, extra := range map[string]map[string]any{
		"audience": {"aud": "wiki"}, "azp": {"azp": "wiki"}, "issuer": {"iss": "https://evil.example"},
		"expired": {"exp": f.clock.now().Add(-time.Hour).Unix()}, "subject": {"sub": nil},
	} {
		_, err := f.client.Login(t.Context(), d.loginRequest(extra))
		t.Log(name)
		wantCode(t, err, enroll.CodeTokenInvalid)
	}
	if text := f.auditText(); !strings.Contains(text, string(audit.EventEnrollRefused)) || !strings.Contains(text, "token_invalid") {
		t.Errorf("no refusal in the audit: %s", text)
	}
}

// Login: one-time use races (TS-2025-007), replay after restart.
func TestThreatLoginRedeemsOnce(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	req := d.loginRequest(nil)
	var wg sync.WaitGroup
	leaves := make([][]byte, 100)
	for i := range leaves {
		wg.Go(func() {
			resp, err := f.client.Login(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			leaves[i] = resp.Chain[0]
		})
	}
	wg.Wait()
	for _, leaf := range leaves {
		if !bytes.Equal(leaf, leaves[0]) {
			t.Fatal("different certificates")
		}
	}
	live, err := f.store.LiveSessions(t.Context(), "", 10)
	if err != nil || len(live) != 1 {
		t.Errorf("%d sessions, %v", len(live), err)
	}
	f.restart()
	if resp, err := f.client.Login(t.Context(), req); err != nil || !bytes.Equal(resp.Chain[0], leaves[0]) {
		t.Errorf("the same key after a restart: %v", err)
	}
	// The nonce belongs to the key: another key cannot even present it, whatever
	// the salt. Were it possible, the store would refuse.
	_, err = f.store.Redeemed(t.Context(), redemptionOfNonce(enroll.Nonce(d.spki, d.salt)), "another key")
	if !errors.Is(err, store.ErrRedeemed) {
		t.Errorf("another key: %v", err)
	}
}

// Faults: enrolment response lost → a retry with the same key is idempotent.
func TestFaultEnrolmentResponseLost(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	req := d.loginRequest(nil)
	first, err := f.client.Login(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Minute)
	again, err := f.client.Login(t.Context(), req)
	if err != nil || !bytes.Equal(first.Chain[0], again.Chain[0]) || again.Session != first.Session {
		t.Fatalf("login again: %v", err)
	}
	renewal := d.renewRequest(first, nil)
	second, err := f.client.Renew(t.Context(), renewal)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.client.Renew(t.Context(), renewal)
	wantCode(t, err, enroll.CodeChallengeInvalid)
	renewal.Challenge = d.challenge(first)
	again, err = f.client.Renew(t.Context(), d.signed(renewal))
	if err != nil || !bytes.Equal(second.Chain[0], again.Chain[0]) {
		t.Fatalf("renewal again: %v", err)
	}
}

// Certificates and TLS: CSR asks for more (step-ca CVE-2025-44005).
func TestThreatCSRAsksForMore(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	victim := auth.Identity{Issuer: f.idp.URL, Subject: "bob"}.SPIFFEID(trustDomain)
	isCA, _ := asn1.Marshal(struct{ CA bool }{true})
	var err error
	d.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"gw.example"}, URIs: []*url.URL{victim},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA}},
	}, d.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, d.login(nil))
	if leaf.IsCA || len(leaf.DNSNames) != 0 || len(leaf.URIs) != 1 || leaf.URIs[0].String() == victim.String() ||
		leaf.Subject.CommonName == "root" || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("the request's wishes came true: %+v", leaf)
	}
}

func TestThreatCSRIsRefused(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	p384CSR, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384)
	badSignature := slices.Clone(d.csr)
	badSignature[len(badSignature)-1] ^= 1
	for name, csr := range map[string][]byte{
		"RSA": rsaCSR, "P-384": p384CSR, "bad signature": badSignature, "nothing": nil, "noise": []byte("noise"), "huge": make([]byte, 60<<10),
	} {
		req := d.loginRequest(nil)
		req.CSR = csr
		_, err := f.client.Login(t.Context(), req)
		t.Log(name)
		wantCode(t, err, enroll.CodeCSRInvalid)
	}
	req := d.loginRequest(nil)
	other := newDesktop(f)
	req.DeviceProof, err = enroll.NewDeviceProof(other.device, trustDomain, other.spki)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.client.Login(t.Context(), req)
	wantCode(t, err, enroll.CodeDeviceProof)
}

func TestLoginAtAnOldProviderSession(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	old := func(age time.Duration) map[string]any {
		return map[string]any{"auth_time": f.clock.now().Add(-age).Unix()}
	}
	resp := d.login(old(11*time.Hour + 30*time.Minute))
	if !resp.Deadline.Equal(f.clock.now().Add(30*time.Minute)) || !resp.NotAfter.Equal(resp.Deadline) {
		t.Errorf("deadline %s, not after %s", resp.Deadline, resp.NotAfter)
	}
	late := newDesktop(f)
	_, err := f.client.Login(t.Context(), late.loginRequest(old(12*time.Hour)))
	wantCode(t, err, enroll.CodeLoginTooOld)
	// A clock that runs ahead within the skew buys no time.
	ahead := newDesktop(f).login(map[string]any{"auth_time": f.clock.now().Add(30 * time.Second).Unix()})
	if !ahead.Deadline.Equal(f.clock.now().Add(12 * time.Hour)) {
		t.Errorf("deadline %s", ahead.Deadline)
	}
}

func TestRenewalReplacesClaimsOnly(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(nil)
	before := identityOf(f, first)
	second := d.renew(first, map[string]any{"groups": []string{"sales"}, "acr": "pwd", "name": nil, "email": nil})
	want := before
	want.Groups, want.ACR, want.IssuedAt = []string{"sales"}, "pwd", f.clock.now()
	if got := identityOf(f, second); !reflect.DeepEqual(got, want) {
		t.Errorf("identity\n%+v, want\n%+v", got, want)
	}
	if second.Session != first.Session || !second.Deadline.Equal(first.Deadline) || bytes.Equal(second.Chain[0], first.Chain[0]) {
		t.Errorf("%+v", second)
	}
	// A claim that is missing or overflows makes groups unknown, not none.
	for _, extra := range []map[string]any{
		{"groups": nil}, {
			"groups": nil, "_claim_names": map[string]string{"groups": "src1"},
			"_claim_sources": map[string]any{"src1": map[string]string{"endpoint": "https://graph.example/groups"}},
		},
	} {
		second = d.renew(second, extra)
		if got := identityOf(f, second); got.GroupsKnown || len(got.Groups) != 0 {
			t.Errorf("%v: groups %v", extra, got.Groups)
		}
	}
	// An older certificate of the session renews too: its successor may be lost.
	d.renew(first, nil)
}

func TestRenewalAfterExpiryUntilTheDeadline(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(nil)
	f.clock.advance(11*time.Hour + 30*time.Minute)
	second := d.renew(first, nil)
	if !second.NotAfter.Equal(first.Deadline) {
		t.Errorf("the certificate outlives the session: %s, %s", second.NotAfter, first.Deadline)
	}
	f.clock.advance(20 * time.Minute)
	req := d.renewRequest(second, nil)
	f.clock.advance(20 * time.Minute)
	_, err := f.client.Renew(t.Context(), req)
	wantCode(t, err, enroll.CodeExpired)
	_, err = f.client.Challenge(t.Context(), &enroll.ChallengeRequest{Serial: auth.SerialOf(leafOf(t, second))})
	wantCode(t, err, enroll.CodeExpired)
}

// Certificates and TLS: renewal widens rights (OpenBao CVE-2026-39388).
func TestThreatRenewalWithAnotherCertificateKeyOrSession(t *testing.T) {
	f := newFixture(t)
	ada, bob := newDesktop(f), newDesktop(f)
	bob.subject = "bob"
	adas, bobs := ada.login(nil), bob.login(nil)
	f.clock.advance(time.Minute)
	refuse := func(name string, req *enroll.RenewRequest, want enroll.Code) {
		t.Helper()
		t.Log(name)
		_, err := f.client.Renew(t.Context(), req)
		wantCode(t, err, want)
	}
	req := ada.renewRequest(adas, nil)
	req.Certificate, req.Challenge = bobs.Chain[0], bob.challenge(bobs)
	refuse("bob's certificate, ada's key", ada.signed(req), enroll.CodeSignatureInvalid)
	refuse("bob's certificate and key, ada's token", bob.signed(req), enroll.CodeTokenInvalid)

	req = ada.renewRequest(adas, nil)
	req.Challenge = bob.challenge(bobs)
	refuse("bob's challenge", ada.signed(req), enroll.CodeChallengeInvalid)

	req = ada.renewRequest(adas, map[string]any{"sub": "bob"})
	refuse("bob's token", req, enroll.CodeTokenInvalid)

	req = ada.renewRequest(adas, nil)
	req.IDToken = ada.renewRequest(adas, map[string]any{"groups": []string{"admins"}}).IDToken
	refuse("another token than the signed one", req, enroll.CodeSignatureInvalid)

	req = ada.renewRequest(adas, nil)
	req.Certificate = adas.Chain[1]
	refuse("the issuer's certificate", ada.signed(req), enroll.CodeCertificateUnknown)

	self := newDesktop(f)
	req = self.signed(&enroll.RenewRequest{Provider: "corp", IDToken: req.IDToken, Certificate: selfSigned(t, self, leafOf(t, adas)), Challenge: req.Challenge})
	refuse("a forged certificate with ada's serial", req, enroll.CodeCertificateUnknown)

	// A renewal token bought a certificate: nobody else can spend it.
	good := ada.renewRequest(adas, nil)
	if _, err := f.client.Renew(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	other := newDesktop(f)
	others := other.login(nil)
	f.clock.advance(time.Minute)
	req = other.renewRequest(others, nil)
	req.IDToken = good.IDToken
	refuse("a redeemed token", other.signed(req), enroll.CodeTokenRedeemed)
}

func selfSigned(t *testing.T, d *desktop, like *x509.Certificate) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: like.SerialNumber, NotBefore: like.NotBefore, NotAfter: like.NotAfter, URIs: like.URIs,
		ExtraExtensions: like.Extensions,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, d.key.Public(), d.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Login: nonce unchecked or replayed, at a renewal: another nonce, an older token.
func TestThreatRenewalNonceAndAge(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	login := d.loginRequest(nil)
	resp, err := f.client.Login(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	req := d.renewRequest(resp, nil)
	req.IDToken = login.IDToken
	_, err = f.client.Renew(t.Context(), d.signed(req))
	wantCode(t, err, enroll.CodeTokenRedeemed) // the login's own token is spent

	f.clock.advance(time.Minute)
	now := f.clock.now()
	for name, extra := range map[string]map[string]any{
		"another nonce": {"nonce": "other"},
		"older":         {"iat": now.Add(-2 * time.Minute).Unix()},
	} {
		_, err = f.client.Renew(t.Context(), d.renewRequest(resp, extra))
		t.Log(name)
		wantCode(t, err, enroll.CodeTokenInvalid)
	}
	f.clock.advance(time.Hour)
	_, err = f.client.Renew(t.Context(), d.renewRequest(resp, map[string]any{"iat": now.Unix()}))
	wantCode(t, err, enroll.CodeTokenInvalid) // an hour old
	// Some providers repeat the nonce in refreshed tokens.
	d.renew(resp, map[string]any{"nonce": enroll.Nonce(d.spki, d.salt)})
}

// Times of issue are whole seconds: a renewal right behind the login, or behind another one, is none by an older token.
func TestRenewalWithinTheSameSecond(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	resp := d.login(nil)
	for range 2 {
		next, err := f.client.Renew(t.Context(), d.renewRequest(resp, nil))
		if err != nil {
			t.Fatal(err)
		}
		if auth.SerialOf(leafOf(t, next)) == auth.SerialOf(leafOf(t, resp)) {
			t.Error("the same certificate again")
		}
	}
}

// Names of providers may be dealt out anew: a session that began under one name must not go on under another, and bring groups of
// the one under the name of the other.
func TestThreatRenewalUnderAnotherProvidersName(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	resp := d.login(nil)
	renamed, err := oidc.NewVerifier(oidc.ProviderConfig{Name: "partner", Issuer: f.idp.URL, ClientID: "culvert"}, oidc.Options{Now: f.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(renamed.CloseIdleConnections)
	f.conf.Providers = []Provider{renamed}
	f.restart()
	f.clock.advance(time.Minute)
	req := d.renewRequest(resp, map[string]any{"groups": []string{"admins"}})
	req.Provider = "partner"
	_, err = f.client.Renew(t.Context(), d.signed(req))
	wantCode(t, err, enroll.CodeReauthRequired)
}

// A harmless refusal is counted when it repeats; it must not cover those of another kind from the same address, such as a stolen
// token that is tried.
func TestThreatNoiseHidesNoRefusal(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	login := d.loginRequest(nil)
	if _, err := f.client.Login(t.Context(), login); err != nil {
		t.Fatal(err)
	}
	noise := d.loginRequest(nil)
	noise.CSR = []byte("noise")
	_, err := f.client.Login(t.Context(), noise)
	wantCode(t, err, enroll.CodeCSRInvalid)
	thief := newDesktop(f)
	theft := thief.loginRequest(nil)
	theft.IDToken = login.IDToken
	_, err = f.client.Login(t.Context(), theft)
	wantCode(t, err, enroll.CodeTokenInvalid)
	text := f.auditText()
	for _, code := range []enroll.Code{enroll.CodeCSRInvalid, enroll.CodeTokenInvalid} {
		if !strings.Contains(text, fmt.Sprintf("%q:%q", "reason", code)) {
			t.Errorf("%s is not in the audit log:\n%s", code, text)
		}
	}
}

// Certificates and TLS: revocation evaded (Nebula CVE-2026-25793): the other valid
// spelling of an ECDSA signature is another certificate with the same serial.
func TestThreatReencodedCertificateIsUnknown(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	resp := d.login(nil)
	f.clock.advance(time.Minute)
	req := d.renewRequest(resp, nil)
	req.Certificate = malleate(t, resp.Chain[0])
	_, err := f.client.Renew(t.Context(), d.signed(req))
	wantCode(t, err, enroll.CodeCertificateUnknown)
}

// malleate replaces the signature (r, s) by (r, n−s), which verifies as well.
func malleate(t *testing.T, der []byte) []byte {
	t.Helper()
	var cert struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		t.Fatal(err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(cert.Signature.Bytes, &sig); err != nil {
		t.Fatal(err)
	}
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	raw, err := asn1.Marshal(sig)
	if err != nil {
		t.Fatal(err)
	}
	cert.Signature = asn1.BitString{Bytes: raw, BitLength: len(raw) * 8}
	out, err := asn1.Marshal(cert)
	if err != nil || bytes.Equal(out, der) {
		t.Fatal("not re-encoded", err)
	}
	return out
}

func TestLocksRefuse(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	req := d.loginRequest(nil)
	resp, err := f.client.Login(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	id := identityOf(f, resp)
	if _, err := f.store.AddLock(t.Context(), store.Lock{ID: "l", Kind: store.LockUser, Target: string(id.UserID()), Message: "call security"}); err != nil {
		t.Fatal(err)
	}
	f.clock.advance(time.Minute)
	_, err = f.client.Renew(t.Context(), d.renewRequest(resp, nil))
	if p := wantCode(t, err, enroll.CodeLocked); !strings.Contains(p.Detail, "call security") {
		t.Errorf("%+v", p)
	}
	_, err = f.client.Login(t.Context(), newDesktop(f).loginRequest(nil))
	wantCode(t, err, enroll.CodeLocked)
	_, err = f.client.Login(t.Context(), req)
	wantCode(t, err, enroll.CodeLocked)
	if err := f.store.RemoveLock(t.Context(), "l"); err != nil {
		t.Fatal(err)
	}
	d.renew(resp, nil)
	if err := f.store.EndSession(t.Context(), resp.Session, "the laptop was lost"); err != nil {
		t.Fatal(err)
	}
	_, err = f.client.Challenge(t.Context(), &enroll.ChallengeRequest{Serial: auth.SerialOf(leafOf(t, resp))})
	if p := wantCode(t, err, enroll.CodeExpired); p.Detail != "the session has ended: the laptop was lost" {
		t.Errorf("%+v", p)
	}
	_, err = f.client.Login(t.Context(), req)
	wantCode(t, err, enroll.CodeExpired)
}

func TestRefreshIdentityReauth(t *testing.T) {
	f := newFixture(t, func(p *oidc.ProviderConfig, _ *Config) { p.RefreshIdentity = oidc.RefreshReauth })
	d := newDesktop(f)
	resp := d.login(nil)
	f.clock.advance(time.Minute)
	_, err := f.client.Renew(t.Context(), d.renewRequest(resp, nil))
	wantCode(t, err, enroll.CodeReauthRequired)
}

func TestRefreshIdentityByAccessToken(t *testing.T) {
	for _, mode := range []oidc.RefreshIdentity{oidc.RefreshIntrospect, oidc.RefreshUserInfo} {
		t.Run(string(mode), func(t *testing.T) {
			f := newFixture(t, func(p *oidc.ProviderConfig, _ *Config) { p.RefreshIdentity = mode })
			d := newDesktop(f)
			resp := d.login(nil)
			f.clock.advance(time.Minute)
			renewal := func(access oidc.Secret) *enroll.RenewRequest {
				return d.signed(&enroll.RenewRequest{Provider: "corp", AccessToken: access, Certificate: resp.Chain[0], Challenge: d.challenge(resp)})
			}
			about := map[string]any{"active": true, "sub": "ada", "client_id": "culvert", "groups": []string{"sales"}}
			f.idp.answerWith(200, about)
			second, err := f.client.Renew(t.Context(), renewal("access-1"))
			if err != nil {
				t.Fatal(err)
			}
			if id := identityOf(f, second); !slices.Equal(id.Groups, []string{"sales"}) || id.Session != resp.Session {
				t.Errorf("%+v", id)
			}
			again, err := f.client.Renew(t.Context(), renewal("access-1"))
			if err != nil || !bytes.Equal(again.Chain[0], second.Chain[0]) {
				t.Errorf("the same access token: %v", err)
			}
			about["sub"] = "bob"
			f.idp.answerWith(200, about)
			_, err = f.client.Renew(t.Context(), renewal("access-2"))
			wantCode(t, err, enroll.CodeTokenInvalid)
			f.idp.answerWith(503, nil)
			_, err = f.client.Renew(t.Context(), renewal("access-3"))
			wantCode(t, err, enroll.CodeProviderUnavailable)
			_, err = f.client.Renew(t.Context(), renewal(""))
			wantCode(t, err, enroll.CodeTokenInvalid)
		})
	}
}

func TestGroupsFromUserInfoOfTheSamePersonOnly(t *testing.T) {
	f := newFixture(t, func(p *oidc.ProviderConfig, _ *Config) { p.GroupsSource = oidc.GroupsFromUserInfo })
	d := newDesktop(f)
	f.idp.answerWith(200, map[string]any{"sub": "bob", "groups": []string{"admins"}})
	req := d.loginRequest(map[string]any{"groups": nil})
	req.AccessToken = "access"
	_, err := f.client.Login(t.Context(), req)
	wantCode(t, err, enroll.CodeTokenInvalid)
	f.idp.answerWith(200, map[string]any{"sub": "ada", "groups": []string{"engineering"}})
	resp, err := f.client.Login(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if id := identityOf(f, resp); !slices.Equal(id.Groups, []string{"engineering"}) {
		t.Errorf("groups %v", id.Groups)
	}
}

func TestGroupsKeep(t *testing.T) {
	many := make([]string, 0, 2000)
	for i := range 1000 {
		many = append(many, strings.Repeat("g", 20)+string(rune('a'+i%26))+strings.Repeat("x", i%17)+big.NewInt(int64(i)).String())
	}
	f := newFixture(t)
	d := newDesktop(f)
	req := d.loginRequest(map[string]any{"groups": many})
	_, err := f.client.Login(t.Context(), req)
	if p := wantCode(t, err, enroll.CodeIdentityTooLarge); !strings.Contains(p.Remedy, "groups.keep") {
		t.Errorf("%+v", p)
	}
	// Nothing was redeemed: once the setting is mended, the same login goes on.
	f.stop()
	f.conf.KeepGroups = []string{"vpn-*", "it"}
	f.start()
	req = d.loginRequest(map[string]any{"groups": append(many, "vpn-lab", "it")})
	resp, err := f.client.Login(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if id := identityOf(f, resp); !slices.Equal(id.Groups, []string{"it", "vpn-lab"}) || !id.GroupsKnown {
		t.Errorf("groups %v", id.Groups)
	}
}

func TestNewRefusesHalfAConfiguration(t *testing.T) {
	f := newFixture(t)
	for name, change := range map[string]func(*Config){
		"store":     func(c *Config) { c.Store = nil },
		"authority": func(c *Config) { c.Authority = nil },
		"audit":     func(c *Config) { c.Audit = nil },
		"logger":    func(c *Config) { c.Logger = nil },
		"providers": func(c *Config) { c.Providers = nil },
		"twice":     func(c *Config) { c.Providers = append(c.Providers, c.Providers[0]) },
	} {
		c := f.conf
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("without %s: made", name)
		}
	}
}
