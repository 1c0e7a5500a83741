package policy

import (
	"net/netip"
	"testing"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// everythingTo allows everything to operators, by networks that contain every address.
func everythingTo(t *testing.T) (*Set, *Subject) {
	s := mustLoad(t, office, "corp")
	return s, sub("root@corp.example", "operators")()
}

// Class: IPv4-mapped, NAT64, zones (Go CVE-2024-24790, CVE-2025-22870).
func TestThreatAddressSpellings(t *testing.T) {
	s, root := everythingTo(t)
	d := s.Decide(root, ask(host("::ffff:10.20.1.1", 22)))
	if !d.Allowed || d.Dial.Host != "10.20.1.1" || d.ServiceName() != "lab" {
		t.Errorf("::ffff:10.20.1.1 is not 10.20.1.1: %+v", d)
	}
	contractor := sub("c@corp.example", "operators", "contractors")()
	if d := s.Decide(contractor, ask(host("::ffff:10.20.1.1", 22))); d.Allowed || d.Rule != "contractors" {
		t.Errorf("a mapped spelling escapes the deny: %+v", d)
	}
	for _, a := range []string{
		"64:ff9b::a9fe:a9fe", "64:ff9b::10.20.1.1", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001::1", "::10.20.1.1",
		"::ffff:0:10.20.1.1", "fe80::1%eth0", "10.20.1.1%eth0", "::1%lo", "2001:db8:20::7%1", "fe80::1", "::ffff:169.254.169.254",
	} {
		if d := s.Decide(root, ask(host(a, 22))); d.Allowed {
			t.Errorf("%s is allowed as %s", a, d.ServiceName())
		}
	}
}

// Class: odd spellings.
func TestThreatOddSpellings(t *testing.T) {
	s, root := everythingTo(t)
	for _, h := range []string{
		"0177.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "127.1", "127.0.0.1.", "10.20.1.1.", "010.020.001.001", "1.2.3.4.5", "１２７.0.0.1", "①②⑦.0.0.1",
		"[10.20.1.1]", "[::1]", "10.20.1.1:22", "wiki.corp.example\x00", "wiki.corp.example\x00.evil", "wiki corp.example", "wiki.corp.example ",
		"wiki.corp.example..", ".wiki.corp.example", "wiki..corp.example", "-wiki.corp.example", "wi_ki.corp.example", "xn--.corp.example", "xn--a.corp.example",
		"wiki.corp.example/..", "wiki.corp.example#", "user@wiki.corp.example", "wiki%2ecorp.example", "\u202ewiki.corp.example", "wiki\u200b.corp.example", "*.corp.example", "",
	} {
		d := s.Decide(root, ask(host(h, 80)))
		if d.Allowed {
			t.Errorf("%q is allowed as %s, dialed as %s", h, d.ServiceName(), d.Dial.Host)
		}
		checkExplained(t, s, d)
	}
	for _, h := range []string{"WIKI.CORP.EXAMPLE", "wiki.corp.example.", "ｗｉｋｉ.corp.example", "wiki。corp.example"} {
		if d := s.Decide(root, ask(host(h, 80))); !d.Allowed || d.ServiceName() != "wiki" || d.Dial.Host != "wiki.internal" {
			t.Errorf("%q has another decision than its canonical form: %+v", h, d)
		}
	}
}

// Class: SSRF through the gateway (Teleport GHSA-hw4x): an "any" rule does not open what is special.
func TestThreatAnyRuleOpensNothingSpecial(t *testing.T) {
	s, root := everythingTo(t)
	special := []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
		"224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "ff02::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
	}
	for _, a := range special {
		d := s.Decide(root, ask(host(a, 80)))
		if d.Allowed || d.Condition != ConditionSpecialAddress {
			t.Errorf("%s: %+v", a, d)
		}
		named := s.Decide(root, ask(service("wiki")))
		if d := s.DecideAddr(root, Request{}, named, netip.AddrPortFrom(netip.MustParseAddr(a), 8080)); d.Allowed {
			t.Errorf("wiki may resolve to %s", a)
		}
	}
	if d := s.Decide(root, ask(host("10.99.0.1", 80))); !d.Allowed {
		t.Errorf("an ordinary address: %s", d.Reason)
	}
}

// Class: rebinding at the gateway (Vault CVE-2026-5052): a name that flips to a denied address.
func TestThreatRebindingIsDecidedAgain(t *testing.T) {
	s := mustLoad(t, office, "corp")
	contractor := sub("c@corp.example", "contractors")()
	d := s.Decide(contractor, ask(service("wiki")))
	if !d.Allowed {
		t.Fatal(d.Reason)
	}
	if d := s.DecideAddr(contractor, Request{}, d, netip.MustParseAddrPort("10.20.1.1:8080")); d.Allowed || d.Rule != "contractors" || d.ServiceName() != "wiki" {
		t.Errorf("a name leads into a denied network: %+v", d)
	}
}

