// Package session keeps the register of what is connected to this gateway right now: every tunnel connection with the identity it runs
// under, and every stream on it. It bounds how many there may be, lists them, has them decided again when something changed, and
// cuts them.
//
// It does no I/O and no deciding. A session or a stream is cut by cancelling its context with the reason as the cause; whoever
// serves it tells the peer. No lock is held while anything of somebody else's runs.
package session

import (
	"context"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Config is what a Registry needs.
type Config struct {
	Limits Limits           // optional; zero fields take DefaultLimits
	Logger *slog.Logger     // optional; default: discards
	Now    func() time.Time // optional; default time.Now. Expiry goes by this clock's wall time.

	// WarnBefore is how long before its end a session is warned. Optional; default 5 min.
	WarnBefore time.Duration
	// RecheckEvery is how often streams are decided again although nothing announced a change. Optional; default 30 s.
	RecheckEvery time.Duration
}

// Registry is the register. It is safe for concurrent use; create it with New.
type Registry struct {
	limits       Limits
	log          *slog.Logger
	now          func() time.Time
	warnBefore   time.Duration
	recheckEvery time.Duration

	epoch   atomic.Uint64 // counts changes that touch every session
	streams atomic.Int64
	goneIn  atomic.Int64 // bytes of streams that are over
	goneOut atomic.Int64
	sweep   sync.Mutex // one sweep at a time

	mu       sync.Mutex
	nextID   uint64
	sessions map[uint64]*Session
	logins   map[auth.SessionID][]*Session // the connections of one login, the oldest first
	users    map[auth.UserID]*user
}

// New returns an empty register.
func New(cfg Config) *Registry {
	r := &Registry{
		limits: cfg.Limits.withDefaults(), log: cfg.Logger, now: cfg.Now,
		warnBefore: cfg.WarnBefore, recheckEvery: cfg.RecheckEvery,
		sessions: make(map[uint64]*Session), logins: make(map[auth.SessionID][]*Session), users: make(map[auth.UserID]*user),
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.warnBefore == 0 {
		r.warnBefore = 5 * time.Minute
	}
	if r.recheckEvery == 0 {
		r.recheckEvery = 30 * time.Second
	}
	return r
}

// Limits returns the limits in force.
func (r *Registry) Limits() Limits { return r.limits }

// Add registers a connection. Register first, then check locks and ended sessions: what is locked in between is found by Cut.
//
// The error is a *wire.Termination with TerminateLimit when the gateway or the user has too many connections. When only this
// session has, the oldest connection of it without a stream gives way and ends as replaced.
func (r *Registry) Add(ctx context.Context, spec Spec) (*Session, error) {
	s := newSession(ctx, r, spec)
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.users[s.userID]
	if u == nil {
		u = newUser(r.limits)
	}
	if err := r.admitLocked(u, s); err != nil {
		s.cancel(err)
		return nil, err
	}
	r.nextID++
	s.id, s.user = r.nextID, u
	u.connections++
	r.users[s.userID] = u
	r.sessions[s.id] = s
	r.logins[s.sessionID] = append(r.logins[s.sessionID], s)
	return s, nil
}

func (r *Registry) admitLocked(u *user, s *Session) error {
	if len(r.sessions) >= r.limits.Sessions {
		return tooMany("this gateway has as many connections as it may have (%d)", r.limits.Sessions)
	}
	if u.connections >= r.limits.SessionsPerUser {
		return tooMany("you have %d connections open, and no more are allowed", u.connections)
	}
	live := slices.DeleteFunc(slices.Clone(r.logins[s.sessionID]), func(o *Session) bool { return o.ctx.Err() != nil })
	if len(live) < r.limits.ConnectionsPerSession {
		return nil
	}
	idle := slices.IndexFunc(live, func(o *Session) bool { return o.open.Load() == 0 })
	if idle < 0 {
		return tooMany("this session has %d connections open, and no more are allowed", r.limits.ConnectionsPerSession)
	}
	live[idle].End(&wire.Termination{Code: wire.TerminateReplaced, Reason: "a newer connection of the same session took its place"})
	return nil
}

func (r *Registry) remove(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.id] != s {
		return
	}
	delete(r.sessions, s.id)
	if left := slices.DeleteFunc(r.logins[s.sessionID], func(o *Session) bool { return o == s }); len(left) > 0 {
		r.logins[s.sessionID] = left
	} else {
		delete(r.logins, s.sessionID)
	}
	s.user.connections--
	if s.user.connections == 0 {
		delete(r.users, s.userID)
	}
}

// all returns the sessions of this moment, in no order.
func (r *Registry) all() []*Session {
	r.mu.Lock()
	list := slices.Collect(maps.Values(r.sessions))
	r.mu.Unlock()
	return list
}

// Counts returns how many connections and streams there are.
func (r *Registry) Counts() (sessions, streams int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions), int(r.streams.Load())
}

