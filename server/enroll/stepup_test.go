package enroll

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/store"
)

// stepUpRequest is a signed step-up of resp, of a person who signed in just now.
func (d *desktop) stepUpRequest(resp *enroll.Response, extra map[string]any) *enroll.StepUpRequest {
	d.f.t.Helper()
	salt := enroll.NewSalt()
	claims := d.claims(map[string]any{"nonce": enroll.Nonce(d.spki, salt), "acr": "phr"})
	maps.Copy(claims, extra)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return d.signedStepUp(&enroll.StepUpRequest{
		Provider: "corp", IDToken: d.f.idp.token(d.f.t, claims), Salt: salt, Certificate: resp.Chain[0], Challenge: d.challenge(resp),
		Client: enroll.ClientInfo{Version: "1.0", OS: "linux", Arch: "amd64"},
	})
}

func (d *desktop) signedStepUp(r *enroll.StepUpRequest) *enroll.StepUpRequest {
	d.f.t.Helper()
	if err := r.Sign(d.key); err != nil {
		d.f.t.Fatal(err)
	}
	return r
}

func (d *desktop) stepUp(resp *enroll.Response, extra map[string]any) *enroll.Response {
	d.f.t.Helper()
	next, err := d.f.client.StepUp(d.f.t.Context(), d.stepUpRequest(resp, extra))
	if err != nil {
		d.f.t.Fatal(err)
	}
	return next
}

func TestStepUp(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(map[string]any{"sid": "sid-1"})
	before := identityOf(f, first)
	f.clock.advance(30 * time.Minute)
	second := d.stepUp(first, map[string]any{"auth_time": f.clock.now().Add(-10 * time.Second).Unix(), "groups": []string{"dba"}, "amr": []string{"hwk"}, "sid": "sid-2"})
	id := identityOf(f, second)
	if !id.AuthTime.Equal(f.clock.now().Add(-10*time.Second)) || id.ACR != "phr" || id.AMR[0] != "hwk" || id.Groups[0] != "dba" {
		t.Errorf("the login is not in the certificate: %+v", id)
	}
	if id.Session != before.Session || id.Device != before.Device || id.Login != before.Login || id.UserID() != before.UserID() {
		t.Errorf("it is another session: %+v, before %+v", id, before)
	}
	if !second.Deadline.Equal(first.Deadline) || !d.key.PublicKey.Equal(leafOf(t, second).PublicKey) {
		t.Errorf("deadline %s, before %s, or another key", second.Deadline, first.Deadline)
	}
	session, err := f.store.Session(t.Context(), id.Session)
	if err != nil || session.ProviderSID != "sid-2" || !session.AuthTime.Equal(id.AuthTime) {
		t.Errorf("session %+v, %v", session, err)
	}
	user, err := f.store.User(t.Context(), id.UserID())
	if err != nil || !user.EmailTrusted || user.ACR != "phr" || len(user.Groups) != 1 || user.Groups[0] != "dba" || !user.GroupsKnown {
		t.Errorf("user %+v, %v", user, err)
	}
	// What is renewed afterwards keeps the login, whichever certificate and refresh token it is renewed by.
	stepNonce := strings.Fields(session.Nonce)[1]
	for name, resp := range map[string]*enroll.Response{"the new certificate": second, "the old certificate": first} {
		for _, nonce := range []any{nil, enroll.Nonce(d.spki, d.salt), stepNonce} {
			next := identityOf(f, d.renew(resp, map[string]any{"nonce": nonce, "auth_time": before.AuthTime.Unix()}))
			if !next.AuthTime.Equal(id.AuthTime) {
				t.Errorf("renewed by %s: auth_time %s, want %s", name, next.AuthTime, id.AuthTime)
			}
		}
	}
	if !strings.Contains(f.auditText(), `"detail":"step-up"`) {
		t.Errorf("audit: %s", f.auditText())
	}
}

