package devidp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

var errUnsupported = errors.New("not supported by the development provider")

// CreateAccessToken is op.Storage's: a login without offline_access.
func (s *storage) CreateAccessToken(_ context.Context, request op.TokenRequest) (string, time.Time, error) {
	g, err := grantOf(request)
	if err != nil {
		return "", time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, expires := s.newAccessTokenLocked(g)
	return id, expires, nil
}

func (s *storage) newAccessTokenLocked(g grant) (string, time.Time) {
	id, expires := rand.Text(), time.Now().Add(s.lifetimes.AccessToken)
	s.tokens[id] = &accessToken{family: g.family, clientID: g.clientID, subject: g.subject, scopes: g.scopes, expires: expires}
	return id, expires
}

// grantOf reads a finished login, whichever way it came.
func grantOf(request op.TokenRequest) (grant, error) {
	switch r := request.(type) {
	case *authRequest:
		return grant{family: rand.Text(), clientID: r.request.ClientID, subject: r.subject, sid: r.sid, acr: r.GetACR(),
			scopes: r.request.Scopes, authTime: r.authTime}, nil
	case *op.DeviceAuthorizationState:
		return grant{family: rand.Text(), clientID: r.ClientID, subject: r.Subject, scopes: r.Scopes, authTime: r.AuthTime}, nil
	case *refreshRequest:
		return r.grant, nil
	}
	return grant{}, errUnsupported
}

// CreateAccessAndRefreshTokens is op.Storage's. With current it rotates: current is used up, and whoever shows
// it again ends the whole family, since one of the two is a thief (RFC 9700 section 4.14.2).
func (s *storage) CreateAccessAndRefreshTokens(_ context.Context, request op.TokenRequest, current string) (string, string, time.Time, error) {
	g, err := grantOf(request)
	if err != nil {
		return "", "", time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	if current != "" {
		if _, err := s.grantLocked(current); err != nil { // somebody was faster since it was looked up
			return "", "", time.Time{}, zoidc.ErrInvalidGrant().WithParent(err)
		}
		s.grants[current].used = true
	}
	g.used, g.expires = false, time.Now().Add(s.lifetimes.RefreshToken)
	refresh := rand.Text() + rand.Text()
	s.grants[refresh] = &g
	id, expires := s.newAccessTokenLocked(g)
	return id, refresh, expires, nil
}

// grantLocked returns the grant of a refresh token that may be used now.
func (s *storage) grantLocked(token string) (*grant, error) {
	g := s.grants[token]
	switch {
	case g == nil:
		return nil, errUnknown
	case g.used:
		s.revokeLocked(g.family)
		return nil, errors.New("used twice: the login is revoked")
	case time.Now().After(g.expires):
		return nil, errUnknown
	}
	if a := s.bySubjectLocked(g.subject); a == nil || a.Disabled {
		return nil, errors.New("the account is disabled")
	}
	return g, nil
}

func (s *storage) revokeLocked(family string) {
	maps.DeleteFunc(s.grants, func(_ string, g *grant) bool { return g.family == family && !g.used })
	maps.DeleteFunc(s.tokens, func(_ string, t *accessToken) bool { return t.family == family })
}

// TokenRequestByRefreshToken is op.Storage's.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, err := s.grantLocked(token)
	if err != nil {
		return nil, err
	}
	return &refreshRequest{grant: *g, current: g.scopes}, nil
}

// TerminateSession is op.Storage's.
func (s *storage) TerminateSession(_ context.Context, subject, clientID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.grants, func(_ string, g *grant) bool { return g.subject == subject && g.clientID == clientID })
	return nil
}

// RevokeToken is op.Storage's: the whole login ends.
func (s *storage) RevokeToken(_ context.Context, token, _, clientID string) *zoidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	family, owner := "", clientID
	if g := s.grants[token]; g != nil {
		family, owner = g.family, g.clientID
	} else if t := s.tokens[token]; t != nil {
		family, owner = t.family, t.clientID
	}
	if owner != clientID {
		return zoidc.ErrInvalidClient().WithDescription("the token belongs to another client")
	}
	if family != "" {
		s.revokeLocked(family)
	}
	return nil
}

// GetRefreshTokenInfo is op.Storage's.
func (s *storage) GetRefreshTokenInfo(_ context.Context, clientID, token string) (string, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.grants[token]
	if g == nil || g.clientID != clientID {
		return "", "", op.ErrInvalidRefreshToken
	}
	return g.subject, token, nil
}

// SetUserinfoFromScopes is empty, as op wants it.
func (s *storage) SetUserinfoFromScopes(context.Context, *zoidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills an ID token.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *zoidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	info.Subject = r.GetSubject() // op copies it over the token's
	switch r := r.(type) {
	case *authRequest:
		info.AppendClaims("sid", r.sid)
	case *refreshRequest: // op forgets what the login was
		appendText(info, "sid", r.sid)
		appendText(info, "acr", r.acr)
	}
	if c := s.clients[r.GetClientID()]; c == nil || c.UserInfoOnly {
		return nil
	}
	return s.describe(info, r.GetSubject(), scopes)
}

func appendText(info *zoidc.UserInfo, claim, value string) {
	if value != "" {
		info.AppendClaims(claim, value)
	}
}

// SetUserinfoFromToken fills a userinfo answer.
func (s *storage) SetUserinfoFromToken(_ context.Context, info *zoidc.UserInfo, tokenID, subject, _ string) error {
	t, err := s.token(tokenID, subject)
	if err != nil {
		return err
	}
	info.Subject = t.subject
	return s.describe(info, t.subject, t.scopes)
}

// SetIntrospectionFromToken fills an introspection answer; an error makes it inactive.
func (s *storage) SetIntrospectionFromToken(_ context.Context, out *zoidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	t, err := s.token(tokenID, subject)
	if err != nil {
		return err
	}
	if t.clientID != clientID {
		return errUnknown
	}
	info := new(zoidc.UserInfo)
	if err := s.describe(info, t.subject, t.scopes); err != nil {
		return err
	}
	out.SetUserInfo(info)
	out.Subject, out.ClientID, out.Scope = t.subject, t.clientID, t.scopes
	out.Expiration = zoidc.FromTime(t.expires)
	return nil
}

func (s *storage) token(id, subject string) (*accessToken, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[id]
	if t == nil || t.subject != subject || time.Now().After(t.expires) {
		return nil, zoidc.ErrAccessDenied().WithDescription("the access token is unknown or expired")
	}
	if a := s.bySubjectLocked(subject); a == nil || a.Disabled {
		return nil, zoidc.ErrAccessDenied().WithDescription("the account is disabled")
	}
	return t, nil
}

func (s *storage) describe(info *zoidc.UserInfo, subject string, scopes []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.bySubjectLocked(subject)
	if a == nil {
		return fmt.Errorf("there is no subject %q", subject)
	}
	if slices.Contains(scopes, zoidc.ScopeProfile) {
		info.Name, info.PreferredUsername = a.DisplayName, a.Name
	}
	if slices.Contains(scopes, zoidc.ScopeEmail) && a.Email != "" {
		info.Email, info.EmailVerified = a.Email, zoidc.Bool(a.EmailVerified)
	}
	if slices.Contains(scopes, "groups") {
		groups := slices.Clone(a.Groups)
		if groups == nil {
			groups = []string{}
		}
		info.AppendClaims("groups", groups)
	}
	return nil
}

// GetPrivateClaimsFromScopes is op.Storage's; access tokens are opaque here.
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID is op.Storage's.
func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnsupported
}

// ValidateJWTProfileScopes is op.Storage's.
func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnsupported
}
