package admin

import (
	"context"
	"net/netip"
	"slices"
	"strconv"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
)

// Ways to reach the API.
const (
	ViaTunnel = "tunnel" // a stream of a person's session
	ViaSocket = "socket" // break-glass: the gateway's socket, for root and its own user
)

// Roles is what a person may do. The zero value permits nothing.
type Roles []adminapi.Role

// Permit reports whether any of the roles permits what role does.
func (r Roles) Permit(role adminapi.Role) bool {
	return slices.ContainsFunc(r, func(have adminapi.Role) bool { return have.Includes(role) })
}

// Caller is who asks. The server makes one for each connection, or for each request where roles can change meanwhile: the
// roles must be those of now. The zero Caller is nobody.
type Caller struct {
	Identity auth.Identity // of the verified certificate; empty over the socket
	Serial   auth.Serial   // of that certificate
	Roles    Roles         // as the gateway's configuration has them; over the socket they are not looked at
	Via      string        // ViaTunnel or ViaSocket
	Remote   string        // address and port of the desktop
	UID      int           // of the process at the other end of the socket
}

type callerKey struct{}

// WithCaller puts the caller into the context of the requests of a connection.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// callerOf returns who asks, and whether anybody does: a tunnel without an identity is nobody, and so is a socket with one.
func callerOf(ctx context.Context) (Caller, bool) {
	c, _ := ctx.Value(callerKey{}).(Caller)
	person := c.Identity.Issuer != "" && c.Identity.Subject != ""
	switch c.Via {
	case ViaTunnel:
		return c, person
	case ViaSocket:
		c.Roles = Roles{adminapi.RoleOwner}
		return c, !person
	}
	return Caller{}, false
}

// user returns the caller's user id; empty over the socket.
func (c *Caller) user() auth.UserID {
	if c.Via != ViaTunnel {
		return ""
	}
	return c.Identity.UserID()
}

// name is how lists and histories name the caller. It comes from the certificate.
func (c *Caller) name() string {
	id := &c.Identity
	switch {
	case c.Via == ViaSocket:
		return "root via socket (uid " + strconv.Itoa(c.UID) + ")"
	case id.Email != "" && id.EmailTrusted:
		return plaintext.Clip(id.Provider+":"+id.Email, maxName)
	}
	return plaintext.Clip(id.Provider+":sub:"+id.Subject, maxName)
}

// subject is the caller as the policy sees them. What the device says of itself is not known here.
func (c *Caller) subject() *policy.Subject {
	if c.Via != ViaTunnel {
		return nil
	}
	return policy.NewSubject(c.Identity, policy.Device{})
}

// actor is the caller as the audit log names them.
func (c *Caller) actor() *audit.Actor {
	if c.Via == ViaSocket {
		return &audit.Actor{Name: c.name()}
	}
	remote, _ := netip.ParseAddrPort(c.Remote) // one that is none stays out of the record
	return audit.NewActor(c.Identity, c.Serial, remote)
}

// MayEnter reports whether the caller may open culvert-admin at all: with any role, or as one whom the policy lets approve
// requests of some service.
func (a *API) MayEnter(c Caller) bool {
	return len(c.Roles) > 0 || c.Via == ViaSocket || a.approvesAny(&c)
}

// approvesAny reports whether the policy lets the caller approve requests of some service.
func (a *API) approvesAny(c *Caller) bool {
	set, sub := a.Policies.Set(), c.subject()
	if set == nil || sub == nil {
		return false
	}
	return slices.ContainsFunc(set.Document().Services, func(s *policy.Service) bool {
		return s.Requestable != nil && set.MayApprove(sub, s.Name)
	})
}

// approves reports whether the caller may decide requests for a service, by role or by the policy.
func (a *API) approves(c *Caller, service string) bool {
	if c.Roles.Permit(adminapi.RoleApprover) {
		return true
	}
	set, sub := a.Policies.Set(), c.subject()
	return set != nil && sub != nil && set.MayApprove(sub, service)
}
