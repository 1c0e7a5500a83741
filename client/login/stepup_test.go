package login

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
)

// stepUpOf is a step-up of the session that result began an hour ago.
func stepUpOf(t *testing.T, g *gateway, r Request, result *Result, p *person) StepUpRequest {
	t.Helper()
	g.mu.Lock()
	g.identity.AuthTime = g.identity.AuthTime.Add(-time.Hour)
	g.mu.Unlock()
	return StepUpRequest{
		Gateway: g.client(), TrustDomain: "corp.example", Provider: result.Provider, Key: r.Key, Out: io.Discard, Open: p.open,
		Hold: func(context.Context) ([]byte, error) { return result.Response.Chain[0], nil },
	}
}

func TestStepUp(t *testing.T) {
	idp, config, exchanges := startIDP(t)
	config.StepUp.ACRValues = "mfa"
	g := newGateway(t, config)
	if err := idp.RememberLogin("ada", 30*time.Minute); err != nil {
		t.Fatal(err)
	}
	r, result := login(t, g, "ada")
	p := &person{t: t, account: "ada"}
	request := stepUpOf(t, g, r, result, p)
	shown, held := "", 0
	request.Shown = func(address string) { shown = address }
	before := exchanges()
	request.Hold = func(context.Context) ([]byte, error) {
		if held++; exchanges() != before {
			t.Error("the code was used before the session was held")
		}
		return result.Response.Chain[0], nil
	}
	stepped, err := StepUp(t.Context(), request)
	p.wait.Wait()
	if err != nil || p.err != nil || p.page.Status != http.StatusOK {
		t.Fatal(err, p.err, p.page)
	}
	leaf, err := x509.ParseCertificate(stepped.Response.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	id, err := auth.FromCertificate(leaf, "corp.example")
	if err != nil || time.Since(id.AuthTime) > time.Minute || id.ACR != "mfa" || id.Session != result.Response.Session {
		t.Errorf("identity %+v, %v", id, err)
	}
	if held != 1 || stepped.RefreshToken == "" || stepped.RefreshToken == result.RefreshToken || len(stepped.Granted) == 0 {
		t.Errorf("held %d times, refresh token %v, scopes %q", held, stepped.RefreshToken != "", stepped.Granted)
	}
	for _, part := range []string{"prompt=login", "max_age=0", "acr_values=mfa"} {
		if !strings.Contains(shown, part) {
			t.Errorf("%s is not in %s", part, shown)
		}
	}
}

// TestThreatStepUpOfAnotherPerson: somebody else's login at the desktop is not taken for the session's person, and leaves nothing behind.
func TestThreatStepUpOfAnotherPerson(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	p := &person{t: t, account: "bob"}
	stepped, err := StepUp(t.Context(), stepUpOf(t, g, r, result, p))
	p.wait.Wait()
	if stepped != nil || !errors.Is(err, &enroll.Problem{Code: enroll.CodeTokenInvalid}) {
		t.Errorf("%+v, %v", stepped, err)
	}
	if !strings.Contains(p.page.Body, "refused the login") {
		t.Errorf("the person reads %q", p.page.Body)
	}
}

func TestStepUpDeclined(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	p := &person{t: t, visit: func(address string) (devidp.Page, error) { return devidp.Browser{}.Cancel(t.Context(), address) }}
	_, err := StepUp(t.Context(), stepUpOf(t, g, r, result, p))
	p.wait.Wait()
	var refused *oidc.ProviderError
	if !errors.As(err, &refused) || refused.Code != "access_denied" {
		t.Errorf("declined: %v", err)
	}
	if g.seen(enroll.PathStepUp) != 0 {
		t.Error("the gateway was asked")
	}
}

func TestStepUpGivenUp(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	request := stepUpOf(t, g, r, result, &person{t: t})
	request.Open = func(string) error { cancel(enough); return nil }
	if _, err := StepUp(ctx, request); !errors.Is(err, enough) {
		t.Errorf("given up: %v", err)
	}
}

func TestStepUpAnswerLost(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	p := &person{t: t, account: "ada"}
	g.mu.Lock()
	g.fail = []*enroll.Problem{nil, refusal(http.StatusServiceUnavailable, enroll.CodeUnavailable, "busy")}
	g.mu.Unlock()
	if _, err := StepUp(t.Context(), stepUpOf(t, g, r, result, p)); err != nil {
		t.Error(err)
	}
	p.wait.Wait()
	if g.seen(enroll.PathChallenge) != 2 || g.seen(enroll.PathStepUp) != 2 {
		t.Errorf("%d challenges, %d step-ups", g.seen(enroll.PathChallenge), g.seen(enroll.PathStepUp))
	}
}
