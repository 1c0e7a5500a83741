package devidp

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	zoidc "github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// maxPending bounds each map of things in progress; older ones are swept first.
const maxPending = 10000

var errUnknown = errors.New("unknown, used or expired")

// storage is op.Storage in memory. Accounts are changed at run time, clients are not.
type storage struct {
	lifetimes Lifetimes
	key       *ecdsa.PrivateKey
	keyID     string
	clients   map[string]*opClient

	mu       sync.Mutex
	accounts map[string]*Account      // by name
	requests map[string]*authRequest  // by id
	codes    map[string]string        // code → request id
	grants   map[string]*grant        // by refresh token
	tokens   map[string]*accessToken  // by token id
	devices  map[string]*deviceLogin  // by device code
	sessions map[string]session       // by sid
	notify   map[string]notify        // by client id
	ages     map[string]time.Duration // by account: how old a remembered login is
}

func newStorage(config Config) (*storage, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the signing key: %w", err)
	}
	s := &storage{
		lifetimes: config.Lifetimes.withDefaults(), key: key, keyID: rand.Text(),
		clients: map[string]*opClient{}, accounts: map[string]*Account{},
		requests: map[string]*authRequest{}, codes: map[string]string{}, grants: map[string]*grant{},
		tokens: map[string]*accessToken{}, devices: map[string]*deviceLogin{},
		sessions: map[string]session{}, notify: map[string]notify{}, ages: map[string]time.Duration{},
	}
	for _, c := range config.Clients {
		if c.ID == "" || s.clients[c.ID] != nil {
			return nil, fmt.Errorf("the client id %q is empty or used twice", c.ID)
		}
		if c.Name == "" {
			c.Name = c.ID
		}
		s.clients[c.ID] = &opClient{Client: c, idToken: s.lifetimes.IDToken, login: issuerPath(config.Issuer) + "/login"}
	}
	for _, a := range config.Accounts {
		if err := s.addAccount(a); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (l Lifetimes) withDefaults() Lifetimes {
	for field, value := range map[*time.Duration]time.Duration{
		&l.IDToken: 5 * time.Minute, &l.AccessToken: 5 * time.Minute, &l.RefreshToken: 24 * time.Hour,
		&l.Login: 10 * time.Minute, &l.DeviceInterval: 5 * time.Second,
	} {
		if *field <= 0 {
			*field = value
		}
	}
	return l
}

func (s *storage) addAccount(a Account) error {
	if a.Name == "" || a.Password == "" || s.accounts[a.Name] != nil {
		return fmt.Errorf("the account %q has no name, no password, or a name that is used twice", a.Name)
	}
	if a.Subject == "" {
		a.Subject = "sub-" + a.Name
	}
	if a.DisplayName == "" {
		a.DisplayName = a.Name
	}
	if strings.Contains(a.Subject, ":") || s.bySubjectLocked(a.Subject) != nil {
		return fmt.Errorf("the subject %q of the account %q holds a colon or is used twice", a.Subject, a.Name)
	}
	a.Groups = slices.Clone(a.Groups)
	s.accounts[a.Name] = &a
	return nil
}

func (s *storage) bySubjectLocked(subject string) *Account {
	for _, a := range s.accounts {
		if a.Subject == subject {
			return a
		}
	}
	return nil
}

func (s *storage) change(name string, f func(*Account)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		return fmt.Errorf("devidp: there is no account %q", name)
	}
	f(a)
	return nil
}

func (s *storage) emailDomains() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	domains := map[string]bool{}
	for _, a := range s.accounts {
		if _, domain, ok := strings.Cut(a.Email, "@"); ok {
			domains[domain] = true
		}
	}
	return slices.Sorted(maps.Keys(domains))
}

// password returns the account that name and password belong to.
func (s *storage) passwordLocked(name, password string) (*Account, error) {
	a := s.accounts[name]
	if a == nil || subtle.ConstantTimeCompare([]byte(a.Password), []byte(password)) != 1 {
		return nil, errors.New("wrong account name or password")
	}
	if a.Disabled {
		return nil, errors.New("this account is disabled")
	}
	return a, nil
}

