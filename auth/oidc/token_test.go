package oidc

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// token answers the token endpoint with reply and keeps the request.
func (f *fake) onToken(reply http.HandlerFunc) (last func() (url.Values, string)) {
	var form url.Values
	var authorization string
	f.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		form, authorization = r.PostForm, r.Header.Get("Authorization")
		reply(w, r)
	})
	return func() (url.Values, string) { return form, authorization }
}

func grantAll(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"access_token": "a2", "token_type": "Bearer", "refresh_token": "r2", "id_token": "i2", "scope": "openid email", "expires_in": "300"})
}

func TestRefreshSendsTheConfiguredScopes(t *testing.T) {
	for name, test := range map[string]struct {
		configured RefreshScopes
		granted    []string
		want       string
	}{
		"granted":          {nil, []string{"openid", "groups"}, "openid groups"},
		"granted unknown":  {nil, nil, ""},
		"omit (Keycloak)":  {RefreshScopes{"omit"}, []string{"openid"}, ""},
		"list (Authentik)": {RefreshScopes{"openid", "offline_access"}, []string{"openid"}, "openid offline_access"},
	} {
		f := newFake(t)
		last := f.onToken(grantAll)
		config := f.config()
		config.RefreshScopes = test.configured
		tokens, err := f.provider(t, config).Refresh(t.Context(), "r1", test.granted)
		if err != nil {
			t.Fatal(err)
		}
		form, _ := last()
		if form.Get("scope") != test.want || form.Has("scope") != (test.want != "") || form.Get("refresh_token") != "r1" || form.Get("grant_type") != "refresh_token" {
			t.Errorf("%s: sent %v", name, form)
		}
		if tokens.RefreshToken != "r2" || tokens.IDToken != "i2" || strings.Join(tokens.Scopes, " ") != "openid email" || !tokens.Expiry.Equal(f.now.Add(300*time.Second)) {
			t.Errorf("%s: got %#v", name, tokens)
		}
	}
}

func TestTokenAuthIsNeverProbed(t *testing.T) {
	for auth, want := range map[TokenAuth][3]string{
		TokenAuthNone: {"culvert", "", ""}, TokenAuthPost: {"culvert", "s+ c", ""}, TokenAuthBasic: {"", "", "Basic Y3VsdmVydDpzJTJCK2M="},
	} {
		f := newFake(t)
		var hits atomic.Int32
		last := f.onToken(func(w http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			refuse(w, http.StatusUnauthorized, "invalid_client", "")
		})
		config := f.config()
		if config.TokenAuth = auth; auth != TokenAuthNone {
			config.ClientSecret = "s+ c"
		}
		if _, err := f.provider(t, config).Exchange(t.Context(), "code-1", "v", "http://127.0.0.1/callback"); err == nil {
			t.Fatal("no error")
		}
		form, header := last()
		if got := [3]string{form.Get("client_id"), form.Get("client_secret"), header}; got != want {
			t.Errorf("%s: sent %q", auth, got)
		}
		if hits.Load() != 1 {
			t.Errorf("%s: %d requests for one code", auth, hits.Load())
		}
	}
}

