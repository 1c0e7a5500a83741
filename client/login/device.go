package login

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/culvert-vpn/culvert/auth/enroll"
)

// ErrDeviceExpired: nobody confirmed a device login in time.
var ErrDeviceExpired = errors.New("the code expired before anybody confirmed the login")

// byDevice is the device grant, which the gateway runs for our certificate request (design section 3.6): no ID
// token reaches this machine.
func (r Request) byDevice(ctx context.Context, result *Result) error {
	settings := result.Provider.Settings
	if !settings.Device {
		return fmt.Errorf("the gateway offers no device login with the provider %s", settings.Name)
	}
	csr, spki, err := newCSR(r.Key)
	if err != nil {
		return err
	}
	proof, err := enroll.NewDeviceProof(r.Device, result.Discovery.TrustDomain, spki)
	if err != nil {
		return err
	}
	started, err := r.Gateway.DeviceStart(ctx, &enroll.DeviceRequest{Provider: settings.Name, CSR: csr, DeviceProof: proof, Client: r.Client})
	if err != nil {
		return err
	}
	if err := r.showCode(started); err != nil {
		return err
	}
	resp, skew, err := r.poll(ctx, started)
	if err != nil {
		return err
	}
	if err := checkResponse(resp, result.Discovery.TrustDomain, &r.Key.PublicKey); err != nil {
		return err
	}
	result.Response, result.Skew, result.RefreshToken = resp, skew, resp.RefreshToken
	result.Provider.Granted = settings.Scopes // what the gateway asked for; it does not tell what it got
	return nil
}

// showCode prints the address and the code, each fit to be copied. The long address is offered last, since who
// types the code compares it (RFC 8628 section 5.4).
func (r Request) showCode(d *enroll.DeviceReply) error {
	if err := CheckURL(d.VerificationURI); err != nil {
		return fmt.Errorf("the address for the device login: %w", err)
	}
	if d.UserCode == "" || len(d.UserCode) > 64 || strings.ContainsFunc(d.UserCode, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errors.New("the gateway sent no usable code for the device login")
	}
	r.tell("On any device, open this address:\n%s\nand enter this code:\n%s\n", d.VerificationURI, d.UserCode)
	if d.VerificationURIComplete != "" && CheckURL(d.VerificationURIComplete) == nil {
		r.tell("The address with the code in it:\n%s\n", d.VerificationURIComplete)
	}
	return nil
}

// poll asks until the login is confirmed, refused or expired. The gateway's interval is kept, and grows when it
// says so; being unreachable for a while ends nothing.
func (r Request) poll(ctx context.Context, d *enroll.DeviceReply) (*enroll.Response, time.Duration, error) {
	interval := time.Duration(min(max(d.Interval, 1), 60)) * time.Second
	req := &enroll.DevicePollRequest{ID: d.ID}
	if err := req.Sign(r.Key); err != nil {
		return nil, 0, err
	}
	life := min(d.Expires.Sub(r.Now()), time.Hour)
	if d.Expires.IsZero() || life <= 0 { // our clock is wrong, and the gateway ends it anyway
		life = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, life, ErrDeviceExpired)
	defer cancel()
	for pause(ctx, interval) {
		sent := r.Now()
		resp, wait, err := r.Gateway.DevicePoll(ctx, req)
		switch {
		case err == nil && resp != nil:
			return resp, skewOf(resp.Time, sent, r.Now()), nil
		case err == nil:
			interval = max(interval, wait)
		case ctx.Err() != nil:
		case !worthRetrying(err):
			return nil, 0, deviceError(err)
		default:
			interval = min(max(interval+time.Second, retryAfter(err)), time.Minute)
		}
	}
	return nil, 0, context.Cause(ctx)
}

func deviceError(err error) error {
	if errors.Is(err, &enroll.Problem{Code: enroll.CodeDeviceExpired}) {
		return fmt.Errorf("%w: %w", ErrDeviceExpired, err)
	}
	return err
}
