package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Prompt is how the person is asked for a fresh login while a stream waits for it.
type Prompt struct {
	// Out is where the person is told what to do. Required.
	Out io.Writer
	// NoBrowser prints the address, alone on its line, and opens nothing.
	NoBrowser bool
	// Open opens an address in the browser. Default: the system's.
	Open func(address string) error
}

// stepUpLook is how often it is looked whether anybody still waits for a fresh login.
const stepUpLook = 5 * time.Second

// errNobodyWaits ends an authorization when the last stream that waited for it has been refused.
var errNobodyWaits = errors.New("nobody signed in while it was waited for")

// wanted is a fresh login that streams wait for, all of this client's in one.
type wanted struct {
	services []string // for people
	reason   string   // for people
	acr      []string
	until    time.Time // the latest, by the gateway's clock
	since    time.Time // when this client was asked first, by its own clock
	quiet    bool      // print the address and open no page
	// fits reports whether a login is what every one of the streams waits for.
	fits func(*Login) bool
	// shown is told the address that waits for the person.
	shown func(address string)
}

// purpose says what the login is for.
func (w wanted) purpose() string {
	what := "The gateway asks for a fresh login"
	if len(w.services) > 0 {
		what = strings.Join(w.services, ", ") + ": a fresh login is needed"
	}
	if w.reason != "" {
		what += " (" + w.reason + ")"
	}
	return what + "."
}

// question is a gateway's request for a fresh login, on one connection.
type question struct {
	wire.StepUp
	asked time.Time // by our clock
}

// onStepUp implements events.
func (l *lane) onStepUp(m wire.StepUp) {
	c := l.client
	c.update(func() {
		if c.questions == nil {
			c.questions = make(map[*lane]question)
		}
		c.questions[l] = question{m, c.cfg.Now()}
	})
	poke(c.stepUps)
}

// keepSteppedUp answers the gateways' requests for fresh logins, one authorization at a time, however many streams, connections and
// processes wait for it.
func (c *Client) keepSteppedUp(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.stepUps:
		}
		for w, waiting := c.wanted(); waiting && ctx.Err() == nil; w, waiting = c.wanted() {
			c.stepUp(ctx, w)
		}
	}
}

// wanted joins what the connections were asked for. Questions whose time is over, or whose connection is, are dropped.
func (c *Client) wanted() (w wanted, waiting bool) {
	now := c.gatewayNow()
	c.mu.Lock()
	defer c.mu.Unlock()
	var lanes []*lane
	for l, q := range c.questions {
		if l.over() || !q.Until.IsZero() && !now.Before(q.Until) {
			delete(c.questions, l)
			continue
		}
		lanes = append(lanes, l)
		w.add(q)
	}
	slices.Sort(w.services)
	w.services = slices.Compact(w.services)
	questions := make(map[*lane]question, len(lanes))
	for _, l := range lanes {
		questions[l] = c.questions[l]
	}
	w.fits = func(login *Login) bool {
		for l, q := range questions {
			if !l.wants(login) || !c.answers(login, q) {
				return false
			}
		}
		return true
	}
	return w, len(lanes) > 0
}

func (w *wanted) add(q question) {
	if q.Service != "" {
		w.services = append(w.services, q.Service)
	}
	if q.Until.After(w.until) {
		w.until = q.Until
	}
	if w.since.IsZero() || q.asked.Before(w.since) {
		w.since = q.asked
	}
	if len(w.acr) == 0 {
		w.acr = q.ACR
	}
	if w.reason == "" {
		w.reason = q.Reason
	}
}

// answers reports whether a login is what a question asks for.
func (c *Client) answers(login *Login, q question) bool {
	if len(q.ACR) > 0 && !slices.Contains(q.ACR, login.Identity.ACR) {
		return false
	}
	return q.MaxAge == 0 || c.gatewayNow().Sub(login.Identity.AuthTime) < q.MaxAge
}

func (l *lane) over() bool {
	select {
	case <-l.session.Done():
		return true
	default:
		return false
	}
}

// stepUp gets one fresh login and presents it, or tells the gateways that there will be none.
func (c *Client) stepUp(ctx context.Context, w wanted) {
	w.shown = func(address string) {
		c.raise(&status.Warning{Code: status.WarnStepUp, Text: strings.TrimSuffix(w.purpose(), "."), Remedy: "sign in at " + address, URL: address})
	}
	limited, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		c.watchQuestions(limited, cancel)
	}()
	login, err := c.signIn(limited, w)
	cancel(nil)
	<-watching
	c.update(func() {
		c.warnings = slices.DeleteFunc(c.warnings, func(o status.Warning) bool { return o.Code == status.WarnStepUp })
	})
	if ctx.Err() != nil {
		return // the connections end with the client
	}
	if err != nil {
		c.log.Warn("no fresh login", "error", err)
		c.decline(c.takeQuestions(), declineReason(err))
		return
	}
	c.log.Info("fresh login", "serial", string(login.Serial()), "auth_time", login.Identity.AuthTime)
	c.update(func() { c.refused = refusal{} }) // the login came with a new refresh token
	c.setLogin(login)
	questions := c.takeQuestions()
	c.presentAll(ctx, login)
	for l, q := range questions {
		if l.serial() == login.Serial() && c.answers(login, q) {
			delete(questions, l)
		}
	}
	c.decline(questions, "the login is not of the kind, or not as fresh, as is asked for")
}

func (c *Client) signIn(ctx context.Context, w wanted) (*Login, error) {
	login := c.currentLogin()
	if login == nil {
		return nil, ErrNotLoggedIn
	}
	return c.creds.StepUp(ctx, login, w)
}

// watchQuestions ends the wait when no question is left. A new one makes it longer.
func (c *Client) watchQuestions(ctx context.Context, cancel context.CancelCauseFunc) {
	timer := time.NewTimer(stepUpLook)
	defer timer.Stop()
	for w, waiting := c.wanted(); waiting; w, waiting = c.wanted() {
		wait := stepUpLook
		if !w.until.IsZero() {
			wait = min(wait, w.until.Sub(c.gatewayNow()))
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
	cancel(errNobodyWaits)
}

// takeQuestions returns the questions that are open, and leaves none.
func (c *Client) takeQuestions() map[*lane]question {
	c.mu.Lock()
	defer c.mu.Unlock()
	questions := c.questions
	c.questions = nil
	return questions
}

// decline tells gateways that there will be no fresh login.
func (c *Client) decline(questions map[*lane]question, reason string) {
	for l := range questions {
		if err := l.session.SendStepUp(wire.StepUp{Refusal: wire.CleanText(reason)}); err != nil {
			c.log.Debug("step-up refusal not sent", "error", err)
		}
	}
}

// declinedError is what another process of the profile was told.
type declinedError string

func (e declinedError) Error() string { return string(e) }

func declineReason(err error) string {
	if reason := plain(err); reason != "" {
		return reason
	}
	return "the login failed"
}
