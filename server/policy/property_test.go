package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Small alphabets, so that rules, people and addresses meet.
var (
	someGroups    = []string{"a", "b", "c"}
	someEmails    = []string{"ada@x.y", "bob@x.y"}
	someSubjects  = []string{"s1", "s2"}
	someProviders = []string{"corp", "partner"}
	someTags      = []string{"t", "u"}
	someAddrs     = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "127.0.0.1", "169.254.169.254", "2001:db8::1", "64:ff9b::a00:1"}
	someNetworks  = []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.1/32", "127.0.0.1/32", "2001:db8::/32", "::/0"}
	somePorts     = []int{22, 80}
)

// drawPolicy writes a policy file for two providers.
func drawPolicy(t *rapid.T) string {
	var b strings.Builder
	b.WriteString("version: 1\nservices:\n")
	n := rapid.IntRange(1, 6).Draw(t, "services")
	refs := []string{"'*'"}
	for i := range n {
		kind := rapid.SampledFrom([]string{"tcp", "udp"}).Draw(t, "kind")
		port := rapid.SampledFrom(somePorts).Draw(t, "port")
		tag := rapid.SampledFrom(someTags).Draw(t, "tag")
		if !slices.Contains(refs, "'tag:"+tag+"'") {
			refs = append(refs, "'tag:"+tag+"'")
		}
		refs = append(refs, fmt.Sprintf("s%d", i))
		fmt.Fprintf(&b, "  s%d: {protocol: %s, tags: [%s], ", i, kind, tag)
		switch rapid.IntRange(0, 2).Draw(t, "form") {
		case 0:
			fmt.Fprintf(&b, "network: '%s', ports: [%d]}\n", rapid.SampledFrom(someNetworks).Draw(t, "network"), port)
		case 1:
			addr := netip.AddrPortFrom(netip.MustParseAddr(rapid.SampledFrom(someAddrs).Draw(t, "address")), uint16(port))
			fmt.Fprintf(&b, "address: '%s', hostnames: [h%d.x]}\n", addr, i)
		default:
			fmt.Fprintf(&b, "address: 'n%d.internal:%d', hostnames: [h%d.x]}\n", rapid.IntRange(0, 1).Draw(t, "name"), port, i)
		}
	}
	b.WriteString("rules:\n")
	for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
		drawRule(t, &b, i, refs)
	}
	return b.String()
}

func drawRule(t *rapid.T, b *strings.Builder, i int, refs []string) {
	provider := func() string { return rapid.SampledFrom(someProviders).Draw(t, "provider") }
	var groups, users []string
	for _, g := range rapid.SliceOfNDistinct(rapid.SampledFrom(someGroups), 0, 2, rapid.ID).Draw(t, "groups") {
		groups = append(groups, provider()+"/"+g)
	}
	switch rapid.IntRange(0, 4).Draw(t, "user form") {
	case 0:
		users = append(users, "'"+provider()+":"+rapid.SampledFrom(someEmails).Draw(t, "e-mail")+"'")
	case 1:
		users = append(users, "'"+provider()+":sub:"+rapid.SampledFrom(someSubjects).Draw(t, "subject")+"'")
	case 2:
		users = append(users, "'"+provider()+":*'")
	}
	if len(groups)+len(users) == 0 {
		users = []string{"'*'"}
	}
	list := rapid.SliceOfNDistinct(rapid.SampledFrom(refs), 1, 3, rapid.ID).Draw(t, "refs")
	effect := rapid.SampledFrom([]string{"allow", "deny"}).Draw(t, "effect")
	fmt.Fprintf(b, "  - {name: r%d, subjects: {groups: [%s], users: [%s]}, %s: [%s]}\n",
		i, strings.Join(groups, ", "), strings.Join(users, ", "), effect, strings.Join(list, ", "))
}

func drawIdentity(t *rapid.T) auth.Identity {
	id := auth.Identity{
		Provider: rapid.SampledFrom(someProviders).Draw(t, "of provider"),
		Subject:  rapid.SampledFrom(append(someSubjects, "s3")).Draw(t, "has subject"),
		Email:    rapid.SampledFrom(append(someEmails, "", "ADA@x.y")).Draw(t, "has e-mail"),
	}
	id.EmailTrusted = id.Email != "" && rapid.Bool().Draw(t, "trusted")
	if id.GroupsKnown = rapid.Bool().Draw(t, "groups known"); id.GroupsKnown {
		id.Groups = rapid.SliceOfNDistinct(rapid.SampledFrom(someGroups), 0, 3, rapid.ID).Draw(t, "has groups")
	}
	return id
}

// naive decides by reading the rules as a person would, one after the other. learned is what names resolved to.
type naive struct {
	doc     *Document
	learned map[string]netip.Addr
}

// matches says whether a rule is about somebody, for its allows and for its denies.
func (n naive) matches(r *Rule, id auth.Identity) (allow, deny bool) {
	for _, g := range r.Groups {
		provider, name, _ := strings.Cut(g.Text, "/")
		if provider != id.Provider {
			continue
		}
		if !id.GroupsKnown {
			deny = true
		} else if slices.Contains(id.Groups, name) {
			allow, deny = true, true
		}
	}
	for _, u := range r.Users {
		if u.Provider != "" && u.Provider != id.Provider {
			continue
		}
		switch {
		case u.Everyone, u.Subject != "" && u.Subject == id.Subject:
			allow, deny = true, true
		case u.Email != "" && !id.EmailTrusted:
			deny = true
		case u.Email != "" && u.Email == strings.ToLower(id.Email):
			allow, deny = true, true
		}
	}
	return allow, deny
}

