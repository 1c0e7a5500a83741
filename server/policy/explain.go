package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Remedies, for the person who was refused.
const (
	remedyAdmin    = "ask an administrator of this gateway, and give the reference"
	remedyLogin    = "log in again; if it stays so, tell an administrator and give the reference"
	remedyServices = "run \"culvert services\" to see what there is"
	remedyStepUp   = "log in again: run \"culvert login\""
	remedyWait     = "try again in a moment; streams that are open go on"
	remedySpell    = "check how it is written"
)

func (s *Set) badTarget(format string, args ...any) Decision {
	return Decision{
		Code: wire.CodeNoSuchService, Condition: ConditionBadTarget, Version: s.version,
		Reason: fmt.Sprintf(format, args...), Remedy: remedySpell,
	}
}

func (s *Set) unknown(format string, args ...any) Decision {
	return Decision{
		Code: wire.CodeNoSuchService, Condition: ConditionNoService, Version: s.version,
		Reason: fmt.Sprintf(format, args...), Remedy: remedyServices,
	}
}

// noService is the answer for a name that is not there. That of a hidden service is the same to the letter.
func (s *Set) noService(t wire.Target) Decision {
	if t.Service != "" {
		return s.unknown("there is no service %s", quote(t.Service))
	}
	return s.unknown("no service is called %s with %s port %d", t.Host, t.Kind, t.Port)
}

func (s *Set) noAddress(kind wire.Kind, at netip.AddrPort) Decision {
	return s.unknown("no service contains %s with %s port %d", at.Addr(), kind, at.Port())
}

func (s *Set) specialAddress(addr netip.Addr, what string) Decision {
	return Decision{
		Code: wire.CodeDenied, Condition: ConditionSpecialAddress, Version: s.version,
		Reason: fmt.Sprintf("%s is %s, which a gateway opens only where a service names it literally", addr.WithZone(""), what),
		Remedy: remedyAdmin,
	}
}

func (s *Set) otherAddress(at netip.AddrPort) Decision {
	return Decision{
		Code: wire.CodeDenied, Condition: ConditionOtherAddress, Version: s.version,
		Reason: fmt.Sprintf("%s is not the address that was decided", at), Remedy: remedyAdmin,
	}
}

func (s *Set) outsideZone(addr netip.Addr, svc *Service) Decision {
	return Decision{
		Code: wire.CodeDenied, Condition: ConditionOutsideZone, Version: s.version,
		Reason: fmt.Sprintf("%s is not in the network %s of its zone", addr.WithZone(""), svc.Network), Remedy: remedyAdmin,
	}
}

// refuseNamed refuses a service that was asked for by a name. Who may not know of it gets the answer of a name that is not there.
func (q *question) refuseNamed(idx int32, r *ruling, t wire.Target) Decision {
	is := q.refuse(idx, r)
	if !q.set.doc.Services[idx].Hidden || r.kind() == verdictStepUp {
		return is
	}
	return hide(q.set.noService(t), is)
}

// hide returns what is told instead of what is so.
func hide(told, is Decision) Decision {
	told.Hidden, told.Until = &is, is.Until
	return told
}

// refuseAddress refuses an address, as the most precise service that the person may know of.
func (q *question) refuseAddress(t *tally) Decision {
	d := q.refuseTally(t)
	d.Until = t.until
	return d
}

func (q *question) refuseTally(t *tally) Decision {
	var is Decision
	switch {
	case t.deny.denies():
		is = q.refuse(t.best, &t.deny)
	case t.allow.kind() == verdictStepUp:
		return q.refuse(t.shown, &t.allow)
	default:
		is = q.refuse(t.best, &t.own)
	}
	switch {
	case t.shown < 0:
		return hide(q.set.noAddress(q.kind, q.at), is)
	case t.deny.denies() && !t.veiled:
		if t.shown == t.best {
			return is
		}
		return hide(q.refuse(t.shown, &t.deny), is)
	case t.said.allows() || t.said.kind() == verdictStepUp:
		return hide(q.refuse(t.shown, &ruling{}), is)
	case t.shown != t.best:
		return hide(q.refuse(t.shown, &t.said), is)
	}
	if t.deny.denies() {
		return hide(q.refuse(t.shown, &t.said), is)
	}
	return is
}

// refuse explains a ruling that is not an allow.
func (q *question) refuse(idx int32, r *ruling) Decision {
	s, v := q.set, q.seen.view
	d := Decision{
		Code: wire.CodeDenied, Service: s.doc.Services[idx], Version: s.version, Until: r.until,
		Condition: ConditionNoAllow, Reason: s.noAllow[idx], Remedy: remedyAdmin,
	}
	switch kind := r.kind(); {
	case kind == verdictStepUp:
		q.stepUp(&d, r)
	case r.denies():
		q.denied(&d, r)
	case v.groupsUnknown && r.near.cond == ConditionNone:
		d.Condition, d.Remedy = ConditionGroupsUnknown, remedyLogin
		d.Reason = "the provider did not say which groups you are in, so no rule for a group applies: " + d.Reason
	case v.emailIgnored && r.near.cond == ConditionNone:
		d.Condition = ConditionEmailUntrusted
		d.Reason = "your provider does not vouch for your e-mail address, so no rule for it applies: " + d.Reason
	case r.near.cond != ConditionNone:
		q.nearly(&d, r)
	}
	if how := d.Service.Requestable; how != nil && r.kind() == verdictNone {
		d.Remedy = fmt.Sprintf("run \"culvert request %s --for %s --reason ...\" to ask for it", d.Service.Name, duration(min(how.Max, time.Hour)))
	}
	return d
}

