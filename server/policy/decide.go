package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Decide answers whether the subject may reach the target: a service by name, a host name and port as the desktop
// calls them, or an address and port. Where no condition has to be asked, it does not allocate for a target that is
// spelled as the policy spells it.
func (s *Set) Decide(sub *Subject, r Request) Decision {
	if s == nil {
		return Decision{Code: wire.CodeUnavailable, Reason: "the gateway has no policy", Remedy: remedyAdmin}
	}
	t := r.Target
	switch {
	case t.Kind != wire.KindTCP && t.Kind != wire.KindUDP:
		return s.badTarget("a stream of kind %q is not known", string(t.Kind))
	case t.Service != "" && (t.Host != "" || t.Port != 0):
		return s.badTarget("the target names a service and a host")
	case t.Service == "" && t.Port == 0:
		return s.badTarget("the target has no port")
	}
	q := s.question(sub, r)
	if t.Service != "" {
		return q.byService(t)
	}
	if idx, ok := s.byHost[endpoint{t.Kind, t.Host, t.Port}]; ok && !strings.HasPrefix(t.Host, wildcard) && !q.veiled(idx) {
		return q.named(idx, t)
	}
	if addr, err := netip.ParseAddr(t.Host); err == nil {
		return q.address(netip.AddrPortFrom(addr, t.Port), t.Host)
	}
	return q.byHost(t)
}

func (q *question) byService(t wire.Target) Decision {
	idx, ok := q.set.byName[t.Service]
	if !ok {
		return q.set.noService(t)
	}
	svc := q.set.doc.Services[idx]
	if svc.Kind == t.Kind && !svc.IsNetwork() {
		return q.named(idx, t)
	}
	if q.veiled(idx) {
		return q.set.noService(t)
	}
	if svc.Kind != t.Kind {
		return q.set.unknown("the service %s is a %s service, not %s", svc.Name, svc.Kind, t.Kind)
	}
	return q.set.badTarget("the service %s is a network: open an address in %s", svc.Name, svc.Network)
}

// byHost decides a host name by its one canonical form: exactly, by the longest wildcard, or by the longest zone. What
// only looks like a name (0177.0.0.1, 2130706433) has no such form.
func (q *question) byHost(t wire.Target) Decision {
	name, err := canonicalHost(t.Host)
	if err != nil {
		return q.set.badTarget("%s is no host name: %v", quote(t.Host), err)
	}
	t.Host = name
	q.at = netip.AddrPortFrom(netip.Addr{}, t.Port)
	if idx, ok := q.hostOf(t.Kind, name, t.Port); ok {
		return q.named(idx, t)
	}
	if idx, ok := q.zoneOf(t.Kind, name, t.Port); ok {
		return q.zoned(idx, t)
	}
	other, ok := q.hostOf(otherKind(t.Kind), name, t.Port)
	if ok && !q.veiled(other) {
		svc := q.set.doc.Services[other]
		return q.set.unknown("%s port %d is the %s service %s, not %s", name, t.Port, svc.Kind, svc.Name, t.Kind)
	}
	return q.set.noService(t)
}

// hostOf returns the service of a canonical name: the exact one, else the one with the longest wildcard. What is hidden from
// the person is passed over, since a wildcard above it answers for names that are not there; where nothing is above it, it is
// returned, and refused as such a name.
func (q *question) hostOf(kind wire.Kind, name string, port uint16) (int32, bool) {
	s, hidden := q.set, int32(-1)
	idx, ok := s.byHost[endpoint{kind, name, port}]
	for more := true; more; {
		switch {
		case ok && !q.veiled(idx):
			return idx, true
		case ok && hidden < 0:
			hidden = idx
		}
		if _, name, more = strings.Cut(name, "."); !s.wild {
			break
		}
		idx, ok = s.byHost[endpoint{kind, wildcard + name, port}]
	}
	return max(hidden, 0), hidden >= 0
}

// zoneOf returns the network whose zone holds a canonical name, by the longest zone that has the port and is not hidden.
func (q *question) zoneOf(kind wire.Kind, name string, port uint16) (int32, bool) {
	s, hidden := q.set, int32(-1)
	for more := len(s.byZone) > 0; more; _, name, more = strings.Cut(name, ".") {
		for _, idx := range s.byZone[zoneKey{kind, name}] {
			switch {
			case !s.doc.Services[idx].hasPort(port):
			case !q.veiled(idx):
				return idx, true
			case hidden < 0:
				hidden = idx
			}
		}
	}
	return max(hidden, 0), hidden >= 0
}

