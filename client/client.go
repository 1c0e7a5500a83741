// Package client keeps one person connected to a gateway. It joins the tunnel's
// session, reconnection and the renewal of the certificate into one state
// machine, and says at any time what the state is and why.
//
//	        Up                       gateway answers
//	(stopped) ──▶ connecting ─────────────────────────▶ connected
//	                 ▲  │                                │   ▲
//	                 │  │ session over, locked,          │   │ full-jitter back-off,
//	     new login   │  ▼ other protocol version    lost │   │ beside the old one when it drains
//	              expired · locked · terminated          ▼   │
//	                 ▲                                 reconnecting
//	                 └────────────────────────────────────┘
//
// A connection that the gateway drains stays until its streams have ended,
// beside the new one. A certificate is renewed at two thirds of its life by the
// wall clock, also on every living connection, so that streams do not notice.
// Renewal goes on after a certificate's expiry as long as the session lives;
// a refusal by the provider ends it, an outage does not.
//
// The package captures no traffic: client/socks5, client/httpproxy and
// client/forward do, and call Open. It does not log in: client/login does.
package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/backoff"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// ErrNotLoggedIn: the profile holds no login.
var ErrNotLoggedIn = errors.New("not logged in")

// errDown is the cause of everything that Down ends.
var errDown = errors.New("the client was stopped")

// Stream is an open stream to a service: a relay.Conn for fronts, a net.Conn for
// everything else. On a udp stream one Read and one Write is one datagram.
type Stream interface {
	net.Conn
	relay.Conn
}

// OpenOptions adjust Open. The zero value sends early data.
type OpenOptions struct {
	// Wait returns only after the gateway's decision. Without it payload
	// follows the request at once, and a refusal comes from Read or Write.
	Wait bool
	// TraceID joins the logs of both ends. Optional.
	TraceID string
}

// openWait bounds how long Open waits for a connection that is being made.
const openWait = 10 * time.Second

// Client is one person's connection to a gateway. Make it with New; it is good
// for one Up and one Down, and safe for concurrent use.
type Client struct {
	cfg      Config
	log      *slog.Logger
	creds    credentials
	connect  connectFunc
	profile  string
	via      func(address string) string // the outbound proxy, for display; may be nil
	started  time.Time
	reloads  chan struct{} // the stored login may have changed
	renewals chan struct{} // a renewal is wanted now
	demands  chan struct{} // a stream is wanted
	stepUps  chan struct{} // a gateway asked for a fresh login
	// newcomers and looks are for keepDeviceTold: there is a new lane; a fact of the device may have changed.
	newcomers, looks chan struct{}

	renewing sync.Mutex // one renewal at a time in this process

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced at every change
	cancel    context.CancelCauseFunc
	done      chan struct{} // closed when nothing runs any more; nil before Up
	state     verdict
	since     time.Time
	failures  int       // attempts that failed since the last connection
	settled   time.Time // when the last attempt or connection was over; monotonic
	login     *Login
	lane      *lane            // takes new streams; nil when not connected
	retired   []*lane          // drain
	services  []wire.Service   // of the newest lane
	past      counters         // of lanes that are gone
	warnings  []status.Warning // those that events raised
	offers    []status.Offer
	skew      time.Duration      // the gateway's clock minus ours
	skewed    bool               // skew was measured
	moved     bool               // our clock jumped since then
	rejected  int                // certificates that gateways refused since the last connection that lasted
	questions map[*lane]question // open requests of gateways for a fresh login
	refused   refusal            // why a session is not renewed any more
	outdated  auth.Serial        // a certificate that a gateway called expired
	doubted   time.Time          // when a gateway last did so in its answer to a stream; monotonic
	device    device             // as it was read last
}

// counters are the bytes and streams of a lane.
type counters struct {
	streams        int
	opened         uint64
	sent, received uint64
}

func (c *counters) add(o counters) {
	c.streams += o.streams
	c.opened += o.opened
	c.sent += o.sent
	c.received += o.received
}

