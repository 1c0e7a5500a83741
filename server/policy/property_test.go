package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

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

// drawPolicy writes a policy file for two providers, without conditions.
func drawPolicy(t *rapid.T) string { return drawPolicyWith(t, false) }

func drawPolicyWith(t *rapid.T, conditions bool) string {
	visibility := []string{""}
	if conditions {
		visibility = append(visibility, "hidden: true, ", "requestable: {max: 4h}, ")
	}
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
		fmt.Fprintf(&b, "  s%d: {protocol: %s, tags: [%s], %s", i, kind, tag,
			rapid.SampledFrom(visibility).Draw(t, "visibility"))
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
		drawRule(t, &b, i, refs, conditions)
	}
	return b.String()
}

func drawRule(t *rapid.T, b *strings.Builder, i int, refs []string, conditions bool) {
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
	terms := ""
	if conditions {
		terms = drawKeys(t, effect)
	}
	fmt.Fprintf(b, "  - {name: r%d, subjects: {groups: [%s], users: [%s]}, %s: [%s]%s}\n",
		i, strings.Join(groups, ", "), strings.Join(users, ", "), effect, strings.Join(list, ", "), terms)
}

// drawKeys writes what a rule asks for besides its subjects.
func drawKeys(t *rapid.T, effect string) string {
	var b strings.Builder
	if rapid.Bool().Draw(t, "conditional") {
		texts := slices.Sorted(maps.Keys(someConditions))
		fmt.Fprintf(&b, ", when: '%s'", rapid.SampledFrom(texts).Draw(t, "when"))
	}
	switch rapid.IntRange(0, 5).Draw(t, "window") {
	case 0:
		b.WriteString(", not_before: 2026-12-01T12:00:00Z")
	case 1:
		b.WriteString(", expires: 2026-12-01T13:00:00+01:00")
	case 2:
		b.WriteString(", not_before: 2026-12-01T11:00:00Z, expires: 2026-12-01T13:00:00Z")
	}
	if effect == "deny" {
		return b.String()
	}
	switch rapid.IntRange(0, 4).Draw(t, "more") {
	case 0:
		b.WriteString(", reauth_within: 15m")
	case 1:
		b.WriteString(", strict: true")
	}
	return b.String()
}

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// A scene is everything that a condition can ask for, as the naive evaluator sees it.
type scene struct {
	id      auth.Identity
	dev     Device
	r       Request
	service string
	at      netip.AddrPort
}

func (s scene) age() (time.Duration, bool) {
	return s.r.Now.Sub(s.id.AuthTime), !s.id.AuthTime.IsZero()
}

func is(known, value bool) Tri {
	switch {
	case !known:
		return Unknown
	case value:
		return Yes
	}
	return No
}

func not(t Tri) Tri { return map[Tri]Tri{Yes: No, No: Yes}[t] }

func both(a, b Tri) Tri {
	switch {
	case a == No || b == No:
		return No
	case a == Yes && b == Yes:
		return Yes
	}
	return Unknown
}

