package client

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/login"
	"github.com/culvert-vpn/culvert/client/status"
)

// ErrLoginRunning: another process is logging in to the same profile.
var ErrLoginRunning = errors.New("another login for this profile is running")

// ErrNoGateway: LogIn was given no URL, and the profile has none from before.
var ErrNoGateway = errors.New("no gateway is known in this profile yet: name its URL")

// loginLockWait is how long LogIn waits for another one: long enough for one
// that is just ending.
const loginLockWait = time.Second

// LogInOptions say how to log in. The zero value logs in again where the profile
// was logged in before, in the system's browser.
type LogInOptions struct {
	// URL is the gateway; "https://" may be left out. Default: that of the profile's last login.
	URL string
	// Trust verifies the gateway's HTTPS certificate. Default: what the last
	// login at the same gateway was given.
	Trust Trust
	// Provider is needed where the gateway offers several.
	Provider string
	// DeviceCode logs in on another device; NoBrowser only prints the address.
	DeviceCode, NoBrowser bool
	// Open opens an address in the browser. Default: the system's.
	Open func(address string) error
	// Out is where the person is told what to do. Required.
	Out io.Writer
	// Timeout bounds the whole login. Default: login.DefaultTimeout.
	Timeout time.Duration
}

// LogIn logs a person in and stores the login in the profile. A client that runs
// with the profile takes it up by itself. Besides ErrLoginRunning, the errors
// are those of login.Login and of the store.
func LogIn(ctx context.Context, cfg Config, o LogInOptions) (*Login, error) {
	cfg = cfg.withDefaults()
	unlock, err := lockLogin(ctx, cfg.Profile)
	if err != nil {
		return nil, err
	}
	defer unlock()
	record, err := startRecord(cfg.Profile, o)
	if err != nil {
		return nil, err
	}
	result, err := runLogin(ctx, cfg, o, &record)
	if err != nil {
		return nil, err
	}
	if err := fillRecord(&record, result); err != nil {
		return nil, err
	}
	if err := saveLocked(ctx, cfg.Profile, record); err != nil {
		return nil, err
	}
	certificate, err := record.Certificate()
	if err != nil {
		return nil, err
	}
	return loginOf(record, certificate)
}

func lockLogin(ctx context.Context, profile *certstore.Profile) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loginLockWait, ErrLoginRunning)
	defer cancel()
	lock, err := profile.LockLogin(ctx)
	if errors.Is(err, ErrLoginRunning) {
		return nil, ErrLoginRunning
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = lock.Unlock() }, nil
}

// startRecord begins with what is known of the gateway: pins of an earlier login
// hold for the same gateway only.
func startRecord(profile *certstore.Profile, o LogInOptions) (certstore.Login, error) {
	before, err := profile.Peek()
	if err != nil && !errors.Is(err, certstore.ErrNotLoggedIn) {
		return certstore.Login{}, err
	}
	address := before.Gateway
	if o.URL != "" {
		if address, err = GatewayURL(o.URL); err != nil {
			return certstore.Login{}, err
		}
	}
	if address == "" {
		return certstore.Login{}, ErrNoGateway
	}
	record := certstore.Login{Gateway: address, HTTPSFingerprint: o.Trust.Fingerprint, HTTPSRoots: o.Trust.Roots}
	if address != before.Gateway {
		return record, nil
	}
	record.TrustDomain, record.Provider = before.TrustDomain, before.Provider
	if o.Trust.Fingerprint == "" && o.Trust.Roots == nil {
		record.HTTPSFingerprint, record.HTTPSRoots = before.HTTPSFingerprint, before.HTTPSRoots
	}
	return record, nil
}

