package devidp_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a provider on a loopback port, and our two views of it.
type running struct {
	*devidp.Provider
	client   *oidc.Provider // the desktop's
	verifier *oidc.Verifier // the gateway's
	http     *http.Client
	callback *url.URL // what came to the redirect URI last
	redirect string
}

func start(t *testing.T, config devidp.Config, adjust func(*oidc.ProviderConfig)) *running {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	config.Listener, config.Logger = server.Listener, testenv.Logger(t)
	idp, err := devidp.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = idp
	server.Start()
	t.Cleanup(server.Close)
	r := &running{Provider: idp}
	settings, err := idp.ClientConfig("corp", "culvert")
	if err != nil {
		t.Fatal(err)
	}
	if adjust != nil {
		adjust(&settings)
	}
	r.http = oidc.NewHTTPClient(idp.Issuer(), oidc.HTTPOptions{})
	t.Cleanup(r.http.CloseIdleConnections)
	opts := oidc.Options{HTTPClient: r.http}
	if r.client, err = oidc.Discover(t.Context(), settings.ClientSettings(), opts); err != nil {
		t.Fatal(err)
	}
	if r.verifier, err = oidc.NewVerifier(settings, opts); err != nil {
		t.Fatal(err)
	}
	desktop := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { r.callback = req.URL }))
	t.Cleanup(desktop.Close)
	r.redirect = desktop.URL + "/callback"
	return r
}

