package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/login"
)

// stored are the credentials of a profile on disk.
type stored struct {
	cfg Config
}

// Peek implements credentials.
func (s *stored) Peek() (*Login, error) {
	record, err := s.cfg.Profile.Peek()
	if err == nil && !record.LoggedIn() {
		err = certstore.ErrNotLoggedIn
	}
	if err != nil {
		return nil, translate(err)
	}
	return loginOf(record, nil)
}

// Load implements credentials.
func (s *stored) Load(ctx context.Context) (*Login, error) {
	record, err := s.cfg.Profile.Load(ctx)
	if err != nil {
		return nil, translate(err)
	}
	certificate, err := record.Certificate()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	return loginOf(record, certificate)
}

func translate(err error) error {
	if errors.Is(err, certstore.ErrNotLoggedIn) {
		return ErrNotLoggedIn
	}
	return err
}

func loginOf(record certstore.Login, certificate *tls.Certificate) (*Login, error) {
	leaf, err := record.Leaf()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	identity, err := record.Identity()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	roots, err := record.RootPool()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	tunnel, err := tunnelAddress(record)
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	l := &Login{URL: record.Gateway, Tunnel: tunnel, TrustDomain: record.TrustDomain, Roots: roots, Leaf: leaf,
		Identity: identity, Deadline: record.Deadline, Skew: record.ClockSkew}
	if certificate != nil {
		l.Certificate = *certificate
	}
	if l.NoRenewal = noRenewal(record); l.NoRenewal != "" && leaf.NotAfter.Before(l.Deadline) {
		l.Deadline = leaf.NotAfter
	}
	return l, nil
}

// noRenewal says why a login ends with its certificate; it is empty where it is
// renewed.
func noRenewal(record certstore.Login) string {
	var provider login.Provider
	known := json.Unmarshal(record.ProviderSettings, &provider) == nil
	switch {
	case known && provider.Settings.RefreshIdentity == oidc.RefreshReauth:
		return "the provider does not renew logins"
	case record.Renewable:
		return ""
	case known && !slices.Contains(provider.Settings.Scopes, offlineAccess):
		return "the provider gave no refresh token; the gateway's settings for it do not ask for the scope " + offlineAccess
	case known && len(provider.Granted) > 0 && !slices.Contains(provider.Granted, offlineAccess):
		return "the provider gave no refresh token; it did not grant the scope " + offlineAccess
	default:
		return "the provider gave no refresh token"
	}
}

// offlineAccess is the scope that asks for a refresh token (OpenID Connect Core
// 1.0, section 11).
const offlineAccess = "offline_access"

// tunnelAddress is the gateway's own host and port, unless its discovery
// document named another.
func tunnelAddress(record certstore.Login) (string, error) {
	if record.Tunnel != "" {
		return record.Tunnel, nil
	}
	u, err := url.Parse(record.Gateway)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("the gateway's URL %q has no host", record.Gateway)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// ServerTime implements credentials.
func (s *stored) ServerTime(ctx context.Context, _ *Login) (time.Time, error) {
	record, err := s.cfg.Profile.Peek()
	if err != nil {
		return time.Time{}, err
	}
	gateway, done, err := s.gateway(record)
	if err != nil {
		return time.Time{}, err
	}
	defer done()
	d, err := gateway.Discover(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return d.Time, nil
}

// Renew implements credentials. The lock is held from reading the refresh token
// to storing what it was exchanged for: two processes that redeemed one token
// would look like a thief to a provider that rotates them.
func (s *stored) Renew(ctx context.Context, old *Login) (*Login, error) {
	lock, err := s.cfg.Profile.LockRefresh(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for another renewal: %w", err)
	}
	defer lock.Unlock()
	record, err := s.cfg.Profile.Load(ctx)
	if err != nil {
		return nil, translate(err)
	}
	leaf, err := record.Leaf()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	if auth.SerialOf(leaf) == old.Serial() {
		if record, err = s.renewLocked(ctx, record, leaf); err != nil {
			return nil, err
		}
	}
	certificate, err := record.Certificate()
	if err != nil {
		return nil, fmt.Errorf("stored login: %w", err)
	}
	return loginOf(record, certificate)
}

func (s *stored) renewLocked(ctx context.Context, record certstore.Login, leaf *x509.Certificate) (certstore.Login, error) {
	provider, err := login.ParseProvider(record.ProviderSettings)
	if err != nil {
		return record, err
	}
	key, err := record.Key()
	if err != nil {
		return record, fmt.Errorf("stored login: %w", err)
	}
	gateway, done, err := s.gateway(record)
	if err != nil {
		return record, err
	}
	defer done()
	renewed, err := login.Renew(ctx, login.RenewRequest{
		Gateway: gateway, TrustDomain: record.TrustDomain, Provider: provider, Key: key, Certificate: leaf.Raw,
		RefreshToken: oidc.Secret(record.RefreshToken.RevealString()),
		Save: func(ctx context.Context, token oidc.Secret, granted []string) error {
			return s.saveToken(ctx, &record, token, granted)
		},
		Client: s.cfg.clientInfo(), HTTP: s.cfg.ProviderHTTP, Now: s.cfg.Now,
	})
	if err != nil {
		return record, err
	}
	response := renewed.Response
	if response.Session != record.Session {
		return record, fmt.Errorf("the gateway renewed session %s instead of %s", response.Session, record.Session)
	}
	record.Chain, record.Roots, record.Deadline, record.ClockSkew = response.Chain, response.Roots, response.Deadline, renewed.Skew
	// The gateway has issued: an interrupted client must find the certificate.
	return record, s.cfg.Profile.Save(context.WithoutCancel(ctx), record)
}

// saveToken makes a refreshed token durable before it is used.
func (s *stored) saveToken(ctx context.Context, record *certstore.Login, token oidc.Secret, granted []string) error {
	if err := replaceToken(record, token, granted); err != nil {
		return err
	}
	return s.cfg.Profile.Save(ctx, *record)
}

// gateway returns the enrolment client for a login's gateway, trusting what was
// pinned at the login. done lets go of its connections.
func (s *stored) gateway(record certstore.Login) (client *enroll.Client, done func(), err error) {
	return s.cfg.gateway(record.Gateway, Trust{Fingerprint: record.HTTPSFingerprint, Roots: record.HTTPSRoots})
}

// PinRoots stores roots that the gateway of a login sent over the tunnel in place
// of those that were pinned before. The lock, which a renewal may hold for long,
// is only taken when they differ. A login at another gateway meanwhile keeps its own.
func (s *stored) PinRoots(ctx context.Context, of *Login, roots [][]byte) error {
	pinned := func(record certstore.Login) bool {
		return record.Gateway != of.URL || record.TrustDomain != of.TrustDomain || slices.EqualFunc(record.Roots, roots, slices.Equal)
	}
	if record, err := s.cfg.Profile.Peek(); err == nil && pinned(record) {
		return nil
	}
	lock, err := s.cfg.Profile.LockRefresh(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	record, err := s.cfg.Profile.Load(ctx)
	if err != nil {
		return err
	}
	if pinned(record) {
		return nil
	}
	record.Roots = roots
	return s.cfg.Profile.Save(ctx, record)
}
