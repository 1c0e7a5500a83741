package policy

import (
	"fmt"
	"net/netip"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Decide answers whether the subject may reach the target now: a service by name, a host name and
// port as the desktop calls them, or an address and port. It does not allocate where the target is
// spelled as the policy spells it.
func (s *Set) Decide(sub *Subject, r Request) Decision {
	t := r.Target
	if s == nil {
		return Decision{Code: wire.CodeUnavailable, Reason: "the gateway has no policy", Remedy: remedyAdmin}
	}
	switch {
	case t.Kind != wire.KindTCP && t.Kind != wire.KindUDP:
		return s.badTarget("a stream of kind %q is not known", string(t.Kind))
	case t.Service != "" && (t.Host != "" || t.Port != 0):
		return s.badTarget("the target names a service and a host")
	case t.Service != "":
		return s.decideService(sub, t)
	case t.Port == 0:
		return s.badTarget("the target has no port")
	}
	if idx, ok := s.byHost[endpoint{t.Kind, t.Host, t.Port}]; ok {
		return s.decideNamed(s.viewOf(sub), idx)
	}
	if addr, err := netip.ParseAddr(t.Host); err == nil {
		return s.decideAddr(s.viewOf(sub), t.Kind, netip.AddrPortFrom(addr, t.Port), t.Host)
	}
	return s.decideHost(sub, t)
}

func (s *Set) decideService(sub *Subject, t wire.Target) Decision {
	idx, ok := s.byName[t.Service]
	if !ok {
		return s.unknown("there is no service %s", quote(t.Service))
	}
	svc := s.doc.Services[idx]
	if svc.Kind != t.Kind {
		return s.unknown("the service %s is a %s service, not %s", svc.Name, svc.Kind, t.Kind)
	}
	if svc.IsNetwork() {
		return s.badTarget("the service %s is a network: open an address in %s", svc.Name, svc.Network)
	}
	return s.decideNamed(s.viewOf(sub), idx)
}

// decideHost decides a host name in a spelling that the policy does not have, by its one canonical
// form. What only looks like a name (0177.0.0.1, 2130706433) has none.
func (s *Set) decideHost(sub *Subject, t wire.Target) Decision {
	name, err := canonicalHost(t.Host)
	if err != nil {
		return s.badTarget("%s is no host name: %v", quote(t.Host), err)
	}
	if idx, ok := s.byHost[endpoint{t.Kind, name, t.Port}]; ok {
		return s.decideNamed(s.viewOf(sub), idx)
	}
	if other, ok := s.byHost[endpoint{otherKind(t.Kind), name, t.Port}]; ok {
		svc := s.doc.Services[other]
		return s.unknown("%s port %d is the %s service %s, not %s", name, t.Port, svc.Kind, svc.Name, t.Kind)
	}
	return s.unknown("no service is called %s with %s port %d", name, t.Kind, t.Port)
}

func otherKind(k wire.Kind) wire.Kind {
	if k == wire.KindTCP {
		return wire.KindUDP
	}
	return wire.KindTCP
}

// decideNamed decides a named service.
func (s *Set) decideNamed(v *view, idx int32) Decision {
	svc := s.doc.Services[idx]
	verdict := v.verdicts[idx]
	if verdict.kind() != verdictAllow {
		return s.refuse(v, idx, verdict)
	}
	return Decision{
		Allowed: true, Code: wire.CodeOK, Service: svc, Rule: s.rules[verdict.rule()].name, Version: s.version,
		Dial: Dial{Kind: svc.Kind, Host: svc.Host, Port: svc.HostPort, Literal: svc.Addr.IsValid()},
	}
}

// decideAddr decides an address by all services that contain it. text is how it was written.
func (s *Set) decideAddr(v *view, kind wire.Kind, at netip.AddrPort, text string) Decision {
	if at.Addr().Zone() != "" {
		return s.badTarget("an address with a zone (%s) means nothing here", quote(at.Addr().String()))
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	what, special := SpecialRange(at.Addr())
	t := s.gather(v, kind, at, special)
	switch {
	case t.best < 0 && special:
		return s.specialAddress(at.Addr(), what)
	case t.best < 0:
		return s.unknown("no service contains %s with %s port %d", at.Addr(), kind, at.Port())
	case t.deny != verdictNone:
		return s.refuse(v, t.best, t.deny)
	case t.allow == verdictNone:
		return s.refuse(v, t.best, verdictNone)
	}
	return Decision{
		Allowed: true, Code: wire.CodeOK, Service: s.doc.Services[t.best], Rule: s.rules[t.allow.rule()].name, Version: s.version,
		Dial: Dial{Kind: kind, Host: canonicalAddr(at.Addr(), text), Port: at.Port(), Literal: t.literal, Network: true},
	}
}

// canonicalAddr is addr.String(), without an allocation where text is that already.
func canonicalAddr(addr netip.Addr, text string) string {
	var buf [64]byte
	if b := addr.AppendTo(buf[:0]); string(b) != text {
		return string(b)
	}
	return text
}

// A tally collects the services that contain an address.
type tally struct {
	best        int32 // the most precise one, or -1
	rank        int
	literal     bool    // one of them names the address itself
	deny, allow verdict // of the first service that has one
}

// Ranks order services by precision; a network's rank is the number of addresses that it excludes.
const (
	rankNamed   = 1000
	rankLearned = 999
)

func (t *tally) add(v *view, idx int32, rank int) {
	if rank > t.rank {
		t.best, t.rank = idx, rank
	}
	switch verdict := v.verdicts[idx]; {
	case verdict.denies() && t.deny == verdictNone:
		t.deny = verdict
	case verdict.kind() == verdictAllow && t.allow == verdictNone:
		t.allow = verdict
	}
}

// gather finds the services that contain an address. To a special address belong only those that name
// it literally: by itself, or as a network of one address.
func (s *Set) gather(v *view, kind wire.Kind, at netip.AddrPort, special bool) tally {
	t := tally{best: -1, rank: -1}
	for _, idx := range s.byAddr[addrKey{kind, at}] {
		t.add(v, idx, rankNamed)
		t.literal = true
	}
	s.gatherNetworks(&t, v, kind, at, special)
	if special {
		return t
	}
	for _, host := range s.resolved.hostsAt(at.Addr()) {
		for _, idx := range s.byDial[endpoint{kind, host, at.Port()}] {
			t.add(v, idx, rankLearned)
		}
	}
	return t
}

func (s *Set) gatherNetworks(t *tally, v *view, kind wire.Kind, at netip.AddrPort, special bool) {
	nodes := s.networks[familyOf(at.Addr())].nodes
	if len(nodes) == 0 {
		return
	}
	bits, full := bitsOf(at.Addr()), at.Addr().BitLen()
	n := int32(0)
	for depth := 0; ; depth++ {
		if !special || depth == full {
			for _, idx := range nodes[n].services {
				if svc := s.doc.Services[idx]; svc.Kind == kind && svc.hasPort(at.Port()) {
					t.add(v, idx, depth)
					t.literal = t.literal || depth == full
				}
			}
		}
		if depth == full {
			return
		}
		if n = nodes[n].child[bits.at(depth)]; n == 0 {
			return
		}
	}
}

// DecideAddr decides an allowed decision once more for an address that is about to be dialed. For a
// name it asks the special ranges and the network denies; for a target that was an address, it allows
// that address only. What was refused stays refused.
func (s *Set) DecideAddr(sub *Subject, r Request, d Decision, at netip.AddrPort) Decision {
	if s == nil || !d.Allowed || d.Service == nil {
		return s.refuseAgain(d)
	}
	addr := at.Addr().Unmap()
	if what, special := SpecialRange(addr); special && !(d.Dial.Literal && canonicalAddr(addr, d.Dial.Host) == d.Dial.Host) {
		return s.refuseAddr(d, s.specialAddress(addr, what))
	}
	if d.Dial.Network || d.Dial.Literal {
		if at.Port() != d.Dial.Port || canonicalAddr(addr, d.Dial.Host) != d.Dial.Host {
			return s.refuseAddr(d, s.otherAddress(at))
		}
	}
	if d.Dial.Network {
		return s.decideAddr(s.viewOf(sub), d.Dial.Kind, at, d.Dial.Host)
	}
	t := tally{best: -1, rank: -1}
	v := s.viewOf(sub)
	s.gatherNetworks(&t, v, d.Dial.Kind, netip.AddrPortFrom(addr, at.Port()), false)
	if t.deny != verdictNone {
		return s.refuseAddr(d, s.refuse(v, t.best, t.deny))
	}
	return d
}

// refuseAgain turns whatever was not an allowed decision into a refusal.
func (s *Set) refuseAgain(d Decision) Decision {
	d.Allowed = false
	if d.Code == "" || d.Code == wire.CodeOK {
		d.Code = wire.CodeDenied
	}
	if d.Reason == "" {
		d.Condition, d.Reason, d.Remedy = ConditionNoAllow, "nothing was decided for this target", remedyAdmin
	}
	return d
}

// refuseAddr is the refusal of an address that a service's name led to: the service stays the one that
// the person asked for.
func (s *Set) refuseAddr(asked, refusal Decision) Decision {
	refusal.Service = asked.Service
	if !asked.Dial.Network {
		refusal.Reason = fmt.Sprintf("%s leads to an address that is refused: %s", asked.Service.Name, refusal.Reason)
	}
	return refusal
}

// Services returns what this subject may see, as the desktop gets it, in the file's order. Services that
// are not allowed are there too, with the reason.
func (s *Set) Services(sub *Subject) []wire.Service {
	v := s.viewOf(sub)
	list := make([]wire.Service, len(s.doc.Services))
	for i, svc := range s.doc.Services {
		list[i] = wire.Service{
			Name: svc.Name, Description: svc.Description, Kind: svc.Kind, Label: svc.Label,
			Hostnames: svc.Hostnames, Port: svc.Port, Ports: svc.Ports, Tags: svc.Tags,
		}
		if svc.IsNetwork() {
			list[i].Networks = []netip.Prefix{svc.Network}
		}
		if verdict := v.verdicts[i]; verdict.kind() == verdictAllow {
			list[i].Allowed = true
		} else {
			list[i].Reason = s.refuse(v, int32(i), verdict).Reason
		}
	}
	return list
}
