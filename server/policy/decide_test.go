package policy

import (
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const office = `version: 1
services:
  wiki: {address: "wiki.internal:8080", protocol: http, hostnames: [wiki.corp.example], port: 80, tags: [office]}
  payroll: {address: "payroll.internal:443", hostnames: [payroll.corp.example], tags: [finance]}
  dns: {address: "10.0.0.53:53", protocol: udp, hostnames: [ns.corp.example]}
  dev: {address: "127.0.0.1:3000"}
  inlab: {address: "10.20.9.9:22"}
  lab: {network: 10.20.0.0/16, ports: [22, 443, 8000-8999]}
  rack: {network: 10.20.5.0/24, ports: [22]}
  v6: {network: "2001:db8:20::/48", ports: [22]}
  any: {network: 0.0.0.0/0, ports: [1-65535]}
  any6: {network: "::/0", ports: [1-65535]}
rules:
  - {name: staff, subjects: {users: ["*"]}, allow: [wiki, dns]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab, v6, dev, inlab]}
  - {name: finance, subjects: {groups: [finance], users: [ada@corp.example, "corp:sub:s-eve"]}, allow: ["tag:finance"]}
  - {name: contractors, subjects: {groups: [contractors]}, deny: [lab], reason: Use the jump host. Ask it-help.}
  - {name: no rack, subjects: {groups: [juniors]}, deny: [rack]}
  - {name: mallory, subjects: {users: [mallory@corp.example]}, deny: ["*"]}
  - {name: operators, subjects: {groups: [operators]}, allow: ["*"]}
`

func TestDecide(t *testing.T) {
	s := mustLoad(t, office, "corp")
	s.Learn("payroll.internal", []netip.Addr{netip.MustParseAddr("10.20.7.7")})
	unknown := person("x@corp.example")
	unknown.GroupsKnown = false
	unverified := person("ada@corp.example")
	unverified.EmailTrusted = false
	mallory := person("Mallory@corp.example", "operators")
	mallory.EmailTrusted = false
	tests := []struct {
		name      string
		id        func() *Subject
		target    wire.Target
		code      wire.Code
		service   string
		rule      string
		condition Condition
	}{
		{"by name", sub("a@b.c"), service("wiki"), "ok", "wiki", "staff", ""},
		{"by host name", sub("a@b.c"), host("wiki.corp.example", 80), "ok", "wiki", "staff", ""},
		{"by host name in capitals with a dot", sub("a@b.c"), host("WIKI.corp.example.", 80), "ok", "wiki", "staff", ""},
		{"other port", sub("a@b.c"), host("wiki.corp.example", 8080), "no_such_service", "", "", ConditionNoService},
		{"the gateway's own name for it", sub("a@b.c"), host("wiki.internal", 8080), "no_such_service", "", "", ConditionNoService},
		{"default deny", sub("a@b.c"), service("payroll"), "denied", "payroll", "", ConditionNoAllow},
		{"by e-mail", sub("ADA@corp.example"), service("payroll"), "ok", "payroll", "finance", ""},
		{"by subject", sub("eve"), service("payroll"), "ok", "payroll", "finance", ""},
		{"e-mail not trusted", func() *Subject { return NewSubject(unverified, Device{}) }, service("payroll"), "denied", "payroll", "mallory", ConditionEmailUntrusted},
		{"deny by e-mail that is not trusted", func() *Subject { return NewSubject(mallory, Device{}) }, service("wiki"), "denied", "wiki", "mallory", ConditionEmailUntrusted},
		{"by tag", sub("a@b.c", "finance"), service("payroll"), "ok", "payroll", "finance", ""},
		{"udp", sub("a@b.c"), wire.ServiceTarget(wire.KindUDP, "dns"), "ok", "dns", "staff", ""},
		{"udp by address", sub("a@b.c"), wire.HostTarget(wire.KindUDP, "10.0.0.53", 53), "ok", "dns", "staff", ""},
		{"udp service over tcp", sub("a@b.c"), service("dns"), "no_such_service", "", "", ConditionNoService},
		{"udp name over tcp", sub("a@b.c"), host("ns.corp.example", 53), "no_such_service", "", "", ConditionNoService},
		{"unknown service", sub("a@b.c"), service("wikki"), "no_such_service", "", "", ConditionNoService},
		{"network by name", sub("a@b.c", "engineering"), service("lab"), "no_such_service", "", "", ConditionBadTarget},
		{"address in network", sub("a@b.c", "engineering"), host("10.20.1.1", 8080), "ok", "lab", "engineers", ""},
		{"most precise names it", sub("a@b.c", "engineering"), host("10.20.5.1", 22), "ok", "rack", "engineers", ""},
		{"port outside", sub("a@b.c", "engineering"), host("10.20.1.1", 25), "denied", "any", "", ConditionNoAllow},
		{"v6", sub("a@b.c", "engineering"), host("2001:db8:20::7", 22), "ok", "v6", "engineers", ""},
		{"deny wins", sub("a@b.c", "engineering", "contractors"), host("10.20.1.1", 22), "denied", "lab", "contractors", ConditionDenied},
		{"a deny of one that contains it denies", sub("a@b.c", "operators", "juniors"), host("10.20.5.1", 22), "denied", "rack", "no rack", ConditionDenied},
		{"and only there", sub("a@b.c", "operators", "juniors"), host("10.20.6.1", 22), "ok", "lab", "operators", ""},
		{"last resolved address", sub("a@b.c", "operators"), host("10.20.7.7", 443), "ok", "payroll", "operators", ""},
		{"groups unknown: no allow", func() *Subject { return NewSubject(unknown, Device{}) }, service("payroll"), "denied", "payroll", "", ConditionGroupsUnknown},
		{"groups unknown: user allow", func() *Subject { return NewSubject(unknown, Device{}) }, service("wiki"), "ok", "wiki", "staff", ""},
		{"groups unknown: group deny", func() *Subject { return NewSubject(unknown, Device{}) }, host("10.20.1.1", 22), "denied", "lab", "contractors", ConditionGroupsUnknown},
		{"nobody", func() *Subject { return nil }, service("wiki"), "denied", "wiki", "", ConditionNoAllow},
		{"special but literal", sub("a@b.c", "engineering"), host("127.0.0.1", 3000), "ok", "dev", "engineers", ""},
		{"special on another port", sub("a@b.c", "operators"), host("127.0.0.1", 3001), "denied", "", "", ConditionSpecialAddress},
		{"no kind", sub("a@b.c"), wire.Target{Service: "wiki"}, "no_such_service", "", "", ConditionBadTarget},
		{"unknown kind", sub("a@b.c"), wire.Target{Kind: "icmp", Service: "wiki"}, "no_such_service", "", "", ConditionBadTarget},
		{"service and host", sub("a@b.c"), wire.Target{Kind: "tcp", Service: "wiki", Host: "x", Port: 1}, "no_such_service", "", "", ConditionBadTarget},
		{"empty", sub("a@b.c"), wire.Target{Kind: "tcp"}, "no_such_service", "", "", ConditionBadTarget},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := s.Decide(tt.id(), ask(tt.target))
			if d.Code != tt.code || d.ServiceName() != tt.service || d.Rule != tt.rule || d.Condition != tt.condition {
				t.Errorf("%s by %q as %q (%s): %s", d.Code, d.Rule, d.ServiceName(), d.Condition, d.Reason)
			}
			checkExplained(t, s, d)
		})
	}
}

