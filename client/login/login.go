package login

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

// DefaultTimeout is how long a person has to finish a login.
const DefaultTimeout = 10 * time.Minute

// Request says who wants to log in, where and how.
type Request struct {
	// Gateway is the gateway's enrolment API. Required.
	Gateway *enroll.Client
	// Key is the new session's key, and Device the device's; both ECDSA P-256. Required.
	Key, Device *ecdsa.PrivateKey
	// TrustDomain is the one pinned by an earlier login; empty at the first. Another one is refused.
	TrustDomain auth.TrustDomain
	// Provider is the name of the provider. Optional when the gateway offers only one.
	Provider string
	// DeviceCode logs in on another device instead of in a browser here.
	DeviceCode bool
	// NoBrowser prints the address to open and opens nothing.
	NoBrowser bool
	// LoginHint tells the provider whom to expect. Optional.
	LoginHint string
	// Out is where people are told what to do. Required; stderr in a command.
	Out io.Writer
	// Open opens an address in the browser. Default: the system's browser.
	Open func(address string) error
	// HTTP talks to the provider. Default: oidc.NewHTTPClient.
	HTTP *http.Client
	// Client names this program to the gateway.
	Client enroll.ClientInfo
	// Timeout bounds the whole login. Default DefaultTimeout.
	Timeout time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time

	stepUp bool // there is no --device-code to advise
}

// Result is a finished login, to be stored.
type Result struct {
	// Discovery is what the gateway said of itself.
	Discovery *enroll.Discovery
	// Provider must be given to Renew.
	Provider Provider
	// Response has certificate, roots and session.
	Response *enroll.Response
	// RefreshToken is empty when the provider gave none: then nothing renews this login.
	RefreshToken oidc.Secret
	// Skew is the gateway's clock minus ours, to half a round trip.
	Skew time.Duration
}

// Provider is what a renewal needs to know of the provider. It is stored as JSON.
type Provider struct {
	Settings oidc.ClientSettings `json:"settings"`
	// Granted are the scopes that the login was granted.
	Granted []string `json:"granted,omitempty"`
}

// JSON is the form to store.
func (p Provider) JSON() (json.RawMessage, error) { return json.Marshal(p) }

// ParseProvider reads the form of [Provider.JSON] and validates it.
func ParseProvider(data json.RawMessage) (Provider, error) {
	var p Provider
	if err := json.Unmarshal(data, &p); err != nil {
		return Provider{}, fmt.Errorf("read the stored provider: %w", err)
	}
	return p, p.Settings.Validate()
}

// ChooseError says that the gateway offers several providers and none, or an unknown one, was named.
type ChooseError struct {
	Wanted string
	Names  []string
}

func (e *ChooseError) Error() string {
	names := strings.Join(e.Names, ", ")
	if e.Wanted != "" {
		return fmt.Sprintf("the gateway has no provider %q; it offers %s", e.Wanted, names)
	}
	return "the gateway offers several providers; choose one of " + names
}

// ErrTimeout: nobody finished the login in time.
var ErrTimeout = errors.New("nobody finished the login in time")

func (r Request) withDefaults() (Request, error) {
	if r.Gateway == nil || r.Key == nil || r.Device == nil || r.Out == nil {
		return r, errors.New("login: the request lacks gateway, keys or output")
	}
	if r.Open == nil {
		r.Open = openSystemBrowser
	}
	if r.Timeout <= 0 {
		r.Timeout = DefaultTimeout
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	return r, nil
}

// Login runs a login until there is a certificate. It blocks until then; ctx ends it. Errors that callers branch
// on: [*ChooseError], [ErrTimeout], [*oidc.ProviderError] (the provider's own words), [*enroll.Problem] (the
// gateway's), [oidc.ErrUnavailable].
func Login(ctx context.Context, r Request) (*Result, error) {
	r, err := r.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, fmt.Errorf("%w (%s)", ErrTimeout, r.Timeout))
	defer cancel()
	d, err := r.Gateway.Discover(ctx)
	if err != nil {
		return nil, causeOf(ctx, fmt.Errorf("reach the gateway: %w", err))
	}
	if err := r.checkDiscovery(d); err != nil {
		return nil, err
	}
	settings, err := r.choose(d)
	if err != nil {
		return nil, err
	}
	result := &Result{Discovery: d, Provider: Provider{Settings: settings}}
	if r.DeviceCode {
		err = r.byDevice(ctx, result)
	} else {
		err = r.byBrowser(ctx, result)
	}
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	return result, nil
}

