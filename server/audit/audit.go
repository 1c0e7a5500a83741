// Package audit records who did what: one line of JSON per event, in files of its own that only the
// gateway's user may read. A log is what one process writes from its start to its end, in one or more
// segments; its records are numbered from 1 without a gap.
//
// What a caller may rely on:
//
//   - When [Log.Append] returns nil, the record was handed to the operating system; records that are not
//     of streams and sessions are on the disk then. Those are synced within 100 ms. Many writers share one
//     write and one sync.
//   - An error means that the record is not there. New streams must then be refused; closing records are
//     kept in memory and written as soon as it is possible again. [Continue] is the way to have it otherwise.
//   - Denials that repeat are written once, and then counted: one record a minute says how often.
//   - What a process that died left open is closed in the next log, by [Open].
//   - No field can forge a line or act on a terminal: control and direction characters are escaped, lengths
//     are capped, and what looks like a token or a private key is cut out of free text.
//   - The lines of a log are the leaves of a Merkle tree (RFC 6962) whose root is signed at least every 10 s and
//     every 1,000 records, in the log, in a file beside it, and to [Config.OnCheckpoint]. Each log begins with
//     the size and root of those before it. [Verify] proves from this that nothing was removed, changed or
//     reordered, but for what is newer than the newest checkpoint that it is given from outside.
//
// A [Reader] gives what is on the disk in order; an [Exporter] and an [Indexer] carry it to files, syslog and a database,
// each at its own pace: the log waits for none of them.
//
// The package keeps no secret but its signing key, and cannot show that somebody who has that key, and every
// checkpoint that was ever told, wrote all of it anew.
package audit

