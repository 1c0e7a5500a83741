package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// wikiWhen is a policy of one rule with a condition.
func wikiWhen(effect, when string) string {
	return fmt.Sprintf("version: 1\nservices: {wiki: {address: 'wiki.internal:8080'}}\nrules:\n"+
		"  - {name: staff, subjects: {users: ['*']}, allow: [wiki]%s}\n", map[string]string{
		"allow": ", when: '" + when + "'",
		"deny":  "}\n  - {name: not so, subjects: {users: ['*']}, deny: [wiki], when: '" + when + "'",
	}[effect])
}

// Each fact of docs/policy.md: what it is where it is told, and unknown where it is not.
func TestFacts(t *testing.T) {
	at := time.Date(2026, 12, 24, 10, 0, 0, 0, time.UTC)
	known := auth.Identity{
		Issuer: "https://idp", Subject: "7", Provider: "corp", Name: "Ada", Email: "Ada@Corp.example", EmailTrusted: true,
		Groups: []string{"a", "b"}, GroupsKnown: true, ACR: "phr", AMR: []string{"hwk"}, AuthTime: at.Add(-time.Hour), Login: auth.LoginBrowser,
	}
	dev := Device{"linux", "6.1", "amd64", "1.2.3", Yes, No, Yes, No}
	full := Request{Target: service("wiki"), Now: at, Client: netip.MustParseAddr("192.0.2.7")}
	for name, holds := range map[string]string{
		"user.issuer": `== "https://idp"`, "user.subject": `== "7"`, "user.provider": `== "corp"`, "user.name": `== "Ada"`,
		"user.email": `== "ada@corp.example"`, "user.groups": `== ["a", "b"]`,
		"device.os": `== "linux"`, "device.os_version": `== "6.1"`, "device.arch": `== "amd64"`, "device.client_version": `== "1.2.3"`,
		"device.disk_encrypted": `== true`, "device.firewall": `== false`, "device.screen_lock": `== true`, "device.hardware_key": `== false`,
		"auth.age": `== duration("1h")`, "auth.time": `== timestamp("2026-12-24T09:00:00Z")`, "auth.acr": `== "phr"`, "auth.amr": `== ["hwk"]`, "auth.login": `== "login"`,
		"request.service": `== "wiki"`, "request.address": "", "request.port": `== 8080`, "request.kind": `== "tcp"`, "request.client": `== "192.0.2.7"`,
		"now": `== timestamp("2026-12-24T10:00:00Z")`,
	} {
		if _, ok := factByName[name]; !ok {
			t.Errorf("there is no %s", name)
		}
		if holds == "" {
			continue
		}
		s := mustLoad(t, wikiWhen("allow", name+" "+holds))
		if d := s.Decide(NewSubject(known, dev), full); !d.Allowed {
			t.Errorf("%s: %s", name, d.Reason)
		}
		d := s.Decide(NewSubject(auth.Identity{}, Device{}), Request{Target: service("wiki"), Now: at})
		always := map[string]bool{"request.service": true, "request.port": true, "request.kind": true, "now": true}[name]
		if unknown := d.Condition == ConditionUnknown && strings.HasPrefix(d.Reason, name+" is unknown"); d.Allowed != always || unknown == always {
			t.Errorf("%s of nobody: %v (%s) %s", name, d.Allowed, d.Condition, d.Reason)
		}
	}
	if len(factByName) != int(factCount) {
		t.Errorf("%d names for %d facts", len(factByName), factCount)
	}
}