// sweepLocked forgets what has expired, and everything when a flood fills the memory.
func (s *storage) sweepLocked() {
	now := time.Now()
	maps.DeleteFunc(s.requests, func(_ string, r *authRequest) bool { return now.After(r.expires) })
	maps.DeleteFunc(s.codes, func(_ string, id string) bool { return s.requests[id] == nil })
	maps.DeleteFunc(s.grants, func(_ string, g *grant) bool { return now.After(g.expires) })
	maps.DeleteFunc(s.tokens, func(_ string, t *accessToken) bool { return now.After(t.expires) })
	maps.DeleteFunc(s.devices, func(_ string, d *deviceLogin) bool { return now.After(d.state.Expires.Add(time.Minute)) })
	if len(s.requests) > maxPending {
		clear(s.requests)
	}
	if len(s.devices) > maxPending {
		clear(s.devices)
	}
}

// CreateAuthRequest keeps a login request that op has validated. Here PKCE with S256 becomes a must for every
// client, and forms and fragments as response modes are refused.
func (s *storage) CreateAuthRequest(_ context.Context, r *zoidc.AuthRequest, _ string) (op.AuthRequest, error) {
	switch {
	case r.CodeChallenge == "" || r.CodeChallengeMethod != zoidc.CodeChallengeMethodS256:
		return nil, zoidc.ErrInvalidRequest().WithDescription("PKCE with code_challenge_method S256 is required")
	case slices.Contains(r.Prompt, zoidc.PromptNone):
		return nil, zoidc.ErrLoginRequired()
	case r.ResponseMode != "" && r.ResponseMode != zoidc.ResponseModeQuery:
		return nil, zoidc.ErrInvalidRequest().WithDescription("only response_mode query is supported")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepLocked()
	req := &authRequest{id: rand.Text(), request: *r, expires: time.Now().Add(s.lifetimes.Login)}
	s.requests[req.id] = req
	return copyOf(req), nil
}

func copyOf(r *authRequest) *authRequest {
	c := *r
	return &c
}

func (s *storage) requestLocked(id string) (*authRequest, error) {
	r := s.requests[id]
	if r == nil || time.Now().After(r.expires) {
		return nil, errUnknown
	}
	return r, nil
}

// login completes a login request.
func (s *storage) login(id, name, password string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(id)
	if err != nil {
		return err
	}
	a, err := s.passwordLocked(name, password)
	if err != nil {
		return err
	}
	r.subject, r.authTime, r.sid = a.Subject, time.Now(), rand.Text()
	if age := s.ages[a.Name]; !r.asksAgain(age) {
		r.authTime = r.authTime.Add(-age)
	}
	return nil
}

// asksAgain reports whether a login that is remembered since age is not enough.
func (a *authRequest) asksAgain(age time.Duration) bool {
	return slices.Contains(a.request.Prompt, zoidc.PromptLogin) ||
		a.request.MaxAge != nil && time.Duration(*a.request.MaxAge)*time.Second < age
}

// AuthRequestByID is op.Storage's.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(id)
	if err != nil {
		return nil, err
	}
	return copyOf(r), nil
}

// AuthRequestByCode redeems a code: it is gone afterwards, also when what follows fails, so that nobody can try
// verifiers.
func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.requestLocked(s.codes[code])
	if err != nil {
		return nil, err
	}
	delete(s.codes, code)
	delete(s.requests, r.id)
	s.rememberLocked(r)
	return r, nil
}

// SaveAuthCode gives a login request its only code.
func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(slices.Collect(maps.Values(s.codes)), id) {
		return errUnknown
	}
	s.codes[code] = id
	return nil
}

// DeleteAuthRequest is op.Storage's.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

// SigningKey is op.Storage's.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) {
	return signingKey{id: s.keyID, key: s.key}, nil
}

// SignatureAlgorithms is op.Storage's.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// KeySet is op.Storage's.
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{signingKey{id: s.keyID, key: &s.key.PublicKey}}}, nil
}

// GetClientByClientID is op.Storage's.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := s.clients[id]
	if !ok {
		return nil, zoidc.ErrInvalidClient().WithDescription("there is no such client")
	}
	return c, nil
}

// AuthorizeClientIDSecret is op.Storage's.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	c, ok := s.clients[id]
	if !ok || c.Secret == "" || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return zoidc.ErrInvalidClient().WithDescription("unknown client or wrong secret")
	}
	return nil
}
