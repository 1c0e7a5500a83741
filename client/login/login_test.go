package login

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
)

// person opens addresses as somebody at a browser would, in the background, and keeps the last page.
type person struct {
	t       *testing.T
	account string
	visit   func(address string) (devidp.Page, error) // nil: log in as account
	wait    sync.WaitGroup
	page    devidp.Page
	err     error
}

func (p *person) open(address string) error {
	visit := p.visit
	if visit == nil {
		visit = func(address string) (devidp.Page, error) {
			return devidp.Browser{}.Login(p.t.Context(), address, p.account, devidp.DefaultPassword)
		}
	}
	p.wait.Go(func() { p.page, p.err = visit(address) })
	return nil
}

func request(t *testing.T, g *gateway, p *person) Request {
	return Request{Gateway: g.client(), Key: newKey(t), Device: newKey(t), Out: io.Discard, Open: p.open, Timeout: 20 * time.Second}
}

func login(t *testing.T, g *gateway, account string) (Request, *Result) {
	t.Helper()
	p := &person{t: t, account: account}
	r := request(t, g, p)
	result, err := Login(t.Context(), r)
	p.wait.Wait()
	if err != nil || p.err != nil {
		t.Fatal(err, p.err)
	}
	if p.page.Status != http.StatusOK || !strings.Contains(p.page.Body, "You are logged in") {
		t.Fatalf("the last page: %+v", p.page)
	}
	return r, result
}

func TestLoginAndRenewal(t *testing.T) {
	idp, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	leaf, err := x509.ParseCertificate(result.Response.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	id, err := auth.FromCertificate(leaf, "corp.example")
	if err != nil || id.Name != "Ada" || !slices.Equal(id.Groups, []string{"engineering"}) || id.Login != auth.LoginBrowser {
		t.Fatalf("%+v, %v", id, err)
	}
	if result.Skew < 8*time.Minute || result.Skew > 10*time.Minute {
		t.Errorf("the gateway is 9 min ahead; measured %s", result.Skew)
	}
	if err := idp.SetGroups("ada", "sales"); err != nil {
		t.Fatal(err)
	}
	stored, err := result.Provider.JSON()
	if err != nil {
		t.Fatal(err)
	}
	provider, err := ParseProvider(stored)
	if err != nil {
		t.Fatal(err)
	}
	token := result.RefreshToken
	renewal := RenewRequest{
		Gateway: g.client(), TrustDomain: "corp.example", Provider: provider, RefreshToken: token, Key: r.Key, Certificate: leaf.Raw,
		Save: func(_ context.Context, next oidc.Secret, granted []string) error {
			if next != token && g.seen(enroll.PathRenew) > 0 {
				t.Error("the new refresh token was used before it was stored")
			}
			token, provider.Granted = next, granted
			return nil
		},
	}
	renewed, err := Renew(t.Context(), renewal)
	if err != nil {
		t.Fatal(err)
	}
	if token == result.RefreshToken || renewed.Response.Session != result.Response.Session {
		t.Errorf("token rotated: %v, session %s", token != result.RefreshToken, renewed.Response.Session)
	}
	if next, _ := x509.ParseCertificate(renewed.Response.Chain[0]); next.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
		t.Error("the same certificate came back")
	}
	if !slices.Equal(g.identity.Groups, []string{"sales"}) {
		t.Errorf("groups after the renewal: %q", g.identity.Groups)
	}
	if err := idp.Disable("ada"); err != nil {
		t.Fatal(err)
	}
	renewal.RefreshToken = token
	var refused *Refused
	if _, err := Renew(t.Context(), renewal); !errors.As(err, &refused) || refused.Locked || !errors.Is(err, oidc.ErrRefreshRefused) {
		t.Errorf("renewal of a disabled person: %v", err)
	}
}

