package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/backoff"
)

// renewTimeout bounds one renewal: the provider, then the gateway.
const renewTimeout = 90 * time.Second

// refusal remembers which session is not renewed any more, and why.
type refusal struct {
	session auth.SessionID
	cause   *renewalRefused
}

// keepRenewed renews the certificate when it is due, and presents it to every
// lane. It looks at the wall clock at least every 30 s, because a timer that
// waits for an hour waits for longer when the computer sleeps meanwhile.
func (c *Client) keepRenewed(ctx context.Context) {
	waits := &backoff.Backoff{Base: 5 * time.Second, Max: time.Minute}
	draw := rand.Float64()
	for wait := recheck; ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.renewals:
			timer.Stop()
		case <-timer.C:
		}
		wait = c.renewalStep(ctx, draw, waits)
	}
}

// renewalStep renews if it is due and returns how long to wait before the next look.
func (c *Client) renewalStep(ctx context.Context, draw float64, waits *backoff.Backoff) time.Duration {
	login := c.currentLogin()
	if login == nil || login.NoRenewal != "" || c.refusalOf(login) != nil {
		return recheck
	}
	if c.clockMoved() {
		c.askServerTime(ctx, login)
	}
	now, due := c.gatewayNow(), renewAt(login.begin(), login.Leaf.NotAfter, draw)
	if !login.Deadline.IsZero() && !now.Before(login.Deadline) {
		return recheck
	}
	if now.Before(due) && !c.isRejected(login) {
		c.presentAll(ctx, login) // a lane may have been made with the certificate before
		return min(recheck, max(due.Sub(now), 100*time.Millisecond))
	}
	renewed, err := c.renew(ctx, login)
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("renewal failed", "error", err)
		}
		return min(recheck, max(time.Second, waits.Next()))
	}
	c.presentAll(ctx, renewed)
	if !c.gatewayNow().Before(renewAt(renewed.begin(), renewed.Leaf.NotAfter, draw)) || c.isRejected(renewed) {
		return waits.Next() // it is due already: something is wrong with a clock, or with the gateway
	}
	waits.Reset()
	return 0
}

// renew gets a newer certificate than old's and makes it the current one.
func (c *Client) renew(ctx context.Context, old *Login) (*Login, error) {
	c.renewing.Lock()
	defer c.renewing.Unlock()
	if current := c.currentLogin(); current != nil && current.Session() == old.Session() && current.Serial() != old.Serial() {
		return current, nil // the other loop was faster
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	login, err := c.creds.Renew(ctx, old)
	if err != nil {
		c.noteRenewalFailure(old, err)
		return nil, err
	}
	c.log.Info("certificate renewed", "serial", string(login.Serial()), "not_after", login.Leaf.NotAfter)
	if login.Skew != 0 { // just measured
		c.update(func() { c.skew = login.Skew })
	}
	c.setLogin(login)
	return login, nil
}

func (c *Client) noteRenewalFailure(old *Login, err error) {
	end := "open work goes on until " + old.Leaf.NotAfter.Local().Format("15:04")
	var refused *renewalRefused
	if errors.As(err, &refused) {
		c.update(func() { c.refused = refusal{old.Session(), refused} })
		c.raise(&status.Warning{Code: status.WarnRefused, Text: "the login is not renewed any more (" + refused.Reason + "); " + end,
			Remedy: "run `culvert login` before that"})
		return
	}
	c.raise(&status.Warning{Code: status.WarnNotRenewed, Text: "the certificate could not be renewed yet (" + plain(err) + "); " + end,
		Remedy: "nothing to do now: it is tried again until the session ends"})
}

// presentAll shows the certificate to every lane that has an older one.
func (c *Client) presentAll(ctx context.Context, login *Login) {
	for _, l := range c.lanes() {
		if err := l.present(ctx, login); err != nil && ctx.Err() == nil {
			c.log.Warn("renewal", "error", err)
		}
	}
	c.update(func() {}) // waitRenewal looks at the lanes' certificates
}

func (c *Client) lanes() []*lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := slices.Clone(c.retired)
	if c.lane != nil {
		list = append(list, c.lane)
	}
	return list
}

func (c *Client) currentLogin() *Login {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.login
}

// setLogin makes login the current one. What was known about another session's
// renewal does not count any more.
func (c *Client) setLogin(login *Login) {
	c.update(func() {
		if c.login != nil && c.login.Session() != login.Session() {
			c.rejected = 0
		} else if c.login != nil && login.Identity.IssuedAt.Before(c.login.Identity.IssuedAt) {
			return // a renewal that a fresh login overtook
		}
		c.login = login
		if !c.skewed { // a connection measures it better
			c.skew = login.Skew
		}
		c.warnings = slices.DeleteFunc(c.warnings, func(w status.Warning) bool {
			return w.Code == status.WarnNotRenewed || w.Code == status.WarnRefused && c.refused.session != login.Session()
		})
	})
}