// With several providers a group in a condition says whose it is, as in subjects: a partner cannot assert ours.
func TestThreatConditionOnAnotherProvidersGroup(t *testing.T) {
	s := mustLoad(t, wikiWhen("allow", `"corp/engineering" in user.groups`), "corp", "partner")
	ours, theirs := person("a@b.c", "engineering"), person("a@b.c", "engineering", "corp/engineering")
	theirs.Provider = "partner"
	if !s.Decide(NewSubject(ours, Device{}), ask(service("wiki"))).Allowed || s.Decide(NewSubject(theirs, Device{}), ask(service("wiki"))).Allowed {
		t.Error("groups of two providers are confused")
	}
	for when, want := range map[string]string{
		`"engineering" in user.groups`:      `policy.yaml:4:67: group "engineering": with more than one provider write whose group it is`,
		`"crop/engineering" in user.groups`: `there is no provider "crop" (did you mean "corp"?)`,
	} {
		_, err := Load("policy.yaml", []byte(wikiWhen("allow", when)), Options{Providers: []string{"corp", "partner"}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v\nwant  %s", err, want)
		}
	}
	_, err := Load("policy.yaml", []byte(wikiWhen("deny", `"engineering" in user.groups`)), Options{
		Providers: []string{"corp"}, Kept: func(_, group string) bool { return group != "engineering" },
	})
	if err == nil || !strings.Contains(err.Error(), "groups.keep") {
		t.Errorf("a group that no certificate has: %v", err)
	}
}

// A condition that fails or costs too much when it runs is one that cannot be decided: no allow by it, and every deny by it.
func TestThreatConditionThatCannotBeDecided(t *testing.T) {
	many := person("a@b.c")
	for i := range 30_000 {
		many.Groups = append(many.Groups, fmt.Sprint("group-", i))
	}
	for when, want := range map[string]Condition{
		`1 / (request.port - 8080) == 0`:                                          ConditionError,
		`cidr(user.email).containsIP("10.0.0.1")`:                                 ConditionError,
		`user.groups.exists(g, g.contains("zzz") || g.endsWith("yyy"))`:           ConditionCost,
		`user.groups.exists(g, g.contains("zzz") || g.endsWith("yyy")) && !!true`: ConditionCost,
		`device.os == "linux"`:                                                    ConditionUnknown,
	} {
		for effect := range map[string]bool{"allow": true, "deny": true} {
			s := mustLoad(t, wikiWhen(effect, when))
			d := s.Decide(NewSubject(many, Device{}), ask(service("wiki")))
			if d.Allowed || d.Condition != want {
				t.Errorf("%s when %s: %v (%s) %s", effect, when, d.Allowed, d.Condition, d.Reason)
			}
			checkExplained(t, s, d)
		}
	}
}

// A part that does not hold outweighs one that nobody can decide, wherever it stands.
func TestConditionNamesThePartThatFailed(t *testing.T) {
	for when, want := range map[string]string{
		`device.disk_encrypted && device.os == "windows"`:                  `the rule "staff" has a condition on device.os that does not hold`,
		`device.os == "windows" && 1 / (request.port - 8080) == 0`:         `the rule "staff" has a condition on device.os that does not hold`,
		`device.os == "linux" && device.disk_encrypted && device.firewall`: `device.disk_encrypted, device.firewall are unknown, so the rule "staff" does not apply`,
		`device.os == "windows" || auth.acr == "phr"`:                      `auth.acr is unknown`,
		`false`: `the rule "staff" has a condition that does not hold`,
	} {
		d := mustLoad(t, wikiWhen("allow", when)).Decide(NewSubject(person("a@b.c"), Device{OS: "linux"}), ask(service("wiki")))
		if d.Allowed || !strings.HasPrefix(d.Reason, want) {
			t.Errorf("%s: %s\nwant %s", when, d.Reason, want)
		}
	}
}

// A network is listed where only its addresses and ports will tell; a stream is decided by them.
func TestServicesLeaveAddressesOpen(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  lab: {network: 10.20.0.0/16, ports: [1-1000], zones: [lab.corp.example]}
  pit: {network: 10.30.0.0/16, ports: [22]}
  hole: {network: 10.40.0.0/16, ports: [22], requestable: {max: 4h}}
rules:
  - {name: low, subjects: {users: ["*"]}, allow: [lab], when: request.port < 100}
  - {name: pit, subjects: {users: ["*"]}, allow: [pit], when: 'request.address != "10.30.0.1" && device.os == "linux"'}
  - {name: not there, subjects: {users: ["*"]}, deny: [lab], when: 'request.address == "10.20.0.1"'}
`)
	list := s.Services(NewSubject(person("a@b.c"), Device{}), Request{})
	if err := (&wire.Services{Services: list}).Validate(); err != nil {
		t.Error(err)
	}
	if !list[0].Allowed || list[0].Zones[0] != "lab.corp.example" || list[1].Allowed || !strings.Contains(list[1].Reason, "device.os are unknown") {
		t.Errorf("%+v", list)
	}
	if list[2].Requestable != 4*time.Hour || list[2].Allowed || list[0].Requestable != 0 {
		t.Errorf("requestable: %+v", list[2])
	}
	for target, want := range map[string]bool{"10.20.0.2:22": true, "10.20.0.1:22": false, "10.20.0.2:443": false, "a.lab.corp.example:22": false} {
		target, _ := testTarget(target)
		if d := s.Decide(NewSubject(person("a@b.c"), Device{}), ask(target)); d.Allowed != want {
			t.Errorf("%s: %v %s", target, d.Allowed, d.Reason)
		}
	}
}

// What was decided without knowing something is decided the same with it, whatever it turns out to be.
func FuzzCondition(f *testing.F) {
	for text := range someConditions {
		f.Add(text, "linux", true)
	}
	f.Add(`user.groups.exists_one(g, g.startsWith(device.os)) || now.getHours("+02:00") > 3`, "b", false)
	f.Add(`cidr("10.0.0.0/8").containsIP(ip(request.client)) ? device.firewall : auth.amr.size() > 1`, "", true)
	f.Fuzz(func(t *testing.T, text, os string, yes bool) {
		env, err := newEnvironment()
		if err != nil {
			t.Fatal(err)
		}
		c, faults := env.compile(text)
		if (c == nil) == (len(faults) == 0) {
			t.Fatalf("neither a condition nor a fault: %v", faults)
		}
		if c == nil {
			return
		}
		id := person("ada@corp.example", "a", "b")
		tri := map[bool]Tri{true: Yes, false: No}[yes]
		eval := func(dev Device) result {
			set := &Set{}
			return c.eval(&activation{
				facts: set.factsOf(NewSubject(id, dev)), now: noon, client: netip.MustParseAddr("192.0.2.1"),
				at: netip.MustParseAddrPort("10.0.0.1:22"), service: "wiki", kind: "tcp",
			})
		}
		before, after := eval(Device{}), eval(Device{OS: os, DiskEncrypted: tri, Firewall: tri, HardwareKey: tri})
		if before.holds != Unknown && after.holds != before.holds && after.why != ConditionCost {
			t.Errorf("%s: %+v without the device, %+v with it", text, before, after)
		}
		if (before.holds == Yes) != (before.why == ConditionNone) {
			t.Errorf("%s: %+v", text, before)
		}
	})
}

// Whatever spells an address is refused or is the address, and has the decision of its one spelling.
func FuzzAddress(f *testing.F) {
	for _, a := range []string{"10.20.1.1", "::ffff:10.20.1.1", "64:ff9b::a14:101", "fe80::1%eth0", "127.0.0.1", "0x0a.0x14.1.1", "a.lab.corp.example", "10.20.1.1.", "::ffff:7f00:1"} {
		f.Add(a, uint16(22))
	}
	s, err := Load("policy.yaml", []byte(office), Options{})
	if err != nil {
		f.Fatal(err)
	}
	root := sub("root@corp.example", "operators")()
	f.Fuzz(func(t *testing.T, text string, port uint16) {
		d := s.Decide(root, ask(host(text, port)))
		checkExplained(t, s, d)
		if !d.Allowed || !d.Dial.Network {
			return
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Unmap().String() != d.Dial.Host {
			t.Fatalf("%q leads to %s (%v)", text, d.Dial.Host, err)
		}
		if what, special := SpecialRange(addr); special && !d.Dial.Literal {
			t.Errorf("%q is %s and allowed as %s", text, what, d.ServiceName())
		}
		if again := s.Decide(root, ask(host(d.Dial.Host, port))); !again.Allowed || again.Dial != d.Dial || again.Service != d.Service {
			t.Errorf("%q: %+v, and by its one spelling %+v", text, d, again)
		}
		if is := s.DecideAddr(root, ask(host(text, port)), d, netip.AddrPortFrom(addr, port)); !is.Allowed {
			t.Errorf("%q: %s", text, is.Reason)
		}
	})
}
