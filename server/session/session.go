package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Spec describes a connection that is added.
type Spec struct {
	Identity auth.Identity // required; from the verified certificate only
	Serial   auth.Serial   // required; of that certificate
	NotAfter time.Time     // required; when the certificate expires
	Deadline time.Time     // optional; when the session ends, whatever is renewed
	Remote   netip.AddrPort
	Client   string // what the client says of itself; for people only
	Lane     int

	// Warn is optional. It is called once when the end is near, again after each renewal, and must not block.
	Warn func(end time.Time)
}

// Session is one connection. A person's session, in the sense of a login, may have several. It is safe for concurrent use.
type Session struct {
	registry  *Registry
	id        uint64
	user      *user
	userID    auth.UserID
	sessionID auth.SessionID
	remote    netip.AddrPort
	client    string
	lane      int
	since     time.Time
	warn      func(time.Time)
	ctx       context.Context
	cancel    context.CancelCauseFunc
	rate      *rate.Limiter

	epoch     atomic.Uint64 // counts changes of this session
	due       atomic.Int64  // when the next stream is to be looked at, in Unix nanoseconds; 0: never
	open      atomic.Int64
	undecided atomic.Int64

	mu       sync.Mutex
	identity *auth.Identity
	serials  []auth.Serial // every certificate it ran under, the newest last
	notAfter time.Time
	deadline time.Time
	warned   bool
	nextID   uint64
	streams  map[uint64]*Stream
	bytesIn  int64 // of streams that are over
	bytesOut int64
}

func newSession(ctx context.Context, r *Registry, spec Spec) *Session {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Session{
		registry: r, userID: spec.Identity.UserID(), sessionID: spec.Identity.Session,
		remote: spec.Remote, client: spec.Client, lane: spec.Lane, since: r.now(), warn: spec.Warn,
		ctx: ctx, cancel: cancel, rate: limiter(r.limits.OpensPerSession),
		identity: &spec.Identity, serials: []auth.Serial{spec.Serial}, notAfter: spec.NotAfter, deadline: spec.Deadline,
		streams: make(map[uint64]*Stream),
	}
}

// Context is done when the session was cut; context.Cause is then the *wire.Termination to tell the peer.
func (s *Session) Context() context.Context { return s.ctx }

// Identity is whom the session runs under now. It is read-only, and another pointer after every renewal.
func (s *Session) Identity() *auth.Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// Serial is the serial number of the certificate that the session goes by now.
func (s *Session) Serial() auth.Serial {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serials[len(s.serials)-1]
}

// NotAfter is when the certificate that the session goes by expires.
func (s *Session) NotAfter() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notAfter
}

// Deadline is when the session ends, whatever is renewed; zero if it is not known.
func (s *Session) Deadline() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline
}

// SetDeadline says when the session ends, whatever is renewed; zero changes nothing.
func (s *Session) SetDeadline(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.IsZero() {
		s.deadline = t
	}
}

// End cuts the session and all of its streams; only the first reason counts, and only the first call returns true.
func (s *Session) End(t *wire.Termination) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.leave(t)
	s.cancel(t)
	return context.Cause(s.ctx) == error(t)
}

// leave ends what goes on with the services of all streams.
func (s *Session) leave(cause error) {
	for _, st := range s.list() {
		st.away(cause)
	}
}

// Remove takes the session out of the register when its connection is gone. Streams that are still registered are cut. It may be
// called more than once.
func (s *Session) Remove() {
	s.cancel(errGone)
	s.registry.remove(s)
}

var errGone = errors.New("connection lost")

// Errors of Renew.
var (
	ErrOtherIdentity = errors.New("the certificate belongs to another user, device or session")
	ErrNotLater      = errors.New("the certificate is not newer than the one in use")
)

// Renewal is a renewed certificate, verified, of the key that the connection was made with.
type Renewal struct {
	Identity auth.Identity
	Serial   auth.Serial
	NotAfter time.Time
	Deadline time.Time // optional; zero leaves the deadline as it is
}

// Renew makes the session run under a renewed certificate and has its streams decided again under the claims of that. User,
// session, device and kind of login must be the same, the time of authentication the same or, after a step-up, later, and the
// certificate a newer one that does not expire earlier.
func (s *Session) Renew(n Renewal) error {
	s.mu.Lock()
	if err := s.checkRenewalLocked(n); err != nil {
		s.mu.Unlock()
		return err
	}
	s.identity, s.notAfter, s.warned = &n.Identity, n.NotAfter, false
	s.serials = append(s.serials, n.Serial)
	if !n.Deadline.IsZero() {
		s.deadline = n.Deadline
	}
	s.mu.Unlock()
	s.Redecide()
	return nil
}

// CheckRenewal reports whether Renew would take n now.
func (s *Session) CheckRenewal(n Renewal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkRenewalLocked(n)
}

