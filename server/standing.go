package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// standingPoll is how often the database is asked whether locks or ended
	// sessions have changed; a lock bites within 1 s of being made.
	standingPoll = 250 * time.Millisecond
	// standingHold is how long the last view counts while the database is
	// away.
	standingHold = 5 * time.Minute
)

// standing says whether somebody may have a session: whether the database
// knows it, it has not ended, and no lock covers it. It keeps a view of locks
// and ended sessions, for the time in which the database is away, and cuts live
// sessions when the view changes. Safe for concurrent use.
type standing struct {
	store    *store.Store
	registry *session.Registry
	log      *slog.Logger
	now      func() time.Time
	issuers  map[string]string // of the providers, by name
	warned   throttle

	mu   sync.Mutex
	view view
}

// A view is what the database said last.
type view struct {
	changes int64 // the change counter that it belongs to
	locks   []store.Lock
	ended   map[auth.SessionID]bool // before their deadline
	read    time.Time               // when it was known to be true; zero: never
}

// admit is a gateway.AdmitFunc.
func (v *standing) admit(ctx context.Context, peer mtls.Peer) (deadline time.Time, err error) {
	if issuer, known := v.issuers[peer.Identity.Provider]; known && issuer != peer.Identity.Issuer {
		return time.Time{}, ended("your login is from before the gateway's providers were named anew; log in again")
	}
	known, err := v.store.Session(ctx, peer.Identity.Session)
	switch {
	case errors.Is(err, store.ErrUnavailable):
		return time.Time{}, v.admitFromView(peer, err)
	case errors.Is(err, store.ErrNotFound):
		// The database is another one, or older than the certificate: then it
		// may have lost a lock, too.
		return time.Time{}, ended("this gateway does not know your session; log in again")
	case err != nil:
		return time.Time{}, err
	case !known.Ended.IsZero():
		return time.Time{}, errEnded()
	}
	locks, err := v.store.Locks(ctx)
	if err != nil {
		return time.Time{}, v.admitFromView(peer, err)
	}
	return known.Deadline, lockedOut(locks, subjectOf(peer.Identity, peer.Serial, known.Created), v.now())
}

// admitFromView takes the time of the login for the beginning of the session, which is not known now: it is not later.
func (v *standing) admitFromView(peer mtls.Peer, cause error) error {
	seen, err := v.lastView()
	if err != nil {
		return fmt.Errorf("%w: %w", err, cause)
	}
	if seen.ended[peer.Identity.Session] {
		return errEnded()
	}
	return lockedOut(seen.locks, subjectOf(peer.Identity, peer.Serial, peer.Identity.AuthTime), v.now())
}

// errStale says that nobody knows any more whom a lock covers.
var errStale = errors.New("the database has been away too long")

// current is for gateway.Config.Current.
func (v *standing) current() error {
	_, err := v.lastView()
	return err
}

// lastView is what holds while the database is away.
func (v *standing) lastView() (view, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.view.read.IsZero() || v.now().Sub(v.view.read) > standingHold {
		return view{}, errStale
	}
	return v.view, nil
}

func errEnded() error { return ended("your session has ended; log in again") }

func ended(reason string) error {
	return &wire.Termination{Code: wire.TerminateExpired, Reason: reason}
}

// lockedOut is nil, or the *wire.Termination of the first lock that covers s.
func lockedOut(locks []store.Lock, s store.LockSubject, now time.Time) error {
	for _, lock := range locks {
		if lock.Covers(s, now) {
			reason := lock.Message
			if reason == "" {
				reason = "an administrator has locked this " + string(lock.Kind)
			}
			return &wire.Termination{Code: wire.TerminateLocked, Reason: reason}
		}
	}
	return nil
}

// subjectOf says what locks are held against. A lock with a cut-off compares with the beginning of the session: the
// certificate may have been renewed since.
func subjectOf(id auth.Identity, serial auth.Serial, began time.Time) store.LockSubject {
	return store.LockSubject{
		User: id.UserID(), Device: id.Device, Session: id.Session, Serial: serial,
		Provider: id.Provider, Groups: id.Groups, GroupsKnown: id.GroupsKnown, IssuedAt: began,
	}
}

// run follows the database until ctx ends.
func (v *standing) run(ctx context.Context) {
	for {
		if err := v.refresh(ctx); err != nil && ctx.Err() == nil && v.warned.ok() {
			v.log.Error("the database does not answer; locks are as they were last seen", "held_for", standingHold, "error", err)
		}
		if !sleep(ctx, standingPoll) {
			return
		}
	}
}

// refresh brings the view up to date, and cuts who must not go on.
func (v *standing) refresh(ctx context.Context) error {
	changes, err := v.store.Changes(ctx)
	if err != nil {
		return err
	}
	if v.unchanged(changes) {
		return nil
	}
	next := view{changes: changes, ended: make(map[auth.SessionID]bool)}
	if next.locks, err = v.store.Locks(ctx); err != nil {
		return err
	}
	list, err := v.store.EndedSessions(ctx)
	if err != nil {
		return err
	}
	for _, id := range list {
		next.ended[id] = true
	}
	if err := v.cut(ctx, next); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	next.read = v.now()
	v.view = next
	return nil
}

// unchanged reports whether the view is the database's still, and notes that it was now.
func (v *standing) unchanged(changes int64) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	same := !v.view.read.IsZero() && v.view.changes == changes
	if same {
		v.view.read = v.now()
	}
	return same
}

// cut ends the live sessions that are locked out or have ended.
func (v *standing) cut(ctx context.Context, seen view) error {
	for _, live := range v.registry.List() {
		why, err := v.fate(ctx, seen, live)
		if err != nil {
			return err
		}
		var end *wire.Termination
		if errors.As(why, &end) {
			id := live.Identity.Session
			n := v.registry.Cut(session.Filter{Session: id}, *end)
			v.log.Info("session cut", "session", id, "user", live.User, "code", end.Code, "reason", end.Reason, "connections", n)
		}
	}
	return nil
}

// fate is why a live session must end, or nil. err means that the database has to be asked and does not answer.
func (v *standing) fate(ctx context.Context, seen view, live session.Info) (why, err error) {
	id := live.Identity
	if seen.ended[id.Session] {
		return errEnded(), nil
	}
	// Whom a lock might cover at the most; the database knows when the session began.
	if lockedOut(seen.locks, subjectOf(id, live.Serial, id.AuthTime), v.now()) == nil {
		return nil, nil
	}
	began := id.AuthTime
	switch known, err := v.store.Session(ctx, id.Session); {
	case err == nil:
		began = known.Created
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	return lockedOut(seen.locks, subjectOf(id, live.Serial, began), v.now()), nil
}