func sub(email string, groups ...string) func() *Subject {
	return func() *Subject { return NewSubject(person(email, groups...), Device{}) }
}

// checkExplained holds what every decision owes.
func checkExplained(t *testing.T, s *Set, d Decision) {
	t.Helper()
	if d.Allowed != (d.Code == wire.CodeOK) || d.Version != s.Version() {
		t.Errorf("inconsistent: %+v", d)
	}
	if d.Allowed {
		if d.Rule == "" || d.Service == nil || d.Dial.Host == "" && !d.Service.IsNetwork() || d.Refusal("r") != nil {
			t.Errorf("an allow without a rule or target: %+v", d)
		}
		return
	}
	if d.Reason == "" || d.Remedy == "" || d.Condition == ConditionNone || strings.ContainsFunc(d.Reason, unprintable) {
		t.Errorf("a refusal that does not explain itself: %+v", d)
	}
	if r := d.Refusal("k7qw-3m9p"); r.Code != d.Code || r.Reference != "k7qw-3m9p" || r.Reply().Validate() != nil {
		t.Errorf("refusal %+v", r)
	}
}

func TestReasons(t *testing.T) {
	s := mustLoad(t, office, "corp")
	id := person("a@b.c", "engineering", "contractors")
	d := s.Decide(NewSubject(id, Device{}), ask(host("10.20.1.1", 22)))
	if d.Reason != "Use the jump host. Ask it-help." {
		t.Errorf("reason %q", d.Reason)
	}
	d = s.Decide(NewSubject(person("a@b.c", "juniors"), Device{}), ask(host("10.20.5.1", 22)))
	if d.Reason != `the rule "no rack" denies it` {
		t.Errorf("reason %q", d.Reason)
	}
	d = s.Decide(NewSubject(person("a@b.c"), Device{}), ask(service("payroll")))
	if d.Reason != "no rule allows payroll to you; it is open to the groups finance, operators" {
		t.Errorf("reason %q", d.Reason)
	}
	d = s.Decide(NewSubject(person("a@b.c"), Device{}), ask(service("no\x1b[31m\u202esuch")))
	if d.Reason != `there is no service "no\x1b[31m\u202esuch"` {
		t.Errorf("reason %q", d.Reason)
	}
}