func (c *Client) refusalOf(login *Login) *renewalRefused {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused.session != login.Session() {
		return nil
	}
	return c.refused.cause
}

// usableLogin returns the stored login when a connection can be made with it,
// renewing it first if need be; or nil and why not.
func (c *Client) usableLogin(ctx context.Context) (*Login, verdict) {
	login, err := c.creds.Load(ctx)
	if errors.Is(err, ErrNotLoggedIn) {
		return nil, verdict{state: status.NotLoggedIn, next: nextLogin}
	}
	if err != nil {
		return nil, unreadable(err)
	}
	if current := c.currentLogin(); current == nil || current.Serial() != login.Serial() {
		c.setLogin(login)
	}
	if c.clockDoubtful(login) {
		c.askServerTime(ctx, login)
	}
	now := c.gatewayNow()
	switch refused := c.refusalOf(login); {
	case !login.Deadline.IsZero() && !now.Before(login.Deadline):
		return nil, verdict{state: status.Expired, reason: "the session ended at " + clockTime(login.Deadline, now), next: nextLogin}
	case now.Before(login.Leaf.NotAfter) && !c.isRejected(login):
		return login, verdict{}
	case refused != nil:
		return nil, c.renewalEnded(refused)
	}
	return c.renewFirst(ctx, login)
}

// unreadable is the state while the stored login cannot be opened. A keyring may
// ask a person each time, so it is not tried often.
func unreadable(err error) verdict {
	v := verdict{state: status.Terminated, reason: plain(err), next: nextDemand}
	var corrupt *certstore.CorruptError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, keyring.ErrKeyLost), errors.Is(err, keyring.ErrCorrupt):
		v.state, v.remedy, v.next = status.NotLoggedIn, "run `culvert login`", nextLogin
	case errors.Is(err, keyring.ErrUnavailable):
		v.remedy = "unlock the system's keyring; the next stream tries again"
	case errors.Is(err, certstore.ErrNewer):
		v.remedy = "use the newer culvert"
	}
	return v
}

// renewFirst renews a certificate that no gateway takes any more.
func (c *Client) renewFirst(ctx context.Context, login *Login) (*Login, verdict) {
	renewed, err := c.renew(ctx, login)
	if err == nil {
		return renewed, verdict{}
	}
	var refused *renewalRefused
	if errors.As(err, &refused) {
		return nil, c.renewalEnded(refused)
	}
	v := c.failedAttempt(login, err)
	v.reason = "the certificate has expired and cannot be renewed yet: " + v.reason
	return nil, v
}

func (c *Client) renewalEnded(refused *renewalRefused) verdict {
	if refused.Locked {
		return verdict{state: status.Locked, reason: refused.Reason, remedy: orElse(refused.Remedy, "run `culvert login`"), reference: refused.Reference, next: nextRest}
	}
	return verdict{state: status.Expired, reason: refused.Reason, remedy: orElse(refused.Remedy, "run `culvert login`"), reference: refused.Reference, next: nextLogin}
}

// doubtEvery is how often a gateway's word about one stream has a certificate renewed that is not due by our clock.
const doubtEvery = time.Minute

// doubt has the certificate renewed although it is not due by our clock, unless that did not help a moment ago.
func (c *Client) doubt(serial auth.Serial) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outdated != serial {
		if !c.doubted.IsZero() && time.Since(c.doubted) < doubtEvery {
			return false
		}
		c.outdated, c.doubted = serial, time.Now()
	}
	return true
}

// reject notes that a gateway refused the certificate, whatever our clock says, so
// that it is renewed before the next attempt. It returns false when renewed ones
// were refused as well: then renewing does not help.
func (c *Client) reject(login *Login) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rejected++
	if c.rejected > 2 {
		c.outdated = ""
		return false
	}
	c.outdated = login.Serial()
	return true
}

func (c *Client) isRejected(login *Login) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.outdated == login.Serial()
}

// clockDoubtful: by our clock the login is over, and nobody has compared our
// clock with the gateway's yet.
func (c *Client) clockDoubtful(login *Login) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.cfg.Now()
	return !c.skewed && (!login.Deadline.IsZero() && !now.Before(login.Deadline) || now.Before(login.Leaf.NotBefore))
}

// clockMoved reports, once, that our clock was set, or that the computer slept, since it was last compared.
func (c *Client) clockMoved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	moved := c.moved
	c.moved = false
	return moved
}

func (c *Client) askServerTime(ctx context.Context, login *Login) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if t, err := c.creds.ServerTime(ctx, login); err == nil {
		c.noteServerTime(t)
	}
}

// noteServerTime measures the skew. It is as exact as half a round trip.
func (c *Client) noteServerTime(t time.Time) {
	if t.IsZero() {
		return
	}
	c.update(func() { c.skew, c.skewed = t.Sub(c.cfg.Now().Round(0)), true })
}

// gatewayNow is the time by the gateway's clock, which certificates and
// sessions go by.
func (c *Client) gatewayNow() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Now().Add(c.skew)
}
