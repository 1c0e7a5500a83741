package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// connectTimeout bounds an attempt as a whole: connection, proxy, TLS, Welcome.
	connectTimeout = 20 * time.Second
	// grace is how long a connection must live before its loss is answered as quickly as the first.
	grace = 30 * time.Second
	// storeLook is how often the stored login is looked at by itself.
	storeLook = 10 * time.Second
	// restRetry is how often a state that only a person can change is tried again, where that person
	// may be an administrator.
	restRetry = 5 * time.Minute
	// restDemand is how soon it is tried again because somebody wants a stream: a lock may have been lifted.
	restDemand = 5 * time.Second
	// restLook is storeLook while there is nothing else to do.
	restLook = 2 * time.Second
)

// verdict is a state with its reason, and what to do next.
type verdict struct {
	state     status.State
	reason    string
	remedy    string
	reference string
	next      next
	failed    bool            // an attempt failed, in contrast to a connection that ended
	warning   *status.Warning // to raise, with the same cause
}

// next says when to try again.
type next int

const (
	nextBackoff next = iota // after a random wait
	nextNow                 // at once
	nextRest                // after a login, after restRetry, or when somebody wants a stream after restDemand
	nextLogin               // after a login only
	nextDemand              // like nextRest, and when somebody wants a stream at once
)

// run is the client's life: the connection in one loop, renewal in another.
func (c *Client) run(ctx context.Context) {
	var workers sync.WaitGroup
	workers.Go(func() { c.keepRenewed(ctx) })
	workers.Go(func() { c.keepSteppedUp(ctx) })
	workers.Go(func() { c.keepDeviceTold(ctx) })
	c.supervise(ctx, &workers)
	workers.Wait()
	c.update(func() {
		c.setStateLocked(verdict{state: status.Stopped})
		c.lane, c.services = nil, nil
	})
	c.cancel(errDown)
	close(c.done)
}

func (c *Client) supervise(ctx context.Context, workers *sync.WaitGroup) {
	waits := newBackoff()
	for ctx.Err() == nil {
		begun := time.Now()
		v := c.round(ctx, workers, waits.Reset)
		if ctx.Err() != nil {
			return
		}
		c.settle(v)
		switch v.next {
		case nextBackoff:
			// Measured from the attempt's start: one that took long was a wait already.
			c.wait(ctx, waits.Next()-time.Since(begun))
		case nextRest, nextLogin, nextDemand:
			c.rest(ctx, v.next)
		}
	}
}

// settle shows a verdict: its state, its warning, and that an attempt failed, all
// at once.
func (c *Client) settle(v verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v.failed {
		c.failures++
	}
	c.settled = time.Now()
	c.raiseLocked(v.warning)
	c.setStateLocked(v)
}

// round makes one connection and holds it. The verdict is why it is over.
func (c *Client) round(ctx context.Context, workers *sync.WaitGroup, survived func()) verdict {
	login, v := c.usableLogin(ctx)
	if login == nil {
		return v
	}
	l, err := c.openLane(ctx, login)
	if err != nil {
		return c.failedAttempt(login, err)
	}
	c.adopt(l)
	life, end := context.WithCancel(ctx)
	workers.Go(func() { l.measure(life) })
	v, retire := c.hold(ctx, l)
	if time.Since(l.begun) > grace {
		survived()
	}
	c.dismiss(ctx, l, v, retire, workers, end)
	return v
}

// openLane connects; the lane's services are there when it returns.
func (c *Client) openLane(ctx context.Context, login *Login) (*lane, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	l := newLane(c, login)
	s, err := c.connect(ctx, login, l)
	if err != nil {
		return nil, err
	}
	l.session = s
	l.awaitServices(ctx)
	return l, nil
}

// failedAttempt turns an error of openLane into the state to show.
func (c *Client) failedAttempt(login *Login, err error) verdict {
	v := c.explain(login, err)
	v.failed = true
	c.log.Debug("connection attempt failed", "error", err)
	if v.state == status.Reconnecting && c.neverConnected() {
		v.state = status.Connecting
	}
	return v
}

func (c *Client) neverConnected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.state == status.Connecting
}

// adopt makes l the lane for new streams.
func (c *Client) adopt(l *lane) {
	welcome := l.session.Welcome()
	l.mu.Lock()
	services := l.services
	l.settleBy = time.Now().Add(settleWait)
	l.mu.Unlock()
	c.noteServerTime(welcome.ServerTime)
	c.update(func() {
		c.lane, c.services, c.failures = l, services, 0
		c.warnings = slices.DeleteFunc(c.warnings, func(w status.Warning) bool {
			return w.Code != status.WarnNotRenewed && w.Code != status.WarnRefused && w.Code != status.WarnStepUp
		})
		c.setStateLocked(verdict{state: status.Connected})
	})
	poke(c.renewals)  // another process may have renewed while this lane was made
	poke(c.newcomers) // the device may have been read while this lane was made
}

