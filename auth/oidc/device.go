package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	defaultInterval = 5 * time.Second
	maxDeviceLife   = time.Hour
)

// DeviceAuthorization is a started device login (RFC 8628 section 3.2).
type DeviceAuthorization struct {
	// DeviceCode stays at the gateway: who has it can collect the tokens.
	DeviceCode Secret
	// UserCode is typed by the person at VerificationURI.
	UserCode                string
	VerificationURI         string
	VerificationURIComplete string // may be empty
	Interval                time.Duration
	Expires                 time.Time
}

// StartDevice starts a device login.
func (p *Provider) StartDevice(ctx context.Context) (DeviceAuthorization, error) {
	if p.meta.DeviceURL == "" {
		return DeviceAuthorization{}, fmt.Errorf("the provider %s offers no device login", p.settings.Name)
	}
	body, _, err := p.post(ctx, opDevice, p.meta.DeviceURL, url.Values{"scope": {strings.Join(p.settings.Scopes, " ")}})
	if err != nil {
		return DeviceAuthorization{}, err
	}
	var answer struct {
		DeviceCode Secret  `json:"device_code"`
		UserCode   string  `json:"user_code"`
		URI        string  `json:"verification_uri"`
		Complete   string  `json:"verification_uri_complete"`
		ExpiresIn  seconds `json:"expires_in"`
		Interval   seconds `json:"interval"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return DeviceAuthorization{}, unavailable(ctx, "device answer", errors.New("it is not the JSON of RFC 8628"))
	}
	d := DeviceAuthorization{
		DeviceCode: answer.DeviceCode, UserCode: answer.UserCode,
		VerificationURI: answer.URI, VerificationURIComplete: answer.Complete,
		Interval: max(time.Duration(answer.Interval)*time.Second, time.Second),
		Expires:  p.now().Add(min(time.Duration(answer.ExpiresIn)*time.Second, maxDeviceLife)),
	}
	if answer.Interval == 0 {
		d.Interval = defaultInterval
	}
	return d, d.check(p.settings.Issuer)
}

// check refuses what a client would print or open.
func (d DeviceAuthorization) check(issuer string) error {
	if d.DeviceCode == "" || d.UserCode == "" || len(d.UserCode) > 64 || hasControl(d.UserCode) || d.VerificationURI == "" {
		return errors.New("the provider's device answer lacks a code or an address")
	}
	for _, address := range []string{d.VerificationURI, d.VerificationURIComplete} {
		if err := checkEndpoint(issuer, address); err != nil {
			return fmt.Errorf("the address for the device login: %w", err)
		}
	}
	return nil
}

// PollDevice asks once for the tokens of a device login. The error is ErrPending, ErrSlowDown,
// ErrDeviceExpired, ErrDeviceDenied, ErrUnavailable, or final.
func (p *Provider) PollDevice(ctx context.Context, deviceCode Secret) (Tokens, error) {
	return p.tokenRequest(ctx, opDevice, url.Values{
		"grant_type":  {"urn:ietf:params:oauth:grant-type:device_code"},
		"device_code": {deviceCode.Reveal()},
	}, p.settings.Scopes)
}
