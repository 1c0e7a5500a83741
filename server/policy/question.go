package policy

import (
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// sooner is how long an answer that depends on the clock in a way that cannot be computed (a condition on now or
// auth.age) is taken to hold.
const sooner = 30 * time.Second

// A question is a request on its way through a policy. It lives on the stack.
type question struct {
	set  *Set
	sub  *Subject
	seen *sight
	now  time.Time // zero until somebody looks

	kind    wire.Kind
	client  netip.Addr
	at      netip.AddrPort // the target, as far as it is an address; its parts are zero where they are not known
	opening bool
	opened  time.Time // of a stream that is open; zero where nothing is
	stale   bool
	granted bool // approved requests count
	// listing asks whether something of a network may be reached: what only an address or a port would decide counts for
	// the person.
	listing bool
	spent   uint64 // on conditions
}

func (s *Set) question(sub *Subject, r Request) question {
	return question{
		set: s, sub: sub, seen: s.see(sub), now: r.Now,
		kind: r.Target.Kind, client: r.Client.Unmap().WithZone(""), opening: r.Opening, opened: r.Opened, stale: r.Stale, granted: !r.RulesOnly,
	}
}

func (q *question) clock() time.Time {
	if q.now.IsZero() {
		q.now = time.Now()
	}
	return q.now
}

// A ruling is what the rules say of one service. The zero ruling is that none applies.
type ruling struct {
	verdict
	doubt failure   // of a deny: why it applies although nobody could decide it
	near  nearMiss  // where nothing allows: the allow that came closest
	grant *granted  // of verdictGranted, or one that is over
	until time.Time // the next moment at which time alone may change it; zero: none
}

// A failure is why a rule does not apply for certain. The zero failure is none.
type failure struct {
	cond   Condition
	detail string
}

// A nearMiss is an allow that failed by something else than its subjects.
type nearMiss struct {
	failure
	rule int32
}

// closeness orders failures: the person is told of the one that is the easiest to mend.
func (f failure) closeness() int {
	switch f.cond {
	case ConditionNone:
		return 0
	case ConditionExpired:
		return 1
	case ConditionNotYet:
		return 2
	case ConditionFalse:
		return 3
	case ConditionCost, ConditionError:
		return 4
	case ConditionUnknown:
		return 5
	}
	return 6 // ConditionStale
}

// rule weighs everything that is said about a service: a deny that holds, then an allow without conditions, then one
// whose conditions hold, then an approved request, then one that a fresh login opens.
func (q *question) rule(idx int32) ruling {
	v := q.seen.view
	r := ruling{verdict: v.verdicts[idx] &^ conditional}
	if r.denies() {
		return r
	}
	if v.verdicts[idx]&conditional != 0 {
		list := v.candidates[idx]
		if q.weighDenies(&r, list, idx); r.denies() {
			return r
		}
		if r.kind() != verdictAllow {
			q.weighAllows(&r, list, idx)
		}
	}
	if r.kind() != verdictAllow && q.set.doc.Services[idx].Requestable != nil && q.sub != nil && q.granted {
		q.weighGrant(&r, idx)
	}
	return r
}

func (q *question) weighDenies(r *ruling, list []candidate, idx int32) {
	var doubtful ruling
	for _, c := range list {
		if !c.denies() {
			break // denies stand first
		}
		f, bound := q.conditions(c.rule(), idx, false)
		earliest(&r.until, bound)
		switch {
		case f.cond == ConditionNone:
			*r = ruling{verdict: c, until: bound}
			return
		case f.undecided() && doubtful.kind() == verdictNone:
			doubtful = ruling{verdict: c, doubt: f, until: bound}
		}
	}
	if doubtful.denies() {
		*r = doubtful
	}
}

// undecided reports that a condition might hold.
func (f failure) undecided() bool {
	return f.cond == ConditionUnknown || f.cond == ConditionError || f.cond == ConditionCost
}

func (q *question) weighAllows(r *ruling, list []candidate, idx int32) {
	denies := r.until
	for _, c := range list {
		if c.denies() {
			continue
		}
		f, bound := q.conditions(c.rule(), idx, true)
		switch {
		case f.cond == ConditionNone:
			earliest(&denies, bound)
			*r = ruling{verdict: c, until: denies}
			return
		case f.cond == ConditionReauth:
			q.offerStepUp(r, c.rule())
		case f.closeness() > r.near.closeness():
			r.near = nearMiss{f, int32(c.rule())}
		}
		earliest(&r.until, bound)
	}
}

// offerStepUp keeps the allow that is content with the oldest login.
func (q *question) offerStepUp(r *ruling, rule int) {
	if r.kind() != verdictStepUp || q.set.rules[rule].stepUp.MaxAge > q.set.rules[r.rule()].stepUp.MaxAge {
		r.verdict = newVerdict(int32(rule), verdictStepUp)
	}
}

func (q *question) weighGrant(r *ruling, idx int32) {
	g := q.set.grants.find(q.sub.user, q.set.doc.Services[idx].Name)
	switch {
	case g == nil:
	case q.clock().Before(g.Until):
		earliest(&r.until, g.Until)
		*r = ruling{verdict: newVerdict(0, verdictGranted), grant: g, until: r.until}
	case r.kind() == verdictNone && r.near.cond == ConditionNone:
		r.near = nearMiss{failure{ConditionExpired, ""}, -1}
		r.grant = g
	}
}

// earliest lowers t to a moment before it; zero is never.
func earliest(t *time.Time, bound time.Time) {
	if t.IsZero() || !bound.IsZero() && bound.Before(*t) {
		*t = bound
	}
}

// conditions says what stands in the way of a rule whose subjects match, and until when the answer holds; zero is for ever.
func (q *question) conditions(rule int, idx int32, allow bool) (f failure, until time.Time) {
	rl := &q.set.rules[rule]
	if f, until = q.window(rl); f.cond != ConditionNone {
		return f, until
	}
	if allow && rl.strict && q.stale {
		return failure{cond: ConditionStale}, until
	}
	if rl.cond != nil {
		if rl.cond.facts&timeFacts != 0 {
			earliest(&until, q.clock().Add(sooner))
		}
		if f = q.when(rl.cond, idx, allow); f.cond != ConditionNone {
			return f, until
		}
	}
	if allow && rl.stepUp != nil && !q.loginWithin(rl.stepUp.MaxAge) {
		return failure{cond: ConditionReauth}, until
	}
	return failure{}, until
}

// window says whether a rule is in force, and until when that holds.
func (q *question) window(rl *rule) (f failure, until time.Time) {
	switch {
	case !rl.notBefore.IsZero() && q.clock().Before(rl.notBefore):
		return failure{cond: ConditionNotYet}, rl.notBefore
	case rl.expires.IsZero():
		return failure{}, time.Time{}
	case !q.clock().Before(rl.expires):
		return failure{cond: ConditionExpired}, time.Time{}
	}
	return failure{}, rl.expires
}

// loginWithin reports whether the login is, or was when the stream was opened, as fresh as a rule asks for.
func (q *question) loginWithin(age time.Duration) bool {
	at, opened := q.sub.id.AuthTime, q.opened
	switch {
	case q.listing:
		return false // a list is read later, by a client that knows the login's age then
	case q.opening:
		opened = q.clock()
	case opened.IsZero():
		return true
	}
	return !at.IsZero() && opened.Sub(at) <= age
}

// when decides a condition for one service.
func (q *question) when(c *condition, idx int32, allow bool) failure {
	if q.spent > maxSpent {
		return failure{cond: ConditionCost} // there may be tens of thousands of rules with one
	}
	a := &activation{
		facts: q.seen.factsOf(q.set, q.sub), now: q.clock().UTC(), authAt: q.sub.id.AuthTime, client: q.client, at: q.at,
		service: q.set.doc.Services[idx].Name, kind: string(q.kind),
	}
	r := c.eval(a)
	q.spent += r.cost
	if q.listing && r.holds == Unknown && r.why == ConditionUnknown && c.facts&addressFacts != 0 && !a.misses(c.facts&^addressFacts) {
		if allow {
			return failure{}
		}
		return failure{ConditionFalse, r.detail}
	}
	return failure{r.why, r.detail}
}

// misses reports whether one of the facts is unknown.
func (a *activation) misses(of factSet) bool { return a.unknown()&of != 0 }