// TestThreatStepUpIsOfThisSession: an ID token that somebody stole, kept or got from another login is no fresh login (nonce unchecked or
// replayed; audience skipped, OpenZiti GHSA-4h58), and it extends nothing.
func TestThreatStepUpIsOfThisSession(t *testing.T) {
	f := newFixture(t, func(p *oidc.ProviderConfig, _ *Config) { p.StepUp.ACRValues = "phr" })
	ada, bob := newDesktop(f), newDesktop(f)
	bob.subject = "bob"
	login := ada.loginRequest(nil)
	adas, err := f.client.Login(t.Context(), login)
	if err != nil {
		t.Fatal(err)
	}
	bobs := bob.login(nil)
	f.clock.advance(20 * time.Minute)
	at := func(d time.Duration) int64 { return f.clock.now().Add(d).Unix() }
	refuse := func(name string, req *enroll.StepUpRequest, want enroll.Code) {
		t.Helper()
		t.Log(name)
		_, err := f.client.StepUp(t.Context(), req)
		wantCode(t, err, want)
	}
	for name, extra := range map[string]map[string]any{
		"no auth_time":            {"auth_time": nil},
		"the login's auth_time":   {"auth_time": at(-20 * time.Minute)},
		"an old auth_time":        {"auth_time": at(-10 * time.Minute)},
		"a kept token":            {"auth_time": at(-10 * time.Minute), "iat": at(-10 * time.Minute)},
		"another person":          {"sub": "bob"},
		"another client":          {"aud": "wiki"},
		"another class of login":  {"acr": "pwd"},
		"no class of login":       {"acr": nil},
		"another nonce":           {"nonce": "other"},
		"the login's nonce":       {"nonce": enroll.Nonce(ada.spki, ada.salt)},
		"no nonce":                {"nonce": nil},
		"auth_time in the future": {"auth_time": at(5 * time.Minute)},
	} {
		refuse(name, ada.stepUpRequest(adas, extra), enroll.CodeTokenInvalid)
	}

	req := ada.stepUpRequest(adas, nil)
	req.IDToken, req.Salt = login.IDToken, ada.salt
	refuse("the login's own token", ada.signedStepUp(req), enroll.CodeTokenInvalid)

	// A stolen token and salt are of no use for another key, not even of the same person.
	stolen := ada.stepUpRequest(adas, nil)
	thief := newDesktop(f)
	thiefs := thief.login(nil)
	f.clock.advance(time.Minute)
	theft := thief.stepUpRequest(thiefs, nil)
	theft.IDToken, theft.Salt = stolen.IDToken, stolen.Salt
	refuse("a stolen token", thief.signedStepUp(theft), enroll.CodeTokenInvalid)

	req = ada.stepUpRequest(adas, nil)
	req.Certificate, req.Challenge = bobs.Chain[0], bob.challenge(bobs)
	refuse("bob's certificate", ada.signedStepUp(req), enroll.CodeSignatureInvalid)
	refuse("bob's certificate and key, ada's token", bob.signedStepUp(req), enroll.CodeTokenInvalid)

	req = ada.stepUpRequest(adas, nil)
	req.Challenge = bob.challenge(bobs)
	refuse("bob's challenge", ada.signedStepUp(req), enroll.CodeChallengeInvalid)

	req = ada.stepUpRequest(adas, nil)
	req.IDToken = ada.stepUpRequest(adas, nil).IDToken
	refuse("another token than the signed one", req, enroll.CodeSignatureInvalid)

	req = ada.stepUpRequest(adas, nil)
	req.Salt = enroll.NewSalt()
	refuse("another salt than the signed one", req, enroll.CodeSignatureInvalid)
	req.Salt = []byte("short")
	refuse("a short salt", ada.signedStepUp(req), enroll.CodeBadRequest)

	// The signature of a renewal is none of a step-up.
	renewal := ada.renewRequest(adas, nil)
	req = ada.stepUpRequest(adas, nil)
	req.Challenge, req.Signature = renewal.Challenge, renewal.Signature
	refuse("a renewal's signature", req, enroll.CodeSignatureInvalid)

	session, err := f.store.Session(t.Context(), adas.Session)
	if err != nil || !session.AuthTime.Equal(f.clock.now().Add(-21*time.Minute)) || !session.Deadline.Equal(adas.Deadline) {
		t.Errorf("the session changed: %+v, %v", session, err)
	}
}

// TestThreatStepUpReplayed: a token counts once (one-time use races, TS-2025-007); the same request again is answered again.
func TestThreatStepUpReplayed(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(nil)
	f.clock.advance(time.Minute)
	req := d.stepUpRequest(first, nil)
	second, err := f.client.StepUp(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.client.StepUp(t.Context(), req)
	wantCode(t, err, enroll.CodeChallengeInvalid)
	req.Challenge = d.challenge(first)
	again, err := f.client.StepUp(t.Context(), d.signedStepUp(req))
	if err != nil || auth.SerialOf(leafOf(t, again)) != auth.SerialOf(leafOf(t, second)) {
		t.Fatalf("the same request, whose answer was lost: %v", err)
	}
	thief := newDesktop(f)
	thiefs := thief.login(nil)
	theft := thief.stepUpRequest(thiefs, nil)
	theft.IDToken, theft.Salt = req.IDToken, req.Salt
	_, err = f.client.StepUp(t.Context(), thief.signedStepUp(theft))
	wantCode(t, err, enroll.CodeTokenInvalid)
	f.clock.advance(time.Minute)
	renewal := d.renewRequest(second, nil)
	renewal.IDToken = req.IDToken
	_, err = f.client.Renew(t.Context(), d.signed(renewal))
	wantCode(t, err, enroll.CodeTokenRedeemed)
}

// TestThreatStepUpMovesNoDeadline: a session lasts from its login, however often the person signs in again.
func TestThreatStepUpMovesNoDeadline(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(nil)
	f.clock.advance(11*time.Hour + 50*time.Minute)
	second := d.stepUp(first, nil)
	if !second.Deadline.Equal(first.Deadline) || !second.NotAfter.Equal(first.Deadline) {
		t.Errorf("deadline %s, certificate until %s; the session began with %s", second.Deadline, second.NotAfter, first.Deadline)
	}
	req := d.stepUpRequest(second, nil)
	f.clock.advance(11 * time.Minute)
	_, err := f.client.StepUp(t.Context(), req)
	wantCode(t, err, enroll.CodeExpired)
}

// TestThreatStepUpOfALockedSession: a lock stands before a fresh login too (revocation evaded, Nebula CVE-2026-25793).
func TestThreatStepUpOfALockedSession(t *testing.T) {
	f := newFixture(t)
	d := newDesktop(f)
	first := d.login(nil)
	f.clock.advance(time.Minute)
	req := d.stepUpRequest(first, nil)
	if _, err := f.store.AddLock(t.Context(), store.Lock{ID: "l", Kind: store.LockSession, Target: string(first.Session)}); err != nil {
		t.Fatal(err)
	}
	_, err := f.client.StepUp(t.Context(), req)
	wantCode(t, err, enroll.CodeLocked)
}
