package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
)

// Errors that callers branch on with [errors.Is].
var (
	// ErrRefreshRefused: the provider will not renew this login. Only a new login helps.
	ErrRefreshRefused = errors.New("the provider refused to renew the login")
	// ErrReauth: this provider is configured without renewal (refresh_identity: reauth).
	ErrReauth = errors.New("this provider does not renew logins: log in again")
	// ErrUnavailable: the provider could not be asked (network, time-out, 5xx, nonsense in place of an answer).
	// Nothing is known about the person; try again later.
	ErrUnavailable = errors.New("the provider is unavailable")
	// ErrIssuer: what answers calls itself another issuer than the configured one. Only another setting helps.
	ErrIssuer = errors.New("issuer mismatch")
	// ErrPending: the person has not finished a device login yet.
	ErrPending = errors.New("authorization pending")
	// ErrSlowDown: like ErrPending, and the interval grows by 5 s (RFC 8628 section 3.5).
	ErrSlowDown = errors.New("slow down")
	// ErrDeviceExpired: the code of a device login ran out.
	ErrDeviceExpired = errors.New("the code has expired")
	// ErrDeviceDenied: the person refused a device login.
	ErrDeviceDenied = errors.New("the login was refused at the provider")
)

// ProviderError is an error that a provider reported, in its own words (RFC 6749 sections 4.1.2.1 and 5.2).
type ProviderError struct {
	// Op is what was asked for: "token", "refresh", "login", "device", "userinfo", "introspection", "discovery".
	Op string
	// Status is the HTTP status; 0 for an error that came through the browser.
	Status int
	// Code is the field error; empty when the answer was no OAuth error.
	Code string
	// Description is the field error_description, or the start of another answer.
	Description string
	// URI is the field error_uri.
	URI string
}

// Error shows the provider's words as they came; control characters are escaped.
func (e *ProviderError) Error() string {
	text := "the provider answered"
	if e.Op != "" {
		text += " the " + e.Op + " request"
	}
	if e.Status != 0 {
		text += fmt.Sprintf(" with %d", e.Status)
	}
	if e.Code != "" {
		text += ": " + cleanText(e.Code, 100)
	}
	if e.Description != "" {
		text += ": " + cleanText(e.Description, 500)
	}
	if e.URI != "" {
		text += " (" + cleanText(e.URI, 300) + ")"
	}
	return text
}

// Is classifies: a ProviderError is ErrRefreshRefused or ErrUnavailable by its code and status.
func (e *ProviderError) Is(target error) bool {
	switch target {
	case ErrUnavailable:
		return e.temporary()
	case ErrRefreshRefused:
		return e.Op == opRefresh && e.refused()
	case ErrPending:
		return e.Op == opDevice && e.Code == "authorization_pending"
	case ErrSlowDown:
		return e.Op == opDevice && e.Code == "slow_down"
	case ErrDeviceExpired:
		return e.Op == opDevice && e.Code == "expired_token"
	case ErrDeviceDenied:
		return e.Op == opDevice && e.Code == "access_denied"
	}
	return false
}

const (
	opToken         = "token"
	opRefresh       = "refresh"
	opLogin         = "login"
	opDevice        = "device"
	opUserInfo      = "userinfo"
	opIntrospection = "introspection"
)

var (
	temporaryCodes = []string{"server_error", "temporarily_unavailable"}
	// refusedCodes say no whatever the status is: some providers send login_required with 401.
	refusedCodes = []string{
		"invalid_grant", "login_required", "interaction_required", "consent_required", "account_selection_required",
		"access_denied",
	}
)

// temporary: the code decides where it says so, then the status. 401 (invalid_client) is the operator's
// mistake, which may be repaired while the session lasts.
func (e *ProviderError) temporary() bool {
	if slices.Contains(temporaryCodes, e.Code) {
		return true
	}
	if e.Status == 0 || slices.Contains(refusedCodes, e.Code) {
		return false
	}
	return e.Status >= 500 || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests ||
		e.Status/100 == 3 || e.Op == opRefresh && !e.refused()
}

// refused is design section 3.7: these codes, and any other 400 or 403.
func (e *ProviderError) refused() bool {
	if slices.Contains(temporaryCodes, e.Code) || e.Status >= 500 {
		return false
	}
	return slices.Contains(refusedCodes, e.Code) || e.Status == http.StatusBadRequest || e.Status == http.StatusForbidden
}

// TokenError says why a token proves nothing. Its text is safe to show; it never contains the token.
type TokenError struct {
	// Code is a stable word for logs and audit: malformed, algorithm, signature, issuer, audience, azp, expired,
	// not_yet, stale, nonce, subject, inactive, at_hash, auth_time, acr, events, jti.
	Code string
	// Text explains it, with what was expected and what came.
	Text string
	// Err is the cause, if there is one.
	Err error
}

func (e *TokenError) Error() string {
	if e.Err != nil {
		return e.Text + ": " + cleanText(e.Err.Error(), 300)
	}
	return e.Text
}

func (e *TokenError) Unwrap() error { return e.Err }

func refuseToken(code, format string, args ...any) *TokenError {
	return &TokenError{Code: code, Text: fmt.Sprintf(format, args...)}
}

// unavailable marks err as temporary, except when the caller itself gave up.
func unavailable(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	return &unavailableError{op: op, err: err}
}

// unavailableError cleans the text: errors of the libraries below quote whole answers.
type unavailableError struct {
	op  string
	err error
}

func (e *unavailableError) Error() string { return e.op + ": " + cleanText(e.err.Error(), 300) }
func (e *unavailableError) Unwrap() error { return e.err }

func (e *unavailableError) Is(target error) bool { return target == ErrUnavailable }
