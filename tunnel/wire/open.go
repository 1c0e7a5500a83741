package wire

import "fmt"

// OpenRequest is the first message on every stream but the control stream, from the client.
type OpenRequest struct {
	Target  Target `cbor:"1,keyasint"`
	TraceID string `cbor:"2,keyasint,omitempty"` // joins the logs of both ends; chosen by the client
	// Wait says that the client sends no payload before the reply. Without it, up to
	// MaxEarlyData bytes may follow at once; a refusal drops them.
	Wait bool `cbor:"3,keyasint,omitempty"`
}

// Type implements Message.
func (*OpenRequest) Type() Type { return TypeOpenRequest }

// Validate implements Message.
func (m *OpenRequest) Validate() error {
	if err := checkOptionalToken("trace id", m.TraceID, MaxName); err != nil {
		return err
	}
	return m.Target.Validate()
}

// Code says how a request to open a stream ended.
type Code string

// Codes of an OpenReply. An unknown code counts as CodeDenied.
const (
	CodeOK             Code = "ok"
	CodeDenied         Code = "denied"           // the policy does not allow it
	CodeStepUpRequired Code = "step_up_required" // a fresh login is asked for first
	CodeNoSuchService  Code = "no_such_service"  // there is none of this name, or it is hidden
	CodeRefused        Code = "refused"          // the service refused the connection
	CodeUnreachable    Code = "unreachable"      // no route, no address, or the name does not resolve
	CodeTimedOut       Code = "timed_out"        // the service did not answer
	CodeExpired        Code = "expired"          // the certificate or the session is over
	CodeLimit          Code = "limit"            // too many streams
	CodeDraining       Code = "draining"         // the gateway is shutting down: use another one
	CodeUnavailable    Code = "unavailable"      // the gateway cannot decide at the moment
)

// OpenReply is the gateway's answer to an OpenRequest.
type OpenReply struct {
	Code      Code   `cbor:"1,keyasint"`
	Reason    string `cbor:"2,keyasint,omitempty"` // for people: which condition failed
	Remedy    string `cbor:"3,keyasint,omitempty"` // for people: what helps
	Reference string `cbor:"4,keyasint,omitempty"` // an administrator can look it up
	Service   string `cbor:"5,keyasint,omitempty"` // as which service it was decided
}

// Type implements Message.
func (*OpenReply) Type() Type { return TypeOpenReply }

// Validate implements Message.
func (m *OpenReply) Validate() error {
	return firstError(
		checkToken("code", string(m.Code), MaxName),
		checkText("reason", m.Reason),
		checkText("remedy", m.Remedy),
		checkOptionalToken("reference", m.Reference, MaxName),
		checkOptionalToken("service", m.Service, MaxName),
	)
}

func (m *OpenReply) tidy() {
	m.Reason, m.Remedy = CleanText(m.Reason), CleanText(m.Remedy)
}

// Refusal returns nil for CodeOK and the reply as an error otherwise.
func (m *OpenReply) Refusal() *Refusal {
	if m.Code == CodeOK {
		return nil
	}
	return &Refusal{Code: m.Code, Reason: m.Reason, Remedy: m.Remedy, Reference: m.Reference, Service: m.Service}
}

// Refusal is why a stream was not opened. The gateway rejects a stream with it, and the
// client gets it back with errors.As.
type Refusal struct {
	Code      Code
	Reason    string
	Remedy    string
	Reference string
	Service   string
}

// Error returns code, reason and reference in one line.
func (r *Refusal) Error() string {
	s := string(r.Code)
	if r.Reason != "" {
		s += ": " + r.Reason
	}
	if r.Reference != "" {
		s += fmt.Sprintf(" (reference %s)", r.Reference)
	}
	return s
}

// Reply returns the message that carries the refusal. A refusal without a code, or with
// CodeOK, becomes CodeDenied: absent means safe.
func (r *Refusal) Reply() *OpenReply {
	m := &OpenReply{Code: r.Code, Reason: r.Reason, Remedy: r.Remedy, Reference: r.Reference, Service: r.Service}
	if m.Code == "" || m.Code == CodeOK {
		m.Code = CodeDenied
	}
	return m
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
