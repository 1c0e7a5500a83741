package enroll

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

func deviceOn(p *oidc.ProviderConfig, _ *Config) { p.Device = true }

func (d *desktop) deviceRequest() *enroll.DeviceRequest {
	d.f.t.Helper()
	proof, err := enroll.NewDeviceProof(d.device, trustDomain, d.spki)
	if err != nil {
		d.f.t.Fatal(err)
	}
	return &enroll.DeviceRequest{Provider: "corp", CSR: d.csr, DeviceProof: proof}
}

func (d *desktop) startDevice() *enroll.DevicePollRequest {
	d.f.t.Helper()
	reply, err := d.f.client.DeviceStart(d.f.t.Context(), d.deviceRequest())
	if err != nil {
		d.f.t.Fatal(err)
	}
	if reply.UserCode != "ABCD-EFGH" || reply.Interval != 5 || !strings.HasSuffix(reply.VerificationURI, "/activate") ||
		!reply.Expires.Equal(d.f.clock.now().Add(10*time.Minute)) {
		d.f.t.Errorf("%+v", reply)
	}
	poll := &enroll.DevicePollRequest{ID: reply.ID}
	if err := poll.Sign(d.key); err != nil {
		d.f.t.Fatal(err)
	}
	d.f.clock.advance(5 * time.Second)
	return poll
}

// poll asks once and waits out the interval.
func (d *desktop) poll(req *enroll.DevicePollRequest) (*enroll.Response, time.Duration, error) {
	resp, wait, err := d.f.client.DevicePoll(d.f.t.Context(), req)
	d.f.clock.advance(max(wait, 5*time.Second))
	return resp, wait, err
}

func (f *fixture) providerCalls() int {
	f.idp.mu.Lock()
	defer f.idp.mu.Unlock()
	return f.idp.calls
}

// Login: device-code phishing (RFC 10027): off by default.
func TestThreatDeviceLoginIsOffByDefault(t *testing.T) {
	f := newFixture(t)
	_, err := f.client.DeviceStart(t.Context(), newDesktop(f).deviceRequest())
	wantCode(t, err, enroll.CodeDeviceDisabled)
}

func TestDeviceLogin(t *testing.T) {
	f := newFixture(t, deviceOn)
	d := newDesktop(f)
	poll := d.startDevice()

	f.idp.answerWith(400, map[string]any{"error": "authorization_pending"})
	if resp, wait, err := d.poll(poll); resp != nil || wait != 5*time.Second || err != nil {
		t.Fatalf("pending: %v %v %v", resp, wait, err)
	}
	f.idp.answerWith(400, map[string]any{"error": "slow_down"})
	if resp, wait, err := d.poll(poll); resp != nil || wait != 10*time.Second || err != nil {
		t.Fatalf("slow down: %v %v %v", resp, wait, err)
	}
	f.idp.answerWith(503, nil)
	_, _, err := d.poll(poll)
	wantCode(t, err, enroll.CodeProviderUnavailable)
	f.clock.advance(5 * time.Second)

	f.idp.answerWith(200, map[string]any{
		"access_token": "canary-access", "refresh_token": "canary-refresh", "token_type": "Bearer",
		"id_token": f.idp.token(t, d.claims(map[string]any{"nonce": nil})).Reveal(),
	})
	first, _, err := d.poll(poll)
	if err != nil || first.RefreshToken != "canary-refresh" {
		t.Fatalf("%+v, %v", first, err)
	}
	if id := identityOf(f, first); id.Login != auth.LoginDevice || id.Subject != "ada" {
		t.Errorf("%+v", id)
	}
	// The answer was lost, and the gateway restarted: the same again, without
	// asking the provider.
	f.restart()
	calls := f.providerCalls()
	again, _, err := d.poll(poll)
	if err != nil || !bytes.Equal(again.Chain[0], first.Chain[0]) || again.RefreshToken != "canary-refresh" || f.providerCalls() != calls {
		t.Errorf("again: %v, %d calls", err, f.providerCalls()-calls)
	}
	wantNoCanaries(t, f)
	// The session renews like any other.
	d.renew(first, nil)
}

// The provider hands its tokens out once: a client that hangs up meanwhile must not cost the person the login.
func TestFaultDevicePollGivenUp(t *testing.T) {
	f := newFixture(t, deviceOn)
	d := newDesktop(f)
	poll := d.startDevice()
	ctx, hangUp := context.WithCancel(t.Context())
	gone, answered := make(chan struct{}), make(chan struct{})
	tokens := map[string]any{
		"access_token": "a", "refresh_token": "r", "token_type": "Bearer",
		"id_token": f.idp.token(t, d.claims(map[string]any{"nonce": nil})).Reveal(),
	}
	f.idp.mu.Lock()
	f.idp.answer = func(w http.ResponseWriter, _ *http.Request) {
		hangUp()
		<-gone
		f.idp.answerWith(400, map[string]any{"error": "invalid_grant"})
		reply(w, 200, tokens)
		close(answered)
	}
	f.idp.mu.Unlock()
	if _, _, err := f.client.DevicePoll(ctx, poll); err == nil {
		t.Fatal("the poll was not given up")
	}
	close(gone)
	<-answered
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for {
		resp, _, err := f.client.DevicePoll(ctx, poll)
		if err != nil {
			t.Fatal(err)
		}
		if resp != nil {
			break
		}
	}
}

