package devidp

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// logoutLife is how long a logout token is good for (OpenID Connect Back-Channel Logout 1.0 section 4).
const logoutLife = 2 * time.Minute

// logoutTime bounds the delivery of one logout token.
const logoutTime = 10 * time.Second

// session is one login in the browser, which the sid claim names.
type session struct {
	subject, clientID string
}

// rememberLocked begins a session for a login that a client redeemed (section 2.3 there).
func (s *storage) rememberLocked(r *authRequest) {
	if len(s.sessions) > maxPending {
		clear(s.sessions)
	}
	s.sessions[r.sid] = session{subject: r.subject, clientID: r.request.ClientID}
}

// NotifyLogout sets where a client's logout tokens are posted to, and by which HTTP client; nil means http.DefaultClient. An empty
// address ends it.
func (p *Provider) NotifyLogout(clientID, address string, by *http.Client) error {
	if by == nil {
		by = http.DefaultClient
	}
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	if p.store.clients[clientID] == nil {
		return fmt.Errorf("devidp: there is no client %q", clientID)
	}
	p.store.notify[clientID] = notify{address: address, http: by}
	return nil
}

// notify is where a client's logout tokens go.
type notify struct {
	address string
	http    *http.Client
}

// EndSession logs an account out of every session that it has in a browser: its refresh tokens end, and each client that wants to
// know gets a logout token for each session, with sid and sub. It returns when all have answered; the error joins their refusals.
func (p *Provider) EndSession(ctx context.Context, account string) error {
	return p.endSessions(ctx, account, func(subject, sid string) map[string]any { return map[string]any{"sub": subject, "sid": sid} })
}

// EndAll is EndSession with one logout token for each client that names the person alone: every session ends, device logins too.
func (p *Provider) EndAll(ctx context.Context, account string) error {
	return p.endSessions(ctx, account, func(subject, _ string) map[string]any { return map[string]any{"sub": subject} })
}

func (p *Provider) endSessions(ctx context.Context, account string, about func(subject, sid string) map[string]any) error {
	posts, err := p.store.endSessions(account, about)
	if err != nil {
		return err
	}
	var errs []error
	for _, post := range posts {
		errs = append(errs, p.postLogout(ctx, post))
	}
	return errors.Join(errs...)
}

// logoutPost is one logout token to deliver.
type logoutPost struct {
	notify
	clientID string
	about    map[string]any
}

// endSessions ends what is there, and says who is to be told what, each thing once.
func (s *storage) endSessions(account string, about func(subject, sid string) map[string]any) ([]logoutPost, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[account]
	if a == nil {
		return nil, fmt.Errorf("devidp: there is no account %q", account)
	}
	posts := map[string]logoutPost{}
	for sid, of := range s.sessions {
		if of.subject != a.Subject {
			continue
		}
		delete(s.sessions, sid)
		claims := about(of.subject, sid)
		if to := s.notify[of.clientID]; to.address != "" {
			posts[fmt.Sprint(of.clientID, claims)] = logoutPost{notify: to, clientID: of.clientID, about: claims}
		}
	}
	maps.DeleteFunc(s.grants, func(_ string, g *grant) bool { return g.subject == a.Subject })
	maps.DeleteFunc(s.tokens, func(_ string, t *accessToken) bool { return t.subject == a.Subject })
	return slices.Collect(maps.Values(posts)), nil
}

func (p *Provider) postLogout(ctx context.Context, post logoutPost) error {
	token, err := p.logoutToken(post.clientID, post.about)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, logoutTime)
	defer cancel()
	form := url.Values{"logout_token": {token}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, post.address, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("logout at %s: %w", post.address, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := post.http.Do(req)
	if err != nil {
		return fmt.Errorf("logout at %s: %w", post.address, err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("logout at %s: it answered %s", post.address, resp.Status)
	}
	return nil
}

// logoutToken signs what section 2.4 there asks for.
func (p *Provider) logoutToken(clientID string, about map[string]any) (string, error) {
	now := time.Now()
	claims := map[string]any{
		"iss": p.issuer, "aud": clientID, "iat": now.Unix(), "exp": now.Add(logoutLife).Unix(), "jti": rand.Text(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
	maps.Copy(claims, about)
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode the logout token: %w", err)
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.store.key, KeyID: p.store.keyID}},
		(&jose.SignerOptions{}).WithType("logout+jwt"))
	if err != nil {
		return "", fmt.Errorf("sign the logout token: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign the logout token: %w", err)
	}
	return jws.CompactSerialize()
}
