package admin

import (
	"context"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

// What the API asks of the gateway. Methods that *store.Store has are meant to be its; the others say what they owe. Errors
// are those of server/store, perhaps wrapped. Methods that change something return when that is durable.

// Policies is the policy in force and those before it.
type Policies interface {
	// Set returns the policy in force at this gateway; nil while there is none.
	Set() *policy.Set
	// Load loads a policy as this gateway would, with its providers, what it knows of names and the approved requests, and
	// runs its tests: the results are those of policy.Load. Nothing comes into force.
	Load(document []byte) (*policy.Set, error)
	// Apply records v as the next version, if expected is still the newest one's number, and puts set, which is v loaded,
	// into force: it returns when this gateway decides by it. The others learn of it as of every change. When somebody else
	// was quicker nothing changes, and the error is a *store.ConflictError.
	Apply(ctx context.Context, set *policy.Set, v store.PolicyVersion, expected int64) (store.PolicyVersion, error)

	HeadPolicy(ctx context.Context) (store.PolicyVersion, error)
	PolicyByNumber(ctx context.Context, number int64) (store.PolicyVersion, error)
	Policy(ctx context.Context, digest string) (store.PolicyVersion, error)
	PolicyHistory(ctx context.Context, before int64, limit int) ([]store.PolicyVersion, error)
}

// Preview decides the recorded streams since a moment again: what old answered and new would. It stops when ctx ends, and
// calls progress, which is not nil, now and then from one goroutine.
type Preview func(ctx context.Context, old, new *policy.Set, since time.Time, progress func(done, total int64)) (*adminapi.Preview, error)

// Sessions is what logins began, and what is connected.
type Sessions interface {
	// EndSession ends a session for good and cuts it here before it returns. One that has ended stays as it is.
	EndSession(ctx context.Context, id auth.SessionID, reason string) error
	// Local returns the connections of a session to this very gateway, with their streams.
	Local(id auth.SessionID) []session.Info

	Session(ctx context.Context, id auth.SessionID) (store.Session, error)
	SessionsOf(ctx context.Context, id auth.UserID, limit int) ([]store.Session, error)
	LiveSessions(ctx context.Context, after auth.SessionID, limit int) ([]store.Session, error)
	LiveAll(ctx context.Context, f store.LiveFilter, limit int) ([]store.Live, error)
}

// Locks is who is locked out.
type Locks interface {
	// AddLock puts a lock in force and cuts what it covers here before it returns.
	AddLock(ctx context.Context, l store.Lock) (store.Lock, error)
	// RemoveLock lifts a lock, here before it returns.
	RemoveLock(ctx context.Context, id string) error

	Locks(ctx context.Context) ([]store.Lock, error)
	// Now is the clock that locks are compared by.
	Now(ctx context.Context) (time.Time, error)
}

// Requests is who asked for what. What changes an approval has it in force, or out of it, here before it returns.
type Requests interface {
	PutRequest(ctx context.Context, r store.Request) (store.Request, error)
	Requests(ctx context.Context, f store.RequestFilter, limit int) ([]store.Request, error)
	Request(ctx context.Context, id string) (store.Request, error)
	DecideRequest(ctx context.Context, id string, approve bool, by string, byUser auth.UserID, note string, longest time.Duration) (store.Request, error)
	WithdrawRequest(ctx context.Context, id string, user auth.UserID) (store.Request, error)
	EndRequest(ctx context.Context, id, by string) (store.Request, error)
}

// AuditIndex is the database's index of the audit logs.
type AuditIndex interface {
	AuditRows(ctx context.Context, f store.AuditFilter, limit int) ([]store.AuditRow, error)
}

// Inventory is who and what the gateways have seen.
type Inventory interface {
	User(ctx context.Context, id auth.UserID) (store.User, error)
	Users(ctx context.Context, after auth.UserID, limit int) ([]store.User, error)
	UsersByEmail(ctx context.Context, email string, limit int) ([]store.User, error)
	Devices(ctx context.Context, f store.DeviceFilter, limit int) ([]store.Device, error)
	Certificate(ctx context.Context, serial auth.Serial) (store.Certificate, error)
	CertificatesOf(ctx context.Context, id auth.SessionID) ([]store.Certificate, error)
	CertificatesOfUser(ctx context.Context, id auth.UserID, limit int) ([]store.Certificate, error)
	Gateways(ctx context.Context) ([]store.Gateway, error)
}
