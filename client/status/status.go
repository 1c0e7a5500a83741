// Package status describes what a client is doing: the snapshot that its state
// machine publishes, its JSON form on the local API, and its form for people.
// It only holds and prints facts; it neither gathers them nor acts on them.
package status

import (
	"fmt"
	"time"
)

// State is the one-word answer to "does it work?".
type State string

// The states. Only Connected means that a new stream can be opened right now.
const (
	// NotLoggedIn: the profile has no certificate.
	NotLoggedIn State = "not_logged_in"
	// Stopped: logged in, but no client runs.
	Stopped State = "stopped"
	// Connecting: the first connection is being made.
	Connecting State = "connecting"
	// Connected: the gateway answered within the last seconds.
	Connected State = "connected"
	// Reconnecting: a connection was lost; Since and Reason tell.
	Reconnecting State = "reconnecting"
	// Expired: the session is over, only a login helps.
	Expired State = "expired"
	// Locked: an administrator locked the person, the device or the session.
	Locked State = "locked"
	// Terminated: the gateway ended the session for another reason.
	Terminated State = "terminated"
)

// Status is an immutable snapshot. Times are absolute; the zero time means
// unknown. Its JSON form is part of the local API.
type Status struct {
	State     State     `json:"state"`
	Since     time.Time `json:"since,omitzero"`      // when State began
	Reason    string    `json:"reason,omitempty"`    // why not connected
	Remedy    string    `json:"remedy,omitempty"`    // what the person can do
	Reference string    `json:"reference,omitempty"` // what the administrator can look up

	Profile string  `json:"profile"`
	Gateway Gateway `json:"gateway,omitzero"`
	User    User    `json:"user,omitzero"`
	Session Session `json:"session,omitzero"`
	Traffic Traffic `json:"traffic"`
	Device  Device  `json:"device,omitempty"`

	Warnings []Warning `json:"warnings,omitempty"`
	Offers   []Offer   `json:"offers,omitempty"`
	Process  Process   `json:"process,omitzero"`
}

// Gateway is the other end.
type Gateway struct {
	URL     string `json:"url,omitempty"`     // the one given to login
	Address string `json:"address,omitempty"` // host:port of the tunnel
	ID      string `json:"id,omitempty"`      // the identity that it proved
	Proxy   string `json:"proxy,omitempty"`   // the outbound proxy in between, without credentials
	// RTT is the last measured round trip; zero when unknown.
	RTT time.Duration `json:"rtt_ns,omitempty"`
	// Skew is the gateway's clock minus this one.
	Skew time.Duration `json:"clock_skew_ns,omitempty"`
	TLS  string        `json:"tls,omitempty"` // version, key exchange, cipher suite
}

// User is who the certificate names.
type User struct {
	Name     string   `json:"name,omitempty"`
	Email    string   `json:"email,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	Provider string   `json:"provider,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Device   string   `json:"device,omitempty"`
}

// String returns the best name that there is: "Ada Example <ada@corp.example>".
func (u User) String() string {
	switch {
	case u.Name != "" && u.Email != "":
		return fmt.Sprintf("%s <%s>", u.Name, u.Email)
	case u.Email != "":
		return u.Email
	case u.Name != "":
		return u.Name
	default:
		return u.Subject
	}
}

// Session is the login and its certificate.
type Session struct {
	ID       string    `json:"id,omitempty"`
	Serial   string    `json:"certificate_serial,omitempty"`
	NotAfter time.Time `json:"certificate_expires,omitzero"`
	Deadline time.Time `json:"session_expires,omitzero"` // after it only a login helps
	AuthTime time.Time `json:"auth_time,omitzero"`       // when the person last logged in at the provider
	// NoRenewal is why the certificate is not renewed and the session ends with it; empty when it is renewed.
	NoRenewal string `json:"no_renewal,omitempty"`
}

// Traffic counts what went through this client since it started.
type Traffic struct {
	Streams  int    `json:"streams"`  // open now
	Draining int    `json:"draining"` // of them on a gateway that is about to stop
	Opened   uint64 `json:"opened"`
	Sent     uint64 `json:"bytes_sent"`
	Received uint64 `json:"bytes_received"`
}

// Warning is something that works for now or works badly, with its cause and
// the remedy. Code is stable, Text is for people.
type Warning struct {
	Code   string `json:"code"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	// URL is where the person goes to remedy it; empty for most.
	URL string `json:"url,omitempty"`
}

// Warning codes.
const (
	WarnClockSkew   = "clock_skew"
	WarnNotRenewed  = "certificate_not_renewed"
	WarnRefused     = "renewal_refused"
	WarnNoRenewal   = "no_renewal"
	WarnLeftBehind  = "left_behind"
	WarnSessionEnds = "session_ends_soon"
	WarnIntercepted = "tls_intercepted"
	WarnProxy       = "proxy"
	WarnStepUp      = "step_up" // a stream waits for a fresh login
)

// Offer is one way by which programs of this machine reach services.
type Offer struct {
	Kind    string `json:"kind"` // socks5, http-proxy, forward
	Address string `json:"address"`
	Service string `json:"service,omitempty"` // forward only
}

// Process is the running client.
type Process struct {
	PID     int       `json:"pid,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

// Works reports whether new streams can be opened.
func (s Status) Works() bool { return s.State == Connected }

// Final reports whether only a person can change the state: by a login, or by
// starting the client.
func (s Status) Final() bool {
	switch s.State {
	case NotLoggedIn, Stopped, Expired, Locked, Terminated:
		return true
	default:
		return false
	}
}

// Error says that something could not be done because the client is not
// connected. Callers find it with errors.As and branch on its Status.
type Error struct{ Status Status }

// Error returns the status' headline.
func (e *Error) Error() string { return e.Status.Headline() }