func covers(refs []Ref, s *Service) bool {
	return slices.ContainsFunc(refs, func(r Ref) bool {
		tag, isTag := strings.CutPrefix(r.Text, "tag:")
		return r.Text == "*" || r.Text == s.Name || isTag && slices.Contains(s.Tags, tag)
	})
}

// verdict returns whether some rule allows and some rule denies a service.
func (n naive) verdict(id auth.Identity, s *Service) (allowed, denied bool) {
	for _, r := range n.doc.Rules {
		allow, deny := n.matches(r, id)
		allowed = allowed || allow && covers(r.Allow, s)
		denied = denied || deny && covers(r.Deny, s)
	}
	return allowed, denied
}

func (n naive) name(id auth.Identity, s *Service) bool {
	allowed, denied := n.verdict(id, s)
	return allowed && !denied
}

func (n naive) addr(id auth.Identity, kind wire.Kind, addr netip.Addr, port uint16) bool {
	_, special := SpecialRange(addr)
	any := false
	for _, s := range n.doc.Services {
		var in bool
		switch {
		case s.Kind != kind:
		case s.IsNetwork():
			in = s.Network.Contains(addr) && s.Ports[0].Contains(port) && (!special || s.Network.IsSingleIP())
		case s.Addr.IsValid():
			in = s.Addr == addr && s.HostPort == port
		default:
			in = n.learned[s.Host] == addr && s.HostPort == port && !special
		}
		if !in {
			continue
		}
		allowed, denied := n.verdict(id, s)
		if denied {
			return false
		}
		any = any || allowed
	}
	return any
}

// resolved says whether a service that is allowed by name may be dialed at addr.
func (n naive) resolved(id auth.Identity, asked *Service, addr netip.Addr) bool {
	_, special := SpecialRange(addr)
	if special && asked.Addr != addr || asked.Addr.IsValid() && asked.Addr != addr {
		return false
	}
	for _, s := range n.doc.Services {
		if s.IsNetwork() && s.Kind == asked.Kind && s.Network.Contains(addr) && s.Ports[0].Contains(asked.HostPort) {
			if _, denied := n.verdict(id, s); denied {
				return false
			}
		}
	}
	return true
}

func TestDecideEqualsTheNaiveReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawPolicy(t)
		set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		ref := naive{set.Document(), map[string]netip.Addr{}}
		for _, h := range set.Hosts() {
			ref.learned[h] = netip.MustParseAddr(rapid.SampledFrom(someAddrs).Draw(t, "learned"))
			set.Learn(h, []netip.Addr{ref.learned[h]})
		}
		id := drawIdentity(t)
		compareAll(t, set, ref, id, text)
	})
}

func compareAll(t *rapid.T, set *Set, ref naive, id auth.Identity, text string) {
	subject := NewSubject(id, Device{})
	check := func(what string, got Decision, want bool) {
		if got.Allowed != want {
			t.Fatalf("%s: got %v (%s %s), want %v\nfor %+v\n%s", what, got.Allowed, got.Rule, got.Reason, want, id, text)
		}
	}
	for _, s := range set.Document().Services {
		if s.IsNetwork() {
			continue
		}
		d := set.Decide(subject, ask(wire.ServiceTarget(s.Kind, s.Name)))
		check(s.Name, d, ref.name(id, s))
		check(s.Name+" by host name", set.Decide(subject, ask(wire.HostTarget(s.Kind, s.Hostnames[0], s.Port))), ref.name(id, s))
		for _, a := range someAddrs {
			addr := netip.MustParseAddr(a)
			again := set.DecideAddr(subject, Request{}, d, netip.AddrPortFrom(addr, s.HostPort))
			check(s.Name+" at "+a, again, d.Allowed && ref.resolved(id, s, addr))
		}
	}
	for _, a := range someAddrs {
		for _, port := range somePorts {
			for _, kind := range []wire.Kind{wire.KindTCP, wire.KindUDP} {
				target := wire.HostTarget(kind, a, uint16(port))
				check(target.String(), set.Decide(subject, ask(target)), ref.addr(id, kind, netip.MustParseAddr(a), uint16(port)))
			}
		}
	}
}

func TestCanonicalHostIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		once, err := canonicalHost(rapid.String().Draw(t, "host"))
		if err != nil {
			return
		}
		if twice, err := canonicalHost(once); err != nil || twice != once {
			t.Fatalf("%q becomes %q, %v", once, twice, err)
		}
		if _, err := netip.ParseAddr(once); err == nil {
			t.Fatalf("%q is an address", once)
		}
	})
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"wiki.corp.example", "WIKI.", "xn--bcher-kva.example", "0x7f.1", "１.２.３.４", "a\u3002b", "ß.de"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		once, err := canonicalHost(in)
		if err != nil {
			return
		}
		if strings.Trim(once, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || len(once) > maxHostLen {
			t.Errorf("%q becomes %q", in, once)
		}
		if twice, err := canonicalHost(once); err != nil || twice != once {
			t.Errorf("%q becomes %q, then %q, %v", in, once, twice, err)
		}
	})
}
