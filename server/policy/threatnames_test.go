package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const veiled = `version: 1
services:
  wiki: {address: "wiki.internal:80", hostnames: [wiki.corp.example]}
  secret: {address: "secret.internal:443", hostnames: [secret.corp.example, "*.secret.corp.example"], hidden: true, description: Do not tell}
  cellar: {network: 10.66.0.0/16, ports: [22], zones: [cellar.corp.example], hidden: true}
  lab: {network: 10.0.0.0/8, ports: [22]}
rules:
  - {name: staff, subjects: {users: ["*"]}, allow: [wiki]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab]}
  - {name: the few, subjects: {groups: [few]}, allow: [secret, cellar]}
  - {name: not even they, subjects: {groups: [out]}, deny: [secret, cellar], reason: The secret is closed.}
`

// Class: a refusal tells what is there. A hidden service answers as a name that does not exist, to the letter, whichever way it is
// asked for, and is in no list.
func TestThreatHiddenServiceShowsNothing(t *testing.T) {
	s := mustLoad(t, veiled, "corp")
	for _, groups := range [][]string{nil, {"out"}, {"few", "out"}} {
		id := person("a@b.c", groups...)
		id.GroupsKnown = groups != nil
		who := NewSubject(id, Device{})
		for hidden, absent := range map[wire.Target]wire.Target{
			service("secret"):                                         service("absent"),
			service("cellar"):                                         service("absent"),
			host("secret.corp.example", 443):                          host("absent.corp.example", 443),
			host("SECRET.corp.example.", 443):                         host("ABSENT.corp.example.", 443),
			host("a.secret.corp.example", 443):                        host("a.absent.corp.example", 443),
			host("a.cellar.corp.example", 22):                         host("a.absent.corp.example", 22),
			wire.ServiceTarget(wire.KindUDP, "secret"):                wire.ServiceTarget(wire.KindUDP, "absent"),
			wire.HostTarget(wire.KindUDP, "secret.corp.example", 443): wire.HostTarget(wire.KindUDP, "absent.corp.example", 443),
		} {
			got, want := s.Decide(who, ask(hidden)).Refusal("r"), s.Decide(who, ask(absent)).Refusal("r")
			got.Reason = strings.NewReplacer("secret", "absent", "cellar", "absent").Replace(got.Reason)
			if *got != *want {
				t.Errorf("%s: %+v\nand a name that is not there: %+v", hidden, got, want)
			}
		}
		if d := s.Decide(who, ask(host("10.66.1.1", 22))); d.Allowed || strings.Contains(d.Reason, "cellar") || d.ServiceName() == "cellar" || strings.Contains(d.Reason, "secret") {
			t.Errorf("the address of a hidden network: %+v", d)
		}
		if list := s.Services(who, Request{}); slices.ContainsFunc(list, func(w wire.Service) bool { return w.Name == "secret" || w.Name == "cellar" }) {
			t.Errorf("listed: %+v", list)
		}
	}
	few := sub("a@b.c", "few")()
	if d := s.Decide(few, ask(service("secret"))); !d.Allowed || len(s.Services(few, Request{})) != 4 {
		t.Errorf("hidden from who may: %+v", d)
	}
	if d := s.Decide(sub("a@b.c", "out")(), ask(service("secret"))); d.Hidden == nil || d.Hidden.Rule != "not even they" || d.Hidden.ServiceName() != "secret" {
		t.Errorf("the administrator is not told: %+v", d.Hidden)
	}
}

// Class: missing posture field (OpenZiti GHSA-354c). What a client does not tell, or tells in other words, satisfies no condition.
func TestThreatMissingPosture(t *testing.T) {
	s := mustLoad(t, `version: 1
services: {wiki: {address: "wiki.internal:80"}, payroll: {address: "payroll.internal:443"}}
rules:
  - {name: encrypted, subjects: {users: ["*"]}, allow: [wiki], when: "device.disk_encrypted && device.screen_lock"}
  - {name: all, subjects: {users: ["*"]}, allow: [payroll]}
  - {name: open machines, subjects: {users: ["*"]}, deny: [payroll], when: "!device.disk_encrypted"}
`)
	good := map[string]string{"disk_encrypted": "true", "screen_lock": "true"}
	for name, posture := range map[string]map[string]string{
		"nothing": nil, "empty": {"disk_encrypted": "", "screen_lock": ""}, "one of two": {"screen_lock": "true"},
		"other words": {"disk_encrypted": "TRUE", "screen_lock": "1"}, "other keys": {"device.disk_encrypted": "true", "screen_lock": "true"},
	} {
		who := NewSubject(person("a@b.c"), DeviceFromPosture(posture))
		for _, svc := range []string{"wiki", "payroll"} {
			if d := s.Decide(who, ask(service(svc))); d.Allowed || d.Condition != ConditionUnknown {
				t.Errorf("%s, %s: %+v", name, svc, d)
			}
		}
	}
	who := NewSubject(person("a@b.c"), DeviceFromPosture(good))
	if !s.Decide(who, ask(service("wiki"))).Allowed || !s.Decide(who, ask(service("payroll"))).Allowed {
		t.Error("refused although everything is told")
	}
}