func TestNoBrowserPrintsTheAddressAlone(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	out := &lines{found: make(chan string, 1)}
	r := request(t, g, &person{t: t})
	r.NoBrowser, r.Out = true, out
	r.Open = func(string) error { t.Error("a browser was opened"); return nil }
	failed := make(chan error, 1)
	go func() { failed <- devidp.Login(t.Context(), <-out.found, "bob", devidp.DefaultPassword) }()
	if _, err := Login(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// lines finds the first line that is a URL and nothing else.
type lines struct {
	all   bytes.Buffer
	found chan string
}

func (l *lines) Write(p []byte) (int, error) {
	l.all.Write(p)
	for line := range strings.SplitSeq(l.all.String(), "\n") {
		if u, err := url.Parse(line); err == nil && u.Host != "" {
			select {
			case l.found <- line:
			default:
			}
		}
	}
	return len(p), nil
}

func TestABrowserThatDoesNotOpen(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	ctx, cancel := context.WithCancelCause(t.Context())
	var out bytes.Buffer
	r := request(t, g, &person{t: t})
	r.Out = &out
	interrupted := errors.New("interrupted")
	r.Open = func(string) error { cancel(interrupted); return errors.New("no display\x1b[2J") }
	_, err := Login(ctx, r)
	if !errors.Is(err, interrupted) {
		t.Errorf("Ctrl-C: %v", err)
	}
	if !strings.Contains(out.String(), "could not be opened (no display") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("printed %q", out.String())
	}
}

func TestNobodyFinishesTheLogin(t *testing.T) {
	_, config, _ := startIDP(t)
	r := request(t, newGateway(t, config), &person{t: t})
	r.Timeout, r.Open = 200*time.Millisecond, func(string) error { return nil }
	if _, err := Login(t.Context(), r); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v", err)
	}
}

func TestTheProvidersErrorIsShown(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	p := &person{t: t, visit: func(address string) (devidp.Page, error) {
		u, _ := url.Parse(address)
		back := u.Query().Get("redirect_uri") + "?" + url.Values{"error": {"access_denied"},
			"error_description": {"<b>Not</b> you\x1b[2J"}, "state": {u.Query().Get("state")}, "iss": {config.Issuer}}.Encode()
		return fetchPage(t, back)
	}}
	_, err := Login(t.Context(), request(t, g, p))
	p.wait.Wait()
	var refused *oidc.ProviderError
	if !errors.As(err, &refused) || refused.Code != "access_denied" || exchanges() != 0 {
		t.Errorf("%v after %d exchanges", err, exchanges())
	}
	if !strings.Contains(p.page.Body, "access_denied: &lt;b&gt;Not&lt;/b&gt; you") || strings.Contains(p.page.Body, "\x1b") {
		t.Errorf("the page: %s", p.page.Body)
	}
}

func fetchPage(t *testing.T, address string) (devidp.Page, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		return devidp.Page{}, err
	}
	return send(req)
}

func send(req *http.Request) (devidp.Page, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return devidp.Page{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return devidp.Page{URL: resp.Request.URL, Status: resp.StatusCode, Body: string(body)}, err
}

// Class: provider mix-up (RFC 9207): another iss ends the login before anything is sent to the token endpoint.
func TestThreatMixUpBeforeTheTokenRequest(t *testing.T) {
	for name, iss := range map[string]string{"another": "https://evil.example", "absent although promised": ""} {
		_, config, exchanges := startIDP(t)
		p := &person{t: t, visit: func(address string) (devidp.Page, error) {
			q := query(address)
			answer := url.Values{"code": {"stolen"}, "state": {q.Get("state")}}
			if iss != "" {
				answer.Set("iss", iss)
			}
			return fetchPage(t, q.Get("redirect_uri")+"?"+answer.Encode())
		}}
		_, err := Login(t.Context(), request(t, newGateway(t, config), p))
		p.wait.Wait()
		if err == nil || !strings.Contains(err.Error(), "the login is aborted") || exchanges() != 0 {
			t.Errorf("%s: %v after %d exchanges", name, err, exchanges())
		}
	}
}

func query(address string) url.Values {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	return u.Query()
}

// Class: loopback interception (RFC 8252): what does not have the state, comes under another name, or comes
// second, leads to no exchange.
func TestThreatLoopbackInterception(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	var notes []string
	note := func(name string, page devidp.Page, err error, want int) {
		if err != nil || page.Status != want {
			notes = append(notes, fmt.Sprintf("%s: status %d, %v", name, page.Status, err))
		}
	}
	p := &person{t: t, visit: func(address string) (devidp.Page, error) {
		q := query(address)
		back, state := q.Get("redirect_uri"), q.Get("state")
		u, _ := url.Parse(back)
		if u.Hostname() != "127.0.0.1" || u.Port() == "" || len(state) < 43 {
			notes = append(notes, "redirect "+back+", state "+state)
		}
		for name, attack := range map[string]struct {
			query string
			want  int
		}{
			"wrong state": {"code=evil&state=guess", 400}, "no state": {"code=evil", 400}, "empty state": {"code=evil&state=", 400},
			"prefix of the state": {"code=evil&state=" + state[:42], 400}, "state twice": {"code=evil&state=x&state=" + state, 400},
			"upper case": {"code=evil&state=" + strings.ToUpper(state), 400}, "no code": {"state=" + state, 400},
		} {
			page, err := fetchPage(t, back+"?"+attack.query)
			note(name, page, err, attack.want)
		}
		rebound, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, back+"?code=evil&state="+state, nil)
		rebound.Host = "evil.example:" + u.Port()
		page, err := send(rebound)
		note("another Host", page, err, http.StatusMisdirectedRequest)
		posted, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, back+"?code=evil&state="+state, nil)
		page, err = send(posted)
		note("POST", page, err, http.StatusMethodNotAllowed)
		page, err = fetchPage(t, strings.TrimSuffix(back, "/callback")+"/other?code=evil&state="+state)
		note("another path", page, err, http.StatusNotFound)
		if n := exchanges(); n != 0 {
			notes = append(notes, fmt.Sprintf("%d exchanges before the real answer", n))
		}
		return devidp.Browser{}.Login(t.Context(), address, "ada", devidp.DefaultPassword)
	}}
	if _, err := Login(t.Context(), request(t, g, p)); err != nil {
		t.Fatal(err)
	}
	p.wait.Wait()
	if len(notes) > 0 || exchanges() != 1 {
		t.Errorf("%d exchanges\n%s", exchanges(), strings.Join(notes, "\n"))
	}
	if _, err := fetchPage(t, p.page.URL.String()); err == nil {
		t.Error("the listener is still there after the login")
	}
}

