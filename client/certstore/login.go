package certstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// Login is what a profile knows. Gateway and pins survive a logout; the fields from Session on do not.
type Login struct {
	Gateway          string           // the gateway's HTTPS URL, as given to login
	HTTPSFingerprint auth.Fingerprint // pinned authority of its HTTPS certificate, or empty
	HTTPSRoots       []byte           // PEM of --ca-file, or empty: the system's roots
	Tunnel           string           // host:port of the tunnel where it differs from the gateway's, or empty
	TrustDomain      auth.TrustDomain // pinned
	Roots            [][]byte         // pinned roots of the tunnel, DER
	Provider         string           // name of the provider that was used
	ProviderSettings json.RawMessage  // that provider's settings, as discovered

	Session      auth.SessionID
	SessionKey   Secret        // of the certificate; see [NewKey]
	Chain        [][]byte      // DER: leaf, issuing certificate
	RefreshToken Secret        // the provider's, or empty
	Renewable    bool          // there is a refresh token, also where it is not opened; set by [Profile.Load] and [Profile.Peek]
	Deadline     time.Time     // end of the session; no certificate goes beyond it
	ClockSkew    time.Duration // gateway's clock minus this machine's, when last measured; positive: this one is slow
	UpdatedAt    time.Time     // set by [Profile.Save]
}

// LoggedIn reports whether there is a certificate, which may have expired.
func (l Login) LoggedIn() bool { return len(l.Chain) > 0 }

// Leaf returns the parsed client certificate.
func (l Login) Leaf() (*x509.Certificate, error) {
	if !l.LoggedIn() {
		return nil, ErrNotLoggedIn
	}
	leaf, err := x509.ParseCertificate(l.Chain[0])
	if err != nil {
		return nil, fmt.Errorf("parse client certificate: %w", err)
	}
	return leaf, nil
}

// Identity returns what the certificate says of its owner: for display, the certificate is this client's own.
func (l Login) Identity() (auth.Identity, error) {
	leaf, err := l.Leaf()
	if err != nil {
		return auth.Identity{}, err
	}
	return auth.FromCertificate(leaf, l.TrustDomain)
}

// Key returns the session's private key.
func (l Login) Key() (*ecdsa.PrivateKey, error) {
	if l.SessionKey.IsZero() {
		return nil, ErrNotLoggedIn
	}
	return parseKey(l.SessionKey)
}

// Certificate returns chain and key in the form that TLS takes.
func (l Login) Certificate() (*tls.Certificate, error) {
	leaf, err := l.Leaf()
	if err != nil {
		return nil, err
	}
	key, err := l.Key()
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("client certificate and session key do not belong together")
	}
	return &tls.Certificate{Certificate: l.Chain, PrivateKey: key, Leaf: leaf}, nil
}

// maxRoots bounds what a gateway may have pinned: two in a change of roots, and room for more.
const maxRoots = 8

// RootPool returns the pinned roots of the tunnel. It is an error when there is none, and when one is no authority.
func (l Login) RootPool() (*x509.CertPool, error) {
	if len(l.Roots) == 0 || len(l.Roots) > maxRoots {
		return nil, fmt.Errorf("%d roots for the tunnel; 1 to %d can be pinned", len(l.Roots), maxRoots)
	}
	pool := x509.NewCertPool()
	for _, der := range l.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("parse pinned root: %w", err)
		}
		if !root.IsCA || !root.BasicConstraintsValid {
			return nil, errors.New("a pinned root is no certificate authority")
		}
		pool.AddCert(root)
	}
	return pool, nil
}

// check refuses to store what could not be used afterwards.
func (l Login) check() error {
	if l.Gateway == "" {
		return errors.New("login without a gateway")
	}
	if _, err := auth.ParseTrustDomain(string(l.TrustDomain)); err != nil {
		return err
	}
	if _, err := l.RootPool(); err != nil {
		return err
	}
	if !l.LoggedIn() {
		return nil
	}
	if _, err := auth.ParseSessionID(string(l.Session)); err != nil {
		return err
	}
	_, err := l.Certificate()
	return err
}

// withoutSession keeps what a logout keeps.
func (l Login) withoutSession() Login {
	return Login{
		Gateway: l.Gateway, HTTPSFingerprint: l.HTTPSFingerprint, HTTPSRoots: l.HTTPSRoots, Tunnel: l.Tunnel,
		TrustDomain: l.TrustDomain, Roots: l.Roots, Provider: l.Provider, ProviderSettings: l.ProviderSettings,
	}
}