// Class: rebinding. A name in a zone is whatever its name server says: it leads nowhere but into the network of the zone, and there only
// to what the person may reach.
func TestThreatZoneLeadsNowhereElse(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  lab: {network: 10.20.0.0/16, ports: [22, 443], zones: [lab.corp.example]}
  self: {network: 127.0.0.1/32, ports: [22], zones: [self.corp.example]}
  vault: {address: "10.20.0.9:22"}
  any: {network: 0.0.0.0/0, ports: [1-65535]}
rules:
  - {name: all, subjects: {users: ["*"]}, allow: ["*"]}
  - {name: not the vault, subjects: {users: ["*"]}, deny: [vault]}
`)
	who := sub("a@b.c")()
	at := func(name, addr string) Decision {
		r := ask(host(name, 22))
		d := s.Decide(who, r)
		if !d.Allowed || !d.Dial.Zone || d.Dial.Host != "a."+strings.TrimPrefix(name, "a.") {
			t.Fatalf("%s: %+v", name, d)
		}
		return s.DecideAddr(who, r, d, netip.MustParseAddrPort(addr))
	}
	for addr, want := range map[string]Condition{
		"10.20.0.1:22": "", "[::ffff:10.20.0.1]:22": "", "10.20.0.9:22": ConditionDenied, "10.21.0.1:22": ConditionOutsideZone,
		"127.0.0.1:22": ConditionOutsideZone, "169.254.169.254:22": ConditionOutsideZone, "[64:ff9b::a14:1]:22": ConditionOutsideZone,
		"10.20.0.1:443": ConditionOtherAddress,
	} {
		if d := at("a.lab.corp.example", addr); d.Condition != want || d.Allowed != (want == "") || d.ServiceName() != "lab" {
			t.Errorf("%s: %+v", addr, d)
		}
	}
	if d := at("a.self.corp.example", "127.0.0.1:22"); !d.Allowed {
		t.Errorf("a network of one address names it: %s", d.Reason)
	}
	if d := s.Decide(who, ask(host("evil-lab.corp.example", 22))); d.Allowed {
		t.Errorf("a name that only ends like the zone: %+v", d)
	}
}

// Class: a grant that outlives what stands above it. An approved request opens no service that the policy denies, that cannot be
// requested any more, or of another person, and not a moment longer.
func TestThreatGrantOpensNothingElse(t *testing.T) {
	text := `version: 1
services: {db: {address: "db.internal:5432", requestable: {max: 4h, approvers: {groups: [it], users: ["corp:sub:boss"]}}}, wiki: {address: "wiki.internal:80"}}
rules:
  - {name: out, subjects: {groups: [out]}, deny: ["*"]}
`
	grants := NewGrants()
	load := func(text string) *Set {
		s, err := Load("p.yaml", []byte(text), Options{Providers: []string{"corp"}, Grants: grants})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s, closed := load(text), load(strings.Replace(text, ", requestable: {max: 4h, approvers: {groups: [it], users: [\"corp:sub:boss\"]}}", "", 1))
	ada := person("ada@corp.example")
	until := time.Now().Add(time.Hour)
	list := []Grant{{"short", ada.UserID(), "db", until.Add(-time.Minute)}, {"k7qw-3m9p", ada.UserID(), "db", until}, {"other", ada.UserID(), "wiki", until}}
	if !grants.Replace(list) || grants.Replace(list) {
		t.Error("Replace does not tell a change")
	}
	out := ada
	out.Groups = []string{"out"}
	decide := func(s *Set, sub *Subject, name string, at time.Time) Decision {
		return s.Decide(sub, Request{Target: service(name), Now: at, Opening: true})
	}
	who := NewSubject(ada, Device{})
	if d := decide(s, who, "db", until.Add(-1)); !d.Allowed || d.Grant != "k7qw-3m9p" || d.Rule != "request k7qw-3m9p" || !d.Until.Equal(until) {
		t.Errorf("granted: %+v", d)
	}
	for name, d := range map[string]Decision{
		"over": decide(s, who, "db", until), "not requestable": decide(s, who, "wiki", until.Add(-1)), "not any more": decide(closed, who, "db", until.Add(-1)),
		"denied": decide(s, NewSubject(out, Device{}), "db", until.Add(-1)), "another person's": decide(s, sub("b@corp.example")(), "db", until.Add(-1)),
		"nobody's": decide(s, nil, "db", until.Add(-1)),
	} {
		if d.Allowed {
			t.Errorf("%s: %+v", name, d)
		}
	}
	boss := person("boss@corp.example")
	boss.Subject = "boss"
	unknown := person("it@corp.example", "it")
	unknown.GroupsKnown = false
	for _, tt := range []struct {
		who  *Subject
		name string
		want bool
	}{
		{sub("it@corp.example", "it")(), "db", true}, {NewSubject(boss, Device{}), "db", true}, {who, "db", false}, {nil, "db", false},
		{NewSubject(unknown, Device{}), "db", false}, {sub("it@corp.example", "it")(), "wiki", false}, {sub("it@corp.example", "it")(), "absent", false},
	} {
		if got := s.MayApprove(tt.who, tt.name); got != tt.want {
			t.Errorf("%s by %v: %v", tt.name, tt.who.Identity().Email, got)
		}
	}
	if r, ok := s.Requestable("db"); !ok || r.Max != 4*time.Hour || len(r.Groups) != 1 {
		t.Errorf("requestable %+v", r)
	}
	if _, ok := (*Set)(nil).Requestable("db"); ok {
		t.Error("without a policy")
	}
}
