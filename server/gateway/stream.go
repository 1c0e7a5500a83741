package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// stream is one request to reach something, from its arrival to its closing record.
type stream struct {
	l      *link
	req    *tunnel.NewStream
	target wire.Target
	reg    *session.Stream
	meter  relay.Meter
	cut    relay.Cut
	began  time.Time
	inside *BuiltIn      // nil for what the policy decides
	wake   chan struct{} // has an entry when an undecided stream is to be decided again

	mu       sync.Mutex
	record   string          // of the opening record, written by the goroutine that serves the stream; "" until then
	decision policy.Decision // allowed, once there is one
	address  netip.AddrPort  // dialed; zero until then
}

func (l *link) serveStream(req *tunnel.NewStream) {
	x := &stream{l: l, req: req, target: req.Request.Target, began: l.g.cfg.Now(), wake: make(chan struct{}, 1)}
	if b, ok := l.g.builtIn(x.target); ok {
		x.inside = &b
	}
	conn, err := x.open()
	if x.reg != nil {
		defer x.reg.Close()
	}
	switch {
	case err != nil:
		x.refuse(err)
	case x.inside != nil:
		x.serveBuiltIn()
	default:
		x.serve(conn)
	}
}

// open takes the request to a connection to the service, or to the reason why there is none. A service inside the gateway has none.
func (x *stream) open() (net.Conn, error) {
	var err error
	x.reg, err = x.l.session.OpenStream(session.StreamSpec{Target: x.target, Meter: &x.meter, Recheck: x.recheck, Leave: x.cut.Leave, Warn: x.warn})
	if err != nil {
		return nil, err
	}
	if x.l.g.isDraining() {
		return nil, errDraining()
	}
	if err := x.settle(); err != nil {
		return nil, err
	}
	if err := x.l.g.cfg.Current(); err != nil {
		x.l.log.Debug("stream refused: locks are not known", "error", err)
		return nil, &wire.Refusal{
			Code: wire.CodeUnavailable, Reason: "the gateway cannot check at the moment whether you are locked out",
			Remedy: "Streams that are open go on. Try again in a moment.",
		}
	}
	if x.inside != nil {
		return nil, x.openBuiltIn()
	}
	return x.dial()
}

func errDraining() error {
	return &wire.Refusal{Code: wire.CodeDraining, Reason: shutdownReason, Remedy: "Connect again."}
}

// decide decides the stream for the first time. What it notes is what recheck goes by.
func (x *stream) decide() error {
	began := time.Now()
	d, told := x.verdict(true)
	x.l.g.metrics.decide.Observe(time.Since(began).Seconds())
	x.mu.Lock()
	x.decision = d
	x.mu.Unlock()
	x.reg.Note(session.Facts{Service: d.ServiceName(), Rule: d.Rule})
	x.schedule(d)
	if !d.Allowed {
		return &denial{decision: d, told: told}
	}
	return nil
}

// verdict asks the policy, or the service inside the gateway. told is what the client is to read when that is not what the decision says.
func (x *stream) verdict(opening bool) (d policy.Decision, told *wire.Refusal) {
	if x.inside != nil {
		return x.decideBuiltIn()
	}
	return x.l.g.cfg.Policy().Decide(x.l.whom().policy, x.ask(opening)), nil
}

// ask is the question that the policy answers for this stream.
func (x *stream) ask(opening bool) policy.Request {
	r := x.l.ask(x.target)
	if r.Opening = opening; !opening {
		r.Opened = x.began
	}
	return r
}

// grantWarning is how long before its end the person hears that an approved request ends.
const grantWarning = 5 * time.Minute

// schedule has the stream decided again when time alone may change the answer.
func (x *stream) schedule(d policy.Decision) {
	warn := time.Time{}
	if d.Grant != "" && !d.Until.IsZero() {
		warn = d.Until.Add(-grantWarning)
		if was, ok := x.l.endings.Load(d.ServiceName()); ok && d.Until.After(was.(time.Time)) {
			x.l.endings.Delete(d.ServiceName()) // it was granted for longer
		}
	}
	x.reg.Schedule(d.Until, warn)
}

// warn is called by the register when an approved request is about to end. The client reads it with the services.
func (x *stream) warn(end time.Time) {
	x.l.log.Warn("an approved request is about to end", "target", x.target.String(), "at", end)
	x.l.endings.Store(x.service(), end)
	x.l.announce()
}

// recheck decides an open stream again: the target, where it leads to, and the address that was dialed.
func (x *stream) recheck() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := x.decision
	if !was.Allowed { // not decided yet, waiting for a login, or on its way to a refusal
		select {
		case x.wake <- struct{}{}:
		default:
		}
		return nil
	}
	is, _ := x.verdict(false)
	if is.Allowed && x.address.IsValid() {
		is = x.l.g.cfg.Policy().DecideAddr(x.l.whom().policy, x.ask(false), is, x.address)
	}
	if !is.Allowed {
		d := &denial{decision: is}
		if x.record != "" {
			d.reference = audit.NewReference() // one that can be read out on the telephone, and looked up
		}
		return d
	}
	if is.Dial.Kind != was.Dial.Kind || is.Dial.Host != was.Dial.Host || is.Dial.Port != was.Dial.Port {
		return errMoved
	}
	x.decision = is
	x.schedule(is)
	return nil
}

