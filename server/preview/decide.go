package preview

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A verdict is what becomes of a stream.
type verdict struct {
	service      string
	was, becomes Outcome
	rule, reason string
}

// decide puts one stream into one of the result's counts.
func (r *run) decide(s *store.AuditStream) {
	n := weight(s)
	r.found.Streams += n
	recorded, ok := recordedOutcome(s)
	if !ok {
		r.found.NotByPolicy += n
		return
	}
	who := r.people.of(s)
	target, readable := targetOf(s)
	if who == nil || !readable {
		r.found.Undecidable += n
		return
	}
	req := policy.Request{Target: target, Now: s.Time, Opening: true, RulesOnly: true}
	if at, err := netip.ParseAddrPort(s.Remote); err == nil {
		req.Client = at.Addr().Unmap()
	}
	is := answer(r.cfg.New, who.byNew, req, s)
	v := verdict{was: recorded, becomes: outcomeOf(is), rule: is.Rule, reason: is.Reason, service: serviceOf(s, is)}
	if r.cfg.Old != nil {
		was := outcomeOf(answer(r.cfg.Old, who.byOld, req, s))
		if was == v.becomes && !same(recorded, v.becomes) {
			r.found.Drifted += n
			return
		}
		if !same(recorded, was) {
			v.was = was
		}
	}
	if same(v.was, v.becomes) {
		r.found.Unchanged += n
		return
	}
	r.changed(s, v)
}

// same reports that two outcomes are one answer of a policy.
func same(a, b Outcome) bool { return a == b || a == Failed && b == Allowed }

// recordedOutcome reads what happened then; ok is false where it was not the policy that answered, such as for a
// limit, a lock or a service inside the gateway.
func recordedOutcome(s *store.AuditStream) (o Outcome, ok bool) {
	switch audit.Event(s.Event) {
	case audit.EventStreamOpen:
		return Allowed, s.Rule != ruleBuiltIn
	case audit.EventStreamFailed:
		return Failed, s.Rule != ruleBuiltIn
	case audit.EventStreamDenied:
		if wire.Code(s.Code) == wire.CodeStepUpRequired {
			return StepUp, true
		}
		return Denied, s.Condition != ""
	}
	return "", false
}

// Rules of the record that no policy has.
const (
	ruleBuiltIn    = "built-in" // a service inside the gateway, which decides by itself
	ruleOfRequests = "request " // and an id: an approved request
)

func outcomeOf(d policy.Decision) Outcome {
	switch {
	case d.Allowed:
		return Allowed
	case d.Code == wire.CodeStepUpRequired:
		return StepUp
	}
	return Denied
}

func serviceOf(s *store.AuditStream, d policy.Decision) string {
	if s.Service != "" {
		return s.Service
	}
	if name := d.ServiceName(); name != "" {
		return name
	}
	return s.Target
}

// targetOf reads a target as [wire.Target.String] writes it.
func targetOf(s *store.AuditStream) (wire.Target, bool) {
	kind := wire.Kind(s.Kind)
	text := s.Target
	if kind != wire.KindTCP {
		text = strings.TrimSuffix(text, "/"+s.Kind)
	}
	t := wire.ServiceTarget(kind, text)
	if host, port, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return wire.Target{}, false
		}
		t = wire.HostTarget(kind, host, uint16(n))
	}
	return t, t.Validate() == nil
}

// answer decides a stream by one policy, the address that was dialed then too.
func answer(set *policy.Set, sub *policy.Subject, req policy.Request, s *store.AuditStream) policy.Decision {
	d := set.Decide(sub, req)
	if !d.Allowed {
		return requested(set, d, s)
	}
	at, err := netip.ParseAddrPort(s.Address)
	if err != nil {
		return d
	}
	again := set.DecideAddr(sub, req, d, at)
	if again.Condition == policy.ConditionOtherAddress {
		return d // the service is somewhere else now: where it leads to, nobody can say
	}
	return again
}

// requested lets a stream be that an approved request had opened, as long as the policy still offers the service to
// requests and no rule denies it: the request was approved for itself, whatever the rules say.
func requested(set *policy.Set, d policy.Decision, s *store.AuditStream) policy.Decision {
	byRule := d.Rule != "" && d.Code != wire.CodeStepUpRequired
	if !strings.HasPrefix(s.Rule, ruleOfRequests) || byRule || d.Service == nil {
		return d
	}
	if _, ok := set.Requestable(d.Service.Name); ok {
		return policy.Decision{Allowed: true, Code: wire.CodeOK, Service: d.Service, Rule: s.Rule, Version: d.Version}
	}
	return d
}
