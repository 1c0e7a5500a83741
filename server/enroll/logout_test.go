package enroll

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
)

// logoutToken is a good one about ada's session sid-1, with changes; a nil value removes.
func (f *fixture) logoutToken(jti string, extra map[string]any) string {
	f.t.Helper()
	now := f.clock.now()
	c := map[string]any{
		"iss": f.idp.URL, "aud": "culvert", "sub": "ada", "sid": "sid-1", "jti": jti, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(c, extra)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return f.idp.token(f.t, c).Reveal()
}

// logout posts a logout token as a provider does, and returns the status and, of a refusal, the error.
func (f *fixture) logout(provider, token string) (status int, code string) {
	f.t.Helper()
	resp, err := f.srv.Client().PostForm(f.srv.URL+enroll.PathLogout+provider, url.Values{"logout_token": {token}})
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	if cache := resp.Header.Get("Cache-Control"); cache != "no-store" {
		f.t.Errorf("Cache-Control: %q", cache)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusOK {
		if len(body) != 0 {
			f.t.Errorf("body %q", body)
		}
		return resp.StatusCode, ""
	}
	var refusal struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &refusal); err != nil || refusal.Description == "" {
		f.t.Errorf("refusal %q: %v", body, err)
	}
	return resp.StatusCode, refusal.Error
}

func (f *fixture) live(resp *enroll.Response) bool {
	f.t.Helper()
	s, err := f.store.Session(f.t.Context(), resp.Session)
	if err != nil {
		f.t.Fatal(err)
	}
	return s.Live(f.clock.now())
}

func TestLogoutBySession(t *testing.T) {
	f := newFixture(t)
	gone, other, bobs := newDesktop(f), newDesktop(f), newDesktop(f)
	bobs.subject = "bob"
	a, b, c := gone.login(map[string]any{"sid": "sid-1"}), other.login(map[string]any{"sid": "sid-2"}), bobs.login(map[string]any{"sid": "sid-3"})
	f.clock.advance(time.Minute)
	renewal := gone.renewRequest(a, nil)
	if status, _ := f.logout("corp", f.logoutToken("j1", nil)); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if f.live(a) || !f.live(b) || !f.live(c) {
		t.Errorf("live: %v %v %v", f.live(a), f.live(b), f.live(c))
	}
	_, err := f.client.Renew(t.Context(), renewal)
	wantCode(t, err, enroll.CodeExpired)
	// A token of the session at the provider that is over begins nothing.
	_, err = f.client.Login(t.Context(), newDesktop(f).loginRequest(map[string]any{"sid": "sid-1"}))
	wantCode(t, err, enroll.CodeLocked)
	newDesktop(f).login(map[string]any{"sid": "sid-4"})
	if text := f.auditText(); !strings.Contains(text, string(audit.EventBackchannelLogout)) || !strings.Contains(text, string(a.Session)) {
		t.Errorf("audit: %s", text)
	}
}

// A session of which the provider's name is unknown may be the one.
func TestLogoutBySessionThatNobodyKnows(t *testing.T) {
	f := newFixture(t)
	unnamed, named := newDesktop(f), newDesktop(f)
	a, b := unnamed.login(nil), named.login(map[string]any{"sid": "sid-2"})
	f.clock.advance(time.Minute)
	if status, _ := f.logout("corp", f.logoutToken("j1", nil)); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if f.live(a) || !f.live(b) {
		t.Errorf("live: %v %v", f.live(a), f.live(b))
	}
}

func TestLogoutByPerson(t *testing.T) {
	f := newFixture(t)
	one, two, bob := newDesktop(f), newDesktop(f), newDesktop(f)
	bob.subject = "bob"
	a, b, c := one.login(map[string]any{"sid": "sid-1"}), two.login(nil), bob.login(nil)
	late := newDesktop(f).loginRequest(nil)
	f.clock.advance(time.Minute)
	if status, _ := f.logout("corp", f.logoutToken("j1", map[string]any{"sid": nil})); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if f.live(a) || f.live(b) || !f.live(c) {
		t.Errorf("live: %v %v %v", f.live(a), f.live(b), f.live(c))
	}
	// A token from before the logout begins no session after it.
	_, err := f.client.Login(t.Context(), late)
	wantCode(t, err, enroll.CodeLocked)
	f.clock.advance(2 * time.Second)
	newDesktop(f).login(nil)
}

// TestThreatLogoutReplayed: a logout token counts once, so that who got hold of one cannot throw the person out again and again.
func TestThreatLogoutReplayed(t *testing.T) {
	f := newFixture(t)
	a := newDesktop(f).login(nil)
	f.clock.advance(time.Minute)
	token := f.logoutToken("j1", map[string]any{"sid": nil})
	if status, _ := f.logout("corp", token); status != http.StatusOK || f.live(a) {
		t.Fatalf("status %d, live %v", status, f.live(a))
	}
	f.clock.advance(2 * time.Second)
	b := newDesktop(f).login(nil)
	f.clock.advance(time.Second)
	// Answered as before, for a provider that missed the answer; without any effect.
	if status, _ := f.logout("corp", token); status != http.StatusOK || !f.live(b) {
		t.Errorf("replayed: status %d, live %v", status, f.live(b))
	}
	f.restart()
	if status, _ := f.logout("corp", token); status != http.StatusOK || !f.live(b) {
		t.Errorf("replayed after a restart: status %d, live %v", status, f.live(b))
	}
	if status, _ := f.logout("corp", f.logoutToken("j2", map[string]any{"sid": nil})); status != http.StatusOK || f.live(b) {
		t.Errorf("another one: status %d, live %v", status, f.live(b))
	}
}

// TestThreatForgedLogout: nobody but the provider logs anybody out, and it only its own people (each step of OpenID Connect Back-Channel
// Logout 1.0 section 2.6 is in TestThreatLogoutToken).
func TestThreatForgedLogout(t *testing.T) {
	partner := newIDP(t)
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) {
		v, err := oidc.NewVerifier(oidc.ProviderConfig{Name: "partner", Issuer: partner.URL, ClientID: "culvert"}, oidc.Options{Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.CloseIdleConnections)
		c.Providers = []Provider{v}
	})
	d := newDesktop(f)
	a := d.login(map[string]any{"sid": "sid-1"})
	f.clock.advance(time.Minute)
	good := f.logoutToken("j", nil)
	foreign := *f
	foreign.idp = partner
	for name, test := range map[string]struct {
		provider, token, code string
	}{
		"no token":                  {"corp", "", "invalid_request"},
		"an ID token":               {"corp", f.idp.token(t, d.claims(nil)).Reveal(), "invalid_request"},
		"another client's":          {"corp", f.logoutToken("j", map[string]any{"aud": "wiki"}), "invalid_request"},
		"a nonce":                   {"corp", f.logoutToken("j", map[string]any{"nonce": "n"}), "invalid_request"},
		"no events":                 {"corp", f.logoutToken("j", map[string]any{"events": nil}), "invalid_request"},
		"old":                       {"corp", f.logoutToken("j", map[string]any{"iat": f.clock.now().Add(-time.Hour).Unix()}), "invalid_request"},
		"at the other provider":     {"partner", good, "invalid_request"},
		"of the other provider":     {"corp", foreign.logoutToken("j", nil), "invalid_request"},
		"other issuer in the token": {"partner", foreign.logoutToken("j", map[string]any{"iss": f.idp.URL}), "invalid_request"},
		"unknown provider":          {"nobody", good, "invalid_request"},
		"no provider":               {"", good, "invalid_request"},
	} {
		if status, code := f.logout(test.provider, test.token); status != http.StatusBadRequest || code != test.code {
			t.Errorf("%s: %d %s", name, status, code)
		}
	}
	// The partner's own session of the same name is another one.
	if status, _ := f.logout("partner", foreign.logoutToken("j", nil)); status != http.StatusOK {
		t.Errorf("the partner's own: %d", status)
	}
	if !f.live(a) {
		t.Error("logged out")
	}
	if text := f.auditText(); !strings.Contains(text, "token_invalid") {
		t.Errorf("audit: %s", text)
	}
}

