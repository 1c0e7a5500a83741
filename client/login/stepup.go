package login

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

// StepUpRequest says for which session a fresh login is wanted, and how the person is asked.
type StepUpRequest struct {
	// Gateway is the gateway's enrolment API. Required.
	Gateway     *enroll.Client
	TrustDomain auth.TrustDomain
	// Provider is that of the session's login.
	Provider Provider
	// Key is the session's. Required.
	Key *ecdsa.PrivateKey
	// ACR are the classes of login of which one is needed. Optional.
	ACR []string
	// For is what the login is for, in words. Optional.
	For string
	// Hold is called once, when the person has come back and before the provider's code is used. It keeps every other renewal of the session
	// away until the caller has stored the result, and returns the session's certificate of now (DER). Required.
	Hold func(ctx context.Context) (certificate []byte, err error)
	// NoBrowser prints the address to open and opens nothing.
	NoBrowser bool
	// LoginHint tells the provider whom to expect. Optional.
	LoginHint string
	// Out is where the person is told what to do. Required.
	Out io.Writer
	// Open opens an address in the browser. Default: the system's browser.
	Open func(address string) error
	// Shown is told the address that is waiting for the person. Optional.
	Shown func(address string)
	// HTTP talks to the provider. Default: oidc.NewHTTPClient.
	HTTP *http.Client
	// Client names this program to the gateway.
	Client enroll.ClientInfo
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// SteppedUp is a fresh login of a session, to be stored.
type SteppedUp struct {
	// Response has the certificate with the new time of login.
	Response *enroll.Response
	// RefreshToken and Granted replace those of the session's login, unless RefreshToken is empty.
	RefreshToken oidc.Secret
	Granted      []string
	Skew         time.Duration
}

// StepUp has the person sign in again in the browser, and exchanges that for a certificate of the same session. It blocks until then; ctx
// ends it. Errors are those of [Login].
func StepUp(ctx context.Context, r StepUpRequest) (*SteppedUp, error) {
	if r.Gateway == nil || r.Key == nil || r.Out == nil || r.Hold == nil {
		return nil, errors.New("step-up: the request lacks gateway, key, output or Hold")
	}
	if r.Open == nil {
		r.Open = openSystemBrowser
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	opts := oidc.Options{HTTPClient: r.HTTP, Now: r.Now}
	if opts.HTTPClient == nil {
		opts.HTTPClient = oidc.NewHTTPClient(r.Provider.Settings.Issuer, oidc.HTTPOptions{})
	}
	defer opts.HTTPClient.CloseIdleConnections()
	provider, err := oidc.Discover(ctx, r.Provider.Settings, opts)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	result, err := r.ask(ctx, provider)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	return result, nil
}

// ask opens one authorization. Its nonce is bound to the key that the session has.
func (r StepUpRequest) ask(ctx context.Context, provider *oidc.Provider) (*SteppedUp, error) {
	spki, err := x509.MarshalPKIXPublicKey(&r.Key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode the session key: %w", err)
	}
	salt, verifier, state := enroll.NewSalt(), oidc.NewCodeVerifier(), oidc.NewState()
	l, err := listen(ctx, r.Provider.Settings.Redirect, state)
	if err != nil {
		return nil, err
	}
	defer l.close()
	address := provider.AuthCodeURL(oidc.AuthRequest{
		State: state, Nonce: enroll.Nonce(spki, salt), Verifier: verifier, RedirectURI: l.redirectURI,
		LoginHint: r.LoginHint, StepUp: true, ACR: r.ACR,
	})
	if r.Shown != nil && CheckURL(address) == nil {
		r.Shown(address)
	}
	person := Request{NoBrowser: r.NoBrowser, Out: r.Out, Open: r.Open, stepUp: true}
	if r.For != "" {
		person.tell("%s\n", clean(r.For))
	}
	person.show(address, l)
	hit, err := l.wait(ctx)
	if err != nil {
		return nil, err
	}
	result, err := r.finish(ctx, provider, hit.callback, verifier, salt, l.redirectURI)
	hit.answer(err)
	return result, err
}

func (r StepUpRequest) finish(ctx context.Context, provider *oidc.Provider, cb oidc.Callback, verifier oidc.Secret, salt []byte, redirectURI string) (*SteppedUp, error) {
	if err := provider.CheckCallback(cb); err != nil {
		return nil, err
	}
	if cb.Err != nil {
		return nil, cb.Err
	}
	certificate, err := r.Hold(ctx)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, fmt.Errorf("parse the session's certificate: %w", err)
	}
	tokens, err := provider.Exchange(ctx, cb.Code, verifier, redirectURI)
	if err != nil {
		return nil, err
	}
	req := &enroll.StepUpRequest{
		Provider: r.Provider.Settings.Name, IDToken: tokens.IDToken, Salt: salt, Certificate: certificate, Client: r.Client,
	}
	if r.Provider.Settings.SendAccessToken {
		req.AccessToken = tokens.AccessToken
	}
	resp, skew, err := attempt(ctx, r.Now, func() (*enroll.Response, error) { return r.send(ctx, leaf, req) })
	if err != nil {
		return nil, err
	}
	return &SteppedUp{Response: resp, RefreshToken: tokens.RefreshToken, Granted: tokens.Scopes, Skew: skew}, nil
}

// send signs and sends. Each try needs a challenge of its own: the first answer may have been lost.
func (r StepUpRequest) send(ctx context.Context, leaf *x509.Certificate, req *enroll.StepUpRequest) (*enroll.Response, error) {
	var err error
	if req.Challenge, err = askChallenge(ctx, r.Gateway, leaf); err != nil {
		return nil, err
	}
	if err := req.Sign(r.Key); err != nil {
		return nil, err
	}
	resp, err := r.Gateway.StepUp(ctx, req)
	if err != nil {
		return nil, err
	}
	return resp, checkResponse(resp, r.TrustDomain, &r.Key.PublicKey)
}
