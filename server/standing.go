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
	// sessions have changed; a lock bites within 1 s of being made (design §3.10).
	standingPoll = 250 * time.Millisecond
	// standingHold is how long the last view counts while the database is
	// away (design §3.17).
	standingHold = 5 * time.Minute
)

// standing says whether somebody may have a session: whether the database
// knows it, it has not ended, and no lock covers it. It keeps a view of the
// locks, for the time in which the database is away, and cuts live sessions
// when the view changes. Safe for concurrent use.
type standing struct {
	store    *store.Store
	registry *session.Registry
	log      *slog.Logger
	now      func() time.Time
	warned   throttle

	mu      sync.Mutex
	changes int64
	locks   []store.Lock
	read    time.Time // when the view was known to be true; zero: never
}

// admit is a gateway.AdmitFunc.
func (v *standing) admit(ctx context.Context, peer mtls.Peer) (deadline time.Time, err error) {
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
		return time.Time{}, ended("your session has ended; log in again")
	}
	locks, err := v.store.Locks(ctx)
	if err != nil {
		return time.Time{}, v.admitFromView(peer, err)
	}
	return known.Deadline, lockedOut(locks, subjectOf(peer.Identity, peer.Serial), v.now())
}

func (v *standing) admitFromView(peer mtls.Peer, cause error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.read.IsZero() || v.now().Sub(v.read) > standingHold {
		return fmt.Errorf("the database has been away too long: %w", cause)
	}
	return lockedOut(v.locks, subjectOf(peer.Identity, peer.Serial), v.now())
}

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

func subjectOf(id auth.Identity, serial auth.Serial) store.LockSubject {
	return store.LockSubject{
		User: id.UserID(), Device: id.Device, Session: id.Session, Serial: serial,
		Provider: id.Provider, Groups: id.Groups, GroupsKnown: id.GroupsKnown, IssuedAt: id.IssuedAt,
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
	v.mu.Lock()
	same := !v.read.IsZero() && v.changes == changes
	if same {
		v.read = v.now()
	}
	v.mu.Unlock()
	if same {
		return nil
	}
	locks, err := v.store.Locks(ctx)
	if err != nil {
		return err
	}
	if err := v.cut(ctx, locks); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes, v.locks, v.read = changes, locks, v.now()
	return nil
}

// cut ends the live sessions that are locked out or have ended.
func (v *standing) cut(ctx context.Context, locks []store.Lock) error {
	checked := make(map[auth.SessionID]bool)
	for _, live := range v.registry.List() {
		id := live.Identity.Session
		err := lockedOut(locks, subjectOf(live.Identity, live.Serial), v.now())
		if err == nil && !checked[id] {
			checked[id] = true
			known, storeErr := v.store.Session(ctx, id)
			if storeErr != nil && !errors.Is(storeErr, store.ErrNotFound) {
				return storeErr
			}
			if !known.Ended.IsZero() {
				err = ended("your session has ended; log in again")
			}
		}
		var end *wire.Termination
		if errors.As(err, &end) {
			n := v.registry.Cut(session.Filter{Session: id}, *end)
			v.log.Info("session cut", "session", id, "user", live.User, "code", end.Code, "reason", end.Reason, "connections", n)
		}
	}
	return nil
}
