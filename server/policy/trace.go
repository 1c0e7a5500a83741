package policy

import (
	"net/netip"
	"slices"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Explain answers like [Set.Decide], and says besides what each rule that is about the target had to say: whether it
// matched, and if it did not, what stood in its way. It is for administrators: it names services that are hidden.
func (s *Set) Explain(sub *Subject, r Request) Explanation {
	e := Explanation{Decision: s.Decide(sub, r)}
	if s == nil {
		return e
	}
	t := s.tracer(sub, r)
	e.Rules = t.rules(s.aim(&t.q, r.Target), e.Decision.truth())
	if e.Decision.Allowed && !e.Decision.Dial.Network {
		e.Addresses = t.addresses(sub, r, e.Decision)
	}
	return e
}

// An Explanation is a decision with the rules that are about the target, in the file's order. A rule that allows one of
// the services at an address and denies another stands there twice.
type Explanation struct {
	Decision Decision
	Rules    []RuleTrace
	// Addresses are those that an allowed service is known to lead to and that are refused: by a deny for a network, for
	// one.
	Addresses []AddressTrace
}

// truth is what a refusal stands for that must not tell.
func (d Decision) truth() Decision {
	if d.Hidden != nil {
		return *d.Hidden
	}
	return d
}

// A RuleTrace is what one rule had to say.
type RuleTrace struct {
	Name    string  `json:"name"`
	Effect  Effect  `json:"effect"`
	Service string  `json:"service"` // which of the target's services it is about
	Outcome Outcome `json:"outcome"`
	// Failed is what stood in the way; empty where the rule matched. Of a rule that decides it has at most what a fresh
	// login mends.
	Failed []Criterion `json:"failed,omitempty"`
	// Doubts are criteria that nobody could decide and that count against the person: a deny that matches with them.
	Doubts []Criterion `json:"doubts,omitempty"`
	Pos    Pos         `json:"pos"`
}

// An AddressTrace is why an address is refused that the target leads to.
type AddressTrace struct {
	Address  netip.AddrPort
	Decision Decision
	Rules    []RuleTrace
}

// A Criterion is one thing that a rule asks for, and a sentence on how it is instead.
type Criterion struct {
	What   string `json:"what"`   // "subjects", "when", "reauth_within", "not_before", "expires" or "strict"
	Detail string `json:"detail"` // "group engineering: you are in sales, it"
}

// Effect is what a rule does to a target that it names.
type Effect string

// The effects of a rule.
const (
	EffectAllow Effect = "allow"
	EffectDeny  Effect = "deny"
)

// Outcome is how close a rule came.
type Outcome string

// The outcomes of a rule. One rule at most decides.
const (
	OutcomeDecides Outcome = "decides" // it is Decision.Rule
	OutcomeMatches Outcome = "matches" // it matched, and another one decided
	OutcomeNearly  Outcome = "nearly"  // one criterion failed
	OutcomeNo      Outcome = "no"      // several did
)

// aim finds the services that a target leads to, as [Set.Decide] does, and what is known of its address.
func (s *Set) aim(q *question, t wire.Target) []int32 {
	named := func(idx int32) []int32 {
		svc := s.doc.Services[idx]
		q.at = netip.AddrPortFrom(svc.Addr, svc.HostPort)
		return []int32{idx}
	}
	if t.Service != "" {
		if idx, ok := s.byName[t.Service]; ok {
			return named(idx)
		}
		return nil
	}
	if addr, err := netip.ParseAddr(t.Host); err == nil {
		q.at = netip.AddrPortFrom(addr.WithZone("").Unmap(), t.Port)
		return s.containing(q)
	}
	name, err := canonicalHost(t.Host)
	if err != nil {
		return nil
	}
	q.at = netip.AddrPortFrom(netip.Addr{}, t.Port)
	if idx, ok := q.hostOf(t.Kind, name, t.Port); ok {
		return named(idx)
	}
	if idx, ok := q.zoneOf(t.Kind, name, t.Port); ok {
		return append([]int32{idx}, s.byDial[endpoint{t.Kind, name, t.Port}]...)
	}
	return nil
}

// containing returns the services that contain an address, in the file's order. It looks at each: explanations are rare.
func (s *Set) containing(q *question) []int32 {
	var list []int32
	_, special := SpecialRange(q.at.Addr())
	hosts := s.resolved.hostsAt(q.at.Addr())
	for i, svc := range s.doc.Services {
		in := false
		switch {
		case svc.Kind != q.kind:
		case svc.IsNetwork():
			in = svc.Network.Contains(q.at.Addr()) && svc.hasPort(q.at.Port()) && (!special || svc.Network.IsSingleIP())
		case svc.Addr.IsValid():
			in = svc.Addr == q.at.Addr() && svc.HostPort == q.at.Port()
		default:
			in = !special && svc.HostPort == q.at.Port() && slices.Contains(hosts, svc.Host)
		}
		if in {
			list = append(list, int32(i))
		}
	}
	return list
}

// A tracer asks one question of the rules one by one.
type tracer struct {
	set *Set
	q   question
	n   *normalizer // to take conditions apart
}

func (s *Set) tracer(sub *Subject, r Request) *tracer {
	t := &tracer{set: s, q: s.question(sub, r), n: newNormalizer()}
	t.q.clock() // one moment for everything
	return t
}

// rules traces those that are about one of the services.
func (t *tracer) rules(services []int32, d Decision) []RuleTrace {
	list := []RuleTrace{}
	for i := range t.set.rules {
		r := &t.set.rules[i]
		for _, side := range []struct {
			effect Effect
			lists  [][]int32
		}{{EffectDeny, r.deny}, {EffectAllow, r.allow}} {
			if about := intersect(services, side.lists); len(about) > 0 {
				list = append(list, t.closest(i, about, side.effect, d))
			}
		}
	}
	return list
}

// intersect returns the services that one of the lists names.
func intersect(services []int32, lists [][]int32) []int32 {
	var both []int32
	for _, svc := range services {
		for _, list := range lists {
			if _, found := slices.BinarySearch(list, svc); found {
				both = append(both, svc)
				break
			}
		}
	}
	return both
}

// closest traces a rule for the service that it came closest to: a condition may ask for the service.
func (t *tracer) closest(i int, services []int32, effect Effect, d Decision) RuleTrace {
	var best RuleTrace
	for _, svc := range services {
		one := t.trace(i, svc, effect)
		if best.Name == "" || len(kinds(one.Failed)) < len(kinds(best.Failed)) {
			best = one
		}
	}
	decidedBy := EffectDeny
	if d.Allowed || d.StepUp != nil {
		decidedBy = EffectAllow
	}
	switch n := len(kinds(best.Failed)); {
	case d.Rule == best.Name && d.Grant == "" && effect == decidedBy:
		best.Outcome = OutcomeDecides
	case n == 0:
		best.Outcome = OutcomeMatches
	case n == 1:
		best.Outcome = OutcomeNearly
	default:
		best.Outcome = OutcomeNo
	}
	return best
}

// kinds returns which criteria failed; the operands of a condition are one.
func kinds(failed []Criterion) []string {
	var list []string
	for _, c := range failed {
		list = append(list, c.What)
	}
	return slices.Compact(list)
}

// addresses decides what is known of where an allowed service leads.
func (t *tracer) addresses(sub *Subject, r Request, d Decision) []AddressTrace {
	var list []AddressTrace
	known := t.set.resolved.addrsOf(d.Dial.Host)
	if addr, err := netip.ParseAddr(d.Dial.Host); err == nil {
		known = []netip.Addr{addr}
	}
	for _, addr := range known {
		at := netip.AddrPortFrom(addr, d.Dial.Port)
		is := t.set.DecideAddr(sub, r, d, at)
		if is.Allowed {
			continue
		}
		t.q.kind, t.q.at = d.Dial.Kind, at
		list = append(list, AddressTrace{at, is, t.rules(t.set.containing(&t.q), is.truth())})
	}
	return list
}

// addrsOf returns what a name resolved to last; read-only.
func (r *Resolved) addrsOf(host string) []netip.Addr {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byHost[host]
}