func newClient(cfg Config, creds credentials, connect connectFunc) *Client {
	return &Client{
		cfg: cfg, log: cfg.Logger, creds: creds, connect: connect,
		started: cfg.Now(), since: cfg.Now(),
		reloads: make(chan struct{}, 1), renewals: make(chan struct{}, 1), demands: make(chan struct{}, 1),
		stepUps: make(chan struct{}, 1), newcomers: make(chan struct{}, 1), looks: make(chan struct{}, 1),
		changed: make(chan struct{}),
		state:   verdict{state: status.Stopped},
		device:  cfg.atOnce(),
	}
}

// Up starts the client and returns at once; ctx is the root of its life, and its
// end is a Down. The error is ErrNotLoggedIn when there is nothing to connect
// with. Ready waits for the connection.
func (c *Client) Up(ctx context.Context) error {
	login, err := c.creds.Peek()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil {
		return errors.New("the client was started before")
	}
	ctx, c.cancel = context.WithCancelCause(ctx)
	c.done = make(chan struct{})
	c.login = login
	c.setStateLocked(verdict{state: status.Connecting})
	go c.run(ctx)
	return nil
}

// Down ends every stream and connection and returns when nothing runs any
// more. It may be called at any time and again.
func (c *Client) Down() {
	c.mu.Lock()
	cancel, done := c.cancel, c.done
	c.mu.Unlock()
	if done == nil {
		return
	}
	cancel(errDown)
	<-done
}

// Stop asks for Down without waiting.
func (c *Client) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel(errDown)
	}
}

// Done is closed when a client that was up has ended. Before Up it is nil.
func (c *Client) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// Ready returns nil as soon as the client is connected. When an attempt has
// failed, or the state is one that only a person can change, it returns a
// *status.Error; the client goes on trying all the same.
func (c *Client) Ready(ctx context.Context) error {
	for {
		s, failures, changed := c.snapshot()
		switch {
		case s.Works():
			return nil
		case s.Final() || failures > 0:
			return &status.Error{Status: s}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// Reload says that the stored login may have changed: somebody logged in or out.
// The client also looks by itself every few seconds.
func (c *Client) Reload() { poke(c.reloads) }

// poke wakes a loop that may be busy; one wake is enough.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Offer adds to what Status shows as ways to reach services.
func (c *Client) Offer(offers ...status.Offer) {
	c.update(func() { c.offers = append(c.offers, offers...) })
}

// Services returns what the gateway announced last; the list is shared, do not
// change it. While the client is not connected it is what was last known.
func (c *Client) Services() []wire.Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.services
}

// Settle waits until Services are decided by what this device is, for at most the second and a half that reading it and telling the gateway
// may take. A client that has been connected for longer does not wait.
func (c *Client) Settle(ctx context.Context) {
	if lane := c.currentLane(); lane != nil {
		lane.settle(ctx)
	}
}

// Ping measures one round trip to the gateway.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	lane, err := c.waitLane(ctx)
	if err != nil {
		return 0, err
	}
	return lane.ping(ctx)
}

// Open opens a stream, but never to a service inside the gateway; fronts call it. A refusal is a *wire.Refusal; when there is no connection
// to the gateway, and none comes within 10 s, the error is a *status.Error.
// ctx bounds the opening only.
func (c *Client) Open(ctx context.Context, target wire.Target, opts OpenOptions) (Stream, error) {
	if err := target.Validate(); err != nil {
		return nil, err
	}
	if err := target.CheckOffered(); err != nil {
		return nil, err
	}
	return c.open(ctx, target, opts)
}

// OpenBuiltIn opens a stream to a service inside the gateway, such as "culvert-admin", which Open refuses. It
// returns after the gateway's decision.
func (c *Client) OpenBuiltIn(ctx context.Context, name string) (Stream, error) {
	target := wire.ServiceTarget(wire.KindTCP, name)
	if err := target.Validate(); err != nil {
		return nil, err
	}
	if !target.BuiltIn() {
		return nil, fmt.Errorf("%q is not a service inside the gateway", name)
	}
	return c.open(ctx, target, OpenOptions{Wait: true})
}

func (c *Client) open(ctx context.Context, target wire.Target, opts OpenOptions) (Stream, error) {
	for try := 0; ; try++ {
		lane, err := c.waitLane(ctx)
		if err != nil {
			return nil, err
		}
		if !target.BuiltIn() {
			lane.settle(ctx)
		}
		stream, err := lane.session.Open(ctx, target, opts)
		if err == nil || try == 2 || !c.mayRetry(ctx, lane, err) {
			c.deniedHere(err)
			return stream, err
		}
	}
}

// mayRetry reports whether the trouble was the lane's and not the target's, and
// does what makes the next try better.
func (c *Client) mayRetry(ctx context.Context, lane *lane, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var refusal *wire.Refusal
	if errors.As(err, &refusal) {
		switch refusal.Code {
		case wire.CodeDraining:
			lane.drain(wire.Draining{Reason: refusal.Reason})
			return c.waitLaneChange(ctx, lane)
		case wire.CodeExpired:
			return c.waitRenewal(ctx, lane)
		}
		return false
	}
	select {
	case <-lane.session.Done():
		return c.waitLaneChange(ctx, lane)
	default:
		return false
	}
}

// waitLane returns the lane for new streams, waiting for one that is being made.
func (c *Client) waitLane(ctx context.Context) (*lane, error) {
	timer := time.NewTimer(openWait)
	defer timer.Stop()
	for {
		s, _, changed := c.snapshot()
		if lane := c.currentLane(); lane != nil {
			return lane, nil
		}
		if s.Final() && !c.demand() {
			return nil, &status.Error{Status: s}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
			return nil, &status.Error{Status: c.Status()}
		case <-changed:
		}
	}
}

// demand has a client connect again that gave way to another one, or that was
// refused some time ago, and reports whether it is such a client.
func (c *Client) demand() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.state.next {
	case nextDemand:
	case nextRest:
		if time.Since(c.settled) < restDemand {
			return false
		}
	default:
		return false
	}
	poke(c.demands)
	return true
}