func TestDecideAddr(t *testing.T) {
	s := mustLoad(t, office, "corp")
	eng, both := sub("a@b.c", "engineering")(), sub("ada@corp.example", "engineering", "contractors")()
	at := netip.MustParseAddrPort
	tests := []struct {
		name      string
		sub       *Subject
		target    wire.Target
		at        netip.AddrPort
		ok        bool
		condition Condition
	}{
		{"resolved", eng, service("wiki"), at("10.1.1.1:8080"), true, ""},
		{"resolved into an allowed network", eng, service("wiki"), at("10.20.1.1:8080"), true, ""},
		{"resolved into a denied network", both, service("wiki"), at("10.20.1.1:8080"), false, ConditionDenied},
		{"port outside the denied network", both, service("payroll"), at("10.20.1.1:444"), true, ""},
		{"mapped spelling of a denied network", both, service("payroll"), at("[::ffff:10.20.1.1]:443"), false, ConditionDenied},
		{"resolved to loopback", eng, service("wiki"), at("127.0.0.1:8080"), false, ConditionSpecialAddress},
		{"resolved to metadata", eng, service("wiki"), at("169.254.169.254:8080"), false, ConditionSpecialAddress},
		{"literal loopback", eng, service("dev"), at("127.0.0.1:3000"), true, ""},
		{"other loopback", eng, service("dev"), at("127.0.0.2:3000"), false, ConditionSpecialAddress},
		{"other address than the literal", eng, service("inlab"), at("10.20.9.8:22"), false, ConditionOtherAddress},
		{"other port than the literal", eng, service("inlab"), at("10.20.9.9:23"), false, ConditionOtherAddress},
		{"address target", eng, host("10.20.1.1", 22), at("10.20.1.1:22"), true, ""},
		{"other than the address target", eng, host("10.20.1.1", 22), at("10.20.1.2:22"), false, ConditionOtherAddress},
		{"other port than the address target", eng, host("10.20.1.1", 22), at("10.20.1.1:443"), false, ConditionOtherAddress},
		{"refused before", eng, service("payroll"), at("10.1.1.1:443"), false, ConditionNoAllow},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := s.DecideAddr(tt.sub, Request{}, s.Decide(tt.sub, ask(tt.target)), tt.at)
			if d.Allowed != tt.ok || d.Condition != tt.condition {
				t.Errorf("%v (%s): %s", d.Allowed, d.Condition, d.Reason)
			}
			checkExplained(t, s, d)
		})
	}
	if d := s.DecideAddr(eng, Request{}, Decision{}, at("10.1.1.1:443")); d.Allowed || d.Refusal("").Code != wire.CodeDenied {
		t.Errorf("the zero decision: %+v", d)
	}
	if d := (*Set)(nil).Decide(eng, ask(service("wiki"))); d.Allowed || d.Code != wire.CodeUnavailable {
		t.Errorf("no policy: %+v", d)
	}
}