// someConditions are conditions in CEL and what they mean, written by hand.
var someConditions = map[string]func(scene) Tri{
	`device.os == "linux"`:  func(s scene) Tri { return is(s.dev.OS != "", s.dev.OS == "linux") },
	`device.disk_encrypted`: func(s scene) Tri { return s.dev.DiskEncrypted },
	`!device.firewall`:      func(s scene) Tri { return not(s.dev.Firewall) },
	`device.os == "linux" && device.disk_encrypted`: func(s scene) Tri {
		return both(is(s.dev.OS != "", s.dev.OS == "linux"), s.dev.DiskEncrypted)
	},
	`device.disk_encrypted || device.firewall`: func(s scene) Tri {
		return not(both(not(s.dev.DiskEncrypted), not(s.dev.Firewall)))
	},
	`(device.disk_encrypted || auth.acr == "mfa") && !(device.os == "linux" && device.firewall)`: func(s scene) Tri {
		left := not(both(not(s.dev.DiskEncrypted), not(is(s.id.ACR != "", s.id.ACR == "mfa"))))
		return both(left, not(both(is(s.dev.OS != "", s.dev.OS == "linux"), s.dev.Firewall)))
	},
	`auth.age < duration("1h")`: func(s scene) Tri { age, known := s.age(); return is(known, age < time.Hour) },
	`"corp/a" in user.groups`: func(s scene) Tri {
		return is(s.id.GroupsKnown, s.id.Provider == "corp" && slices.Contains(s.id.Groups, "a"))
	},
	`user.email == "ada@x.y"`: func(s scene) Tri {
		return is(s.id.EmailTrusted && s.id.Email != "", strings.EqualFold(s.id.Email, "ada@x.y"))
	},
	`request.port == 22`:      func(s scene) Tri { return is(s.at.Port() != 0, s.at.Port() == 22) },
	`request.service == "s0"`: func(s scene) Tri { return is(true, s.service == "s0") },
	`request.kind == "udp"`:   func(s scene) Tri { return is(true, s.r.Target.Kind == wire.KindUDP) },
	`cidr("10.0.0.0/24").containsIP(request.address)`: func(s scene) Tri {
		return is(s.at.Addr().IsValid(), netip.MustParsePrefix("10.0.0.0/24").Contains(s.at.Addr()))
	},
	`request.client == "192.0.2.1"`:           func(s scene) Tri { return is(s.r.Client.IsValid(), s.r.Client.String() == "192.0.2.1") },
	`now < timestamp("2026-12-01T12:00:00Z")`: func(s scene) Tri { return is(true, s.r.Now.Before(noon)) },
	`now.getHours("Europe/Berlin") == 13`:     func(s scene) Tri { return is(true, s.r.Now.UTC().Hour() == 12) },
	// An error where the port is 22.
	`1 / (request.port - 22) == 0`: func(s scene) Tri { return is(s.at.Port() != 0 && s.at.Port() != 22, true) },
	// An error that does not matter where the device says yes.
	`device.disk_encrypted || 1 / (request.port - 22) == 1`: func(s scene) Tri {
		return not(both(not(s.dev.DiskEncrypted), not(is(s.at.Port() != 0 && s.at.Port() != 22, false))))
	},
}