// loginDocument is the form of login.json.
type loginDocument struct {
	Version          int              `json:"version"`
	Gateway          string           `json:"gateway"`
	HTTPSFingerprint auth.Fingerprint `json:"https_fingerprint,omitempty"`
	HTTPSRoots       string           `json:"https_roots,omitempty"`
	Tunnel           string           `json:"tunnel,omitempty"`
	TrustDomain      auth.TrustDomain `json:"trust_domain"`
	Roots            [][]byte         `json:"roots"`
	Provider         string           `json:"provider,omitempty"`
	ProviderSettings json.RawMessage  `json:"provider_settings,omitempty"`
	Session          auth.SessionID   `json:"session,omitempty"`
	SessionKey       json.RawMessage  `json:"session_key,omitempty"` // sealed
	Chain            [][]byte         `json:"chain,omitempty"`
	RefreshToken     json.RawMessage  `json:"refresh_token,omitempty"` // sealed
	Deadline         time.Time        `json:"deadline,omitzero"`
	ClockSkewMillis  int64            `json:"clock_skew_ms,omitempty"`
	UpdatedAt        time.Time        `json:"updated_at"`
}

func (d loginDocument) login() Login {
	l := Login{
		Gateway: d.Gateway, HTTPSFingerprint: d.HTTPSFingerprint, Tunnel: d.Tunnel, TrustDomain: d.TrustDomain,
		Roots: d.Roots, Provider: d.Provider, ProviderSettings: d.ProviderSettings, Session: d.Session, Chain: d.Chain,
		Renewable: len(d.RefreshToken) > 0,
		Deadline:  d.Deadline, ClockSkew: time.Duration(d.ClockSkewMillis) * time.Millisecond, UpdatedAt: d.UpdatedAt,
	}
	if d.HTTPSRoots != "" {
		l.HTTPSRoots = []byte(d.HTTPSRoots)
	}
	return l
}

func newLoginDocument(l Login) loginDocument {
	return loginDocument{
		Version: fileVersion, Gateway: l.Gateway, HTTPSFingerprint: l.HTTPSFingerprint, HTTPSRoots: string(l.HTTPSRoots),
		Tunnel: l.Tunnel, TrustDomain: l.TrustDomain, Roots: l.Roots, Provider: l.Provider, ProviderSettings: l.ProviderSettings,
		Session: l.Session, Chain: l.Chain, Deadline: l.Deadline.UTC(), ClockSkewMillis: l.ClockSkew.Milliseconds(), UpdatedAt: l.UpdatedAt.UTC(),
	}
}

// Load returns the login with its secrets. The error wraps [ErrNotLoggedIn] where there is no session, keyring.ErrUnavailable or
// keyring.ErrKeyLost where the secrets cannot be opened, and is a [*CorruptError] for a file that was set aside.
func (p *Profile) Load(ctx context.Context) (Login, error) {
	doc, err := p.readLogin()
	if err != nil {
		return Login{}, err
	}
	l := doc.login()
	if !l.LoggedIn() {
		return Login{}, p.notLoggedIn()
	}
	if l.SessionKey, err = p.unseal(ctx, sessionKeyName, doc.SessionKey); err != nil {
		return Login{}, err
	}
	l.RefreshToken, err = p.unseal(ctx, refreshTokenName, doc.RefreshToken)
	return l, err
}

// Peek returns the login without its secrets and without asking a keyring: for a status, and for the gateway and
// pins that a logout leaves. See [Login.LoggedIn]. The error wraps [ErrNotLoggedIn] where there never was a login.
func (p *Profile) Peek() (Login, error) {
	doc, err := p.readLogin()
	return doc.login(), err
}

// Save stores the login. When it returns nil, the files survive a crash and a power cut: a refresh token that was
// saved may be used. The caller holds [Profile.LockRefresh].
func (p *Profile) Save(ctx context.Context, l Login) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("save login: %w", err)
	}
	l.UpdatedAt = p.now()
	doc := newLoginDocument(l)
	var err error
	if doc.SessionKey, err = p.seal(ctx, sessionKeyName, l.SessionKey); err != nil {
		return err
	}
	if doc.RefreshToken, err = p.seal(ctx, refreshTokenName, l.RefreshToken); err != nil {
		return err
	}
	return p.write(loginFile, doc)
}

// Logout forgets session, keys of the session, certificate and refresh token. Gateway, pins and the device's key stay. It
// takes [Profile.LockRefresh] itself. A profile without a login is left as it is.
func (p *Profile) Logout(ctx context.Context) error {
	lock, err := p.LockRefresh(ctx)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	l, err := p.Peek()
	if errors.Is(err, ErrNotLoggedIn) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.Save(ctx, l.withoutSession())
}