// denial is a decision of the policy against a stream. As the cause of an abort it tells the client so.
type denial struct {
	decision  policy.Decision
	told      *wire.Refusal // what the client reads instead of the decision; nil: the decision
	reference string        // of an open stream's closing record
}

func (d *denial) Error() string { return d.decision.Refusal(d.reference).Error() }

// truth is what the records say, whatever the client is told.
func (d *denial) truth() policy.Decision {
	if d.decision.Hidden != nil {
		return *d.decision.Hidden
	}
	return d.decision
}

func (d *denial) Unwrap() error {
	reason := d.decision.Reason
	if d.reference != "" {
		reason += " (reference " + d.reference + ")"
	}
	return &tunnel.AbortError{Code: wire.AbortRevoked, Reason: reason}
}

var errMoved = &tunnel.AbortError{Code: wire.AbortRevoked, Reason: "the service leads elsewhere now; open it again"}

// check decides about an address before anything is sent to it, and writes the opening record before the first.
func (x *stream) check(at netip.AddrPort) error {
	x.mu.Lock()
	d := x.decision
	x.mu.Unlock()
	if d = x.l.g.cfg.Policy().DecideAddr(x.l.whom().policy, x.ask(false), d, at); !d.Allowed {
		return &denial{decision: d}
	}
	if x.record != "" {
		return nil
	}
	return x.auditOpening(at)
}

func (x *stream) dial() (net.Conn, error) {
	began := time.Now()
	x.mu.Lock()
	to := x.decision.Dial
	x.mu.Unlock()
	conn, err := x.l.g.cfg.Dialer.DialChecked(x.reg.Context(), dialer.Target{Kind: to.Kind, Host: to.Host, Port: to.Port, Literal: to.Literal}, x.check)
	code := wire.CodeOK
	if err != nil {
		code = x.refusal(err).Code
	}
	x.l.g.metrics.dials.WithLabelValues(string(code)).Observe(time.Since(began).Seconds())
	if err != nil {
		return nil, x.cutOr(err)
	}
	if err := x.dialed(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// dialed notes the address and then looks whether it may still be: a change from here on finds the stream in the register.
func (x *stream) dialed(conn net.Conn) error {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return err
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	x.mu.Lock()
	x.address = at
	d := x.decision
	x.mu.Unlock()
	x.reg.Note(session.Facts{Service: d.ServiceName(), Rule: d.Rule, Address: at})
	if err := x.recheck(); err != nil {
		return err
	}
	return x.cutOr(nil)
}

// cutOr prefers the reason for which the stream was cut meanwhile to what came of that.
func (x *stream) cutOr(err error) error {
	if cause := context.Cause(x.reg.Context()); cause != nil {
		return cause
	}
	return err
}

// refuse answers the client, after the record.
func (x *stream) refuse(err error) {
	r := x.refusal(err)
	x.auditRefusal(r, err)
	x.l.g.metrics.decisions.WithLabelValues(string(r.Code), string(x.target.Kind)).Inc()
	if err := x.req.Reject(r); err != nil {
		x.l.log.Debug("cannot reject a stream", "error", err)
	}
}

// refusal puts an error into the words that the client gets. Reference and service are filled in later.
func (x *stream) refusal(err error) *wire.Refusal {
	var (
		den    *denial
		ref    *wire.Refusal
		failed *dialer.Error
		term   *wire.Termination
	)
	switch {
	case errors.As(err, &den):
		if den.told != nil {
			told := *den.told
			return &told
		}
		return den.decision.Refusal("")
	case errors.As(err, &ref):
		return &wire.Refusal{Code: ref.Code, Reason: ref.Reason, Remedy: ref.Remedy, Service: x.service()}
	case errors.As(err, &failed):
		return failed.Refusal(x.service(), "")
	case errors.As(err, &term) && term.Code == wire.TerminateExpired:
		return &wire.Refusal{Code: wire.CodeExpired, Reason: term.Reason, Service: x.service()}
	case errors.As(err, &term):
		return &wire.Refusal{Code: wire.CodeDenied, Reason: term.Reason, Service: x.service()}
	}
	return &wire.Refusal{Code: wire.CodeUnavailable, Reason: "the gateway cannot open this stream at the moment", Service: x.service()}
}

func (x *stream) service() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.decision.ServiceName()
}

// serve relays an open stream and accounts for it.
func (x *stream) serve(conn net.Conn) {
	defer conn.Close() // the relay did, unless something failed
	client, err := x.req.Accept(x.service())
	x.reg.Decided()
	if err != nil {
		abortService(conn)
		x.auditClosing(relay.Result{Cause: err, By: relay.SideA})
		return
	}
	x.l.g.metrics.decisions.WithLabelValues(string(wire.CodeOK), string(x.target.Kind)).Inc()
	ctx := x.reg.Context()
	var res relay.Result
	if service, ok := conn.(*net.TCPConn); ok {
		res = relay.Copy(ctx, client, relay.TCP(service), relay.Options{Meter: &x.meter, Cut: &x.cut, IdleTimeout: x.l.g.cfg.IdleTimeout})
	} else {
		res = relay.CopyPackets(ctx, client, conn, relay.Options{Meter: &x.meter, Cut: &x.cut, IdleTimeout: relay.PacketIdle(x.address.Port())})
	}
	x.auditClosing(res)
}

func abortService(conn net.Conn) {
	if service, ok := conn.(*net.TCPConn); ok {
		relay.TCP(service).Abort(nil)
		return
	}
	conn.Close()
}
