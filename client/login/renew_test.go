package login

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

func renewal(r Request, g *gateway, result *Result, save func(oidc.Secret)) RenewRequest {
	return RenewRequest{
		Gateway: g.client(), TrustDomain: "corp.example", Provider: result.Provider, RefreshToken: result.RefreshToken, Key: r.Key,
		Certificate: result.Response.Chain[0],
		Save:        func(_ context.Context, token oidc.Secret, _ []string) error { save(token); return nil },
	}
}

func TestWhatEndsRenewal(t *testing.T) {
	_, config, exchanges := startIDP(t)
	for name, test := range map[string]struct {
		status  int
		code    enroll.Code
		final   bool
		locked  bool
		refresh bool // the refresh token was used
	}{
		"locked":         {http.StatusForbidden, enroll.CodeLocked, true, true, false},
		"expired":        {http.StatusForbidden, enroll.CodeExpired, true, false, false},
		"unknown":        {http.StatusNotFound, enroll.CodeCertificateUnknown, true, false, false},
		"another server": {http.StatusNotFound, enroll.CodeForeignAnswer, false, false, false},
		"store":          {http.StatusServiceUnavailable, enroll.CodeStoreUnavailable, false, false, false},
		"rate":           {http.StatusTooManyRequests, enroll.CodeRateLimited, false, false, false},
	} {
		g := newGateway(t, config)
		r, result := login(t, g, "ada")
		before := exchanges()
		g.fail = []*enroll.Problem{refusal(test.status, test.code, "no")}
		_, err := Renew(t.Context(), renewal(r, g, result, func(oidc.Secret) { t.Errorf("%s: a token was used", name) }))
		var refused *Refused
		if errors.As(err, &refused) != test.final || err == nil || refused != nil && refused.Locked != test.locked {
			t.Errorf("%s: %v", name, err)
		}
		if exchanges() != before {
			t.Errorf("%s: the refresh token was used up although the gateway had refused", name)
		}
	}
}

func TestTheRefreshTokenIsStoredFirst(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	full := errors.New("disk full")
	request := renewal(r, g, result, nil)
	request.Save = func(context.Context, oidc.Secret, []string) error { return full }
	if _, err := Renew(t.Context(), request); !errors.Is(err, full) || g.seen(enroll.PathRenew) != 0 {
		t.Errorf("%v, %d renewals", err, g.seen(enroll.PathRenew))
	}
}

func TestAnInterruptedRenewalStoresTheNewToken(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	ctx, cancel := context.WithCancel(t.Context())
	var stored oidc.Secret
	request := renewal(r, g, result, nil)
	request.Save = func(ctx context.Context, token oidc.Secret, _ []string) error {
		cancel()
		stored = token
		return ctx.Err()
	}
	if _, err := Renew(ctx, request); !errors.Is(err, context.Canceled) || stored == "" {
		t.Fatalf("%v, stored %v", err, stored != "")
	}
	request = renewal(r, g, result, func(oidc.Secret) {})
	request.RefreshToken = stored
	if _, err := Renew(t.Context(), request); err != nil {
		t.Errorf("the next renewal: %v", err)
	}
}

func TestALostRenewalIsSentAgainWithAnotherChallenge(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	before := exchanges()
	g.fail = []*enroll.Problem{nil, refusal(http.StatusServiceUnavailable, enroll.CodeStoreUnavailable, "a blip")}
	if _, err := Renew(t.Context(), renewal(r, g, result, func(oidc.Secret) {})); err != nil {
		t.Fatal(err)
	}
	if g.seen(enroll.PathChallenge) != 2 || g.seen(enroll.PathRenew) != 2 || exchanges() != before+1 {
		t.Errorf("%d challenges, %d renewals, %d refreshes", g.seen(enroll.PathChallenge), g.seen(enroll.PathRenew), exchanges()-before)
	}
}

func TestProviderDownIsNoRefusal(t *testing.T) {
	_, config, _ := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	request := renewal(r, g, result, func(oidc.Secret) {})
	request.HTTP = &http.Client{Transport: deadTransport{}}
	_, err := Renew(t.Context(), request)
	var refused *Refused
	if errors.As(err, &refused) || !errors.Is(err, oidc.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	request.RefreshToken = ""
	if _, err := Renew(t.Context(), request); !errors.As(err, &refused) {
		t.Errorf("without a refresh token: %v", err)
	}
	request.RefreshToken, request.Provider.Settings.RefreshIdentity = "r", oidc.RefreshReauth
	if _, err := Renew(t.Context(), request); !errors.As(err, &refused) || !errors.Is(err, oidc.ErrReauth) {
		t.Errorf("a provider without renewal: %v", err)
	}
}

type deadTransport struct{}

func (deadTransport) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("network is unreachable")
}