// causeOf gives a context's own reason instead of "context deadline exceeded".
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// checkDiscovery refuses another trust domain than the pinned one: a certificate for it would be of no use, and
// somebody else may be answering.
func (r Request) checkDiscovery(d *enroll.Discovery) error {
	if _, err := auth.ParseTrustDomain(string(d.TrustDomain)); err != nil {
		return fmt.Errorf("the gateway's discovery document: %w", err)
	}
	if r.TrustDomain != "" && r.TrustDomain != d.TrustDomain {
		return fmt.Errorf("the gateway calls its trust domain %q, but %q is pinned by an earlier login; use another profile for another gateway",
			d.TrustDomain, r.TrustDomain)
	}
	return nil
}

// choose picks the provider and validates what the gateway says of it.
func (r Request) choose(d *enroll.Discovery) (oidc.ClientSettings, error) {
	var names []string
	for _, s := range d.Providers {
		names = append(names, clean(s.Name))
	}
	i := slices.IndexFunc(d.Providers, func(s oidc.ClientSettings) bool { return s.Name == r.Provider })
	switch {
	case len(names) == 0:
		return oidc.ClientSettings{}, errors.New("the gateway offers no provider to log in with")
	case r.Provider == "" && len(names) == 1:
		i = 0
	case i < 0:
		return oidc.ClientSettings{}, &ChooseError{Wanted: r.Provider, Names: names}
	}
	settings := d.Providers[i]
	if err := settings.Validate(); err != nil {
		return settings, fmt.Errorf("the gateway's settings are unusable: %w", err)
	}
	return settings, checkIssuerPlace(r.Gateway.BaseURL, settings.Issuer)
}

// enrol sends the login and keeps trying while that may help: with the same key the gateway answers a repeated
// request with the same certificate.
func (r Request) enrol(ctx context.Context, d *enroll.Discovery, tokens oidc.Tokens, settings oidc.ClientSettings, salt []byte) (*enroll.Response, time.Duration, error) {
	req, err := r.loginRequest(d, tokens, settings, salt)
	if err != nil {
		return nil, 0, err
	}
	return attempt(ctx, r.Now, func() (*enroll.Response, error) {
		resp, err := r.Gateway.Login(ctx, req)
		if err != nil {
			return nil, err
		}
		return resp, checkResponse(resp, d.TrustDomain, &r.Key.PublicKey)
	})
}

func (r Request) loginRequest(d *enroll.Discovery, tokens oidc.Tokens, settings oidc.ClientSettings, salt []byte) (*enroll.LoginRequest, error) {
	csr, spki, err := newCSR(r.Key)
	if err != nil {
		return nil, err
	}
	proof, err := enroll.NewDeviceProof(r.Device, d.TrustDomain, spki)
	if err != nil {
		return nil, err
	}
	req := &enroll.LoginRequest{
		Provider: settings.Name, IDToken: tokens.IDToken, Salt: salt, CSR: csr, DeviceProof: proof, Client: r.Client,
	}
	if settings.SendAccessToken {
		req.AccessToken = tokens.AccessToken
	}
	return req, nil
}

// newCSR returns a certificate request that asks for nothing but the key, and the key's SPKI.
func newCSR(key *ecdsa.PrivateKey) (csr, spki []byte, err error) {
	if spki, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return nil, nil, fmt.Errorf("encode the session key: %w", err)
	}
	if csr, err = x509.CreateCertificateRequest(nil, &x509.CertificateRequest{}, key); err != nil {
		return nil, nil, fmt.Errorf("make the certificate request: %w", err)
	}
	return csr, spki, nil
}

// checkResponse refuses a certificate that is not for our key or that says nothing readable about us.
func checkResponse(resp *enroll.Response, td auth.TrustDomain, key *ecdsa.PublicKey) error {
	leaf, err := x509.ParseCertificate(resp.Chain[0])
	if err != nil {
		return fmt.Errorf("the gateway's certificate: %w", err)
	}
	if !key.Equal(leaf.PublicKey) {
		return errors.New("the gateway's certificate is for another key")
	}
	if _, err := auth.FromCertificate(leaf, td); err != nil {
		return fmt.Errorf("the gateway's certificate: %w", err)
	}
	for _, der := range resp.Roots {
		if _, err := x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("the gateway's root certificate: %w", err)
		}
	}
	return nil
}