func (s *Session) checkRenewalLocked(n Renewal) error {
	was, is := s.identity, n.Identity
	same := is.UserID() == s.userID && is.Session == was.Session && is.Device == was.Device && is.Provider == was.Provider &&
		is.Login == was.Login
	if !same {
		return ErrOtherIdentity
	}
	if !later(was, &is, s.notAfter, n.NotAfter) {
		return ErrNotLater
	}
	if err := context.Cause(s.ctx); err != nil {
		return fmt.Errorf("the session is over: %w", err)
	}
	return nil
}

// later reports whether a certificate is newer than another one: near the deadline of a session, all of them expire at the same time.
func later(was, is *auth.Identity, expired, expires time.Time) bool {
	if is.AuthTime.Before(was.AuthTime) || expires.Before(expired) {
		return false
	}
	return expires.After(expired) || is.AuthTime.After(was.AuthTime) || is.IssuedAt.After(was.IssuedAt)
}

// Redecide has the streams of this session decided again, as Registry.Redecide does for all.
func (s *Session) Redecide() int {
	s.epoch.Add(1)
	var cut batch
	s.recheck(&cut)
	return cut.finish()
}

// recheck has all streams decided again.
func (s *Session) recheck(cut *batch) {
	for _, st := range s.list() {
		st.decideAgain(cut)
	}
}

// hasten sees to it that checkStreams runs at t at the latest; zero asks for nothing.
func (s *Session) hasten(t time.Time) {
	if t.IsZero() {
		return
	}
	at := max(t.UnixNano(), 1)
	for {
		due := s.due.Load()
		if due != 0 && due <= at || s.due.CompareAndSwap(due, at) {
			return
		}
	}
}

// checkStreams does what was scheduled for now or before.
func (s *Session) checkStreams(now time.Time, cut *batch) {
	if due := s.due.Load(); due == 0 || due > now.UnixNano() {
		return
	}
	s.due.Store(0) // first: what is scheduled from here on counts
	for _, st := range s.list() {
		recheck, warnOf, next := st.dueAt(now)
		s.hasten(next)
		if !warnOf.IsZero() {
			st.warn(warnOf)
		}
		if recheck {
			st.decideAgain(cut)
		}
	}
}

func (s *Session) list() []*Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		list = append(list, st)
	}
	return list
}

// change is a number that is another one after everything that asks for a new decision.
func (s *Session) change() uint64 { return s.registry.epoch.Load() + s.epoch.Load() }

// checkExpiry compares wall times: a monotonic reading would have stood still during a sleep.
func (s *Session) checkExpiry(now time.Time) {
	now = now.Round(0)
	s.mu.Lock()
	end, reason := s.endLocked()
	warn := !s.warned && s.warn != nil && !now.Before(end.Add(-s.registry.warnBefore))
	s.warned = s.warned || warn
	s.mu.Unlock()
	switch {
	case end.IsZero():
	case !now.Before(end):
		s.End(&wire.Termination{Code: wire.TerminateExpired, Reason: reason})
	case warn:
		s.warn(end)
	}
}

func (s *Session) endLocked() (end time.Time, reason string) {
	if !s.deadline.IsZero() && !s.deadline.After(s.notAfter) {
		return s.deadline, fmt.Sprintf("the session ended at %s; log in again", clock(s.deadline))
	}
	return s.notAfter, fmt.Sprintf("the certificate expired at %s and was not renewed; log in again", clock(s.notAfter))
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05 UTC") }

// Filter selects sessions: every field that is set must match. The zero Filter selects none.
type Filter struct {
	All     bool
	User    auth.UserID
	Session auth.SessionID
	Device  auth.DeviceID
	Serial  auth.Serial // any certificate that the session ran under, so that a lock covers renewals
	Group   string      // also selects who may be in it, because the provider did not say

	Provider     string    // narrows the others, a group above all
	IssuedBefore time.Time // narrows the others to certificates issued then or before
}

// Matches reports whether f selects a session that runs under id and ran under serials.
func (f Filter) Matches(id *auth.Identity, serials []auth.Serial) bool {
	if !f.All && f.User == "" && f.Session == "" && f.Device == "" && f.Serial == "" && f.Group == "" {
		return false
	}
	return (f.User == "" || f.User == id.UserID()) &&
		(f.Session == "" || f.Session == id.Session) &&
		(f.Device == "" || f.Device == id.Device) &&
		(f.Serial == "" || slices.Contains(serials, f.Serial)) &&
		(f.Group == "" || !id.GroupsKnown || slices.Contains(id.Groups, f.Group)) &&
		(f.Provider == "" || f.Provider == id.Provider) &&
		(f.IssuedBefore.IsZero() || !id.IssuedAt.After(f.IssuedBefore))
}

// members returns what a filter looks at; both are read-only.
func (s *Session) members() (*auth.Identity, []auth.Serial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity, s.serials[:len(s.serials):len(s.serials)]
}
