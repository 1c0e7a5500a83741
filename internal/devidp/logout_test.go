package devidp_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
)

// listener takes logout tokens and verifies them.
func (r *running) listen(t *testing.T) func() []oidc.Logout {
	t.Helper()
	var mu sync.Mutex
	var got []oidc.Logout
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		out, err := r.verifier.VerifyLogout(req.Context(), oidc.Secret(req.PostFormValue("logout_token")))
		if err != nil {
			t.Error(err)
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		got = append(got, *out)
	}))
	t.Cleanup(server.Close)
	if err := r.NotifyLogout("culvert", server.URL, server.Client()); err != nil {
		t.Fatal(err)
	}
	return func() []oidc.Logout {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

func TestBackChannelLogout(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	got := r.listen(t)
	logIn := func(account string) (oidc.Tokens, *oidc.Claims) {
		t.Helper()
		verifier := oidc.NewCodeVerifier()
		tokens, err := r.client.Exchange(t.Context(), r.code(t, account, "n", verifier), verifier, r.redirect)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := r.verifier.VerifyLogin(t.Context(), oidc.Presented{IDToken: tokens.IDToken}, "n")
		if err != nil {
			t.Fatal(err)
		}
		return tokens, claims
	}
	adas, ada := logIn("ada")
	bobs, _ := logIn("bob")
	if ada.SID == "" {
		t.Fatal("no sid")
	}
	refreshed, err := r.client.Refresh(t.Context(), adas.RefreshToken, adas.Scopes)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.verifier.VerifyRenewal(t.Context(), oidc.Presented{IDToken: refreshed.IDToken},
		oidc.Previous{Issuer: ada.Issuer, Subject: ada.Subject, Nonce: "n"}); err != nil || again.SID != ada.SID {
		t.Errorf("the refreshed token's session: %+v, %v", again, err)
	}
	if err := r.EndSession(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	list := got()
	if len(list) != 1 || list[0].SID != ada.SID || list[0].Subject != ada.Subject || list[0].JTI == "" {
		t.Fatalf("told %+v", list)
	}
	if _, err := r.client.Refresh(t.Context(), refreshed.RefreshToken, adas.Scopes); !errors.Is(err, oidc.ErrRefreshRefused) {
		t.Errorf("refresh after the logout: %v", err)
	}
	if _, err := r.client.Refresh(t.Context(), bobs.RefreshToken, bobs.Scopes); err != nil {
		t.Errorf("bob's: %v", err)
	}
	logIn("bob")
	if err := r.EndAll(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	if list = got(); len(list) != 2 || list[1].SID != "" || list[1].Subject == "" {
		t.Errorf("told %+v", list)
	}
	if err := r.EndSession(t.Context(), "nobody"); err == nil {
		t.Error("nobody was logged out")
	}
}

func TestRememberedLogin(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	if err := r.RememberLogin("ada", time.Hour); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		request oidc.AuthRequest
		fresh   bool
	}{
		"nothing said":     {oidc.AuthRequest{}, false},
		"old enough":       {oidc.AuthRequest{MaxAge: 2 * time.Hour}, false},
		"a younger one":    {oidc.AuthRequest{MaxAge: time.Minute}, true},
		"a fresh one":      {oidc.AuthRequest{StepUp: true}, true},
		"a class of login": {oidc.AuthRequest{StepUp: true, ACR: []string{"mfa"}}, true},
	} {
		verifier := oidc.NewCodeVerifier()
		tc.request.State, tc.request.Nonce, tc.request.Verifier, tc.request.RedirectURI = "s", "n", verifier, r.redirect
		if err := devidp.Login(t.Context(), r.client.AuthCodeURL(tc.request), "ada", devidp.DefaultPassword); err != nil {
			t.Fatal(err)
		}
		cb, err := oidc.ParseCallback(r.callback.RawQuery)
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := r.client.Exchange(t.Context(), cb.Code, verifier, r.redirect)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := r.verifier.VerifyLogin(t.Context(), oidc.Presented{IDToken: tokens.IDToken}, "n")
		if err != nil {
			t.Fatal(err)
		}
		if fresh := time.Since(claims.AuthTime) < time.Minute; fresh != tc.fresh {
			t.Errorf("%s: auth_time %s ago", name, time.Since(claims.AuthTime))
		}
		if len(tc.request.ACR) > 0 && claims.ACR != tc.request.ACR[0] {
			t.Errorf("%s: acr %q", name, claims.ACR)
		}
	}
}

func TestCancelledLogin(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	address := r.client.AuthCodeURL(oidc.AuthRequest{State: "s", Nonce: "n", Verifier: oidc.NewCodeVerifier(), RedirectURI: r.redirect})
	if _, err := (devidp.Browser{}).Cancel(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	cb, err := oidc.ParseCallback(r.callback.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.client.CheckCallback(cb); err != nil {
		t.Error(err)
	}
	var refused *oidc.ProviderError
	if !errors.As(cb.Err, &refused) || refused.Code != "access_denied" || cb.State != "s" {
		t.Errorf("callback %+v", cb)
	}
}