// wantNoCanaries looks for secrets wherever the gateway writes.
func wantNoCanaries(t *testing.T, f *fixture) {
	t.Helper()
	places := map[string]string{"log": f.log.String(), "audit": f.auditText()}
	files, err := filepath.Glob(filepath.Join(f.dir, "state", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no state", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		places[file] = string(data)
	}
	for name, text := range places {
		if i := strings.Index(text, "canary"); i >= 0 {
			t.Errorf("%s holds a secret: %.80q", name, text[i:])
		}
	}
}

func TestDevicePollNeedsTheKey(t *testing.T) {
	f := newFixture(t, deviceOn)
	d, thief := newDesktop(f), newDesktop(f)
	poll := d.startDevice()
	stolen := &enroll.DevicePollRequest{ID: poll.ID}
	if err := stolen.Sign(thief.key); err != nil {
		t.Fatal(err)
	}
	_, _, err := thief.poll(stolen)
	wantCode(t, err, enroll.CodeSignatureInvalid)
	_, _, err = d.poll(&enroll.DevicePollRequest{ID: "guess", Signature: poll.Signature})
	wantCode(t, err, enroll.CodeDeviceExpired)
}

// The provider is polled once per interval, however often the client asks.
func TestDevicePollSparesTheProvider(t *testing.T) {
	f := newFixture(t, deviceOn)
	d := newDesktop(f)
	poll := d.startDevice()
	f.idp.answerWith(400, map[string]any{"error": "authorization_pending"})
	for range 10 {
		if resp, _, err := f.client.DevicePoll(t.Context(), poll); resp != nil || err != nil {
			t.Fatal(err)
		}
	}
	if n := f.providerCalls(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}

func TestDeviceLoginFailsForGood(t *testing.T) {
	for answer, want := range map[string]enroll.Code{
		"access_denied": enroll.CodeDeviceDenied, "expired_token": enroll.CodeDeviceExpired, "invalid_grant": enroll.CodeDeviceDenied,
	} {
		f := newFixture(t, deviceOn)
		d := newDesktop(f)
		poll := d.startDevice()
		f.idp.answerWith(400, map[string]any{"error": answer, "error_description": "said no"})
		_, _, err := d.poll(poll)
		wantCode(t, err, want)
		calls := f.providerCalls()
		_, _, err = d.poll(poll)
		wantCode(t, err, want)
		if f.providerCalls() != calls {
			t.Errorf("%s: the provider was asked again", answer)
		}
	}
	f := newFixture(t, deviceOn)
	poll := newDesktop(f).startDevice()
	f.clock.advance(10 * time.Minute)
	_, _, err := f.client.DevicePoll(t.Context(), poll)
	wantCode(t, err, enroll.CodeDeviceExpired)
}

// A token from another flow does not become a device login.
func TestThreatDeviceLoginTakesNoTokenWithANonce(t *testing.T) {
	f := newFixture(t, deviceOn)
	d := newDesktop(f)
	poll := d.startDevice()
	f.idp.answerWith(200, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": f.idp.token(t, d.claims(nil)).Reveal()})
	_, _, err := d.poll(poll)
	wantCode(t, err, enroll.CodeTokenInvalid)
}

func TestDeviceLoginsAreBounded(t *testing.T) {
	f := newFixture(t, func(p *oidc.ProviderConfig, c *Config) { p.Device, c.Limits.DeviceLogins = true, 2 })
	for range 2 {
		newDesktop(f).startDevice()
	}
	_, err := f.client.DeviceStart(t.Context(), newDesktop(f).deviceRequest())
	if p := wantCode(t, err, enroll.CodeRateLimited); p.RetryAfter != time.Minute {
		t.Errorf("%+v", p)
	}
}

func TestSealedValuesNeedIDAndPurpose(t *testing.T) {
	sealed, err := seal("id", purposeCode, []byte("code"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := unseal("id", purposeCode, sealed); err != nil || string(plain) != "code" {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := unseal("other", purposeCode, sealed); err == nil {
		t.Error("opened with another id")
	}
	if _, err := unseal("id", purposeRefresh, sealed); err == nil {
		t.Error("opened for another purpose")
	}
	if _, err := unseal("id", purposeCode, nil); err == nil {
		t.Error("opened nothing")
	}
}