// stepUp says that a fresh login opens it.
func (q *question) stepUp(d *Decision, r *ruling) {
	rl := &q.set.rules[r.rule()]
	d.Code, d.Rule, d.Condition, d.StepUp = wire.CodeStepUpRequired, rl.name, ConditionReauth, rl.stepUp
	d.Reason = fmt.Sprintf("%s asks for a login that is at most %s old", d.Service.Name, duration(rl.stepUp.MaxAge))
	d.Remedy = remedyStepUp
}

// denied says which deny it was, and if nobody could decide it, why it applies.
func (q *question) denied(d *Decision, r *ruling) {
	rl := &q.set.rules[r.rule()]
	d.Rule, d.Condition, d.Reason = rl.name, ConditionDenied, rl.reason
	switch kind := r.kind(); {
	case r.doubt.cond != ConditionNone:
		d.Condition = r.doubt.cond
		d.Reason = doubtful(r.doubt) + ", so a deny that asks for it applies: " + d.Reason
	case kind == verdictDenyGroup:
		d.Condition, d.Remedy = ConditionGroupsUnknown, remedyLogin
		d.Reason = "the provider did not say which groups you are in, so a deny for a group applies to you: " + d.Reason
	case kind == verdictDenyEmail:
		d.Condition, d.Remedy = ConditionEmailUntrusted, remedyLogin
		d.Reason = "your provider does not vouch for an e-mail address of yours, so a deny for one applies to you: " + d.Reason
	}
}

// doubtful says why a condition could not be decided.
func doubtful(f failure) string {
	switch f.cond {
	case ConditionUnknown:
		verb := " is"
		if strings.Contains(f.detail, ",") {
			verb = " are"
		}
		return f.detail + verb + " unknown"
	case ConditionCost:
		return "its condition takes too long to decide"
	}
	return "its condition fails" // how, may hold what it compares with: that is for administrators
}

// nearly says what stood in the way of the rule that came closest.
func (q *question) nearly(d *Decision, r *ruling) {
	d.Condition = r.near.cond
	if r.near.rule < 0 {
		d.Reason = fmt.Sprintf("what you asked for (request %s) ended at %s", r.grant.ID, moment(r.grant.Until))
		return
	}
	rl := &q.set.rules[r.near.rule]
	name := "the rule " + quote(rl.name)
	switch r.near.cond {
	case ConditionNotYet:
		d.Reason = name + " begins at " + moment(rl.notBefore)
	case ConditionExpired:
		d.Reason = name + " expired at " + moment(rl.expires)
	case ConditionStale:
		d.Reason = name + " allows nothing while the gateway cannot ask its database"
		d.Remedy = remedyWait
	case ConditionFalse:
		d.Reason = name + " has a condition" + onFacts(r.near.detail) + " that does not hold"
	default:
		d.Reason = doubtful(r.near.failure) + ", so " + name + " does not apply"
	}
	d.Reason += ": " + q.set.noAllow[q.set.byName[d.Service.Name]]
}

func onFacts(names string) string {
	if names == "" {
		return "" // it asks for nothing
	}
	return " on " + names
}

// maxNamedGroups is how many groups the reason of a default deny names.
const maxNamedGroups = 4

// explainDefaults writes the reason of each service's default deny: whom it is open to.
func (s *Set) explainDefaults() {
	groups := make([][]string, len(s.doc.Services))
	for i, r := range s.doc.Rules {
		for _, list := range s.rules[i].allow {
			for _, svc := range list {
				groups[svc] = addGroups(groups[svc], r.Groups)
			}
		}
	}
	s.noAllow = make([]string, len(s.doc.Services))
	for i, svc := range s.doc.Services {
		s.noAllow[i] = "no rule allows " + svc.Name + " to you" + openTo(groups[i])
	}
}

// addGroups adds up to one more than are named, which says that there are more.
func addGroups(names []string, refs []GroupRef) []string {
	for _, g := range refs {
		if len(names) > maxNamedGroups {
			return names
		}
		if name := short(g.Text, 64); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func openTo(groups []string) string {
	switch n := len(groups); {
	case n == 0:
		return ""
	case n == 1:
		return "; it is open to the group " + groups[0]
	case n > maxNamedGroups:
		return "; it is open to the groups " + strings.Join(groups[:maxNamedGroups], ", ") + " and others"
	default:
		return "; it is open to the groups " + strings.Join(groups, ", ")
	}
}

// quote returns s so that it can stand in a sentence: short, and nothing in it acts on a terminal.
func quote(s string) string { return strconv.QuoteToGraphic(short(s, 96)) }

// short cuts s to limit bytes, between characters.
func short(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
