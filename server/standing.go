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
	// standingFresh is how old the view may be before rules marked strict deny:
	// more than a few polls that got no answer.
	standingFresh = 2 * time.Second
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
	hold     time.Duration     // how long the last view counts while the database is away
	turn     sync.Mutex        // one look at the database at a time
	kicked   chan struct{}     // look now: something changed; has room for one
	looked   chan struct{}     // the followers may have to follow; has room for one
	leading  sync.Mutex        // guards follow, and is held while they follow
	follow   []follower
	warned   throttle

	mu    sync.Mutex
	view  view
	began map[auth.SessionID]time.Time // when sessions that were admitted here began, by the database
}

// A follower brings something else up to date with the database after a change.
type follower struct {
	what   string
	follow func(context.Context) error
	done   bool  // it followed
	at     int64 // the change that it followed
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
	v.note(known.ID, known.Created)
	locks, err := v.store.Locks(ctx)
	if err != nil {
		return time.Time{}, v.admitFromView(peer, err)
	}
	return known.Deadline, lockedOut(locks, subjectOf(peer.Identity, peer.Serial, known.Created))
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
	return lockedOut(seen.locks, subjectOf(peer.Identity, peer.Serial, peer.Identity.AuthTime))
}

// errStale says that nobody knows any more whom a lock covers.
var errStale = errors.New("the database has been away too long")

// current is for gateway.Config.Current.
func (v *standing) current() error {
	_, err := v.lastView()
	return err
}

// stale reports whether the view is older than a few polls.
func (v *standing) stale() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.view.read.IsZero() || v.now().Sub(v.view.read) > standingFresh
}

// lastView is what holds while the database is away.
func (v *standing) lastView() (view, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.view.read.IsZero() || v.now().Sub(v.view.read) > v.hold {
		return view{}, errStale
	}
	return v.view, nil
}

func errEnded() error { return ended("your session has ended; log in again") }

func ended(reason string) error {
	return &wire.Termination{Code: wire.TerminateExpired, Reason: reason}
}

// lockedOut is nil, or the *wire.Termination of the first lock that covers s.
func lockedOut(locks []store.Lock, s store.LockSubject) error {
	for _, lock := range locks {
		// Which locks have expired is for the database's clock to say: it left them
		// out of the list.
		if lock.Covers(s, time.Time{}) {
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

// kick has the database looked at now and not at the next poll.
func (v *standing) kick() { signal(v.kicked) }

// run follows the database until ctx ends: at once when it says that something
// changed, and by asking it again and again, because a notice can be lost.
func (v *standing) run(ctx context.Context) {
	for {
		v.look(ctx)
		timer := time.NewTimer(standingPoll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-v.kicked:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// runFollowers has the followers follow until ctx ends. It is a job of its own: a
// policy that takes long to load, or its record on a disk that hangs, must not keep
// a lock from coming into force.
func (v *standing) runFollowers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.looked:
			v.lead(ctx)
		}
	}
}

// catchUp looks at the database now and has the followers follow: when it returns,
// what changed before the call is in force here.
func (v *standing) catchUp(ctx context.Context) {
	v.look(ctx)
	v.lead(ctx)
}

// look looks at the database now: when it returns, locks and ends of sessions from
// before the call are in force here. Where the database does not answer, the polls
// go on trying.
func (v *standing) look(ctx context.Context) {
	v.turn.Lock()
	defer v.turn.Unlock()
	if err := v.refresh(ctx); err != nil && ctx.Err() == nil && v.warned.ok() {
		v.log.Error("the database does not answer; locks are as they were last seen", "held_for", v.hold, "error", err)
	}
	signal(v.looked)
}

// lead has the followers follow, and those that failed before try again.
func (v *standing) lead(ctx context.Context) {
	v.leading.Lock()
	defer v.leading.Unlock()
	v.mu.Lock()
	at := v.view.changes
	v.mu.Unlock()
	for i := range v.follow {
		f := &v.follow[i]
		if f.done && f.at == at {
			continue
		}
		err := f.follow(ctx)
		f.done, f.at = err == nil, at
		if err != nil && ctx.Err() == nil && v.warned.ok() {
			v.log.Error("cannot follow a change in the database; trying again", "what", f.what, "error", err)
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
	// First for those who come while the database is away again: who is not held against it is live already, and cut.
	v.learn(next)
	if err := v.cut(ctx, next); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	next.read = v.now()
	v.view = next
	return nil
}

// learn puts what the database said into the view, whose age and number stay until it is in force.
func (v *standing) learn(next view) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.view.locks, v.view.ended = next.locks, next.ended
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
	if err := v.learnBeginnings(ctx); err != nil {
		return err
	}
	locks := indexLocks(seen.locks)
	v.registry.CutWhere(func(id *auth.Identity, serials []auth.Serial) *wire.Termination {
		began, known := v.beginning(id.Session)
		if !known {
			return nil // it came meanwhile, and was held against the locks of that moment
		}
		why := errEnded()
		if !seen.ended[id.Session] {
			why = locks.lockedOut(subjectOf(*id, serials[len(serials)-1], began))
		}
		var end *wire.Termination
		if errors.As(why, &end) {
			v.log.Info("session cut", "session", id.Session, "user", id.UserID(), "code", end.Code, "reason", end.Reason)
		}
		return end
	})
	return nil
}

// learnBeginnings has the beginning of every live session at hand, which locks with a cut-off are held against, and forgets
// those of others. It asks the database only about sessions that were admitted while it was away.
func (v *standing) learnBeginnings(ctx context.Context) error {
	live, ask := make(map[auth.SessionID]time.Time), make(map[auth.SessionID]bool)
	v.registry.CutWhere(func(id *auth.Identity, _ []auth.Serial) *wire.Termination {
		began, known := v.beginning(id.Session)
		live[id.Session] = began
		if !known {
			ask[id.Session] = true
		}
		return nil
	})
	for id := range ask {
		switch known, err := v.store.Session(ctx, id); {
		case err == nil:
			live[id] = known.Created
		case !errors.Is(err, store.ErrNotFound): // one that is not there keeps the zero time: every cut-off covers it
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.began = live
	return nil
}

// beginning is when a session began, and whether that was asked.
func (v *standing) beginning(id auth.SessionID) (began time.Time, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	began, known = v.began[id]
	return began, known
}

// note remembers when a session began.
func (v *standing) note(id auth.SessionID, began time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.began == nil {
		v.began = make(map[auth.SessionID]time.Time)
	}
	v.began[id] = began
}