func otherKind(k wire.Kind) wire.Kind {
	if k == wire.KindTCP {
		return wire.KindUDP
	}
	return wire.KindTCP
}

// veiled reports that a service is hidden from this person. It is asked as what the service is, however it was asked for.
func (q *question) veiled(idx int32) bool {
	svc := q.set.doc.Services[idx]
	if !svc.Hidden {
		return false
	}
	as := *q
	if as.kind = svc.Kind; !svc.IsNetwork() {
		as.at = netip.AddrPortFrom(svc.Addr, svc.HostPort)
	}
	r := as.rule(idx)
	return !r.allows() && r.kind() != verdictStepUp
}

// named decides a named service; t is how it was asked for.
func (q *question) named(idx int32, t wire.Target) Decision {
	svc := q.set.doc.Services[idx]
	q.at = netip.AddrPortFrom(svc.Addr, svc.HostPort)
	r := q.rule(idx)
	if !r.allows() {
		return q.refuseNamed(idx, &r, t)
	}
	return q.allow(idx, &r, Dial{Kind: svc.Kind, Host: svc.Host, Port: svc.HostPort, Literal: svc.Addr.IsValid()})
}

// decideService decides a service as such. A network is decided without an address; what a condition asks of one is then unknown.
func (s *Set) decideService(sub *Subject, r Request, idx int32) Decision {
	q := s.question(sub, r)
	svc := s.doc.Services[idx]
	q.kind, q.at = svc.Kind, netip.AddrPortFrom(svc.Addr, svc.HostPort)
	is := q.rule(idx)
	if !is.allows() {
		return q.refuse(idx, &is)
	}
	return q.allow(idx, &is, Dial{Kind: svc.Kind, Host: svc.Host, Port: svc.HostPort, Literal: svc.Addr.IsValid(), Network: svc.IsNetwork()})
}

// zoned decides a name in a zone of a network. Its address is decided when it is known. A service that is dialed by this very
// name denies it whatever it resolves to: what it last resolved to may be one of several addresses.
func (q *question) zoned(idx int32, t wire.Target) Decision {
	r := q.rule(idx)
	if !r.allows() {
		return q.refuseNamed(idx, &r, t)
	}
	for _, other := range q.set.byDial[endpoint{t.Kind, t.Host, t.Port}] {
		is := q.rule(other)
		if is.denies() {
			return q.refuseNamed(other, &is, t)
		}
		earliest(&r.until, is.until)
	}
	return q.allow(idx, &r, Dial{Kind: t.Kind, Host: t.Host, Port: t.Port, Zone: true})
}

func (q *question) allow(idx int32, r *ruling, to Dial) Decision {
	d := Decision{
		Allowed: true, Code: wire.CodeOK, Service: q.set.doc.Services[idx], Version: q.set.version, Dial: to, Until: r.until,
	}
	if r.kind() == verdictGranted {
		d.Rule, d.Grant = r.grant.rule, r.grant.ID
	} else {
		d.Rule = q.set.rules[r.rule()].name
	}
	return d
}

// address decides an address by all services that contain it. text is how it was written.
func (q *question) address(at netip.AddrPort, text string) Decision {
	if at.Addr().Zone() != "" {
		return q.set.badTarget("an address with a zone (%s) means nothing here", quote(at.Addr().String()))
	}
	q.at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	what, special := SpecialRange(q.at.Addr())
	t := newTally()
	q.gather(&t, special)
	switch {
	case t.best < 0 && special:
		return q.set.specialAddress(q.at.Addr(), what)
	case t.best < 0:
		return q.set.noAddress(q.kind, q.at)
	case t.deny.denies() || !t.allow.allows():
		return q.refuseAddress(&t)
	}
	t.allow.until = t.until
	return q.allow(t.best, &t.allow, Dial{
		Kind: q.kind, Host: canonicalAddr(q.at.Addr(), text), Port: q.at.Port(), Literal: t.literal, Network: true,
	})
}