import (
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Event says what happened. Any name may be appended; one that is not listed here is synced first.
type Event string

// Events.
const (
	EventGatewayStart Event = "gateway.start"
	EventGatewayStop  Event = "gateway.stop"

	EventSessionOpen    Event = "session.open"    // a tunnel connection was accepted
	EventSessionClose   Event = "session.close"   // and ended; Reason says why
	EventSessionRenewed Event = "session.renewed" // a renewed certificate was presented on it
	EventSessionRefused Event = "session.refused" // it was not accepted

	EventStreamOpen   Event = "stream.open"   // decided, dialed, about to be relayed
	EventStreamClose  Event = "stream.close"  // with Transfer, and Reason says why
	EventStreamDenied Event = "stream.denied" // by policy
	EventStreamFailed Event = "stream.failed" // allowed, but the service was not reached

	EventSessionPosture Event = "session.posture" // the device told something new about itself; in Subject
	EventSessionEnded   Event = "session.ended"   // by an administrator or the provider; Admin or Reason says who

	EventIssued        Event = "enroll.issued" // a certificate; Detail says which kind of enrolment
	EventEnrollRefused Event = "enroll.refused"
	EventPolicyLoaded  Event = "policy.loaded"
	EventPolicyRefused Event = "policy.refused" // a change that does not load; the old one stays
	EventConfigLoaded  Event = "config.loaded"  // TLS files and settings
	EventConfigRefused Event = "config.refused"

	EventPolicyChanged    Event = "policy.changed"     // by an administrator
	EventPolicyRolledBack Event = "policy.rolled_back" // to an earlier version

	EventLockAdded         Event = "lock.added"
	EventLockRemoved       Event = "lock.removed"
	EventBackchannelLogout Event = "logout.backchannel" // the provider said that somebody logged out

	EventRequestCreated   Event = "request.created" // of access for a time
	EventRequestApproved  Event = "request.approved"
	EventRequestDenied    Event = "request.denied"
	EventRequestWithdrawn Event = "request.withdrawn" // by who asked
	EventRequestEnded     Event = "request.ended"     // before its time, or by it

	EventAdminDenied     Event = "admin.denied"      // a call that the role does not allow
	EventAdminBreakGlass Event = "admin.break_glass" // a call over the local socket

	// Written by the log itself.
	EventLogOpened     Event = "log.opened"     // the first record of a log
	EventLogSegment    Event = "log.segment"    // the first new record of a further file
	EventLogCheckpoint Event = "log.checkpoint" // signs all records before it
	EventLogLinked     Event = "log.linked"     // an earlier log, which still ran when this one began, has ended
	EventLogRecovered  Event = "log.recovered"  // an earlier log ended without log.closed
	EventLogRemoved    Event = "log.removed"    // old segments are about to be removed, as configured
	EventLogLost       Event = "log.lost"       // Count records could not be written
	EventLogClosed     Event = "log.closed"     // the last record of a log
)

// lazy reports events whose record is synced within 100 ms and not before Append returns.
func (e Event) lazy() bool {
	switch e {
	case EventStreamOpen, EventStreamClose, EventStreamFailed, EventSessionOpen, EventSessionClose:
		return true
	}
	return false
}

// repeats reports events of which equal ones are counted.
func (e Event) repeats() bool {
	return e == EventStreamDenied || e == EventSessionRefused || e == EventEnrollRefused || e == EventAdminDenied
}

// closes reports events that are kept and written later when the disk is full.
func (e Event) closes() bool { return e == EventStreamClose || e == EventSessionClose }

// widens reports events by which an administrator lets people do more. None of them happens unrecorded, whatever is configured
// for streams: who has such a role, and waits for a full disk, would leave no trace.
func (e Event) widens() bool {
	return e == EventPolicyChanged || e == EventPolicyRolledBack || e == EventRequestApproved || e == EventLockRemoved
}

// A Record is one event. Append fills Seq and, where they are empty, Time, Reference (of refusals) and
// Stream (of openings). Empty fields are not written.
type Record struct {
	Seq       uint64    `json:"seq"`
	Prev      string    `json:"prev,omitempty"` // the first bytes of the hash of the line before; the log's own
	Time      time.Time `json:"time"`           // UTC, milliseconds
	Event     Event     `json:"event"`
	Reference string    `json:"ref,omitempty"` // what the person was shown

	Actor *Actor `json:"actor,omitempty"` // who; from the certificate, never from a message

	Stream string    `json:"stream,omitempty"` // joins the opening and the closing record
	Link   string    `json:"link,omitempty"`   // of a stream: Stream of the session.open record of its connection
	Trace  string    `json:"trace,omitempty"`  // joins the desktop's log; chosen there
	Client string    `json:"client,omitempty"` // the program's own word about itself
	Kind   wire.Kind `json:"kind,omitempty"`

	Target  string `json:"target,omitempty"`  // as it was asked for
	Service string `json:"service,omitempty"` // as which it was decided
	Address string `json:"address,omitempty"` // that was dialed

	Rule      string    `json:"rule,omitempty"`
	Policy    string    `json:"policy,omitempty"` // version
	Code      wire.Code `json:"code,omitempty"`
	Condition string    `json:"condition,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Detail    string    `json:"detail,omitempty"`

	Subject  *SubjectFacts `json:"subject,omitempty"` // what rules could ask about the person then
	Admin    *AdminFacts   `json:"admin,omitempty"`   // what an administrator did, and how
	Transfer *Transfer     `json:"transfer,omitempty"`
	Period   *Period       `json:"period,omitempty"`
	Repeated *Repeated     `json:"repeated,omitempty"`

	// The log's own.
	Recovery   *Recovery     `json:"recovery,omitempty"`
	Process    *Process      `json:"process,omitempty"`
	Previous   []PreviousLog `json:"previous,omitempty"`   // earlier logs as they are at that moment
	Removed    []Removed     `json:"removed,omitempty"`    // what retention takes away
	Tree       *TreeState    `json:"tree,omitempty"`       // of the records before, for who has only those after
	Checkpoint string        `json:"checkpoint,omitempty"` // a signed note over the records before
}

// Actor is a person on a device, or what is known of a stranger: Remote alone.
type Actor struct {
	User     auth.UserID    `json:"user,omitempty"`
	Provider string         `json:"provider,omitempty"`
	Issuer   string         `json:"issuer,omitempty"`
	Subject  string         `json:"sub,omitempty"`
	Name     string         `json:"name,omitempty"`
	Email    string         `json:"email,omitempty"`
	Login    auth.LoginKind `json:"login,omitempty"`
	Session  auth.SessionID `json:"session,omitempty"`
	Device   auth.DeviceID  `json:"device,omitempty"`
	Serial   auth.Serial    `json:"serial,omitempty"` // of the certificate
	Remote   string         `json:"remote,omitempty"` // address and port
}

// NewActor returns the actor with a verified identity, its certificate's serial number and the address
// that it came from.
func NewActor(id auth.Identity, serial auth.Serial, remote netip.AddrPort) *Actor {
	a := Stranger(remote)
	a.User, a.Provider, a.Issuer, a.Subject = id.UserID(), id.Provider, id.Issuer, id.Subject
	a.Name, a.Email, a.Login = id.Name, id.Email, id.Login
	a.Session, a.Device, a.Serial = id.Session, id.Device, serial
	return a
}

// Stranger returns the actor of whom only the address is known.
func Stranger(remote netip.AddrPort) *Actor {
	if !remote.IsValid() {
		return &Actor{}
	}
	return &Actor{Remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port()).String()}
}

// SubjectFacts is what a policy may ask about a person and a device: with it a stream can be decided again later, under
// another policy, also where only the index is at hand. Sessions have it, streams lead to it by Link.
type SubjectFacts struct {
	Issuer       string            `json:"issuer,omitempty"`
	Subject      string            `json:"sub,omitempty"`
	Login        auth.LoginKind    `json:"login,omitempty"`
	Groups       []string          `json:"groups,omitempty"`
	GroupsKnown  bool              `json:"groups_known"`
	EmailTrusted bool              `json:"email_trusted,omitempty"`
	ACR          string            `json:"acr,omitempty"`
	AMR          []string          `json:"amr,omitempty"`
	AuthTime     time.Time         `json:"auth_time,omitzero"`
	Posture      map[string]string `json:"posture,omitempty"`
}

// AdminFacts is what somebody did over the admin API. The person is the record's actor.
type AdminFacts struct {
	Via     string `json:"via,omitempty"`     // "tunnel" or "socket"
	Role    string `json:"role,omitempty"`    // that allowed it
	Method  string `json:"method,omitempty"`  // of HTTP
	Path    string `json:"path,omitempty"`    // without a query
	Object  string `json:"object,omitempty"`  // what it is about: a user, a session, a version
	Comment string `json:"comment,omitempty"` // the administrator's own words
	UID     int    `json:"uid,omitempty"`     // of who is at the socket; 0, root, is left out
}

// Transfer is what a stream or session carried. It is missing where nobody knows, as after a crash.
type Transfer struct {
	Sent       uint64 `json:"sent"`     // bytes from the person to the service
	Received   uint64 `json:"received"` // bytes from the service to the person
	DurationMS int64  `json:"duration_ms"`
}

// Period is how long a certificate holds, and its session.
type Period struct {
	NotAfter time.Time `json:"not_after,omitzero"`
	Deadline time.Time `json:"deadline,omitzero"`
}

// Repeated says that a record stands for Count further ones like the one with its reference.
type Repeated struct {
	Count uint64    `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Recovery says what was found of an earlier log.
type Recovery struct {
	Log      string `json:"log"`
	Records  uint64 `json:"records,omitempty"`
	Streams  int    `json:"streams,omitempty"`  // closed for it
	Sessions int    `json:"sessions,omitempty"` // closed for it
	Cut      int64  `json:"cut,omitempty"`      // bytes of a last line that is not whole
	Damaged  int    `json:"damaged,omitempty"`  // other lines that cannot be read
}

// PreviousLog is an earlier log of the same gateway as it was seen at that moment. Who removes it, or cuts its end,
// contradicts it.
type PreviousLog struct {
	Log   string `json:"log"`
	Size  uint64 `json:"size"`            // records
	Root  string `json:"root"`            // of the tree of that many records, base64
	Ended bool   `json:"ended,omitempty"` // false: its process still runs, and Size is of its last checkpoint
	Fault string `json:"fault,omitempty"` // what was wrong with it
	// Adopted logs are of a version that did not sign: what they are is proved from here on.
	Adopted bool `json:"adopted,omitempty"`
}

// Removed says that retention takes the segments of a log up to one of them.
type Removed struct {
	Log     string `json:"log"`
	Segment int    `json:"segment"`         // the last one
	Whole   bool   `json:"whole,omitempty"` // nothing is left of the log
}

// TreeState is the right edge of a Merkle tree: what is needed to add to it, and to know its root.
type TreeState struct {
	Size  uint64   `json:"size"`
	Peaks []string `json:"peaks"` // roots of the complete trees that it consists of, largest first, base64
}

// Process describes the log's writer, in its first record.
type Process struct {
	Log     string `json:"log"`
	Segment int    `json:"segment,omitempty"`
	// GaveUp is the first of the segments before that may end in what does not count, since writing to it failed. 0: none.
	GaveUp  int    `json:"gave_up,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	Version string `json:"version,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Key     string `json:"key,omitempty"` // public key of the checkpoints, as golang.org/x/mod/sumdb/note writes it
}

// Receipt is what the log gave a record.
type Receipt struct {
	Seq       uint64 // 0 for a repetition that was only counted
	Reference string // of a refusal, to show to the person
	Stream    string // of an opening, for its closing record
}
