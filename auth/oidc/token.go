package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tokenRequest posts a form to the token endpoint. scopes are reported as granted when the answer names none
// (RFC 6749 section 5.1: then they are what was asked for).
func (p *Provider) tokenRequest(ctx context.Context, op string, form url.Values, scopes []string) (Tokens, error) {
	body, _, err := p.post(ctx, op, p.meta.TokenURL, form)
	if err != nil {
		return Tokens{}, err
	}
	var answer struct {
		AccessToken  Secret  `json:"access_token"`
		RefreshToken Secret  `json:"refresh_token"`
		IDToken      Secret  `json:"id_token"`
		TokenType    string  `json:"token_type"`
		Scope        string  `json:"scope"`
		ExpiresIn    seconds `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return Tokens{}, unavailable(ctx, op+" answer", errors.New("it is not the JSON that a token endpoint sends"))
	}
	if answer.AccessToken == "" || !strings.EqualFold(answer.TokenType, "bearer") {
		return Tokens{}, unavailable(ctx, op+" answer", fmt.Errorf("no bearer access token in it (token_type %q)", answer.TokenType))
	}
	tokens := Tokens{AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken, IDToken: answer.IDToken, Scopes: scopes}
	if answer.Scope != "" {
		tokens.Scopes = strings.Fields(answer.Scope)
	}
	if answer.ExpiresIn > 0 {
		tokens.Expiry = p.now().Add(time.Duration(answer.ExpiresIn) * time.Second)
	}
	return tokens, nil
}

// seconds is a duration that some providers send as a string.
type seconds int64

func (s *seconds) UnmarshalJSON(data []byte) error {
	var n json.Number
	if err := json.Unmarshal([]byte(strings.Trim(string(data), `"`)), &n); err != nil {
		return err
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<31 {
		return errors.New("not a number of seconds")
	}
	*s = seconds(f)
	return nil
}

// post sends an authenticated form and returns the body and header of a 200 answer.
func (p *Provider) post(ctx context.Context, op, endpoint string, form url.Values) ([]byte, http.Header, error) {
	s := p.settings
	if s.TokenAuth != TokenAuthBasic {
		form.Set("client_id", s.ClientID)
	}
	if s.TokenAuth == TokenAuthPost {
		form.Set("client_secret", s.ClientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, nil, fmt.Errorf("%s request: %w", op, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if s.TokenAuth == TokenAuthBasic { // both parts form-encoded first: RFC 6749 section 2.3.1
		req.SetBasicAuth(url.QueryEscape(s.ClientID), url.QueryEscape(s.ClientSecret.Reveal()))
	}
	return p.do(ctx, op, req)
}

func (p *Provider) do(ctx context.Context, op string, req *http.Request) ([]byte, http.Header, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := withoutRedirects(p.http).Do(req)
	if err != nil {
		return nil, nil, unavailable(ctx, op+" request", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, unavailable(ctx, op+" answer", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, parseProviderError(op, resp.StatusCode, body)
	}
	return body, resp.Header, nil
}

func parseProviderError(op string, status int, body []byte) *ProviderError {
	var answer struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		URI         string `json:"error_uri"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Error != "" {
		return &ProviderError{Op: op, Status: status, Code: answer.Error, Description: answer.Description, URI: answer.URI}
	}
	return &ProviderError{Op: op, Status: status, Description: strings.TrimSpace(cleanText(string(body), 200))}
}
