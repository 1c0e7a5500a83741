package login

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

// byBrowser is the authorization code flow. When the gateway says that the person signed in too long ago for a
// session, the provider is asked once more, for a fresh login.
func (r Request) byBrowser(ctx context.Context, result *Result) error {
	opts := oidc.Options{HTTPClient: r.HTTP, Now: r.Now}
	if opts.HTTPClient == nil {
		opts.HTTPClient = oidc.NewHTTPClient(result.Provider.Settings.Issuer, oidc.HTTPOptions{})
	}
	defer opts.HTTPClient.CloseIdleConnections()
	provider, err := oidc.Discover(ctx, result.Provider.Settings, opts)
	if err != nil {
		return err
	}
	err = r.oneBrowserLogin(ctx, provider, result, false)
	if errors.Is(err, &enroll.Problem{Code: enroll.CodeLoginTooOld}) {
		r.tell("The provider remembers a login that is too old. Sign in again.\n")
		err = r.oneBrowserLogin(ctx, provider, result, true)
	}
	return err
}

func (r Request) oneBrowserLogin(ctx context.Context, provider *oidc.Provider, result *Result, fresh bool) error {
	spki, err := x509.MarshalPKIXPublicKey(&r.Key.PublicKey)
	if err != nil {
		return fmt.Errorf("encode the session key: %w", err)
	}
	salt, verifier, state := enroll.NewSalt(), oidc.NewCodeVerifier(), oidc.NewState()
	l, err := listen(ctx, result.Provider.Settings.Redirect, state)
	if err != nil {
		return err
	}
	defer l.close()
	r.show(provider.AuthCodeURL(oidc.AuthRequest{
		State: state, Nonce: enroll.Nonce(spki, salt), Verifier: verifier, RedirectURI: l.redirectURI,
		LoginHint: r.LoginHint, StepUp: fresh,
		// Half of a session: a login that is older would leave little of it.
		MaxAge: time.Duration(result.Discovery.SessionTTL) * time.Second / 2,
	}), l)
	hit, err := l.wait(ctx)
	if err != nil {
		return err
	}
	err = r.finish(ctx, provider, result, hit.callback, verifier, salt, l.redirectURI)
	hit.answer(err)
	return err
}

// finish turns the callback into a certificate. Nothing is sent to the provider before the callback is known to
// be the provider's own.
func (r Request) finish(ctx context.Context, provider *oidc.Provider, result *Result, cb oidc.Callback, verifier oidc.Secret, salt []byte, redirectURI string) error {
	if err := provider.CheckCallback(cb); err != nil {
		return err
	}
	if cb.Err != nil {
		return cb.Err
	}
	tokens, err := provider.Exchange(ctx, cb.Code, verifier, redirectURI)
	if err != nil {
		return err
	}
	resp, skew, err := r.enrol(ctx, result.Discovery, tokens, provider.Settings(), salt)
	if err != nil {
		return err
	}
	result.Response, result.Skew = resp, skew
	result.RefreshToken, result.Provider.Granted = tokens.RefreshToken, tokens.Scopes
	return nil
}

// show tells the person where to go, and opens the browser unless that was declined. The address stands alone on
// its line, so that any program can drive the login.
func (r Request) show(address string, l *listener) {
	if r.NoBrowser {
		r.tell("Open this address to log in:\n%s\n", address)
		r.tell("%s", l.remoteHint(r.stepUp))
		return
	}
	if err := CheckURL(address); err != nil {
		r.tell("Not opening the browser: %v\n", err)
		return
	}
	r.tell("Opening the browser to log in. If it does not open, use this address:\n%s\n", address)
	if err := r.Open(address); err != nil {
		instead := ", or use --device-code"
		if r.stepUp {
			instead = ""
		}
		r.tell("The browser could not be opened (%s). Open the address yourself%s.\n%s", clean(err.Error()), instead, l.remoteHint(r.stepUp))
	}
}

func (r Request) tell(format string, args ...any) { fmt.Fprintf(r.Out, format, args...) }
