// Package enroll is the gateway's half of the enrolment: it takes proof of a login
// at an OpenID provider and a certificate request, and gives a short-lived
// certificate. The messages and the client's half are in auth/enroll.
//
// What it holds to, whoever asks:
//
//   - The gateway, never the client, says what kind of enrolment it was. A login's ID
//     token must carry a nonce that binds it to the requested key; a renewal must be
//     signed by the key of the certificate; a step-up is both at once; a device
//     login's tokens never reach the client before the certificate does.
//   - A token buys one certificate. The same key again gets the same one, so
//     that a lost answer costs nothing; another key gets nothing.
//   - A renewal replaces what the provider says (groups, acr) and nothing else: user,
//     key, session, device, kind of login, auth_time and deadline stay. A step-up
//     replaces auth_time besides, by what the provider says of a login that it
//     just saw; it moves no deadline.
//   - A provider's logout token ends sessions of that provider, and begins nothing.
//   - No certificate leaves before it is in the store's inventory and in the
//     audit log. Without either, nothing is issued.
//
// It does not verify tokens itself (auth/oidc), sign (auth/ca), persist
// (server/store) or decide who reaches what (server/policy). It never logs a token.
package enroll

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// Store keeps what an enrolment must not forget. Every method is durable when it
// returns nil, and returns an error that wraps store.ErrUnavailable when the
// database does not answer. *store.Store is one.
type Store interface {
	// Issue redeems a token, calls Sign and records the certificate in one
	// transaction.
	Issue(ctx context.Context, in store.Issuance) (store.Issued, error)
	// Redeemed gets again what was issued for a token and this key.
	Redeemed(ctx context.Context, token string, key store.KeyHash) (store.Issued, error)
	// Certificate and Session return store.ErrNotFound for what is not there.
	Certificate(ctx context.Context, serial auth.Serial) (store.Certificate, error)
	Session(ctx context.Context, id auth.SessionID) (store.Session, error)
	// Logout accepts a provider's logout token once, and ends what it names; all
	// or nothing.
	Logout(ctx context.Context, in store.Logout) (store.LoggedOut, error)
	// PutChallenge keeps a challenge for ttl; TakeChallenge uses it up, whatever
	// comes of it, and returns store.ErrNotFound unless it was good.
	PutChallenge(ctx context.Context, challenge []byte, serial auth.Serial, ttl time.Duration) (time.Time, error)
	TakeChallenge(ctx context.Context, challenge []byte, serial auth.Serial) error
	// PutGrant returns store.ErrTooMany at the limit; ClaimPoll returns
	// store.ErrTooSoon unless the provider may be polled now, by this caller.
	PutGrant(ctx context.Context, g store.DeviceGrant, limit int) error
	Grant(ctx context.Context, idHash string) (store.DeviceGrant, error)
	ClaimPoll(ctx context.Context, idHash string) error
	SlowGrant(ctx context.Context, idHash string, interval time.Duration) error
	FailGrant(ctx context.Context, idHash, failure string) error
}

// Authority signs certificates. *ca.Authority is one.
type Authority interface {
	TrustDomain() auth.TrustDomain
	GatewayID() auth.GatewayID
	// RootsDER are the tunnel's roots, never empty.
	RootsDER() [][]byte
	IssueClient(ctx context.Context, p ca.ClientProfile) (*ca.Issued, error)
}

// Provider verifies what one OpenID provider vouches for. *oidc.Verifier is one.
// An error that is oidc.ErrUnavailable says nothing about the person.
type Provider interface {
	Config() oidc.ProviderConfig
	VerifyLogin(ctx context.Context, shown oidc.Presented, wantNonce string) (*oidc.Claims, error)
	VerifyDevice(ctx context.Context, shown oidc.Presented) (*oidc.Claims, error)
	VerifyRenewal(ctx context.Context, shown oidc.Presented, prev oidc.Previous) (*oidc.Claims, error)
	VerifyStepUp(ctx context.Context, shown oidc.Presented, wantNonce string, prev oidc.Previous) (*oidc.Claims, error)
	VerifyLogout(ctx context.Context, token oidc.Secret) (*oidc.Logout, error)
	// Provider gives the discovered provider, for the device flow.
	Provider(ctx context.Context) (*oidc.Provider, error)
}

// Audit records issuance and refusal; the record of an issuance is on the disk
// when Append returns nil. *audit.Log is one.
type Audit interface {
	Append(ctx context.Context, r audit.Record) (audit.Receipt, error)
}

// Config is what a Handler needs. Fields are required unless they say otherwise.
type Config struct {
	Store     Store
	Authority Authority
	// Providers are offered in this order.
	Providers []Provider
	Audit     Audit
	Logger    *slog.Logger
	// Tunnel is the host:port of the tunnel where it is not that of the
	// gateway's URL. Optional.
	Tunnel string
	// CertificateTTL is a certificate's life; 0 means 1 h.
	CertificateTTL time.Duration
	// SessionTTL is how long after auth_time a certificate may last; 0 means 12 h.
	SessionTTL time.Duration
	// KeepGroups are the groups that go into certificates; "*" stands for any
	// text. With more than one provider a group is written provider/group.
	// Empty keeps all.
	KeepGroups []string
	Limits     Limits
	// Observe is told the kind ("login", "renewal", …) and outcome ("issued",
	// "repeated", "logged_out", or the code of a refusal) of every request. Optional.
	Observe func(kind, outcome string)
	// Now is the gateway's clock; nil means time.Now.
	Now func() time.Time
}