func TestLogoutForm(t *testing.T) {
	f := newFixture(t, func(_ *oidc.ProviderConfig, c *Config) { c.Limits.LogoutsPerMinute = 4 })
	post := func(contentType, body string) int {
		t.Helper()
		resp, err := f.srv.Client().Post(f.srv.URL+enroll.PathLogout+"corp", contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if status := post("application/json", `{"logout_token":"x"}`); status != http.StatusBadRequest {
		t.Errorf("JSON: %d", status)
	}
	if status := post(formType, "logout_token=a&logout_token=b"); status != http.StatusBadRequest {
		t.Errorf("two tokens: %d", status)
	}
	if status := post(formType, strings.Repeat("a", enroll.MaxRequest+1)); status != http.StatusBadRequest {
		t.Errorf("a large form: %d", status)
	}
	resp, err := f.srv.Client().Get(f.srv.URL + enroll.PathLogout + "corp")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %s", resp.Status)
	}
	for range 5 {
		if post(formType, "") == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("no limit")
}

// TestFaultDatabaseAwayAtALogout: the provider is told that it failed, and a second try counts.
func TestFaultDatabaseAwayAtALogout(t *testing.T) {
	f := newFixture(t)
	a := newDesktop(f).login(nil)
	f.clock.advance(time.Minute)
	token := f.logoutToken("j1", nil)
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	if status, code := f.logout("corp", token); status != http.StatusBadRequest || code != "server_error" {
		t.Errorf("without a database: %d %s", status, code)
	}
	f.restart()
	if status, _ := f.logout("corp", token); status != http.StatusOK || f.live(a) {
		t.Errorf("again: %d, live %v", status, f.live(a))
	}
}
