package oidc

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGroupsFromUserInfo(t *testing.T) {
	f := newFake(t)
	config := f.config()
	config.GroupsSource, config.EmailTrust = GroupsFromUserInfo, "verified"
	v := f.verifier(t, config)
	info := map[string]any{}
	status := http.StatusOK
	f.HandleFunc("GET /userinfo", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer access-1" {
			refuse(w, http.StatusUnauthorized, "invalid_token", "")
			return
		}
		w.WriteHeader(status)
		answer(w, info)
	})
	login := func(access Secret, changes map[string]any) (*Claims, error) {
		return v.VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(changes)), AccessToken: access}, "nonce-1")
	}
	bare := map[string]any{"groups": []string{"from-token"}, "email": nil, "email_verified": true, "name": nil}
	info = map[string]any{"sub": "subject-1", "groups": []string{"from-userinfo"}, "email": "ada@corp.example", "name": "Ada I"}
	claims, err := login("access-1", bare)
	if err != nil || !slices.Equal(claims.Groups, []string{"from-userinfo"}) || claims.Name != "Ada I" || claims.Email != "ada@corp.example" {
		t.Fatalf("%+v, %v", claims, err)
	}
	if claims.EmailTrusted {
		t.Error("an address of userinfo was trusted because of the ID token's email_verified")
	}
	info["email_verified"] = true
	if claims, err = login("access-1", bare); err != nil || !claims.EmailTrusted {
		t.Errorf("%+v, %v", claims, err)
	}
	if _, err := login("", nil); codeOf(err) != "access_token" {
		t.Errorf("no access token: %v", err)
	}
	var refused *ProviderError
	if _, err := login("access-2", nil); !errors.As(err, &refused) || errors.Is(err, ErrUnavailable) {
		t.Errorf("an access token that the provider refuses: %v", err)
	}
	info["sub"] = "subject-2"
	if _, err := login("access-1", nil); codeOf(err) != "subject" {
		t.Errorf("userinfo of another person: %v", err)
	}
	status = http.StatusServiceUnavailable
	if _, err := login("access-1", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("userinfo is down: %v", err)
	}
}

func TestRenewalByAccessToken(t *testing.T) {
	f := newFake(t)
	var reply map[string]any
	for _, path := range []string{"POST /introspect", "GET /userinfo"} {
		f.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { answer(w, reply) })
	}
	prev := Previous{Issuer: f.server.URL, Subject: "subject-1", Nonce: "n"}
	good := map[string]any{"active": true, "sub": "subject-1", "client_id": "culvert", "exp": f.now.Add(time.Minute).Unix(), "groups": []string{"a"}}
	for name, test := range map[string]struct {
		by      RefreshIdentity
		changes map[string]any
		want    string
	}{
		"introspect":             {RefreshIntrospect, nil, ""},
		"our audience":           {RefreshIntrospect, map[string]any{"client_id": nil, "aud": []string{"x", "culvert"}}, ""},
		"inactive":               {RefreshIntrospect, map[string]any{"active": false}, "inactive"},
		"active as text":         {RefreshIntrospect, map[string]any{"active": "true"}, "inactive"},
		"another person":         {RefreshIntrospect, map[string]any{"sub": "subject-2"}, "subject"},
		"nobody":                 {RefreshIntrospect, map[string]any{"sub": nil}, "subject"},
		"another client":         {RefreshIntrospect, map[string]any{"client_id": "wiki", "aud": "culvert"}, "audience"},
		"no client and audience": {RefreshIntrospect, map[string]any{"client_id": nil}, "audience"},
		"another issuer":         {RefreshIntrospect, map[string]any{"iss": "https://evil.example"}, "issuer"},
		"expired":                {RefreshIntrospect, map[string]any{"exp": f.now.Add(-time.Hour).Unix()}, "expired"},
		"userinfo":               {RefreshUserInfo, nil, ""},
		"userinfo of another":    {RefreshUserInfo, map[string]any{"sub": "subject-2"}, "subject"},
	} {
		reply = map[string]any{}
		for key, value := range good {
			reply[key] = value
		}
		for key, value := range test.changes {
			reply[key] = value
			if value == nil {
				delete(reply, key)
			}
		}
		config := f.config()
		config.RefreshIdentity = test.by
		claims, err := f.verifier(t, config).VerifyRenewal(t.Context(), Presented{AccessToken: "access-1"}, prev)
		if codeOf(err) != test.want {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && (!slices.Equal(claims.Groups, []string{"a"}) || claims.Subject != "subject-1" || claims.PayloadHash == [32]byte{}) {
			t.Errorf("%s: %+v", name, claims)
		}
	}
	config := f.config()
	config.RefreshIdentity = RefreshReauth
	if _, err := f.verifier(t, config).VerifyRenewal(t.Context(), Presented{}, prev); !errors.Is(err, ErrReauth) {
		t.Errorf("a provider without renewal: %v", err)
	}
}

func TestSignedUserInfoIsExplained(t *testing.T) {
	f := newFake(t)
	f.HandleFunc("GET /userinfo", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwt")
		_, _ = w.Write([]byte("e30.e30.x"))
	})
	config := f.config()
	config.GroupsSource = GroupsFromUserInfo
	_, err := f.verifier(t, config).VerifyLogin(t.Context(), Presented{IDToken: f.token(t, f.claims(nil)), AccessToken: "a"}, "nonce-1")
	if err == nil || !strings.Contains(err.Error(), "signs its userinfo") {
		t.Error(err)
	}
}