func drawScene(t *rapid.T) scene {
	s := scene{id: drawIdentity(t)}
	tri := func(what string) Tri { return rapid.SampledFrom([]Tri{Unknown, Yes, No}).Draw(t, what) }
	s.dev = Device{
		OS:            rapid.SampledFrom([]string{"", "linux", "windows"}).Draw(t, "os"),
		DiskEncrypted: tri("disk"), Firewall: tri("firewall"),
	}
	s.id.ACR = rapid.SampledFrom([]string{"", "mfa", "pwd"}).Draw(t, "acr")
	s.r = Request{
		Now:     noon.Add(rapid.SampledFrom([]time.Duration{-2 * time.Hour, -time.Second, 0, time.Second, 2 * time.Hour}).Draw(t, "now")),
		Opening: rapid.Bool().Draw(t, "opening"), Stale: rapid.Bool().Draw(t, "stale"),
	}
	if rapid.Bool().Draw(t, "client known") {
		s.r.Client = netip.MustParseAddr(rapid.SampledFrom([]string{"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"}).Draw(t, "client"))
		s.r.Client = s.r.Client.Unmap()
	}
	if age := rapid.SampledFrom([]time.Duration{0, time.Minute, 15 * time.Minute, 16 * time.Minute, 2 * time.Hour}).Draw(t, "age"); age != 0 {
		s.id.AuthTime = s.r.Now.Add(-age)
	}
	return s
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
	granted map[string]time.Time
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

// inForce reads a rule's times.
func inForce(r *Rule, now time.Time) bool {
	return !now.Before(r.NotBefore) && (r.Expires.IsZero() || now.Before(r.Expires))
}

// verdict returns what the rules say of a service: nothing, or any of allow, step_up and deny.
func (n naive) verdict(s scene, svc *Service) (allowed, stepUp, denied bool) {
	s.service = svc.Name
	for _, r := range n.doc.Rules {
		allow, deny := n.matches(r, s.id)
		when := Yes
		if r.When != "" {
			when = someConditions[r.When](s)
		}
		if !inForce(r, s.r.Now) || when == No {
			continue
		}
		denied = denied || deny && covers(r.Deny, svc)
		if !allow || when != Yes || !covers(r.Allow, svc) || r.Strict && s.r.Stale {
			continue
		}
		if age, known := s.age(); r.ReauthWithin != 0 && s.r.Opening && (!known || age > r.ReauthWithin) {
			stepUp = true
		} else {
			allowed = true
		}
	}
	if svc.Requestable != nil && s.r.Now.Before(n.granted[svc.Name]) {
		allowed = true
	}
	return allowed, stepUp, denied
}

func answer(allowed, stepUp, denied bool) Expectation {
	switch {
	case denied || !allowed && !stepUp:
		return ExpectDeny
	case allowed:
		return ExpectAllow
	}
	return ExpectStepUp
}

func (n naive) name(s scene, svc *Service) Expectation {
	s.at = netip.AddrPortFrom(svc.Addr, svc.HostPort)
	return answer(n.verdict(s, svc))
}

func (n naive) addr(s scene, addr netip.Addr, port uint16) Expectation {
	_, special := SpecialRange(addr)
	var allowed, stepUp, denied bool
	s.at = netip.AddrPortFrom(addr, port)
	for _, svc := range n.doc.Services {
		var in bool
		switch {
		case svc.Kind != s.r.Target.Kind:
		case svc.IsNetwork():
			in = svc.Network.Contains(addr) && svc.Ports[0].Contains(port) && (!special || svc.Network.IsSingleIP())
		case svc.Addr.IsValid():
			in = svc.Addr == addr && svc.HostPort == port
		default:
			in = n.learned[svc.Host] == addr && svc.HostPort == port && !special
		}
		if in {
			a, u, d := n.verdict(s, svc)
			allowed, stepUp, denied = allowed || a, stepUp || u, denied || d
		}
	}
	return answer(allowed, stepUp, denied)
}

// resolved says whether a service that is allowed by name may be dialed at addr.
func (n naive) resolved(s scene, asked *Service, addr netip.Addr) bool {
	_, special := SpecialRange(addr)
	if special && asked.Addr != addr || asked.Addr.IsValid() && asked.Addr != addr {
		return false
	}
	s.at = netip.AddrPortFrom(addr, asked.HostPort)
	for _, svc := range n.doc.Services {
		if svc.IsNetwork() && svc.Kind == asked.Kind && svc.Network.Contains(addr) && svc.Ports[0].Contains(asked.HostPort) {
			if _, _, denied := n.verdict(s, svc); denied {
				return false
			}
		}
	}
	return true
}

func TestDecideEqualsTheNaiveReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, grants := drawPolicyWith(t, true), NewGrants()
		set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders, Grants: grants})
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		ref := naive{set.Document(), map[string]netip.Addr{}, map[string]time.Time{}}
		for _, h := range set.Hosts() {
			ref.learned[h] = netip.MustParseAddr(rapid.SampledFrom(someAddrs).Draw(t, "learned"))
			set.Learn(h, []netip.Addr{ref.learned[h]})
		}
		s := drawScene(t)
		if rapid.Bool().Draw(t, "grant") {
			g := Grant{ID: "g", User: s.id.UserID(), Service: "s0", Until: noon.Add(time.Duration(rapid.IntRange(-1, 3).Draw(t, "until")) * time.Hour)}
			grants.Replace([]Grant{g, {ID: "other", User: "other", Service: "s1", Until: noon.Add(time.Hour)}})
			ref.granted[g.Service] = g.Until
		}
		compareAll(t, set, ref, s, text)
	})
}

