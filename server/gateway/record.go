package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// append writes a record on behalf of the gateway: the end of whatever it is about must not take the record with it.
func (g *Gateway) append(ctx context.Context, r audit.Record) (audit.Receipt, error) {
	receipt, err := g.cfg.Audit.Append(context.WithoutCancel(ctx), r)
	if err != nil {
		g.metrics.auditErrors.Inc()
		g.log.Error("cannot write an audit record", "event", r.Event, "error", err)
	}
	return receipt, err
}

// auditRefusal records that a connection was not admitted, and returns the termination with its reference.
func (l *link) auditRefusal(term wire.Termination) *wire.Termination {
	receipt, err := l.g.append(l.ctx, audit.Record{
		Event: audit.EventSessionRefused, Actor: audit.NewActor(l.peer.Identity, l.peer.Serial, l.remote),
		Client: l.hello.Client, Condition: string(term.Code), Reason: term.Reason,
	})
	if err == nil {
		term.Reference = receipt.Reference
	}
	return &term
}

func (l *link) auditOpened() error {
	l.record = audit.NewReference()
	_, err := l.g.append(l.ctx, audit.Record{
		Event: audit.EventSessionOpen, Stream: l.record, Actor: l.actor(), Client: l.hello.Client,
		Subject: subjectFacts(l.session.Identity(), l.facts.Load()),
		Period:  &audit.Period{NotAfter: l.session.NotAfter(), Deadline: l.session.Deadline()},
	})
	return err
}

func (l *link) auditClosed(why error) {
	info := l.session.Info()
	_, _ = l.g.append(l.ctx, audit.Record{
		Event: audit.EventSessionClose, Stream: l.record, Reference: l.told, Actor: l.actor(), Reason: why.Error(),
		Transfer: transfer(info.BytesIn, info.BytesOut, l.g.cfg.Now().Sub(l.began)),
	})
}

// actor is a record's own copy: the log cleans what it is given.
func (l *link) actor() *audit.Actor {
	a := l.whom().actor
	return &a
}

func (l *link) auditRenewed(next mtls.Peer, deadline time.Time) error {
	_, err := l.g.append(l.ctx, audit.Record{
		Event: audit.EventSessionRenewed, Stream: l.record, Actor: audit.NewActor(next.Identity, next.Serial, l.remote),
		Subject: subjectFacts(&next.Identity, l.facts.Load()),
		Period:  &audit.Period{NotAfter: next.Certificate.NotAfter, Deadline: deadline},
	})
	return err
}

// auditPosture records what the client says of its device from now on. The posture counts even when that cannot be recorded: it may
// take a right away.
func (l *link) auditPosture() {
	_, _ = l.g.append(l.ctx, audit.Record{
		Event: audit.EventSessionPosture, Stream: l.record, Actor: l.actor(),
		Subject: subjectFacts(l.session.Identity(), l.facts.Load()),
	})
}

// subjectFacts are what a policy can ask about a person on a device. They are a record's own copy: the log cleans what it is given.
func subjectFacts(id *auth.Identity, on *facts) *audit.SubjectFacts {
	return &audit.SubjectFacts{
		Issuer: id.Issuer, Subject: id.Subject, Login: id.Login,
		Groups: slices.Clone(id.Groups), GroupsKnown: id.GroupsKnown, EmailTrusted: id.EmailTrusted,
		ACR: id.ACR, AMR: slices.Clone(id.AMR), AuthTime: id.AuthTime, Posture: maps.Clone(on.values),
	}
}

func transfer(sent, received int64, took time.Duration) *audit.Transfer {
	return &audit.Transfer{Sent: uint64(sent), Received: uint64(received), DurationMS: took.Milliseconds()}
}

// describe fills in what every record of a stream has.
func (x *stream) describe(event audit.Event) audit.Record {
	x.mu.Lock()
	defer x.mu.Unlock()
	r := audit.Record{
		Event: event, Stream: x.record, Link: x.l.record, Actor: x.l.actor(), Trace: x.req.Request.TraceID, Kind: x.target.Kind,
		Target: x.target.String(), Service: x.decision.ServiceName(), Rule: x.decision.Rule, Policy: x.decision.Version,
	}
	if x.address.IsValid() {
		r.Address = x.address.String()
	}
	return r
}

