package gateway

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// stepUpWait is the longest time that a stream waits for a fresh login.
const stepUpWait = 2 * time.Minute

// stepUps is what a link asks its client for. It is safe for concurrent use; its zero value asks for nothing.
type stepUps struct {
	mu  sync.Mutex
	now *question // nil while nothing waits
}

// question is one request for a fresh login, on behalf of every stream that waits meanwhile.
type question struct {
	declined chan struct{} // closed when the client will not
	why      string        // what it said; set before declined is closed

	maxAge  time.Duration // guarded by stepUps.mu, as what follows
	waiting int
}

// join counts a stream in. ask says that the client was not asked yet for a login that is as fresh as this stream needs.
func (u *stepUps) join(maxAge time.Duration) (q *question, ask bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.now == nil {
		u.now, ask = &question{declined: make(chan struct{}), maxAge: maxAge}, true
	}
	if maxAge < u.now.maxAge {
		u.now.maxAge, ask = maxAge, true
	}
	u.now.waiting++
	return u.now, ask
}

func (u *stepUps) leave(q *question) {
	u.mu.Lock()
	defer u.mu.Unlock()
	q.waiting--
	if q.waiting == 0 && u.now == q {
		u.now = nil
	}
}

// decline refuses all that wait. Whatever comes next is a new question.
func (u *stepUps) decline(m wire.StepUp) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.now == nil {
		return
	}
	u.now.why = m.Refusal
	close(u.now.declined)
	u.now = nil
}

// settle decides the stream. One that lacks nothing but a fresh login waits for it, where the client can ask for one; what it sent
// early stays where it is.
func (x *stream) settle() error {
	err := x.reg.Settle(x.decide)
	need, missing := needsLogin(err)
	if !missing || !x.l.hello.StepUp {
		return err
	}
	q, ask := x.l.asks.join(need.decision.StepUp.MaxAge)
	defer x.l.asks.leave(q)
	if ask {
		x.l.tell("step-up", x.askLogin(need.decision))
	}
	return x.awaitLogin(q, need)
}

func needsLogin(err error) (*denial, bool) {
	var den *denial
	if !errors.As(err, &den) || den.decision.StepUp == nil {
		return nil, false
	}
	return den, true
}

func (x *stream) askLogin(d policy.Decision) error {
	return x.l.tun.SendStepUp(wire.StepUp{
		Service: d.ServiceName(), MaxAge: d.StepUp.MaxAge, Reason: d.Reason, Until: x.l.g.cfg.Now().Add(x.l.g.cfg.StepUpWait),
	})
}

// awaitLogin decides again whenever recheck says that something changed, until it is not a login that is missing.
func (x *stream) awaitLogin(q *question, need *denial) error {
	x.l.g.metrics.stepUps.Inc()
	before := x.l.session.Identity().AuthTime
	timeout := time.NewTimer(x.l.g.cfg.StepUpWait)
	defer timeout.Stop()
	for {
		select {
		case <-x.wake:
			err := x.reg.Settle(x.decide)
			next, missing := needsLogin(err)
			if !missing {
				return err
			}
			if need = next; x.l.session.Identity().AuthTime.After(before) {
				return need.because("the login that came is not fresh enough")
			}
		case <-q.declined:
			return need.because("there was no fresh login: " + q.why)
		case <-timeout.C:
			return need.because("nobody logged in within " + x.l.g.cfg.StepUpWait.String())
		case <-x.req.Done():
			return need.because("the client gave up waiting for the login")
		case <-x.l.g.draining:
			return errDraining()
		case <-x.reg.Context().Done():
			return context.Cause(x.reg.Context())
		}
	}
}

// because is the denial with what became of the wait for a login.
func (d *denial) because(why string) *denial {
	is := d.decision
	is.Reason += "; " + why
	return &denial{decision: is}
}
