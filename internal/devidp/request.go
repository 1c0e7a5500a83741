package devidp

import (
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// authRequest is one login in progress. Its fields are set when it is made and, under the storage's lock, when
// the person has shown a password; what op gets is a copy.
type authRequest struct {
	id       string
	request  zoidc.AuthRequest
	expires  time.Time
	subject  string
	authTime time.Time
	sid      string
}

func (a *authRequest) GetID() string          { return a.id }
func (a *authRequest) GetAudience() []string  { return []string{a.request.ClientID} }
func (a *authRequest) GetAuthTime() time.Time { return a.authTime }
func (a *authRequest) GetClientID() string    { return a.request.ClientID }
func (a *authRequest) GetNonce() string       { return a.request.Nonce }
func (a *authRequest) GetRedirectURI() string { return a.request.RedirectURI }
func (a *authRequest) GetScopes() []string    { return a.request.Scopes }
func (a *authRequest) GetState() string       { return a.request.State }
func (a *authRequest) GetSubject() string     { return a.subject }
func (a *authRequest) Done() bool             { return a.subject != "" }

func (a *authRequest) GetResponseType() zoidc.ResponseType { return a.request.ResponseType }
func (a *authRequest) GetResponseMode() zoidc.ResponseMode { return a.request.ResponseMode }

// GetACR echoes the first class that was asked for. A password is all that there is; a real provider would ask
// for more.
func (a *authRequest) GetACR() string {
	if len(a.request.ACRValues) > 0 {
		return a.request.ACRValues[0]
	}
	return ""
}

func (a *authRequest) GetAMR() []string { return []string{"pwd"} }

func (a *authRequest) GetCodeChallenge() *zoidc.CodeChallenge {
	return &zoidc.CodeChallenge{Challenge: a.request.CodeChallenge, Method: a.request.CodeChallengeMethod}
}

// grant is a login that refresh tokens continue. family links the tokens of one login.
type grant struct {
	family, clientID, subject string
	sid, acr                  string // of a login in the browser
	scopes                    []string
	authTime                  time.Time
	expires                   time.Time
	used                      bool
}

// refreshRequest is op's view of a grant.
type refreshRequest struct {
	grant
	current []string
}

func (r *refreshRequest) GetAMR() []string                 { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string            { return []string{r.clientID} }
func (r *refreshRequest) GetAuthTime() time.Time           { return r.authTime }
func (r *refreshRequest) GetClientID() string              { return r.clientID }
func (r *refreshRequest) GetScopes() []string              { return r.current }
func (r *refreshRequest) GetSubject() string               { return r.subject }
func (r *refreshRequest) SetCurrentScopes(scopes []string) { r.current = scopes }

// accessToken is what an opaque access token stands for.
type accessToken struct {
	family, clientID, subject string
	scopes                    []string
	expires                   time.Time
}

// deviceLogin is one device authorization.
type deviceLogin struct {
	state    op.DeviceAuthorizationState
	userCode string
	lastPoll time.Time
	// ticket is handed to the confirmation page after the password; account is who showed it.
	ticket, account string
}

// opClient is op's view of a Client.
type opClient struct {
	Client
	idToken time.Duration
	login   string
}

func (c *opClient) GetID() string                    { return c.ID }
func (c *opClient) RedirectURIs() []string           { return c.Client.RedirectURIs }
func (c *opClient) PostLogoutRedirectURIs() []string { return nil }
func (c *opClient) LoginURL(id string) string        { return c.login + "?id=" + id }
func (c *opClient) IDTokenLifetime() time.Duration   { return c.idToken }
func (c *opClient) DevMode() bool                    { return false }
func (c *opClient) ClockSkew() time.Duration         { return 0 }
func (c *opClient) IsScopeAllowed(scope string) bool { return scope == "groups" }

func (c *opClient) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c *opClient) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeBearer }

// ApplicationType is native for public clients: only then may loopback ports differ.
func (c *opClient) ApplicationType() op.ApplicationType {
	if c.Secret != "" && !slices.ContainsFunc(c.Client.RedirectURIs, isLoopback) {
		return op.ApplicationTypeWeb
	}
	return op.ApplicationTypeNative
}

func isLoopback(uri string) bool {
	_, loopback := op.HTTPLoopbackOrLocalhost(uri)
	return loopback
}

func (c *opClient) AuthMethod() zoidc.AuthMethod {
	if c.Secret == "" {
		return zoidc.AuthMethodNone
	}
	return zoidc.AuthMethodBasic
}

func (c *opClient) ResponseTypes() []zoidc.ResponseType {
	return []zoidc.ResponseType{zoidc.ResponseTypeCode}
}

func (c *opClient) GrantTypes() []zoidc.GrantType {
	return []zoidc.GrantType{zoidc.GrantTypeCode, zoidc.GrantTypeRefreshToken, zoidc.GrantTypeDeviceCode}
}

func same(scopes []string) []string { return scopes }

func (c *opClient) RestrictAdditionalIdTokenScopes() func([]string) []string     { return same }
func (c *opClient) RestrictAdditionalAccessTokenScopes() func([]string) []string { return same }

// signingKey is op.SigningKey; publicKey is op.Key of the same.
type signingKey struct {
	id  string
	key any
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k signingKey) Key() any                                    { return k.key }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
