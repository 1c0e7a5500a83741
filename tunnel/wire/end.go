package wire

import "fmt"

// TerminateCode says why a connection or its session ends.
type TerminateCode string

// Codes of a Termination.
const (
	TerminateExpired        TerminateCode = "expired"         // certificate or session; log in again
	TerminateLocked         TerminateCode = "locked"          // an administrator cut it
	TerminateReplaced       TerminateCode = "replaced"        // another connection took this lane
	TerminateProtocol       TerminateCode = "protocol"        // the peer broke the protocol
	TerminateVersion        TerminateCode = "version"         // no protocol version in common
	TerminateShutdown       TerminateCode = "shutdown"        // the program ends; connect again
	TerminateLimit          TerminateCode = "limit"           // too many sessions or lanes
	TerminateIdentity       TerminateCode = "identity"        // the certificate is not acceptable
	TerminateIdle           TerminateCode = "idle"            // nothing was open for too long
	TerminateRenewalRefused TerminateCode = "renewal_refused" // the provider refused to renew
	TerminateUnavailable    TerminateCode = "unavailable"     // the gateway cannot admit anybody at the moment
)

// Termination is the last message on the control stream, from either side, and on both sides
// the error that the session and its streams end with.
type Termination struct {
	Code      TerminateCode `cbor:"1,keyasint"`
	Reason    string        `cbor:"2,keyasint,omitempty"` // for people
	Reference string        `cbor:"3,keyasint,omitempty"` // an administrator can look it up
}

// Type implements Message.
func (*Termination) Type() Type { return TypeTerminated }

// Validate implements Message.
func (m *Termination) Validate() error {
	return firstError(
		checkToken("code", string(m.Code), MaxName),
		checkText("reason", m.Reason),
		checkOptionalToken("reference", m.Reference, MaxName),
	)
}

func (m *Termination) tidy() { m.Reason = CleanText(m.Reason) }

// Error returns code, reason and reference in one line.
func (m *Termination) Error() string {
	s := "session ended (" + string(m.Code) + ")"
	if m.Reason != "" {
		s += ": " + m.Reason
	}
	if m.Reference != "" {
		s += fmt.Sprintf(" (reference %s)", m.Reference)
	}
	return s
}

// AbortCode says why a stream was aborted.
type AbortCode string

// Codes of an Abort. An unknown code counts as AbortReset.
const (
	AbortReset      AbortCode = "reset"      // the application or the service reset its connection
	AbortTruncated  AbortCode = "truncated"  // the stream ended without an end record
	AbortTimeout    AbortCode = "timeout"    // idle for too long, or a write could not be completed in time
	AbortCancelled  AbortCode = "cancelled"  // whoever opened it gave up
	AbortRevoked    AbortCode = "revoked"    // the policy or an administrator took the right away
	AbortTerminated AbortCode = "terminated" // the session ended
	AbortLimit      AbortCode = "limit"      // a limit was reached
	AbortProtocol   AbortCode = "protocol"   // the peer broke the protocol on this stream
	AbortInternal   AbortCode = "internal"   // something failed at the sender
)

// Abort gives the reason for the end of one stream. The sender puts a yamux RST for the stream
// behind it when it is for both directions.
type Abort struct {
	StreamID uint32    `cbor:"1,keyasint"`
	Code     AbortCode `cbor:"2,keyasint"`
	Reason   string    `cbor:"3,keyasint,omitempty"` // for people and logs
	Read     bool      `cbor:"4,keyasint,omitempty"` // the sender reads no more: the receiver stops writing
	Write    bool      `cbor:"5,keyasint,omitempty"` // the sender writes no more: what was received is incomplete
}

// Type implements Message.
func (*Abort) Type() Type { return TypeAbort }

// Validate implements Message.
func (m *Abort) Validate() error {
	if m.StreamID == 0 {
		return malformed("abort of stream 0")
	}
	if !m.Read && !m.Write {
		return malformed("abort of no direction")
	}
	return firstError(checkToken("code", string(m.Code), MaxName), checkText("reason", m.Reason))
}

func (m *Abort) tidy() { m.Reason = CleanText(m.Reason) }