// GatewayURL returns the canonical form of a gateway's address as people type it.
func GatewayURL(s string) (string, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("%q is not a URL", s)
	case u.Scheme != "https":
		return "", fmt.Errorf("the gateway's URL begins with https://, not %s://", u.Scheme)
	case u.Hostname() == "":
		return "", fmt.Errorf("%q names no host", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("the gateway's URL has no user, query or fragment")
	}
	return "https://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// deviceKey gets the key that names this device. One whose sealing key is gone never
// opens again, and no login would ever succeed: it is set aside, and the person is
// told that the device becomes another one.
func deviceKey(ctx context.Context, profile *certstore.Profile, out io.Writer) (*ecdsa.PrivateKey, error) {
	device, err := profile.DeviceKey(ctx)
	if !errors.Is(err, keyring.ErrKeyLost) {
		return device, err
	}
	aside, err := profile.ResetDevice()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "The key that sealed this device's key is gone: the device gets a new key, and the old one is kept as %s.\n", aside)
	return profile.DeviceKey(ctx)
}

func runLogin(ctx context.Context, cfg Config, o LogInOptions, record *certstore.Login) (*login.Result, error) {
	key, secret, err := certstore.NewKey()
	if err != nil {
		return nil, err
	}
	record.SessionKey = secret
	device, err := deviceKey(ctx, cfg.Profile, o.Out)
	if err != nil {
		return nil, fmt.Errorf("the device's key: %w", err)
	}
	gateway, done, err := cfg.gateway(record.Gateway, Trust{Fingerprint: record.HTTPSFingerprint, Roots: record.HTTPSRoots})
	if err != nil {
		return nil, err
	}
	defer done()
	provider := o.Provider
	request := login.Request{
		Gateway: gateway, Key: key, Device: device, TrustDomain: record.TrustDomain, Provider: provider,
		DeviceCode: o.DeviceCode, NoBrowser: o.NoBrowser, Out: o.Out, Open: o.Open, HTTP: cfg.ProviderHTTP,
		Client: cfg.clientInfo(), Timeout: o.Timeout, Now: cfg.Now,
	}
	result, err := login.Login(ctx, request)
	var choose *login.ChooseError
	if errors.As(err, &choose) && provider == "" && record.Provider != "" {
		request.Provider = record.Provider // the one of last time
		result, err = login.Login(ctx, request)
	}
	return result, err
}

func fillRecord(record *certstore.Login, result *login.Result) error {
	settings, err := result.Provider.JSON()
	if err != nil {
		return err
	}
	response := result.Response
	record.Tunnel, record.TrustDomain = result.Discovery.Tunnel, result.Discovery.TrustDomain
	record.Provider, record.ProviderSettings = result.Provider.Settings.Name, settings
	record.Session, record.Chain, record.Roots = response.Session, response.Chain, response.Roots
	record.RefreshToken = certstore.NewSecretString(result.RefreshToken.Reveal())
	record.Deadline, record.ClockSkew = response.Deadline, result.Skew
	return nil
}

// saveLocked stores under the lock that keeps a renewal of the old session from
// writing over the new login.
func saveLocked(ctx context.Context, profile *certstore.Profile, record certstore.Login) error {
	lock, err := profile.LockRefresh(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	return profile.Save(context.WithoutCancel(ctx), record)
}

// Offline is the status of a profile with which no client runs.
func Offline(profile *certstore.Profile, now time.Time) (status.Status, error) {
	s := status.Status{State: status.NotLoggedIn, Profile: profile.Name()}
	creds := &stored{cfg: Config{Profile: profile}}
	l, err := creds.Peek()
	if errors.Is(err, ErrNotLoggedIn) {
		if record, err := profile.Peek(); err == nil {
			s.Gateway.URL = record.Gateway
		}
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.State = status.Stopped
	s.Gateway = status.Gateway{URL: l.URL, Address: l.Tunnel, Skew: l.Skew}
	s.User, s.Session = userOf(l), sessionOf(l)
	if at := now.Add(l.Skew); !l.Deadline.IsZero() && !at.Before(l.Deadline) {
		s.State, s.Reason = status.Expired, "the session ended at "+clockTime(l.Deadline, at)
	}
	if l.NoRenewal != "" && s.State == status.Stopped {
		s.Warnings = append(s.Warnings, noRenewalWarning(l))
	}
	if l.Skew.Abs() >= skewWarn {
		s.Warnings = append(s.Warnings, skewWarning(l.Skew))
	}
	return s, nil
}
