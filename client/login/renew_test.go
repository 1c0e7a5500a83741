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
		if token != result.RefreshToken {
			cancel()
		}
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

// A disk that takes nothing is found out while the old refresh token is still good.
func TestFaultDiskFullBeforeTheRefreshTokenIsUsed(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	full, before := errors.New("disk full"), exchanges()
	request := renewal(r, g, result, nil)
	request.Save = func(context.Context, oidc.Secret, []string) error { return full }
	if _, err := Renew(t.Context(), request); !errors.Is(err, full) {
		t.Errorf("%v, want the disk's error", err)
	}
	if exchanges() != before {
		t.Error("the refresh token was used up, and what came for it could not be stored")
	}
}

// A program that is stopped while the provider answers still stores the new refresh token: the old one is gone.
func TestFaultStoppedWhileTheProviderAnswers(t *testing.T) {
	_, config, exchanges := startIDP(t)
	g := newGateway(t, config)
	r, result := login(t, g, "ada")
	before := exchanges()
	ctx, cancel := context.WithCancel(t.Context())
	stored := result.RefreshToken
	request := renewal(r, g, result, func(token oidc.Secret) { stored = token })
	request.HTTP = &http.Client{Transport: stopper{exchanges, before, cancel}}
	if _, err := Renew(ctx, request); !errors.Is(err, context.Canceled) || exchanges() != before+1 {
		t.Fatalf("%v, %d exchanges", err, exchanges()-before)
	}
	if stored == result.RefreshToken {
		t.Fatal("the new refresh token is lost")
	}
	request = renewal(r, g, result, func(oidc.Secret) {})
	request.RefreshToken = stored
	if _, err := Renew(t.Context(), request); err != nil {
		t.Errorf("the next renewal: %v", err)
	}
}

// stopper cancels when the provider has exchanged the token and its answer is on the way.
type stopper struct {
	exchanges func() int
	before    int
	cancel    context.CancelFunc
}

func (s stopper) RoundTrip(r *http.Request) (*http.Response, error) {
	reply, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || s.exchanges() == s.before {
		return reply, err
	}
	s.cancel()
	if err := r.Context().Err(); err != nil {
		_ = reply.Body.Close()
		return nil, err
	}
	return reply, nil
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
