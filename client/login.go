package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/login"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Login is what a profile holds after a login: an immutable snapshot.
type Login struct {
	URL         string // of the gateway, as given to login
	Tunnel      string // host:port of the tunnel
	TrustDomain auth.TrustDomain
	Roots       *x509.CertPool // of the tunnel; pinned
	Certificate tls.Certificate
	Leaf        *x509.Certificate
	Identity    auth.Identity
	Deadline    time.Time     // when only a login helps: the session's, or the certificate's end where it is not renewed
	NoRenewal   string        // why the certificate is not renewed; empty when it is
	Skew        time.Duration // the gateway's clock minus ours, as measured at the enrolment
}

// Session is the session that the certificate belongs to.
func (l *Login) Session() auth.SessionID { return l.Identity.Session }

// begin is when the certificate was issued. Its NotBefore lies before that, by the
// tolerance for skewed clocks.
func (l *Login) begin() time.Time {
	if at := l.Identity.IssuedAt; at.After(l.Leaf.NotBefore) && at.Before(l.Leaf.NotAfter) {
		return at
	}
	return l.Leaf.NotBefore
}

// Serial names the certificate.
func (l *Login) Serial() auth.Serial { return auth.SerialOf(l.Leaf) }

// renewalRefused says that a session is not renewed any more: only a login helps.
type renewalRefused = login.Refused

// credentials is where logins come from.
type credentials interface {
	// Peek returns the stored login without its private key, or ErrNotLoggedIn. It is cheap.
	Peek() (*Login, error)
	// Load returns the stored login whole, or ErrNotLoggedIn. It may ask a keyring, not the network.
	Load(ctx context.Context) (*Login, error)
	// Renew returns a login of the same session whose certificate is newer than
	// old's: the stored one if another process renewed it meanwhile, else a new
	// one, which is durable when Renew returns. The error is a refusal (as a
	// *renewalRefused) when only a login helps; any other may pass by itself.
	Renew(ctx context.Context, old *Login) (*Login, error)
	// StepUp returns a login of the same session that fits what is wanted: the
	// stored one if another process got it meanwhile, else a new one, which
	// the person signed in for and which is durable when StepUp returns.
	StepUp(ctx context.Context, old *Login, w wanted) (*Login, error)
	// ServerTime asks the gateway for its clock, over HTTPS.
	ServerTime(ctx context.Context, of *Login) (time.Time, error)
}

// session is one connection to a gateway, a *tunnel.Session.
type session interface {
	Open(ctx context.Context, target wire.Target, opts OpenOptions) (Stream, error)
	Renew(ctx context.Context, chain [][]byte) (wire.Renewed, error)
	SendStepUp(m wire.StepUp) error
	// SendPosture tells the gateway what the device says of itself from now on. It does not wait.
	SendPosture(facts map[string]string) error
	Ping(ctx context.Context) (time.Duration, error)
	Welcome() wire.Welcome
	Counters() counters
	TLS() tls.ConnectionState
	Done() <-chan struct{}
	Err() error // after Done
	// Close ends the session and its streams, telling the gateway why.
	Close(why wire.Termination)
}

// events is what a session reports by itself, and asks at its beginning. Its methods do not block.
type events interface {
	onServices(wire.Services)
	onDraining(wire.Draining)
	onStepUp(wire.StepUp)
	// device is asked once, for what Hello says of this device.
	device() map[string]string
}

// connectFunc makes a session. An error may be a *wire.Termination.
type connectFunc func(ctx context.Context, login *Login, ev events) (session, error)

func userOf(l *Login) status.User {
	id := l.Identity
	return status.User{Name: id.Name, Email: id.Email, Subject: id.Subject, Issuer: id.Issuer, Provider: id.Provider,
		Groups: id.Groups, Device: string(id.Device)}
}

func sessionOf(l *Login) status.Session {
	return status.Session{ID: string(l.Session()), Serial: string(l.Serial()), NotAfter: l.Leaf.NotAfter, Deadline: l.Deadline,
		AuthTime: l.Identity.AuthTime, NoRenewal: l.NoRenewal}
}