// Design section 3.7: which refusals end renewal, and which failures go on.
func TestRefreshErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status             int
		body               string
		refused, temporary bool
	}{
		"invalid_grant":           {400, `{"error":"invalid_grant"}`, true, false},
		"login_required as 401":   {401, `{"error":"login_required"}`, true, false},
		"interaction_required":    {400, `{"error":"interaction_required"}`, true, false},
		"consent_required":        {400, `{"error":"consent_required"}`, true, false},
		"any 400":                 {400, `{"error":"invalid_scope"}`, true, false},
		"a 400 of a proxy":        {400, `<html>`, true, false},
		"403":                     {403, ``, true, false},
		"invalid_client":          {401, `{"error":"invalid_client"}`, false, true},
		"server_error as 400":     {400, `{"error":"server_error"}`, false, true},
		"temporarily_unavailable": {400, `{"error":"temporarily_unavailable"}`, false, true},
		"429":                     {429, ``, false, true},
		"500":                     {500, ``, false, true},
		"503":                     {503, `{"error":"invalid_request"}`, false, true},
		"404":                     {404, ``, false, true},
		"redirect":                {302, ``, false, true},
		"a captive portal":        {200, `<html>Welcome</html>`, false, true},
		"no access token":         {200, `{"token_type":"Bearer"}`, false, true},
		"another type":            {200, `{"access_token":"a","token_type":"mac"}`, false, true},
	} {
		f := newFake(t)
		var hits atomic.Int32
		f.onToken(func(w http.ResponseWriter, _ *http.Request) {
			hits.Add(1)
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", "/token")
			w.WriteHeader(test.status)
			_, _ = w.Write([]byte(test.body))
		})
		_, err := f.provider(t, f.config()).Refresh(t.Context(), "r1", nil)
		if errors.Is(err, ErrRefreshRefused) != test.refused || errors.Is(err, ErrUnavailable) != test.temporary {
			t.Errorf("%s: refused %v, temporary %v: %v", name, errors.Is(err, ErrRefreshRefused), errors.Is(err, ErrUnavailable), err)
		}
		if hits.Load() != 1 {
			t.Errorf("%s: %d requests", name, hits.Load())
		}
	}
	f := newFake(t)
	p := f.provider(t, f.config())
	f.server.Close()
	if _, err := p.Refresh(t.Context(), "r1", nil); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRefreshRefused) || strings.Contains(err.Error(), "r1") {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestProviderErrorsAreShownAsTheyCame(t *testing.T) {
	f := newFake(t)
	f.onToken(func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusBadRequest, "invalid_grant", "AADSTS700082: The refresh token has expired.\x1b[2J\r\nTrace: 1")
	})
	_, err := f.provider(t, f.config()).Refresh(t.Context(), "r1", nil)
	const want = `the provider answered the refresh request with 400: invalid_grant: AADSTS700082: The refresh token has expired.\x1b[2J\r\nTrace: 1`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestExchangeNeedsAnIDToken(t *testing.T) {
	f := newFake(t)
	f.onToken(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"access_token": "a", "token_type": "bearer"})
	})
	p := f.provider(t, f.config())
	if _, err := p.Exchange(t.Context(), "code-1", "v", "r"); err == nil || !strings.Contains(err.Error(), "no ID token") {
		t.Error(err)
	}
	if tokens, err := p.Refresh(t.Context(), "r1", []string{"openid"}); err != nil || len(tokens.Scopes) != 1 || tokens.RefreshToken != "" {
		t.Errorf("%+v, %v", tokens, err)
	}
}

func TestDeviceGrant(t *testing.T) {
	f := newFake(t)
	var reply map[string]any
	f.HandleFunc("POST /device", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_id") != "culvert" || !strings.Contains(r.FormValue("scope"), "openid") {
			refuse(w, http.StatusBadRequest, "invalid_request", "")
			return
		}
		answer(w, reply)
	})
	p := f.provider(t, f.config())
	reply = map[string]any{"device_code": "d1", "user_code": "ABCD-EFGH", "verification_uri": f.server.URL + "/device", "expires_in": 600}
	d, err := p.StartDevice(t.Context())
	if err != nil || d.Interval != 5*time.Second || !d.Expires.Equal(f.now.Add(10*time.Minute)) || d.DeviceCode != "d1" {
		t.Fatalf("%+v, %v", d, err)
	}
	for key, bad := range map[string]any{
		"device_code": "", "user_code": "A\x1b[2J", "verification_uri": "file:///etc/passwd", "verification_uri_complete": "javascript:alert(1)",
		"expires_in": -1,
	} {
		good := reply[key]
		reply[key] = bad
		if _, err := p.StartDevice(t.Context()); err == nil {
			t.Errorf("%s = %q was accepted", key, bad)
		}
		reply[key] = good
		if good == nil {
			delete(reply, key)
		}
	}
	var code string
	f.onToken(func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusBadRequest, code, "") })
	for c, want := range map[string]error{
		"authorization_pending": ErrPending, "slow_down": ErrSlowDown, "expired_token": ErrDeviceExpired,
		"access_denied": ErrDeviceDenied, "server_error": ErrUnavailable,
	} {
		code = c
		if _, err := p.PollDevice(t.Context(), "d1"); !errors.Is(err, want) {
			t.Errorf("%s: %v", c, err)
		}
	}
	delete(f.discovery, "device_authorization_endpoint")
	if _, err := f.provider(t, f.config()).StartDevice(t.Context()); err == nil {
		t.Error("a provider without a device endpoint")
	}
}
