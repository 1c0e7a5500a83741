package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// script is a provider without a network, for tests of time.
type script struct {
	mu    sync.Mutex
	hits  []time.Time
	reply func(n int) (status int, body any)
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits = append(s.hits, time.Now())
	status, body := s.reply(len(s.hits))
	data, _ := json.Marshal(body)
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(bytes.NewReader(data)), Request: r}, nil
}

func (s *script) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hits)
}

func scripted(t *testing.T, s *script) *Verifier {
	t.Helper()
	v, err := NewVerifier(ProviderConfig{Name: "corp", Issuer: "https://idp.example", ClientID: "culvert"},
		Options{HTTPClient: &http.Client{Transport: s}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func goodDiscovery(jwks string) map[string]any {
	return map[string]any{"issuer": "https://idp.example", "authorization_endpoint": "https://idp.example/a",
		"token_endpoint": "https://idp.example/t", "jwks_uri": "https://idp.example/" + jwks}
}

func TestRunTriesUntilTheProviderIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reply: func(n int) (int, any) {
			if n <= 10 || n == 12 {
				return http.StatusServiceUnavailable, nil
			}
			return http.StatusOK, goodDiscovery("k")
		}}
		v := scripted(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		var outcomes []error
		stopped := make(chan struct{})
		go func() { defer close(stopped); v.Run(ctx, func(err error) { outcomes = append(outcomes, err) }) }()
		time.Sleep(6 * time.Minute) // synctest's clock: ten waits of at most 30 s
		synctest.Wait()
		if p, err := v.Provider(ctx); err != nil || p == nil || s.count() != 11 {
			t.Fatalf("after %d tries: %v", s.count(), err)
		}
		time.Sleep(time.Hour + time.Minute) // a new look fails, and the old metadata stays
		synctest.Wait()
		if p, err := v.Provider(ctx); err != nil || p == nil || s.count() < 12 {
			t.Fatalf("after %d tries: %v", s.count(), err)
		}
		cancel()
		<-stopped
		if len(outcomes) < 12 || outcomes[10] != nil || !errors.Is(outcomes[0], ErrUnavailable) || outcomes[11] == nil {
			t.Fatalf("reported %v", outcomes)
		}
	})
}

func TestAFloodOfLoginsAsksTheProviderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reply: func(int) (int, any) { return http.StatusServiceUnavailable, nil }}
		v := scripted(t, s)
		v.wait.Rand = func(n int64) int64 { return n - 1 }
		for range 5 {
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if _, err := v.Provider(t.Context()); !errors.Is(err, ErrUnavailable) {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
		if s.count() != 1 {
			t.Errorf("100 calls caused %d requests", s.count())
		}
		time.Sleep(2 * time.Second)
		if _, _ = v.Provider(t.Context()); s.count() != 2 {
			t.Errorf("after the back-off: %d requests", s.count())
		}
	})
}

func TestACallerThatGivesUpSaysNothingAboutTheProvider(t *testing.T) {
	s := &script{reply: func(int) (int, any) { return http.StatusOK, goodDiscovery("k") }}
	v := scripted(t, s)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Provider(gone); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnavailable) {
		t.Errorf("a cancelled caller: %v", err)
	}
	if _, err := v.Provider(t.Context()); err != nil {
		t.Errorf("the next caller: %v", err)
	}
}

func TestKeysStayUnlessTheyMoved(t *testing.T) {
	where := "k"
	s := &script{reply: func(int) (int, any) { return http.StatusOK, goodDiscovery(where) }}
	v := scripted(t, s)
	_, first, err := v.ready(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = v.discover(t.Context(), true)
	if _, again, _ := v.ready(t.Context()); again != first {
		t.Error("the cached keys were thrown away")
	}
	where = "k2"
	_ = v.discover(t.Context(), true)
	if _, moved, _ := v.ready(t.Context()); moved == first {
		t.Error("the keys moved, and nobody noticed")
	}
}
