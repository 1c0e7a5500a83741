package login

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

// RenewRequest is what a renewal needs. The caller holds the profile's refresh lock throughout, so that no two
// processes use one refresh token.
type RenewRequest struct {
	// Gateway is the gateway's enrolment API. Required.
	Gateway *enroll.Client
	// TrustDomain is the pinned one. Required.
	TrustDomain auth.TrustDomain
	// Provider is that of the login. Required.
	Provider Provider
	// RefreshToken is the newest. Empty: the renewal is refused.
	RefreshToken oidc.Secret
	// Key and Certificate (DER of the leaf) are the session's. Required.
	Key         *ecdsa.PrivateKey
	Certificate []byte
	// Save stores a new refresh token and the scopes that came with it. When it returns nil they must survive a
	// crash: only then are they used, because the provider has already forgotten the old token. It is called with the
	// old token first: a disk that is full, or a keyring that is locked, is found out while that one is still good.
	// Required.
	Save func(ctx context.Context, token oidc.Secret, granted []string) error
	// Client names this program to the gateway.
	Client enroll.ClientInfo
	// HTTP talks to the provider. Default: oidc.NewHTTPClient.
	HTTP *http.Client
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Renewed is a renewed certificate. The refresh token went to Save.
type Renewed struct {
	Response *enroll.Response
	Skew     time.Duration
}

// Refused says that a session is renewed no more: only a login helps. Every other error of [Renew] may pass.
type Refused struct {
	// Reason is a sentence for people; Remedy and Reference are the gateway's, if it refused.
	Reason, Remedy, Reference string
	// Locked: an administrator ended it, so that a login may not help either.
	Locked bool
	Err    error
}

func (e *Refused) Error() string { return e.Reason }
func (e *Refused) Unwrap() error { return e.Err }

// Renew refreshes the tokens at the provider and exchanges them for the next certificate of the session. The
// gateway is asked for its challenge first: when it is away, no refresh token is used up.
func Renew(ctx context.Context, r RenewRequest) (*Renewed, error) {
	if r.Gateway == nil || r.Key == nil || r.Save == nil {
		return nil, errors.New("renew: the request lacks gateway, key or Save")
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.Provider.Settings.RefreshIdentity == oidc.RefreshReauth {
		return nil, &Refused{Reason: "the provider does not renew logins", Err: oidc.ErrReauth}
	}
	if r.RefreshToken == "" {
		return nil, &Refused{Reason: "the provider gave no refresh token at the login (is the scope offline_access granted?)"}
	}
	leaf, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return nil, fmt.Errorf("parse the certificate to renew: %w", err)
	}
	challenge, err := askChallenge(ctx, r.Gateway, leaf)
	if err != nil {
		return nil, refusedByGateway(err)
	}
	if err := r.Save(ctx, r.RefreshToken, r.Provider.Granted); err != nil {
		return nil, fmt.Errorf("store the refresh token: %w", err)
	}
	tokens, err := r.refresh(ctx)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return r.exchange(ctx, leaf, challenge, tokens)
}

func askChallenge(ctx context.Context, gateway *enroll.Client, leaf *x509.Certificate) ([]byte, error) {
	reply, err := gateway.Challenge(ctx, &enroll.ChallengeRequest{Serial: auth.SerialOf(leaf)})
	if err != nil {
		return nil, err
	}
	return reply.Challenge, nil
}

// redeemTimeout bounds the exchange of the refresh token, which goes on when the program is told to stop.
const redeemTimeout = 15 * time.Second

// refresh gets new tokens, and has a new refresh token stored before anything else happens.
func (r RenewRequest) refresh(ctx context.Context) (oidc.Tokens, error) {
	opts := oidc.Options{HTTPClient: r.HTTP, Now: r.Now}
	if opts.HTTPClient == nil {
		opts.HTTPClient = oidc.NewHTTPClient(r.Provider.Settings.Issuer, oidc.HTTPOptions{})
	}
	defer opts.HTTPClient.CloseIdleConnections()
	provider, err := oidc.Discover(ctx, r.Provider.Settings, opts)
	if err != nil {
		return oidc.Tokens{}, err
	}
	if ctx.Err() != nil {
		return oidc.Tokens{}, context.Cause(ctx)
	}
	// From here on not under ctx: once the provider has the old token it may be gone, and even an interrupted renewal
	// must wait for the new one and store it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), redeemTimeout)
	defer cancel()
	tokens, err := provider.Refresh(ctx, r.RefreshToken, r.Provider.Granted)
	if errors.Is(err, oidc.ErrRefreshRefused) {
		return oidc.Tokens{}, &Refused{Reason: err.Error(), Err: err}
	}
	if err != nil {
		return oidc.Tokens{}, err
	}
	if tokens.RefreshToken != "" && tokens.RefreshToken != r.RefreshToken || !slices.Equal(tokens.Scopes, r.Provider.Granted) {
		next := tokens.RefreshToken
		if next == "" {
			next = r.RefreshToken
		}
		if err := r.Save(context.WithoutCancel(ctx), next, tokens.Scopes); err != nil {
			return oidc.Tokens{}, fmt.Errorf("store the new refresh token: %w", err)
		}
	}
	return tokens, nil
}

func (r RenewRequest) exchange(ctx context.Context, leaf *x509.Certificate, challenge []byte, tokens oidc.Tokens) (*Renewed, error) {
	settings := r.Provider.Settings
	req := &enroll.RenewRequest{Provider: settings.Name, Certificate: leaf.Raw, Challenge: challenge, Client: r.Client}
	switch {
	case settings.RefreshIdentity != oidc.RefreshIDToken:
	case tokens.IDToken == "":
		return nil, &Refused{Reason: "the provider sent no ID token at the refresh; the gateway's refresh_identity must be introspect, userinfo or reauth for it"}
	default:
		req.IDToken = tokens.IDToken
	}
	if settings.SendAccessToken {
		req.AccessToken = tokens.AccessToken
	}
	resp, skew, err := attempt(ctx, r.Now, func() (*enroll.Response, error) { return r.send(ctx, leaf, req) })
	if err != nil {
		return nil, refusedByGateway(err)
	}
	return &Renewed{Response: resp, Skew: skew}, nil
}

// send signs and sends a renewal. Each try needs a challenge of its own: the first answer may have been lost.
func (r RenewRequest) send(ctx context.Context, leaf *x509.Certificate, req *enroll.RenewRequest) (*enroll.Response, error) {
	if req.Challenge == nil {
		var err error
		if req.Challenge, err = askChallenge(ctx, r.Gateway, leaf); err != nil {
			return nil, err
		}
	}
	err := req.Sign(r.Key)
	var resp *enroll.Response
	if err == nil {
		resp, err = r.Gateway.Renew(ctx, req)
	}
	req.Challenge = nil
	if err != nil {
		return nil, err
	}
	return resp, checkResponse(resp, r.TrustDomain, &r.Key.PublicKey)
}

// passing are refusals of a gateway that another try can overcome although they are no server errors.
var passing = []enroll.Code{enroll.CodeChallengeInvalid, enroll.CodeForeignAnswer, enroll.CodeNotFound, enroll.CodeMethodNotAllowed}

// refusedByGateway makes a final answer of the gateway a *Refused. What came from a proxy or a captive portal,
// and what the gateway calls temporary, stays as it is.
func refusedByGateway(err error) error {
	var problem *enroll.Problem
	if !errors.As(err, &problem) || problem.Temporary() || slices.Contains(passing, problem.Code) {
		return err
	}
	return &Refused{
		Reason: problem.Error(), Remedy: problem.Remedy, Reference: problem.Reference,
		Locked: problem.Code == enroll.CodeLocked, Err: err,
	}
}
