// Package adminapi defines the administration API of a gateway: the types of its requests and replies, the table of its
// routes, the OpenAPI document that is made from both, and a client.
//
// The API is HTTP/1.1 with JSON and problem details (RFC 9457). It has no port: it is spoken over a stream to one of two
// services that are built into the gateway, [ServiceAdmin] for who has a role and [ServiceSelf] for everybody's own
// requests, or over the Unix socket of a gateway, which takes root and the gateway's own user only. Who asks is known from
// that, and nothing in a request says it.
//
// The package does no deciding and knows no gateway; the handler is server/admin.
package adminapi

import (
	"fmt"
	"strings"
	"time"
)

// The services that are built into every gateway. Each is also the only Host that a request to it may name.
const (
	ServiceAdmin = "culvert-admin" // for people with a role
	ServiceSelf  = "culvert-self"  // for everybody who is logged in
)

// Bounds of messages, in bytes.
const (
	MaxRequest  = 64 << 10              // of a request's body, but for those that carry a policy
	MaxDocument = 16 << 20              // of a policy document
	MaxPolicy   = 2*MaxDocument + 4<<10 // of a request's body that carries one: JSON escapes what it must
	MaxReply    = 64 << 20              // of a reply; the client reads no more
)

// Bounds of a list: how many entries a page has when nothing is asked for, and at most.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// Role says what somebody may do. A role comes from the gateway's configuration and never from a request.
type Role string

// The roles. An editor and an approver may do what a viewer may; an owner may do everything.
const (
	RoleViewer   Role = "viewer"   // sees everything, changes nothing
	RoleEditor   Role = "editor"   // changes the policy, ends sessions, locks
	RoleApprover Role = "approver" // decides requests
	RoleOwner    Role = "owner"    // all of these
)

// ParseRole checks a role's name.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{RoleViewer, RoleEditor, RoleApprover, RoleOwner} {
		if s == string(r) {
			return r, nil
		}
	}
	return "", fmt.Errorf("role %.32q is not one of viewer, editor, approver, owner", s)
}

// Includes reports whether who has r may do what other permits.
func (r Role) Includes(other Role) bool {
	switch other {
	case RoleViewer:
		return r == RoleViewer || r == RoleEditor || r == RoleApprover || r == RoleOwner
	case RoleEditor, RoleApprover, RoleOwner:
		return r == other || r == RoleOwner
	}
	return false
}

// Duration is a span of time in Go's spelling: "90s", "2h", "1h30m0s".
type Duration time.Duration

// String is the shortest of Go's spellings: "2h" and not "2h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes what String says.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads any of Go's spellings.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("duration %.32q: a number with a unit, as 90s, 15m or 2h", text)
	}
	*d = Duration(v)
	return nil
}

// Page is one page of a list.
type Page[T any] struct {
	Items []T `json:"items" doc:"The entries, in the list's order."`
	// Next is given back as Cursor to get what follows.
	Next string `json:"next,omitempty" doc:"The cursor of the next page; absent on the last one."`
}

// List is what every list takes.
type List struct {
	Cursor string `query:"cursor" doc:"Where to go on: next of the page before."`
	Limit  int    `query:"limit" doc:"How many entries at most; 100 if left out, never more than 1000."`
}

// Whoami says whom the gateway takes the caller for.
type Whoami struct {
	Name    string `json:"name" doc:"As the audit log will name the caller."`
	User    string `json:"user,omitempty" doc:"The user id; absent over the socket."`
	Via     string `json:"via" enum:"tunnel,socket" doc:"How the caller reached the gateway."`
	Roles   []Role `json:"roles" enum:"viewer,editor,approver,owner" doc:"What the gateway's configuration gives the caller."`
	Gateway string `json:"gateway" doc:"The gateway that answers."`
	Version string `json:"version" doc:"Of its program."`
	Policy  string `json:"policy_source" enum:"file,managed" doc:"Where policies come from: the gateways' file, or this API."`
}

// Person names a user in other messages.
type Person struct {
	ID       string `json:"id" doc:"The user id: a hash of issuer and subject."`
	Provider string `json:"provider,omitempty"`
	Name     string `json:"name,omitempty" doc:"As the provider gave it; for people only."`
	Email    string `json:"email,omitempty" doc:"As the provider gave it, trusted or not."`
}
