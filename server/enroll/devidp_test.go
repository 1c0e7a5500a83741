package enroll

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
)

// newDevIDP is a fixture whose provider is internal/devidp, with everybody on the
// system's clock, and the provider as a desktop sees it.
func newDevIDP(t *testing.T) (*fixture, *devidp.Provider, *oidc.Provider) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	idp, err := devidp.New(devidp.Config{Listener: srv.Listener})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = idp
	srv.Start()
	t.Cleanup(srv.Close)
	config, err := idp.ClientConfig("corp", "culvert")
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(p *oidc.ProviderConfig, c *Config) { *p, c.Now = config, time.Now })
	verifier, err := oidc.NewVerifier(config, oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.CloseIdleConnections)
	f.stop()
	f.clock = nil
	f.conf.Providers = []Provider{verifier}
	f.start()
	provider, err := oidc.Discover(t.Context(), config.ClientSettings(), oidc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(provider.CloseIdleConnections)
	return f, idp, provider
}

// signIn runs the authorization code flow as ada.
func signIn(t *testing.T, p *oidc.Provider, nonce string) oidc.Tokens {
	t.Helper()
	query := make(chan string, 1)
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { query <- r.URL.RawQuery }))
	defer callback.Close()
	redirect, verifier := callback.URL+"/callback", oidc.NewCodeVerifier()
	authURL := p.AuthCodeURL(oidc.AuthRequest{State: oidc.NewState(), Nonce: nonce, Verifier: verifier, RedirectURI: redirect})
	if err := devidp.Login(t.Context(), authURL, "ada", devidp.DefaultPassword); err != nil {
		t.Fatal(err)
	}
	cb, err := oidc.ParseCallback(<-query)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := p.Exchange(t.Context(), cb.Code, verifier, redirect)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

// refreshAndRenew refreshes until the provider's token is of a later second than
// the last one, since iat counts seconds.
func refreshAndRenew(t *testing.T, d *desktop, p *oidc.Provider, tokens *oidc.Tokens, resp *enroll.Response) *enroll.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		next, err := p.Refresh(ctx, tokens.RefreshToken, tokens.Scopes)
		if err != nil {
			t.Fatal(err)
		}
		*tokens = next
		renewed, err := d.f.client.Renew(ctx, d.signed(&enroll.RenewRequest{
			Provider: "corp", IDToken: next.IDToken, Certificate: resp.Chain[0], Challenge: d.challenge(resp),
		}))
		if err == nil {
			return renewed
		}
		if !errors.Is(err, &enroll.Problem{Code: enroll.CodeTokenInvalid}) {
			t.Fatal(err)
		}
	}
}

func TestLoginAndRenewalWithDevIDP(t *testing.T) {
	f, idp, provider := newDevIDP(t)
	d := newDesktop(f)
	tokens := signIn(t, provider, enroll.Nonce(d.spki, d.salt))
	proof, err := enroll.NewDeviceProof(d.device, trustDomain, d.spki)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := f.client.Login(t.Context(), &enroll.LoginRequest{
		Provider: "corp", IDToken: tokens.IDToken, Salt: d.salt, CSR: d.csr, DeviceProof: proof,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := idp.SetGroups("ada", "sales"); err != nil {
		t.Fatal(err)
	}
	renewed := refreshAndRenew(t, d, provider, &tokens, resp)
	before, after := identityNow(t, resp), identityNow(t, renewed)
	if !slices.Equal(before.Groups, []string{"engineering"}) || !slices.Equal(after.Groups, []string{"sales"}) ||
		after.Session != before.Session || after.Device != before.Device || !after.AuthTime.Equal(before.AuthTime) {
		t.Errorf("before\n%+v, after\n%+v", before, after)
	}
	// A user who is disabled at the provider gets no further token.
	if err := idp.Disable("ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := provider.Refresh(t.Context(), tokens.RefreshToken, tokens.Scopes); !errors.Is(err, oidc.ErrRefreshRefused) {
		t.Errorf("refresh of a disabled user: %v", err)
	}
}

func identityNow(t *testing.T, resp *enroll.Response) auth.Identity {
	t.Helper()
	id, err := auth.FromCertificate(leafOf(t, resp), trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDeviceLoginWithDevIDP(t *testing.T) {
	f, _, _ := newDevIDP(t)
	d := newDesktop(f)
	started, err := f.client.DeviceStart(t.Context(), d.deviceRequest())
	if err != nil {
		t.Fatal(err)
	}
	if err := (devidp.Browser{}).ConfirmDevice(t.Context(), started.VerificationURI, started.UserCode, "ada", devidp.DefaultPassword, true); err != nil {
		t.Fatal(err)
	}
	poll := &enroll.DevicePollRequest{ID: started.ID}
	if err := poll.Sign(d.key); err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		resp, _, err := f.client.DevicePoll(t.Context(), poll)
		if err != nil {
			t.Fatal(err)
		}
		if resp == nil {
			<-ticker.C // the gateway holds the interval, of seconds
			continue
		}
		if id := identityNow(t, resp); id.Login != auth.LoginDevice || resp.RefreshToken == "" {
			t.Errorf("%+v", id)
		}
		return
	}
}