// An address that is known as a named service is decided as that service too, so that a deny of the
// service cannot be walked around by its address.
func TestThreatAddressOfADeniedService(t *testing.T) {
	s := mustLoad(t, `version: 1
services:
  payroll: {address: "payroll.internal:443"}
  vault: {address: "10.20.1.9:443"}
  lab: {network: 10.20.0.0/16, ports: [443]}
rules:
  - {name: all, subjects: {users: ["*"]}, allow: ["*"]}
  - {name: not these, subjects: {users: ["*"]}, deny: [payroll, vault]}
`)
	s.Learn("payroll.internal", []netip.Addr{netip.MustParseAddr("10.20.1.8")})
	ada := sub("ada@corp.example")()
	for a, want := range map[string]bool{"10.20.1.8": false, "10.20.1.9": false, "::ffff:10.20.1.9": false, "10.20.1.10": true} {
		if d := s.Decide(ada, ask(host(a, 443))); d.Allowed != want {
			t.Errorf("%s: %+v", a, d)
		}
	}
}

// Whoever is denied by e-mail address must not come by with a token that has none (the client chooses the scopes of its login), or with
// another one that nobody vouches for: a deny that cannot be decided matches.
func TestThreatDenyByEmailIsNotEvaded(t *testing.T) {
	s := mustLoad(t, office, "corp")
	for name, email := range map[string]string{"no address": "", "another one, not trusted": "somebody@corp.example"} {
		id := person("mallory@corp.example", "operators")
		id.Email, id.EmailTrusted = email, false
		if d := s.Decide(NewSubject(id, Device{}), ask(service("wiki"))); d.Allowed || d.Condition != ConditionEmailUntrusted || d.Rule != "mallory" {
			t.Errorf("%s: %+v", name, d)
		}
	}
	several := mustLoad(t, `version: 1
services:
  wiki: {address: "wiki.internal:8080"}
rules:
  - {name: staff, subjects: {users: ["*"]}, allow: [wiki]}
  - {name: mallory, subjects: {users: ["corp:mallory@corp.example"]}, deny: [wiki]}
`, "corp", "partner")
	partner := person("")
	partner.Provider = "partner"
	if d := several.Decide(NewSubject(partner, Device{}), ask(service("wiki"))); !d.Allowed {
		t.Errorf("a deny of another provider's address: %+v", d)
	}
}

// Class: e-mail as identity (headscale 0.24) and domain parsing (Coder CVE-2024-27918).
func TestThreatEmailIsNotParsed(t *testing.T) {
	s := mustLoad(t, office, "corp")
	for _, email := range []string{
		"ada@evil@corp.example", "ada@corp.example@evil.example", "ada@corp.example ", " ada@corp.example", "ada@corp.example.", "ada@CORP\u200b.example",
		"ada@evilcorp.example", "ada+x@corp.example", "ad\u0430@corp.example", "ada@\u212aorp.example", "", "@corp.example", "*",
	} {
		id := person(email)
		id.EmailTrusted = true
		if d := s.Decide(NewSubject(id, Device{}), ask(service("payroll"))); d.Allowed {
			t.Errorf("%q counts as ada", email)
		}
	}
	kelvin := mustLoad(t, "version: 1\nservices: {wiki: {address: 'a.b:1'}}\nrules: [{name: r, subjects: {users: [kim@corp.example]}, allow: [wiki]}]\n")
	id := person("\u212aim@corp.example")
	if kelvin.Decide(NewSubject(id, Device{}), ask(service("wiki"))).Allowed {
		t.Error("the Kelvin sign counts as a k")
	}
}

// Class: identity from a message (OpenZiti GHSA-7868): a kind of stream that is not known.
func TestThreatUnknownStreamKind(t *testing.T) {
	s, root := everythingTo(t)
	for _, k := range []wire.Kind{"", "TCP", "icmp", "tcp\x00", "unix"} {
		for _, target := range []wire.Target{{Kind: k, Service: "wiki"}, {Kind: k, Host: "10.20.1.1", Port: 22}, {Kind: k, Host: "wiki.corp.example", Port: 80}} {
			if d := s.Decide(root, ask(target)); d.Allowed {
				t.Errorf("kind %q is allowed", k)
			}
		}
	}
}
