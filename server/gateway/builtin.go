package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// BuiltIn is a service inside the gateway. No policy decides it, and no rule, tag or "*" includes it: it admits people by itself. Only a
// tcp target by the service's name leads to it. Both fields are required.
type BuiltIn struct {
	// Admit lets somebody in by nil. It is asked when a stream opens and whenever streams are decided again, and must not block. With
	// CodeNoSuchService, or without a code, the person learns nothing of the service: the reply is the one for a name that does not
	// exist. The record has the refusal's own reason.
	Admit func(id *auth.Identity) *wire.Refusal
	// Serve owns conn and returns when it is done with it; ctx is done, and conn aborted, when the stream is cut. conn offers
	// CloseWrite and Abort(error) besides; its Read returns io.EOF only for a clean end by the client.
	Serve func(ctx context.Context, conn net.Conn, peer Peer)
}

// Peer is who opened a stream to a BuiltIn, from the verified certificate.
type Peer struct {
	Identity auth.Identity
	Serial   auth.Serial
	Remote   netip.AddrPort
	Session  auth.SessionID
	// Current is the identity, which is read-only, and the certificate's serial number as of now: by the latest renewal.
	Current func() (*auth.Identity, auth.Serial)
}

const (
	builtInPrefix = "culvert-" // no policy can name a service so
	builtInRule   = "built-in" // the rule of its records
)

// Conditions of the records of streams that no policy decided.
const conditionNotAdmitted policy.Condition = "not_admitted"

func checkBuiltIns(list map[string]BuiltIn) error {
	for name, b := range list {
		if !strings.HasPrefix(name, builtInPrefix) {
			return fmt.Errorf("gateway: the built-in service %q is not called %s…", name, builtInPrefix)
		}
		if b.Admit == nil || b.Serve == nil {
			return fmt.Errorf("gateway: the built-in service %s needs Admit and Serve", name)
		}
	}
	return nil
}

// builtIn finds the service inside the gateway that a target names, in its one spelling.
func (g *Gateway) builtIn(t wire.Target) (BuiltIn, bool) {
	if t.Kind != wire.KindTCP || t.Host != "" || t.Port != 0 {
		return BuiltIn{}, false
	}
	b, ok := g.cfg.BuiltIn[t.Service]
	return b, ok
}

// decideBuiltIn asks the service itself. told is what the client is to read of a refusal.
func (x *stream) decideBuiltIn() (d policy.Decision, told *wire.Refusal) {
	d = policy.Decision{Service: &policy.Service{Name: x.target.Service, Kind: x.target.Kind}, Rule: builtInRule}
	no := x.inside.Admit(x.l.session.Identity())
	if no == nil {
		d.Allowed, d.Code = true, wire.CodeOK
		return d, nil
	}
	d.Code, d.Reason, d.Remedy, d.Condition = no.Code, no.Reason, no.Remedy, conditionNotAdmitted
	switch no.Code {
	case "", wire.CodeOK, wire.CodeNoSuchService:
		d.Code = wire.CodeDenied
		return d, x.l.g.cfg.Policy().Decide(x.l.whom().policy, x.ask(true)).Refusal("")
	}
	return d, no
}

// openBuiltIn records the opening. A change from here on finds the stream in the register.
func (x *stream) openBuiltIn() error {
	if err := x.auditOpening(netip.AddrPort{}); err != nil {
		return err
	}
	if err := x.recheck(); err != nil {
		return err
	}
	return x.cutOr(nil)
}

// serveBuiltIn has the service run over an open stream.
func (x *stream) serveBuiltIn() {
	st, err := x.req.Accept(x.target.Service)
	x.reg.Decided()
	if err != nil {
		x.auditClosing(relay.Result{Cause: err, By: relay.SideA})
		return
	}
	x.l.g.metrics.decisions.WithLabelValues(string(wire.CodeOK), string(x.target.Kind)).Inc()
	ctx := x.reg.Context()
	stop := context.AfterFunc(ctx, func() { st.Abort(context.Cause(ctx)) })
	conn := &builtInConn{Conn: st, st: st, meter: &x.meter}
	who := x.l.session.Identity()
	x.inside.Serve(ctx, conn, Peer{Identity: *who, Serial: x.l.session.Serial(), Remote: x.l.remote, Session: who.Session, Current: func() (*auth.Identity, auth.Serial) {
		return x.l.session.Identity(), x.l.session.Serial()
	}})
	_ = conn.Close()
	stop()
	x.auditClosing(conn.result())
}

// builtInConn is the service's end of a stream. It counts what goes through.
type builtInConn struct {
	net.Conn // the stream, without the ways around Read and Write
	st       *tunnel.Stream
	meter    *relay.Meter
	ended    atomic.Bool // by the client, cleanly
	aborted  atomic.Bool // by the service
}

func (c *builtInConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.meter.Count(int64(n), 0)
	if err == io.EOF {
		c.ended.Store(true)
	}
	return n, err
}

func (c *builtInConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.Count(0, int64(n))
	return n, err
}

// CloseWrite ends the direction to the client cleanly.
func (c *builtInConn) CloseWrite() error { return c.st.CloseWrite() }

// Abort ends both directions at once; the client sees a reset.
func (c *builtInConn) Abort(cause error) {
	c.aborted.Store(true)
	c.st.Abort(cause)
}

// result says how the stream ended, as a copy would.
func (c *builtInConn) result() relay.Result {
	res := relay.Result{By: relay.SideB}
	res.AtoB, res.BtoA = c.meter.Bytes()
	if c.ended.Load() {
		res.By = relay.SideA
	}
	if err := c.st.Err(); err != nil && !errors.Is(err, tunnel.ErrClosed) {
		res.Cause, res.By = err, relay.SideA
		if c.aborted.Load() {
			res.By = relay.SideB
		}
	}
	return res
}