// A group of a partner's provider is not ours, and an unknown list of groups there says nothing of ours.
func TestSeveralProviders(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  wiki: {address: "wiki.internal:80"}
  lab: {address: "lab.internal:80"}
rules:
  - {name: eng, subjects: {groups: [corp/engineering], users: ["corp:ada@corp.example", "corp:sub:7"]}, allow: [wiki]}
  - {name: partners, subjects: {users: ["partner:*"]}, allow: [lab]}
  - {name: out, subjects: {groups: [partner/out]}, deny: ["*"]}
`, "corp", "partner")
	corp := person("x@corp.example", "engineering")
	partner := person("ada@corp.example", "engineering", "corp/engineering")
	partner.Provider, partner.Subject = "partner", "7"
	corpUnknown := person("ada@corp.example")
	corpUnknown.GroupsKnown = false
	partnerUnknown := partner
	partnerUnknown.Groups, partnerUnknown.GroupsKnown = nil, false
	for _, tt := range []struct {
		name    string
		sub     *Subject
		service string
		want    bool
	}{
		{"ours", NewSubject(corp, Device{}), "wiki", true},
		{"theirs with our names", NewSubject(partner, Device{}), "wiki", false},
		{"theirs", NewSubject(partner, Device{}), "lab", true},
		{"ours is not theirs", NewSubject(corp, Device{}), "lab", false},
		{"ours unknown, their deny", NewSubject(corpUnknown, Device{}), "wiki", true},
		{"theirs unknown, their deny", NewSubject(partnerUnknown, Device{}), "lab", false},
	} {
		if d := s.Decide(tt.sub, ask(service(tt.service))); d.Allowed != tt.want {
			t.Errorf("%s: %v, %s", tt.name, d.Allowed, d.Reason)
		}
	}
}

// With one provider a group may have slashes of its own, and the prefixed form works already.
func TestOneProviderTakesBothForms(t *testing.T) {
	s := mustLoad(t, `version: 1
services: {wiki: {address: "wiki.internal:80"}}
rules: [{name: r, subjects: {groups: [/eng/backend, corp/ops]}, allow: [wiki]}]
`, "corp")
	for group, want := range map[string]bool{"/eng/backend": true, "ops": true, "corp/ops": true, "backend": false, "eng": false} {
		if d := s.Decide(sub("a@b.c", group)(), ask(service("wiki"))); d.Allowed != want {
			t.Errorf("group %q: %v", group, d.Allowed)
		}
	}
}

func TestSubjectFollowsThePolicy(t *testing.T) {
	before := mustLoad(t, office, "corp")
	after := mustLoad(t, strings.Replace(office, `allow: [wiki, dns]`, `deny: [wiki, dns]`, 1), "corp")
	ada := sub("ada@corp.example")()
	for range 2 {
		if !before.Decide(ada, ask(service("wiki"))).Allowed || after.Decide(ada, ask(service("wiki"))).Allowed {
			t.Fatal("a decision by another policy's view")
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	sets := []*Set{mustLoad(t, office, "corp"), mustLoad(t, office, "corp")}
	ada := sub("ada@corp.example", "engineering")()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				s := sets[(i+n)%2]
				s.Learn("payroll.internal", []netip.Addr{netip.AddrFrom4([4]byte{10, 20, byte(i), byte(n)})})
				if !s.Decide(ada, ask(host("10.20.1.1", 22))).Allowed {
					t.Error("refused")
				}
			}
		})
	}
	wg.Wait()
}

// The reason names what is missing where a rule would allow by an e-mail address that nobody vouches for.
func TestAllowByEmailThatIsNotTrusted(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  wiki: {address: "wiki.internal:8080"}
rules:
  - {name: ada, subjects: {users: [ada@corp.example]}, allow: [wiki]}
`, "corp")
	ada := person("ada@corp.example")
	ada.EmailTrusted = false
	if d := s.Decide(NewSubject(ada, Device{}), ask(service("wiki"))); d.Allowed || d.Condition != ConditionEmailUntrusted || d.Rule != "" {
		t.Errorf("%+v", d)
	}
}

