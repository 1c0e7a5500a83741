package admin

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// maxRated bounds the people whose rate is remembered.
const maxRated = 4096

// gates bound what runs at once, so that nobody keeps others out: people with their own requests not the administrators, who
// reads not who changes the policy, and nobody who is at the socket.
type gates struct {
	self, admin, heavy, apply, socket gate
	own                               rates
}

func newGates(ownChanges int, now func() time.Time) *gates {
	return &gates{
		self: gate{most: 64, each: 4}, admin: gate{most: 64, each: 16}, heavy: gate{most: 4, each: 2},
		apply: gate{most: 2, each: 2}, socket: gate{most: 8, each: 8},
		own: rates{perMinute: ownChanges, now: now},
	}
}

// enter takes a place for a call, or refuses it.
func (g *gates) enter(c *call) (leave func(), err error) {
	user := c.caller.user()
	if c.route.Service == adminapi.ServiceSelf && c.route.Writes {
		if wait := g.own.take(user); wait > 0 {
			return nil, refuse(adminapi.CodeTooMany, "too many requests in a short time").
				remedy("wait " + wait.Round(time.Second).String()).retryIn(wait)
		}
	}
	through := g.of(c)
	if !through.enter(user) {
		return nil, refuse(adminapi.CodeTooMany, "too many such requests run at once").
			remedy("try again in a moment").retryIn(2 * time.Second)
	}
	return func() { through.leave(user) }, nil
}

// of chooses the gate of a call. What loads a policy holds its text and its compiled form.
func (g *gates) of(c *call) *gate {
	switch r := c.route; {
	case c.caller.Via == ViaSocket:
		return &g.socket
	case r.Service == adminapi.ServiceSelf:
		return &g.self
	case r.ID == adminapi.RoutePolicyApply || r.ID == adminapi.RoutePolicyRollback:
		return &g.apply
	case r.MaxBody > adminapi.MaxRequest || r.ID == adminapi.RoutePolicyWho:
		return &g.heavy
	}
	return &g.admin
}

// A gate lets so many in at once, and each person so many of them.
type gate struct {
	most, each int

	mu     sync.Mutex
	inside int
	by     map[auth.UserID]int
}

func (g *gate) enter(user auth.UserID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.most || g.by[user] >= g.each {
		return false
	}
	if g.by == nil {
		g.by = make(map[auth.UserID]int)
	}
	g.inside++
	g.by[user]++
	return true
}

func (g *gate) leave(user auth.UserID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.by[user]--; g.by[user] == 0 {
		delete(g.by, user)
	}
}

// rates is a bucket for each person.
type rates struct {
	perMinute int
	now       func() time.Time

	mu     sync.Mutex
	people map[auth.UserID]*rate.Limiter
}

// take counts one event, and returns 0 or how long to wait.
func (r *rates) take(user auth.UserID) time.Duration {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.people) >= maxRated {
		r.forgetLocked(now)
	}
	l := r.people[user]
	if l == nil {
		if r.people == nil {
			r.people = make(map[auth.UserID]*rate.Limiter)
		}
		l = rate.NewLimiter(rate.Limit(float64(r.perMinute)/60), r.perMinute)
		r.people[user] = l
	}
	reservation := l.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// forgetLocked drops who has been quiet for long enough to have a full bucket; when nobody has, everybody.
func (r *rates) forgetLocked(now time.Time) {
	for user, l := range r.people {
		if l.TokensAt(now) >= float64(r.perMinute) {
			delete(r.people, user)
		}
	}
	if len(r.people) >= maxRated {
		clear(r.people)
	}
}
