package policy

import (
	"net/netip"
	"testing"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Class: a refusal tells what is there. Below a wildcard, and in a zone, a name that is not there is answered by the service that is above
// it; and so is one that is hidden.
func TestThreatHiddenBelowAWildcardShowsNothing(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  wiki: {address: "wiki.internal:80", hostnames: ["*.corp.example"], port: 443}
  plans: {address: "plans.internal:443", hostnames: [plans.corp.example, "*.plans.corp.example"], hidden: true}
  lab: {network: 10.20.0.0/16, ports: [22], zones: [lab.example.net]}
  cellar: {network: 10.66.0.0/16, ports: [22], zones: [cellar.lab.example.net], hidden: true}
rules:
  - {name: staff, subjects: {groups: [staff]}, allow: [wiki, lab]}
  - {name: board, subjects: {groups: [board]}, allow: [plans, cellar]}
  - {name: out, subjects: {groups: [out]}, deny: [plans, cellar]}
`)
	same := map[wire.Target]string{
		host("plans.corp.example", 443): "absent.corp.example", host("PLANS.corp.example", 443): "absent.corp.example",
		host("a.plans.corp.example", 443): "a.absent.corp.example", host("a.cellar.lab.example.net", 22): "a.absent.lab.example.net",
	}
	for _, groups := range [][]string{{"staff"}, {"staff", "out"}, {"staff", "board", "out"}, nil} {
		who := sub("a@b.c", groups...)()
		for target, absent := range same {
			is, want := s.Decide(who, ask(target)), s.Decide(who, ask(host(absent, target.Port)))
			if is.Allowed != want.Allowed || is.Code != want.Code || is.Service != want.Service || is.Reason != want.Reason {
				t.Errorf("%v, %s: %+v\nand a name that is not there: %+v", groups, target, is, want)
			}
			if e := s.Explain(who, ask(target)); len(e.Rules) != 1 {
				t.Errorf("%v, %s: explained by %+v", groups, target, e.Rules)
			}
		}
	}
	few := sub("a@b.c", "staff", "board")()
	for target := range same {
		if d := s.Decide(few, ask(target)); !d.Allowed || !d.Service.Hidden {
			t.Errorf("%s is hidden from who may: %+v", target, d)
		}
	}
}

// Class: a refusal tells what is there. A hidden service is asked for as what it is: who asks for it as something else, where a rule
// that keeps it from them does not hold, learns nothing.
func TestThreatHiddenOfAnotherKindShowsNothing(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  plans: {address: "10.0.0.9:443", hostnames: [plans.corp.example], hidden: true}
rules:
  - {name: board, subjects: {users: ["*"]}, allow: [plans]}
  - {name: no tcp, subjects: {groups: [out]}, deny: ["*"], when: request.kind == "tcp"}
  - {name: not there, subjects: {groups: [away]}, deny: ["*"], when: request.address == "10.0.0.9"}
`)
	for _, group := range []string{"out", "away"} {
		who := sub("a@b.c", group)()
		for hidden, absent := range map[wire.Target]wire.Target{
			wire.ServiceTarget(wire.KindUDP, "plans"):                wire.ServiceTarget(wire.KindUDP, "other"),
			wire.HostTarget(wire.KindUDP, "plans.corp.example", 443): wire.HostTarget(wire.KindUDP, "other.corp.example", 443),
		} {
			if is, want := s.Decide(who, ask(hidden)), s.Decide(who, ask(absent)); is.Code != want.Code || len(is.Reason) != len(want.Reason) {
				t.Errorf("%s, %s: %s\nand a name that is not there: %s", group, hidden, is.Reason, want.Reason)
			}
		}
	}
}

// Class: a deny that is walked around by another name. A service that is denied is not reached by the name that the gateway dials
// for it, because that name is in a zone and resolves to another address than it did last.
func TestThreatDeniedServiceByTheNameThatIsDialed(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  payroll: {address: "payroll.lab.corp.example:443", hostnames: [payroll.corp.example]}
  wiki: {address: "wiki.lab.corp.example:443", hostnames: [wiki.corp.example]}
  lab: {network: 10.20.0.0/16, ports: [443], zones: [lab.corp.example]}
rules:
  - {name: all, subjects: {users: ["*"]}, allow: [lab]}
  - {name: later, subjects: {groups: [leaving]}, deny: [wiki], not_before: 2030-01-01T00:00:00Z}
  - {name: not payroll, subjects: {groups: [contractors]}, deny: [payroll], reason: Not yours.}
`)
	s.Learn("payroll.lab.corp.example", []netip.Addr{netip.MustParseAddr("10.20.0.7")}) // and the name server has 10.20.0.8 next
	r := ask(host("payroll.lab.corp.example", 443))
	out := sub("c@corp.example", "contractors")()
	d := s.Decide(out, r)
	if again := s.DecideAddr(out, r, d, netip.MustParseAddrPort("10.20.0.8:443")); d.Allowed || again.Allowed {
		t.Errorf("reached by the name that is dialed: %+v", d)
	}
	if d.Rule != "not payroll" || d.ServiceName() != "payroll" {
		t.Errorf("refused as %+v", d)
	}
	if e := s.Explain(out, r); len(e.Rules) != 2 || e.Rules[1].Outcome != OutcomeDecides {
		t.Errorf("explained by %+v", e.Rules)
	}
	if d := s.Decide(sub("e@corp.example")(), r); !d.Allowed || d.ServiceName() != "lab" {
		t.Errorf("whom nothing denies: %+v", d)
	}
	leaving := sub("l@corp.example", "leaving")()
	if d := s.Decide(leaving, Request{Target: host("wiki.lab.corp.example", 443), Now: noon, Opening: true}); !d.Allowed || d.Until.IsZero() {
		t.Errorf("a deny that begins later: %+v", d)
	}
}
