package oidc

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/culvert-vpn/culvert/internal/backoff"
)

const (
	rediscover = time.Hour
	keysFresh  = 5 * time.Second
	maxKeys    = 100
	maxKeySize = 32 << 10
	maxModulus = 8192 // bits; what crypto/tls accepts
)

// Verifier is the gateway's side of one provider: it decides what a token proves. It discovers the provider
// when it is first needed, so that a gateway starts while its provider is down. Safe for concurrent use.
type Verifier struct {
	config ProviderConfig
	opts   Options

	// turn admits one discovery at a time; waiting for it ends with the caller's context.
	turn chan struct{}

	mu       sync.Mutex
	provider *Provider
	keys     gooidc.KeySet
	wait     backoff.Backoff
	retryAt  time.Time
	lastErr  error
}

// NewVerifier returns a Verifier for a valid configuration. It does no I/O.
func NewVerifier(config ProviderConfig, opts Options) (*Verifier, error) {
	config = config.WithDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Verifier{
		config: config, opts: opts.withDefaults(config.Issuer), turn: make(chan struct{}, 1),
		wait: backoff.Backoff{Base: time.Second, Max: 30 * time.Second},
	}, nil
}

// Config returns the configuration with its defaults filled in.
func (v *Verifier) Config() ProviderConfig { return v.config }

func (v *Verifier) now() time.Time { return v.opts.Now() }

// Provider returns the discovered provider, discovering it now if need be. After a failure it answers with that
// failure until a short back-off is over, so that a flood of logins is no flood at the provider.
func (v *Verifier) Provider(ctx context.Context) (*Provider, error) {
	p, _, err := v.ready(ctx)
	return p, err
}

func (v *Verifier) ready(ctx context.Context) (*Provider, gooidc.KeySet, error) {
	if p, keys, err := v.current(); p != nil || err != nil {
		return p, keys, err
	}
	if err := v.discover(ctx, false); err != nil {
		return nil, nil, err
	}
	return v.current()
}

// current returns the provider, or the last failure while its back-off lasts, or nothing.
func (v *Verifier) current() (*Provider, gooidc.KeySet, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.provider == nil && v.lastErr != nil && v.now().Before(v.retryAt) {
		return nil, nil, v.lastErr
	}
	return v.provider, v.keys, nil
}

// discover fetches the provider's metadata; again asks for it also when there is some.
func (v *Verifier) discover(ctx context.Context, again bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case v.turn <- struct{}{}:
		defer func() { <-v.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if p, _, err := v.current(); !again && (p != nil || err != nil) {
		return err // somebody else's turn settled it
	}
	p, err := Discover(ctx, v.config.ClientSettings(), v.opts)
	if err != nil && ctx.Err() != nil {
		return err // the caller gave up: that says nothing about the provider
	}
	v.settle(p, err)
	return err
}

func (v *Verifier) settle(p *Provider, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.lastErr = err; err != nil {
		v.retryAt = v.now().Add(v.wait.Next())
		return
	}
	v.wait.Reset()
	if v.provider == nil || v.provider.meta.JWKSURL != p.meta.JWKSURL {
		v.keys = newKeySet(p)
	}
	v.provider = p
}

// Run discovers the provider in the background, tries again while that fails, and looks again every hour. The
// old metadata stays in force while a new look fails. report, which may be nil, is told of every attempt's
// outcome. Run returns when ctx ends.
func (v *Verifier) Run(ctx context.Context, report func(error)) {
	for ctx.Err() == nil {
		err := v.discover(ctx, true)
		if ctx.Err() != nil {
			return
		}
		if report != nil {
			report(err)
		}
		wait := rediscover
		if err != nil {
			wait = v.untilRetry()
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (v *Verifier) untilRetry() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	return max(v.retryAt.Sub(v.now()), 100*time.Millisecond)
}

// CloseIdleConnections lets go of idle connections to the provider.
func (v *Verifier) CloseIdleConnections() { v.opts.HTTPClient.CloseIdleConnections() }

// watchedKeys remembers the key set's error, which go-oidc reports as text only.
type watchedKeys struct {
	gooidc.KeySet
	err error
}

func (w *watchedKeys) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := w.KeySet.VerifySignature(ctx, jwt)
	w.err = err
	return payload, err
}

// newKeySet returns the provider's keys, fetched when they are needed and again when none fits.
func newKeySet(p *Provider) gooidc.KeySet {
	client := *p.http
	inner := client.Transport
	if inner == nil {
		inner = http.DefaultTransport
	}
	client.Transport = &keyTransport{inner: inner, now: p.now}
	return gooidc.NewRemoteKeySet(gooidc.ClientContext(context.Background(), &client), p.meta.JWKSURL)
}

// keyTransport stands between go-oidc's key set, which fetches for every token that no key fits, and the
// provider: an answer younger than keysFresh is given again, so that forged tokens cause one request per 5 s.
// It also removes keys that must not or need not be used.
type keyTransport struct {
	inner http.RoundTripper
	now   func() time.Time

	mu      sync.Mutex
	body    []byte
	fetched time.Time
}

func (t *keyTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.body == nil || t.now().Sub(t.fetched) >= keysFresh {
		body, resp, err := t.fetch(req)
		if err != nil {
			return nil, err
		}
		if body == nil {
			return resp, nil // a redirect: the client follows it, with its own rules
		}
		t.body, t.fetched = body, t.now()
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(t.body)),
		ContentLength: int64(len(t.body)), Request: req,
	}, nil
}

// fetch returns the filtered key set, or a redirect.
func (t *keyTransport) fetch(req *http.Request) ([]byte, *http.Response, error) {
	resp, err := t.inner.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode/100 == 3 {
		return nil, resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answered %s", req.URL.Host, resp.Status)
	}
	body, err = filterKeys(body)
	return body, nil, err
}

// filterKeys keeps the public signature keys that can be used, at most maxKeys. One key of an unknown type must
// not cost the others; a symmetric key has no place in a public set; and an RSA key of absurd size would burn
// CPU with every token.
func filterKeys(body []byte) ([]byte, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("the key set is not JSON")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys; at most %d are accepted", len(set.Keys), maxKeys)
	}
	set.Keys = slices.DeleteFunc(set.Keys, func(raw json.RawMessage) bool { return !usableKey(raw) })
	if set.Keys == nil {
		set.Keys = []json.RawMessage{}
	}
	return json.Marshal(set)
}

func usableKey(raw json.RawMessage) bool {
	var key jose.JSONWebKey
	if len(raw) > maxKeySize || key.UnmarshalJSON(raw) != nil || !key.IsPublic() || !key.Valid() || key.Use == "enc" {
		return false
	}
	if public, isRSA := key.Key.(*rsa.PublicKey); isRSA {
		return public.N.BitLen() <= maxModulus
	}
	return true
}