// canonicalAddr is addr.String(), without an allocation where text is that already.
func canonicalAddr(addr netip.Addr, text string) string {
	var buf [64]byte
	if b := addr.AppendTo(buf[:0]); string(b) != text {
		return string(b)
	}
	return text
}

// DecideAddr decides an allowed decision once more for an address that is about to be dialed. For a name it asks the
// special ranges and the network denies; a name in a zone has to lead into its network, and its address has to be
// allowed as one; for a target that was an address, it allows that address only. What was refused stays refused.
func (s *Set) DecideAddr(sub *Subject, r Request, d Decision, at netip.AddrPort) Decision {
	if s == nil || !d.Allowed || d.Service == nil {
		return s.refuseAgain(d)
	}
	q := s.question(sub, r)
	q.kind, q.at = d.Dial.Kind, netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	if d.Dial.Zone {
		return q.inZone(d)
	}
	addr := q.at.Addr()
	what, special := SpecialRange(addr)
	switch {
	case special && !(d.Dial.Literal && canonicalAddr(addr, d.Dial.Host) == d.Dial.Host):
		return s.refuseAddr(d, s.specialAddress(addr, what))
	case (d.Dial.Network || d.Dial.Literal) && (at.Port() != d.Dial.Port || canonicalAddr(addr, d.Dial.Host) != d.Dial.Host):
		return s.refuseAddr(d, s.otherAddress(at))
	case d.Dial.Network:
		return q.address(at, d.Dial.Host)
	}
	t := newTally()
	q.gatherNetworks(&t, false)
	if t.deny.denies() {
		return s.refuseAddr(d, q.refuseAddress(&t))
	}
	earliest(&d.Until, t.until)
	return d
}

// inZone decides what a name in a zone resolved to. The service stays the one that the name belongs to.
func (q *question) inZone(d Decision) Decision {
	if q.at.Port() != d.Dial.Port {
		return q.set.refuseAddr(d, q.set.otherAddress(q.at))
	}
	if !d.Service.Network.Contains(q.at.Addr()) {
		return q.set.refuseAddr(d, q.set.outsideZone(q.at.Addr(), d.Service))
	}
	is := q.address(q.at, d.Dial.Host)
	if !is.Allowed {
		return q.set.refuseAddr(d, is)
	}
	earliest(&d.Until, is.Until)
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
		if refusal.Code == wire.CodeNoSuchService {
			refusal.Code = wire.CodeDenied // the service is there; where it leads is not
		}
		refusal.Reason = fmt.Sprintf("%s leads to an address that is refused: %s", asked.Service.Name, refusal.Reason)
	}
	return refusal
}

// Services returns what this subject may see, as the desktop gets it, in the file's order. Services that are not
// allowed are there too, with the reason, unless they are hidden. The request's target does not matter, nor does the
// login's age: what only a fresh login opens says how old the login may be.
func (s *Set) Services(sub *Subject, r Request) []wire.Service {
	q := s.question(sub, r)
	q.opening, q.listing = false, true
	list := make([]wire.Service, 0, len(s.doc.Services))
	for i, svc := range s.doc.Services {
		q.kind, q.at, q.spent = svc.Kind, netip.AddrPortFrom(svc.Addr, svc.HostPort), 0
		r := q.rule(int32(i))
		stepUp := r.kind() == verdictStepUp
		if svc.Hidden && !r.allows() && !stepUp {
			continue
		}
		entry := wire.Service{
			Name: svc.Name, Description: svc.Description, Kind: svc.Kind, Label: svc.Label,
			Hostnames: svc.Hostnames, Port: svc.Port, Ports: svc.Ports, Tags: svc.Tags, Zones: svc.Zones, Allowed: r.allows() || stepUp,
		}
		if svc.IsNetwork() {
			entry.Networks = []netip.Prefix{svc.Network}
		}
		if stepUp {
			entry.MaxAge = min(max(s.rules[r.rule()].stepUp.MaxAge, time.Millisecond), wire.MaxLoginAge)
		}
		if !entry.Allowed {
			entry.Reason = q.refuse(int32(i), &r).Reason
			if svc.Requestable != nil && !r.denies() {
				entry.Requestable = svc.Requestable.Max
			}
		}
		list = append(list, entry)
	}
	return list
}