func TestTheListenerIsOneShot(t *testing.T) {
	l, err := listen(t.Context(), oidc.Redirect{Host: "127.0.0.1", Path: "/callback"}, "state-1")
	if err != nil {
		t.Fatal(err)
	}
	pages := make(chan devidp.Page, 1)
	go func() {
		page, _ := fetchPage(t, l.redirectURI+"?code=first&state=state-1")
		pages <- page
	}()
	h, err := l.wait(t.Context())
	if err != nil || h.callback.Code != "first" {
		t.Fatalf("%+v, %v", h, err)
	}
	if page, err := fetchPage(t, l.redirectURI+"?code=second&state=state-1"); err != nil || page.Status != http.StatusConflict {
		t.Errorf("the second hit: %+v, %v", page, err)
	}
	h.answer(nil)
	if page := <-pages; page.Status != http.StatusOK {
		t.Errorf("the first hit: %+v", page)
	}
	l.close()
	select {
	case h := <-l.hits:
		t.Errorf("a second callback was handed on: %+v", h)
	default:
	}
}

func TestGuessingEndsTheLogin(t *testing.T) {
	l, err := listen(t.Context(), oidc.Redirect{Host: "127.0.0.1", Path: "/callback"}, "state-1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	for range maxWrongHits {
		if _, err := fetchPage(t, l.redirectURI+"?code=x&state=guess"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "too many wrong answers") {
		t.Error(err)
	}
}

func TestConfiguredPorts(t *testing.T) {
	first, err := listen(t.Context(), oidc.Redirect{Host: "localhost", Path: "/cb"}, "s")
	if err != nil {
		t.Fatal(err)
	}
	defer first.close()
	u, _ := url.Parse(first.redirectURI)
	if u.Hostname() != "localhost" || u.Path != "/cb" {
		t.Errorf("redirect %s", first.redirectURI)
	}
	var port int
	if _, err := fmt.Sscan(u.Port(), &port); err != nil {
		t.Fatal(err)
	}
	_, err = listen(t.Context(), oidc.Redirect{Host: "127.0.0.1", Path: "/cb", Ports: []int{port}}, "s")
	if err == nil || !strings.Contains(err.Error(), "no port") {
		t.Errorf("a taken port: %v", err)
	}
}

func TestEnrolmentIsRetriedWithTheSameKey(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	g.fail = []*enroll.Problem{refusal(http.StatusServiceUnavailable, enroll.CodeStoreUnavailable, "down")}
	login(t, g, "ada")
	if g.seen(enroll.PathLogin) != 2 || exchanges() != 1 {
		t.Errorf("%d enrolments, %d exchanges", g.seen(enroll.PathLogin), exchanges())
	}
}

func TestATooOldLoginIsAskedForAgain(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	g.fail = []*enroll.Problem{refusal(http.StatusForbidden, enroll.CodeLoginTooOld, "13 h ago")}
	var prompts []string
	p := &person{t: t}
	p.visit = func(address string) (devidp.Page, error) {
		prompts = append(prompts, query(address).Get("prompt")+query(address).Get("max_age"))
		return devidp.Browser{}.Login(t.Context(), address, "ada", devidp.DefaultPassword)
	}
	r := request(t, g, p)
	r.Open = func(address string) error { p.wait.Wait(); return p.open(address) }
	if _, err := Login(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	p.wait.Wait()
	if !slices.Equal(prompts, []string{"21600", "login0"}) || exchanges() != 2 {
		t.Errorf("asked with %q, %d exchanges", prompts, exchanges())
	}
}

func TestTheGatewaysRefusalIsShown(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	g.fail = []*enroll.Problem{refusal(http.StatusForbidden, enroll.CodeLocked, "an administrator locked you")}
	p := &person{t: t, account: "ada"}
	_, err := Login(t.Context(), request(t, g, p))
	p.wait.Wait()
	var problem *enroll.Problem
	if !errors.As(err, &problem) || problem.Code != enroll.CodeLocked || !strings.Contains(p.page.Body, "an administrator locked you") {
		t.Errorf("%v\n%s", err, p.page.Body)
	}
}

func TestChoiceOfTheProvider(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	other := config
	other.Name, other.Issuer = "partner", "https://idp.partner.example"
	g.discovery.Providers = append(g.discovery.Providers, other.ClientSettings())
	r := request(t, g, &person{t: t})
	for _, name := range []string{"", "nobody"} {
		r.Provider = name
		var choose *ChooseError
		if _, err := Login(t.Context(), r); !errors.As(err, &choose) || !slices.Equal(choose.Names, []string{"corp", "partner"}) {
			t.Errorf("%q: %v", name, err)
		}
	}
	p := &person{t: t, account: "ada"}
	r = request(t, g, p)
	r.Provider = "corp"
	if _, err := Login(t.Context(), r); err != nil {
		t.Error(err)
	}
	p.wait.Wait()
}

func TestALyingGateway(t *testing.T) {
	_, config, _ := startIDP(t)
	for name, test := range map[string]struct {
		change func(*enroll.Discovery, *Request)
		want   string
	}{
		"no provider":        {func(d *enroll.Discovery, _ *Request) { d.Providers = nil }, "offers no provider"},
		"no trust domain":    {func(d *enroll.Discovery, _ *Request) { d.TrustDomain = "" }, "discovery document"},
		"another domain":     {func(_ *enroll.Discovery, r *Request) { r.TrustDomain = "other.example" }, "is pinned"},
		"plain http issuer":  {func(d *enroll.Discovery, _ *Request) { d.Providers[0].Issuer = "http://idp.example" }, "must use https"},
		"redirect elsewhere": {func(d *enroll.Discovery, _ *Request) { d.Providers[0].Redirect.Host = "0.0.0.0" }, "redirect.host"},
		"request smuggled": {func(d *enroll.Discovery, _ *Request) {
			d.Providers[0].ExtraAuthParams = map[string]string{"request_uri": "x"}
		}, "extra_auth_params"},
		"no device login": {func(d *enroll.Discovery, r *Request) { d.Providers[0].Device = false; r.DeviceCode = true }, "no device login"},
	} {
		g := newGateway(t, config)
		r := request(t, g, &person{t: t})
		r.Open = func(string) error { t.Errorf("%s: a browser was opened", name); return nil }
		test.change(&g.discovery, &r)
		if _, err := Login(t.Context(), r); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkIssuerPlace("https://gw.example", "http://127.0.0.1:9400"); err == nil {
		t.Error("a gateway elsewhere may name a provider on this machine")
	}
}

// Class: nonce of another key: a certificate for another key than ours is refused, whoever asked for it.
func TestThreatCertificateForAnotherKey(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	_, result := login(t, g, "ada")
	if err := checkResponse(result.Response, "corp.example", &newKey(t).PublicKey); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Error(err)
	}
	if err := checkResponse(result.Response, "other.example", &newKey(t).PublicKey); err == nil {
		t.Error("another trust domain was accepted")
	}
}