func TestLearn(t *testing.T) {
	shared := NewResolved()
	s, err := Load("p.yaml", []byte(office), Options{Resolved: shared})
	if err != nil {
		t.Fatal(err)
	}
	ops := sub("a@b.c", "operators")()
	at := func(a string) string { return s.Decide(ops, ask(host(a, 443))).ServiceName() }
	one, two := netip.MustParseAddr("10.9.9.1"), netip.MustParseAddr("::ffff:10.9.9.2")
	if !s.Learn("payroll.internal", []netip.Addr{one}) || s.Learn("payroll.internal", []netip.Addr{one}) {
		t.Error("Learn does not tell a change")
	}
	if s.Learn("unknown.internal", []netip.Addr{two}) {
		t.Error("a name that nothing dials changes something")
	}
	if at("10.9.9.1") != "payroll" || at("10.9.9.2") != "any" {
		t.Error("not learned")
	}
	s.Learn("payroll.internal", []netip.Addr{two})
	s.Learn("payroll.internal", nil)
	if at("10.9.9.1") != "any" || at("10.9.9.2") != "payroll" {
		t.Error("not replaced, or forgotten by an empty answer")
	}
	next, err := Load("p.yaml", []byte(office), Options{Resolved: shared})
	if err != nil {
		t.Fatal(err)
	}
	if next.Decide(ops, ask(host("10.9.9.2", 443))).ServiceName() != "payroll" {
		t.Error("forgotten by a new policy")
	}
	if hosts := s.Hosts(); len(hosts) != 2 || hosts[0] != "payroll.internal" {
		t.Errorf("hosts %v", hosts)
	}
}

func TestServices(t *testing.T) {
	s := mustLoad(t, office, "corp")
	list := s.Services(sub("a@b.c", "engineering")(), Request{})
	if err := (&wire.Services{Services: list}).Validate(); err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]wire.Service)
	for _, svc := range list {
		byName[svc.Name] = svc
		if svc.Allowed != (svc.Reason == "") {
			t.Errorf("%s: allowed %v, reason %q", svc.Name, svc.Allowed, svc.Reason)
		}
	}
	if len(list) != 10 || !byName["wiki"].Allowed || byName["wiki"].Port != 80 || byName["wiki"].Label != "http" || byName["payroll"].Allowed {
		t.Errorf("services %+v", list)
	}
	if lab := byName["lab"]; !lab.Allowed || len(lab.Networks) != 1 || len(lab.Ports) != 3 {
		t.Errorf("lab %+v", lab)
	}
}

// What only a fresh login opens is listed as allowed, with the oldest login that will do; what any login opens says nothing of it,
// whatever the login's age is now.
func TestServicesSayHowOldTheLoginMayBe(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  db: {address: "10.0.0.1:5432"}
  both: {address: "10.0.0.2:1"}
  secret: {address: "10.0.0.3:1", hidden: true}
  long: {address: "10.0.0.4:1"}
  denied: {address: "10.0.0.5:1"}
rules:
  - {name: strict, subjects: {groups: [engineering]}, allow: [db, both, secret, denied], reauth_within: 5m}
  - {name: mild, subjects: {groups: [engineering]}, allow: [db, denied], reauth_within: 15m}
  - {name: any, subjects: {groups: [engineering]}, allow: [both], when: 'request.kind == "tcp"'}
  - {name: ages, subjects: {groups: [engineering]}, allow: [long], reauth_within: 100000h}
  - {name: no, subjects: {groups: [engineering]}, deny: [denied], reason: not this one}
`, "corp")
	list := s.Services(sub("a@b.c", "engineering")(), Request{})
	if err := (&wire.Services{Services: list}).Validate(); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]time.Duration)
	for _, svc := range list {
		if svc.Allowed {
			got[svc.Name] = svc.MaxAge
		}
	}
	want := map[string]time.Duration{"db": 15 * time.Minute, "both": 0, "secret": 5 * time.Minute, "long": wire.MaxLoginAge}
	if !maps.Equal(got, want) {
		t.Errorf("allowed with max ages %v, want %v", got, want)
	}
	for _, svc := range s.Services(sub("a@b.c", "sales")(), Request{}) {
		if svc.Allowed || svc.MaxAge != 0 || svc.Name == "secret" {
			t.Errorf("sales: %+v", svc)
		}
	}
}