// Limits bound what strangers and users may ask for; zero values take the
// defaults that are named here.
type Limits struct {
	// AddressPerMinute is requests of one address (IPv6: one /64), which may
	// also come at once. 60.
	AddressPerMinute int
	// UserPerMinute is enrolments of one person, which may also come at
	// once. 30.
	UserPerMinute int
	// LogoutsPerMinute is logout tokens of one address, which is the provider's. 600.
	LogoutsPerMinute int
	// Concurrent is requests being worked on. 128.
	Concurrent int
	// DeviceLogins is device logins that wait for their person. 1000.
	DeviceLogins int
	// BodyTimeout bounds the arrival of a request's body. 10 s.
	BodyTimeout time.Duration
	// Timeout bounds the work on a request, the provider's included. 30 s.
	Timeout time.Duration
}

// What is not configurable.
const (
	challengeTTL  = 2 * time.Minute
	challengeSize = 32
	// maxHeld bounds the bodies in memory, of requests that arrive, wait for a
	// slot or are worked on: four times what all slots need at the most.
	maxHeld = 64 << 20
	// tokenMargin is added to a token's expiry for the provider's skew.
	tokenMargin = 15 * time.Minute
	// undatedLife is how long an access token that nobody dates stays redeemed.
	undatedLife = 30 * 24 * time.Hour
	// maxTracked bounds the table of each rate limit.
	maxTracked = 16384
)

func (l Limits) withDefaults() Limits {
	setDefault(&l.AddressPerMinute, 60)
	setDefault(&l.UserPerMinute, 30)
	setDefault(&l.LogoutsPerMinute, 600)
	setDefault(&l.Concurrent, 128)
	setDefault(&l.DeviceLogins, 1000)
	setDefault(&l.BodyTimeout, 10*time.Second)
	setDefault(&l.Timeout, 30*time.Second)
	return l
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Handler answers the paths of the enrolment and is safe for concurrent use. Make
// one with New. It runs nothing in the background.
type Handler struct {
	Config
	providers map[string]Provider
	routes    map[string]route
	keep      groupFilter
	addresses *limiter[addressKey]
	users     *limiter[auth.UserID]
	logouts   *limiter[addressKey]
	slots     chan struct{}
	held      atomic.Int64 // bytes of bodies
}

// New makes the handler of the gateway's enrolment paths.
func New(c Config) (*Handler, error) {
	if c.Store == nil || c.Authority == nil || c.Audit == nil || c.Logger == nil {
		return nil, errors.New("enrolment needs a store, an authority, an audit log and a logger")
	}
	if len(c.Providers) == 0 {
		return nil, errors.New("enrolment needs a provider: without one nobody can log in")
	}
	if len(c.Authority.RootsDER()) == 0 {
		return nil, errors.New("enrolment needs the authority's roots")
	}
	setDefault(&c.CertificateTTL, time.Hour)
	setDefault(&c.SessionTTL, 12*time.Hour)
	c.Limits = c.Limits.withDefaults()
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string) {}
	}
	h := &Handler{
		Config:    c,
		providers: make(map[string]Provider),
		keep:      groupFilter{patterns: c.KeepGroups, qualified: len(c.Providers) > 1},
		addresses: newLimiter[addressKey](c.Limits.AddressPerMinute, maxTracked, c.Now),
		users:     newLimiter[auth.UserID](c.Limits.UserPerMinute, maxTracked, c.Now),
		logouts:   newLimiter[addressKey](c.Limits.LogoutsPerMinute, maxTracked, c.Now),
		slots:     make(chan struct{}, c.Limits.Concurrent),
	}
	for _, p := range c.Providers {
		name := p.Config().Name
		if h.providers[name] != nil {
			return nil, fmt.Errorf("enrolment has two providers with the name %q", name)
		}
		h.providers[name] = p
	}
	h.routes = map[string]route{
		enroll.PathDiscovery:  {http.MethodGet, "discovery", h.discovery},
		enroll.PathLogin:      {http.MethodPost, "login", h.login},
		enroll.PathChallenge:  {http.MethodPost, "challenge", h.challenge},
		enroll.PathRenew:      {http.MethodPost, "renewal", h.renew},
		enroll.PathStepUp:     {http.MethodPost, "step-up", h.stepUp},
		enroll.PathDevice:     {http.MethodPost, "device", h.deviceStart},
		enroll.PathDevicePoll: {http.MethodPost, "device", h.devicePoll},
	}
	return h, nil
}

// discovery describes the gateway.
func (h *Handler) discovery(context.Context, *call) (int, any, error) {
	d := enroll.Discovery{
		Versions:       []int{enroll.Version},
		TrustDomain:    h.Authority.TrustDomain(),
		Gateway:        h.Authority.GatewayID(),
		Tunnel:         h.Tunnel,
		Time:           h.Now().UTC().Truncate(time.Millisecond),
		CertificateTTL: int(h.CertificateTTL / time.Second),
		SessionTTL:     int(h.SessionTTL / time.Second),
	}
	for _, p := range h.Config.Providers {
		d.Providers = append(d.Providers, p.Config().ClientSettings())
	}
	return http.StatusOK, d, nil
}

// provider finds a provider by the name that the discovery document gives it.
func (h *Handler) provider(name string) (Provider, error) {
	p := h.providers[name]
	if p == nil {
		return nil, refuse(enroll.CodeUnknownProvider, "this gateway has no provider named %q", plaintext.Clip(name, 64)).
			remedy("log in again: the gateway's providers may have changed")
	}
	return p, nil
}