func compareAll(t *rapid.T, set *Set, ref naive, s scene, text string) {
	subject := NewSubject(s.id, s.dev)
	decide := func(target wire.Target) (Decision, scene) {
		s.r.Target = target
		return set.Decide(subject, s.r), s
	}
	check := func(what string, got Decision, want Expectation) {
		if expectationOf(got) != want {
			t.Fatalf("%s: got %s (%s %s), want %s\nfor %+v\n%s", what, expectationOf(got), got.Rule, got.Reason, want, s, text)
		}
		checkForm(t, got)
	}
	for _, svc := range set.Document().Services {
		if svc.IsNetwork() {
			continue
		}
		d, s := decide(wire.ServiceTarget(svc.Kind, svc.Name))
		check(svc.Name, d, ref.name(s, svc))
		if refused := expectationOf(d) == ExpectDeny && svc.Hidden; refused != (d.Hidden != nil) || refused && d.Service != nil {
			t.Fatalf("a hidden service: %+v", d)
		}
		checkUntil(t, set, subject, s.r, d, text)
		byHost, _ := decide(wire.HostTarget(svc.Kind, svc.Hostnames[0], svc.Port))
		check(svc.Name+" by host name", byHost, ref.name(s, svc))
		for _, a := range someAddrs {
			addr := netip.MustParseAddr(a)
			if again := set.DecideAddr(subject, s.r, d, netip.AddrPortFrom(addr, svc.HostPort)); again.Allowed != (d.Allowed && ref.resolved(s, svc, addr)) {
				t.Fatalf("%s at %s: %+v\nfor %+v\n%s", svc.Name, a, again, s, text)
			}
		}
	}
	for _, a := range someAddrs {
		for _, port := range somePorts {
			for _, kind := range []wire.Kind{wire.KindTCP, wire.KindUDP} {
				target := wire.HostTarget(kind, a, uint16(port))
				d, s := decide(target)
				check(target.String(), d, ref.addr(s, netip.MustParseAddr(a), uint16(port)))
				checkUntil(t, set, subject, s.r, d, text)
			}
		}
	}
}

// checkForm holds what each decision owes whoever reads it.
func checkForm(t *rapid.T, d Decision) {
	switch {
	case d.Allowed != (d.Code == wire.CodeOK), (d.StepUp != nil) != (d.Code == wire.CodeStepUpRequired),
		d.Allowed && (d.Rule == "" || (d.Grant != "") != (d.Rule == "request "+d.Grant)),
		!d.Allowed && (d.Reason == "" || d.Remedy == "" || d.Condition == ConditionNone):
		t.Fatalf("an inconsistent decision: %+v", d)
	}
}

// checkUntil holds that time alone changes nothing before the moment that the decision names. A condition on the clock may
// change its mind before, and has the short bound for it.
func checkUntil(t *rapid.T, set *Set, sub *Subject, r Request, d Decision, text string) {
	r.Opening = false
	before := set.Decide(sub, r)
	span := 8 * time.Hour
	if !before.Until.IsZero() {
		span = before.Until.Sub(r.Now) - 1
	}
	if span < 0 {
		t.Fatalf("until %s, and it is %s", before.Until, r.Now)
	}
	if strings.Contains(text, "now") || strings.Contains(text, "auth.age") {
		return
	}
	later := r
	later.Now = r.Now.Add(time.Duration(rapid.Int64Range(0, int64(span)).Draw(t, "later")))
	if after := set.Decide(sub, later); after.Allowed != before.Allowed {
		t.Fatalf("%s at %s, until %s; at %s %s (%s)\n%s", expectationOf(before), r.Now, before.Until, later.Now, expectationOf(after), after.Reason, text)
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