// auditOpening is written before the first packet to the service. Without it there is no stream.
func (x *stream) auditOpening(at netip.AddrPort) error {
	r := x.describe(audit.EventStreamOpen)
	if at.IsValid() {
		r.Address = at.String()
	}
	receipt, err := x.l.g.append(x.l.ctx, r)
	if err != nil {
		return &wire.Refusal{Code: wire.CodeUnavailable, Reason: "the gateway cannot write its audit log", Remedy: "Tell your administrator."}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.record = receipt.Stream
	return nil
}

// auditRefusal records why a request came to nothing and puts the reference into r. A denial stays one when it cannot be recorded.
func (x *stream) auditRefusal(r *wire.Refusal, why error) {
	event := audit.EventStreamDenied
	var den *denial
	switch {
	case x.record != "":
		event = audit.EventStreamClose // its opening record is written
	case r.Code == wire.CodeRefused || r.Code == wire.CodeUnreachable || r.Code == wire.CodeTimedOut:
		event = audit.EventStreamFailed
	}
	rec := x.describe(event)
	rec.Code, rec.Reason = r.Code, r.Reason
	if event != audit.EventStreamDenied { // those get theirs from the log, one for all repetitions
		rec.Reference = audit.NewReference()
	}
	if errors.As(why, &den) {
		d := den.truth()
		rec.Code, rec.Reason = d.Code, d.Reason
		rec.Service, rec.Rule, rec.Policy, rec.Condition = d.ServiceName(), d.Rule, d.Version, string(d.Condition)
	}
	if event == audit.EventStreamClose {
		rec.Transfer = transfer(0, 0, x.l.g.cfg.Now().Sub(x.began))
	}
	if receipt, err := x.l.g.append(x.l.ctx, rec); err == nil {
		r.Reference = receipt.Reference
	}
}

func (x *stream) auditClosing(res relay.Result) {
	r := x.describe(audit.EventStreamClose)
	cause := x.cause(res)
	end, reason := ending(cause, res)
	r.Condition, r.Reason = end, reason
	if den := (*denial)(nil); errors.As(cause, &den) {
		r.Reference = den.reference // what the person was told
	}
	r.Transfer = transfer(res.AtoB, res.BtoA, x.l.g.cfg.Now().Sub(x.began))
	_, _ = x.l.g.append(x.l.ctx, r)
	x.l.g.metrics.cut.WithLabelValues(end).Inc()
	x.l.log.Debug("stream closed", "target", r.Target, "end", end, "reason", reason, "sent", res.AtoB, "received", res.BtoA)
}

// cause is why the gateway ended a stream; nil when it did not.
func (x *stream) cause(res relay.Result) error {
	cause := context.Cause(x.reg.Context())
	if cause == nil && res.By == relay.SideLocal && !errors.Is(res.Cause, relay.ErrIdle) {
		return res.Cause // the service was left, and the context is about to be cancelled
	}
	return cause
}

// ending says how a stream ended, for programs and for people.
func ending(cause error, res relay.Result) (end, reason string) {
	var (
		den  *denial
		term *wire.Termination
	)
	switch {
	case errors.As(cause, &den):
		d := den.truth()
		return "revoked", fmt.Sprintf("%s (%s)", d.Reason, d.Condition)
	case errors.Is(cause, errMoved):
		return "revoked", errMoved.Reason
	case errors.As(cause, &term):
		return string(term.Code), term.Reason
	case cause != nil:
		return "lost", cause.Error()
	case errors.Is(res.Cause, relay.ErrIdle):
		return "idle", "nothing moved for the idle time-out"
	case res.Cause != nil:
		return who(res.By) + "_aborted", abortText(res.Cause)
	}
	return who(res.By) + "_ended", ""
}

func who(side relay.Side) string {
	switch side {
	case relay.SideA:
		return "client"
	case relay.SideB:
		return "service"
	}
	return "gateway"
}

func abortText(err error) string {
	var abort *tunnel.AbortError
	if errors.As(err, &abort) && abort.Reason != "" {
		return abort.Reason
	}
	return err.Error()
}
