package oidc

import (
	"errors"
	"fmt"
	"net/url"
)

const maxCallbackQuery = 16 << 10

// Callback is what came back to the redirect URI (RFC 6749 section 4.1.2, RFC 9207 section 2). Either Code or
// Err is set.
type Callback struct {
	Code, State, Iss string
	Err              *ProviderError
}

// ParseCallback reads the query of a callback. A parameter that appears twice is refused (RFC 6749 section
// 3.1): which of the two would another parser believe?
func ParseCallback(rawQuery string) (Callback, error) {
	if len(rawQuery) > maxCallbackQuery {
		return Callback{}, fmt.Errorf("the callback's query is longer than %d bytes", maxCallbackQuery)
	}
	q, err := url.ParseQuery(rawQuery)
	if err != nil {
		return Callback{}, fmt.Errorf("the callback's query: %w", err)
	}
	for _, name := range []string{"code", "state", "iss", "error", "error_description", "error_uri"} {
		if len(q[name]) > 1 {
			return Callback{}, fmt.Errorf("the callback has %q twice", name)
		}
	}
	cb := Callback{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}
	if code := q.Get("error"); code != "" {
		cb.Code = ""
		cb.Err = &ProviderError{Op: opLogin, Code: code, Description: q.Get("error_description"), URI: q.Get("error_uri")}
		return cb, nil
	}
	if cb.Code == "" {
		return Callback{}, errors.New("the callback has neither a code nor an error")
	}
	return cb, nil
}

// CheckCallback refuses an answer of another provider (mix-up, RFC 9207 section 2.4): iss must be there when
// discovery advertises it, and must match, byte for byte, whenever it is there. It applies to error answers too.
func (p *Provider) CheckCallback(cb Callback) error {
	switch {
	case cb.Iss == "" && p.meta.CallbackIssRequired:
		return fmt.Errorf("the answer does not say which provider it comes from, although %s promises to (RFC 9207); the login is aborted", p.settings.Issuer)
	case cb.Iss != "" && cb.Iss != p.settings.Issuer:
		return fmt.Errorf("the answer comes from another provider: expected %q, got %q; the login is aborted", p.settings.Issuer, cleanText(cb.Iss, 300))
	}
	return nil
}