// code logs account in and returns the code, after the checks that a client makes.
func (r *running) code(t *testing.T, account, nonce string, verifier oidc.Secret) string {
	t.Helper()
	address := r.client.AuthCodeURL(oidc.AuthRequest{State: "state-1", Nonce: nonce, Verifier: verifier, RedirectURI: r.redirect})
	if err := devidp.Login(t.Context(), address, account, devidp.DefaultPassword); err != nil {
		t.Fatal(err)
	}
	cb, err := oidc.ParseCallback(r.callback.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	if cb.State != "state-1" || cb.Err != nil {
		t.Fatalf("callback %+v", cb)
	}
	if err := r.client.CheckCallback(cb); err != nil || cb.Iss == "" {
		t.Fatalf("iss %q: %v", cb.Iss, err)
	}
	return cb.Code
}

func (r *running) login(t *testing.T, account string) oidc.Tokens {
	t.Helper()
	verifier := oidc.NewCodeVerifier()
	tokens, err := r.client.Exchange(t.Context(), r.code(t, account, "nonce-1", verifier), verifier, r.redirect)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func shown(tokens oidc.Tokens) oidc.Presented {
	return oidc.Presented{IDToken: tokens.IDToken, AccessToken: tokens.AccessToken}
}

func TestLoginRefreshAndRenewal(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	tokens := r.login(t, "ada")
	claims, err := r.verifier.VerifyLogin(t.Context(), shown(tokens), "nonce-1")
	if err != nil {
		t.Fatal(err)
	}
	if claims.Subject == "ada" || claims.Name != "Ada" || claims.Email != "ada@corp.example" || !claims.EmailTrusted ||
		!claims.GroupsKnown || !slices.Equal(claims.Groups, []string{"engineering"}) || claims.AuthTime.IsZero() {
		t.Fatalf("claims %+v", claims)
	}
	if err := r.SetGroups("ada", "sales", "engineering"); err != nil {
		t.Fatal(err)
	}
	refreshed, err := r.client.Refresh(t.Context(), tokens.RefreshToken, tokens.Scopes)
	if err != nil {
		t.Fatal(err)
	}
	prev := oidc.Previous{Issuer: claims.Issuer, Subject: claims.Subject, Nonce: "nonce-1", IssuedAt: claims.IssuedAt}
	renewed, err := r.verifier.VerifyRenewal(t.Context(), shown(refreshed), prev)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(renewed.Groups, []string{"engineering", "sales"}) || !renewed.AuthTime.Equal(claims.AuthTime) {
		t.Fatalf("renewed %+v", renewed)
	}
	if refreshed.RefreshToken == "" || refreshed.RefreshToken == tokens.RefreshToken {
		t.Fatal("the refresh token was not rotated")
	}
}

func TestRefreshTokenReuseEndsTheLogin(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	tokens := r.login(t, "ada")
	second, err := r.client.Refresh(t.Context(), tokens.RefreshToken, tokens.Scopes)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []oidc.Secret{tokens.RefreshToken, second.RefreshToken} {
		if _, err := r.client.Refresh(t.Context(), token, tokens.Scopes); !errors.Is(err, oidc.ErrRefreshRefused) {
			t.Fatalf("refresh with a used or revoked token: %v", err)
		}
	}
}

func TestDisabledAccountIsRefused(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	tokens := r.login(t, "bob")
	if err := r.Disable("bob"); err != nil {
		t.Fatal(err)
	}
	_, err := r.client.Refresh(t.Context(), tokens.RefreshToken, tokens.Scopes)
	if !errors.Is(err, oidc.ErrRefreshRefused) || errors.Is(err, oidc.ErrUnavailable) {
		t.Fatalf("refresh of a disabled account: %v", err)
	}
	address := r.client.AuthCodeURL(oidc.AuthRequest{State: "s", Nonce: "n", Verifier: oidc.NewCodeVerifier(), RedirectURI: r.redirect})
	if err := devidp.Login(t.Context(), address, "bob", devidp.DefaultPassword); err == nil || !strings.Contains(err.Error(), "disabled") {
		t.Fatalf("login of a disabled account: %v", err)
	}
	if err := r.Enable("bob"); err != nil {
		t.Fatal(err)
	}
	r.login(t, "bob")
	if err := r.Disable("nobody"); err == nil {
		t.Fatal("disabled an account that does not exist")
	}
}

func TestWrongPassword(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	address := r.client.AuthCodeURL(oidc.AuthRequest{State: "s", Nonce: "n", Verifier: oidc.NewCodeVerifier(), RedirectURI: r.redirect})
	for _, account := range []string{"ada", "nobody", `"><script>`} {
		err := devidp.Login(t.Context(), address, account, "wrong")
		if err == nil || !strings.Contains(err.Error(), "wrong account name or password") {
			t.Errorf("%s: %v", account, err)
		}
	}
}

// Class: PKCE downgrade (RFC 7636 section 4.6, RFC 9700 section 2.1.1).
func TestThreatPKCEDowngrade(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	authURL := func(change func(url.Values)) string {
		u, err := url.Parse(r.client.AuthCodeURL(oidc.AuthRequest{State: "s", Nonce: "n", Verifier: oidc.NewCodeVerifier(), RedirectURI: r.redirect}))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		change(q)
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, change := range map[string]func(url.Values){
		"absent": func(q url.Values) { q.Del("code_challenge"); q.Del("code_challenge_method") },
		"plain":  func(q url.Values) { q.Set("code_challenge_method", "plain") },
	} {
		r.callback = nil
		_, _ = devidp.Browser{}.Login(t.Context(), authURL(change), "ada", devidp.DefaultPassword)
		if r.callback == nil {
			t.Fatalf("%s: no answer came", name)
		}
		if cb, err := oidc.ParseCallback(r.callback.RawQuery); err != nil || cb.Err == nil || cb.Code != "" {
			t.Errorf("%s: got a code: %+v, %v", name, cb, err)
		}
	}
	code := r.code(t, "ada", "nonce-1", oidc.NewCodeVerifier())
	for _, verifier := range []oidc.Secret{"", oidc.NewCodeVerifier()} {
		if _, err := r.client.Exchange(t.Context(), code, verifier, r.redirect); err == nil {
			t.Error("a code was redeemed without its verifier")
		}
	}
}

func TestCodeIsRedeemedOnce(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	verifier := oidc.NewCodeVerifier()
	code := r.code(t, "ada", "nonce-1", verifier)
	if _, err := r.client.Exchange(t.Context(), code, verifier, r.redirect); err != nil {
		t.Fatal(err)
	}
	_, err := r.client.Exchange(t.Context(), code, verifier, r.redirect)
	var refused *oidc.ProviderError
	if !errors.As(err, &refused) || refused.Code != "invalid_grant" {
		t.Fatalf("second use of a code: %v", err)
	}
}

func TestRedirectMustBeRegistered(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	for _, redirect := range []string{"https://evil.example/callback", r.redirect + "/more", "http://192.0.2.1/callback"} {
		address := r.client.AuthCodeURL(oidc.AuthRequest{State: "s", Nonce: "n", Verifier: oidc.NewCodeVerifier(), RedirectURI: redirect})
		page, err := devidp.Browser{}.Login(t.Context(), address, "ada", devidp.DefaultPassword)
		if err == nil || page.Status != http.StatusBadRequest || !strings.HasPrefix(page.URL.String(), r.Issuer()) {
			t.Errorf("%s: %v, %+v", redirect, err, page)
		}
	}
}

func TestDeviceLogin(t *testing.T) {
	r := start(t, devidp.Config{Lifetimes: devidp.Lifetimes{DeviceInterval: 1}}, nil)
	for _, allow := range []bool{true, false} {
		d, err := r.client.StartDevice(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.client.PollDevice(t.Context(), d.DeviceCode); !errors.Is(err, oidc.ErrPending) {
			t.Fatalf("poll before the confirmation: %v", err)
		}
		if err := (devidp.Browser{}).ConfirmDevice(t.Context(), d.VerificationURI, strings.ToLower(d.UserCode), "ada", devidp.DefaultPassword, allow); err != nil {
			t.Fatal(err)
		}
		tokens, err := r.client.PollDevice(t.Context(), d.DeviceCode)
		if !allow {
			if !errors.Is(err, oidc.ErrDeviceDenied) {
				t.Fatalf("poll after a refusal: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		claims, err := r.verifier.VerifyDevice(t.Context(), shown(tokens))
		if err != nil || claims.Name != "Ada" || tokens.RefreshToken == "" {
			t.Fatalf("%+v, %v", claims, err)
		}
		if _, err := r.client.PollDevice(t.Context(), d.DeviceCode); err == nil {
			t.Fatal("a device code was redeemed twice")
		}
	}
}

func TestDevicePollTooFast(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	d, err := r.client.StartDevice(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	for range 2 {
		_, err := r.client.PollDevice(t.Context(), d.DeviceCode)
		errs = append(errs, err)
	}
	if !errors.Is(errs[0], oidc.ErrPending) || !errors.Is(errs[1], oidc.ErrSlowDown) {
		t.Fatalf("polls: %v", errs)
	}
}

func TestGroupsOnlyInUserInfo(t *testing.T) {
	file := devidp.Defaults()
	file.Clients[0].UserInfoOnly = true
	r := start(t, devidp.Config{Clients: file.Clients}, nil)
	tokens := r.login(t, "ada")
	claims, err := r.verifier.VerifyLogin(t.Context(), shown(tokens), "nonce-1")
	if err != nil {
		t.Fatal(err)
	}
	if !claims.GroupsKnown || !slices.Equal(claims.Groups, []string{"engineering"}) || !claims.EmailTrusted || claims.Name != "Ada" {
		t.Fatalf("claims %+v", claims)
	}
	other := r.login(t, "bob")
	_, err = r.verifier.VerifyLogin(t.Context(), oidc.Presented{IDToken: tokens.IDToken, AccessToken: other.AccessToken}, "nonce-1")
	var refused *oidc.TokenError
	if !errors.As(err, &refused) {
		t.Fatalf("another person's access token: %v", err)
	}
}

func TestRenewalByIntrospection(t *testing.T) {
	file := devidp.Defaults()
	file.Clients[0].Secret = "s3cret"
	r := start(t, devidp.Config{Clients: file.Clients}, func(c *oidc.ProviderConfig) { c.RefreshIdentity = oidc.RefreshIntrospect })
	tokens := r.login(t, "ada")
	claims, err := r.verifier.VerifyLogin(t.Context(), shown(tokens), "nonce-1")
	if err != nil {
		t.Fatal(err)
	}
	prev := oidc.Previous{Issuer: claims.Issuer, Subject: claims.Subject}
	renewed, err := r.verifier.VerifyRenewal(t.Context(), shown(tokens), prev)
	if err != nil || !slices.Equal(renewed.Groups, []string{"engineering"}) {
		t.Fatalf("%+v, %v", renewed, err)
	}
	if err := r.Disable("ada"); err != nil {
		t.Fatal(err)
	}
	var refused *oidc.TokenError
	if _, err := r.verifier.VerifyRenewal(t.Context(), shown(tokens), prev); !errors.As(err, &refused) || refused.Code != "inactive" {
		t.Fatalf("renewal of a disabled account: %v", err)
	}
}

func TestPagesAreStrict(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	for _, path := range []string{"/", "/login?id=%3Cscript%3E", "/device?user_code=%22%3E%3Cscript%3E", "/style.css"} {
		resp, err := r.http.Get(r.Issuer() + path)
		if err != nil {
			t.Fatal(err)
		}
		var body strings.Builder
		_ = resp.Write(&body)
		if strings.Contains(body.String(), "<script>") || strings.HasSuffix(path, ".css") && resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d\n%s", path, resp.StatusCode, body.String())
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasSuffix(path, ".css") && !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}

func TestDiscoverySaysWhatIsTrue(t *testing.T) {
	r := start(t, devidp.Config{}, nil)
	resp, err := r.http.Get(r.Issuer() + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	var body strings.Builder
	_ = resp.Write(&body)
	for _, want := range []string{`"authorization_response_iss_parameter_supported":true`, `"code_challenge_methods_supported":["S256"]`,
		`"response_types_supported":["code"]`, `"issuer":"` + r.Issuer() + `"`} {
		if !strings.Contains(body.String(), want) {
			t.Errorf("no %s in %s", want, body.String())
		}
	}
}

func TestParseFile(t *testing.T) {
	if f := devidp.Defaults(); len(f.Accounts) != 3 || len(f.Clients) != 1 {
		t.Fatalf("the embedded defaults do not parse: %+v", f)
	}
	_, err := devidp.ParseFile("a.yaml", []byte("accounts:\n  - name: ada\n    pasword: x\n"))
	if err == nil || !strings.Contains(err.Error(), "a.yaml:3") {
		t.Fatalf("a misspelt key: %v", err)
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	account := devidp.Account{Name: "ada", Password: "x"}
	for name, config := range map[string]devidp.Config{
		"no issuer":       {},
		"account twice":   {Issuer: "http://127.0.0.1:1", Accounts: []devidp.Account{account, account}},
		"no password":     {Issuer: "http://127.0.0.1:1", Accounts: []devidp.Account{{Name: "ada"}}},
		"colon":           {Issuer: "http://127.0.0.1:1", Accounts: []devidp.Account{{Name: "ada", Password: "x", Subject: "a:b"}}},
		"client twice":    {Issuer: "http://127.0.0.1:1", Clients: []devidp.Client{{ID: "a"}, {ID: "a"}}},
		"public and http": {Issuer: "ftp://idp.example"},
	} {
		if _, err := devidp.New(config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestRun(t *testing.T) {
	if err := devidp.Run(t.Context(), []string{"--listen", "0.0.0.0:0"}, t.Output()); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Fatalf("listening to the world: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	out := &banner{cancel: cancel}
	if err := devidp.Run(ctx, []string{"--listen", "127.0.0.1:0"}, out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "WARNING") || !strings.Contains(text, "http://127.0.0.1:") {
		t.Fatalf("banner %q", text)
	}
}

// banner stops the command once it has introduced itself.
type banner struct {
	strings.Builder
	cancel func()
}

func (b *banner) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "password of each") {
		defer b.cancel()
	}
	return b.Builder.Write(p)
}