// hold watches a lane until it takes no more streams. retire says that its open
// streams may go on.
func (c *Client) hold(ctx context.Context, l *lane) (v verdict, retire bool) {
	jumps := newJumpDetector(c.cfg.Now)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return verdict{state: status.Stopped}, false
		case <-l.session.Done():
			if time.Since(l.begun) > grace {
				c.update(func() { c.rejected = 0 })
			}
			return c.explain(l.current(), l.session.Err()), false
		case d := <-l.draining:
			return drained(d), true
		case <-c.reloads:
			looked = time.Time{}
		case <-ticker.C:
		}
		if away := jumps.jumped(); away != 0 && !c.alive(ctx, l, away) {
			return verdict{state: status.Reconnecting, reason: "no answer from the gateway after a sleep", next: nextNow}, false
		}
		if time.Since(looked) >= storeLook {
			looked = time.Now()
			if v, retire, over := c.storeChanged(l); over {
				return v, retire
			}
		}
	}
}

func drained(d wire.Draining) verdict {
	reason := "the gateway takes no new streams"
	if d.Reason != "" {
		reason += ": " + d.Reason
	}
	// A short random wait: a gateway tells all its clients at the same moment.
	return verdict{state: status.Reconnecting, reason: reason, next: nextBackoff}
}

// alive probes the gateway after the wall clock jumped: after a sleep the
// connection may be long gone without a sign of it.
func (c *Client) alive(ctx context.Context, l *lane, away time.Duration) bool {
	c.log.Info("the clock jumped; probing the gateway", "by", away)
	c.update(func() { c.moved = true })
	poke(c.renewals)
	poke(c.looks)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := l.ping(ctx)
	return err == nil
}

// storeChanged reports whether somebody logged in anew or out. Streams of the
// same person go on to their end; another person's are cut.
func (c *Client) storeChanged(l *lane) (v verdict, retire, over bool) {
	login, err := c.creds.Peek()
	if errors.Is(err, ErrNotLoggedIn) {
		return verdict{state: status.NotLoggedIn, next: nextLogin}, false, true
	}
	if err != nil { // a file that cannot be read now is no reason to cut work
		c.log.Warn("the stored login cannot be read", "error", err)
		return v, false, false
	}
	was := l.identity()
	if login.Session() == was.Session {
		return v, false, false
	}
	same := login.Identity.UserID() == was.UserID() && login.TrustDomain == l.current().TrustDomain
	return verdict{state: status.Connecting, reason: "a new login", next: nextNow}, same, true
}

func (l *lane) current() *Login {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.login
}

// dismiss takes a lane out of use and ends it, at once or, when it is retired,
// with its last stream. end ends its measurements. The state changes in the
// same moment: nobody may see "connected" without a lane.
func (c *Client) dismiss(ctx context.Context, l *lane, v verdict, retire bool, workers *sync.WaitGroup, end context.CancelFunc) {
	c.update(func() {
		c.lane = nil
		c.retired = append(c.retired, l)
		c.setStateLocked(v)
	})
	workers.Go(func() {
		defer end()
		if retire {
			l.linger(ctx)
		} else {
			l.session.Close(wire.Termination{Code: wire.TerminateShutdown, Reason: "the client ends"})
		}
		<-l.session.Done()
		c.update(func() {
			total := l.session.Counters()
			total.streams = 0
			c.past.add(total)
			c.retired = slices.DeleteFunc(c.retired, func(o *lane) bool { return o == l })
		})
	})
}

// wait waits for d, a new login, or the end. A jump of the clock ends it too:
// after a sleep the network is a new one.
func (c *Client) wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-c.reloads:
	case <-timer.C:
	}
}

// rest waits until the stored login is another one, and besides for what why
// allows.
func (c *Client) rest(ctx context.Context, why next) {
	before := c.stored()
	jumps := newJumpDetector(c.cfg.Now)
	begun := time.Now()
	ticker := time.NewTicker(restLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.reloads:
		case <-c.demands:
			if why != nextLogin {
				return
			}
		case <-ticker.C:
		}
		if c.stored() != before {
			c.setState(verdict{state: status.Connecting, reason: "a new login"})
			return
		}
		if why != nextLogin && (time.Since(begun) >= restRetry || jumps.jumped() != 0) {
			return
		}
	}
}

// stored names the stored certificate; empty when there is none.
func (c *Client) stored() string {
	login, err := c.creds.Peek()
	if err != nil {
		return ""
	}
	return string(login.Serial())
}