func (c *Client) currentLane() *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lane
}

// waitLaneChange waits until the client noticed that lane takes no more streams.
func (c *Client) waitLaneChange(ctx context.Context, lane *lane) bool {
	return c.waitFor(ctx, func() bool { return c.lane != lane })
}

// waitRenewal asks for a renewal, and waits for it or for the lane's end.
func (c *Client) waitRenewal(ctx context.Context, lane *lane) bool {
	presented := lane.serial()
	if !c.doubt(presented) {
		return false
	}
	poke(c.renewals)
	return c.waitFor(ctx, func() bool { return c.lane != lane || lane.serial() != presented })
}

// waitFor waits at most 5 s until cond, which is called with mu held, is true.
func (c *Client) waitFor(ctx context.Context, cond func() bool) bool {
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	for {
		c.mu.Lock()
		met, changed := cond(), c.changed
		c.mu.Unlock()
		if met {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return false
		case <-changed:
		}
	}
}

// Watch yields the snapshot of now and one after each change, at most one a
// second for mere traffic, until ctx ends.
func (c *Client) Watch(ctx context.Context) iter.Seq[status.Status] {
	return func(yield func(status.Status) bool) {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for last := ""; ; {
			s, _, changed := c.snapshot()
			if key := fingerprint(s); key != last {
				last = key
				if !yield(s) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-ticker.C:
			}
		}
	}
}

// update changes the guarded fields and wakes everybody who waits for a change.
func (c *Client) update(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.wakeLocked()
}

func (c *Client) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// setStateLocked moves to a state. The time of a lasting one is kept while its
// reason changes.
func (c *Client) setStateLocked(v verdict) {
	if v.state != c.state.state {
		c.since = c.cfg.Now()
		c.log.Info("client state", "state", string(v.state), "reason", v.reason, "reference", v.reference)
	}
	c.state = v
	c.wakeLocked()
}

func (c *Client) setState(v verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setStateLocked(v)
}

// newBackoff spaces out attempts. Its bound keeps the promise to be connected
// within 5 s of a gateway's return.
func newBackoff() *backoff.Backoff {
	return &backoff.Backoff{Base: 250 * time.Millisecond, Max: 4 * time.Second}
}

func (c *Client) process() status.Process {
	return status.Process{PID: os.Getpid(), Version: c.cfg.Version, Started: c.started}
}