// Cut ends every session that f matches with t, and with it all of its streams, and returns how many those were. It returns when
// their contexts are cancelled; peers are told by whoever serves them.
func (r *Registry) Cut(f Filter, t wire.Termination) int {
	return r.CutWhere(func(id *auth.Identity, serials []auth.Serial) *wire.Termination {
		if f.Matches(id, serials) {
			return &t
		}
		return nil
	})
}

// CutWhere is Cut by a function: it gets the identity and all certificates of each session (read-only), and what it returns is
// the end of that session; nil lets it live.
func (r *Registry) CutWhere(end func(id *auth.Identity, serials []auth.Serial) *wire.Termination) int {
	var cut []*Session
	why := make(map[*Session]*wire.Termination)
	for _, s := range r.all() {
		if t := end(s.members()); t != nil {
			cut = append(cut, s)
			why[s] = t
		}
	}
	each(cut, func(s *Session) { s.leave(why[s]) }) // of all, before any context is cancelled: see batch
	n := 0
	for _, s := range cut {
		if s.End(why[s]) {
			n++
		}
	}
	return n
}

// each runs f for every session of a list, on as many goroutines as there are processors.
func each(list []*Session, f func(*Session)) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(list)); i = next.Add(1) - 1 {
			f(list[i])
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) - 1 {
		workers.Go(work)
	}
	work()
	workers.Wait()
}

// batch holds streams whose services were left, and whose contexts are to be cancelled. That comes when all services were left: the
// goroutines that wake up by it have much to do, and whoever cuts would wait for his turn among them.
type batch struct {
	mu   sync.Mutex
	list []cutStream
}

type cutStream struct {
	st    *Stream
	cause error
}

func (b *batch) add(st *Stream, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list = append(b.list, cutStream{st, cause})
}

// finish returns how many they were.
func (b *batch) finish() int {
	for _, c := range b.list {
		c.st.Cut(c.cause)
	}
	return len(b.list)
}

// Redecide has every stream decided again: each one's Recheck is called, and a stream that gets an error is cut with it. Call it
// after the change is in force. A stream that is being opened at the moment is covered by Stream.Settle. It returns how many
// streams were cut.
func (r *Registry) Redecide() int {
	r.epoch.Add(1)
	r.sweep.Lock()
	defer r.sweep.Unlock()
	var cut batch
	each(r.all(), func(s *Session) { s.recheck(&cut) })
	return cut.finish()
}

// Run warns and ends sessions by the clock and has streams decided again now and then. It returns when ctx is done.
func (r *Registry) Run(ctx context.Context) {
	// Timers stop while a machine sleeps, wall time does not: so look every second instead of waiting for the moment.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := r.now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := r.now()
		r.look(now)
		if now.Sub(last) >= r.recheckEvery {
			r.Redecide()
			last = now
		}
	}
}

// look does what the clock asks for: ends what has expired, and decides streams whose time has come.
func (r *Registry) look(now time.Time) {
	var cut batch
	each(r.all(), func(s *Session) {
		s.checkExpiry(now)
		s.checkStreams(now, &cut)
	})
	cut.finish()
}
