package policy

import (
	"encoding/binary"
	"slices"
	"sync/atomic"

	"github.com/culvert-vpn/culvert/auth"
)

// A Subject is an identity on a device, as the policy sees it. Make one per session, and a new one when a renewal
// changes the identity or the client tells something new of the device; it adapts itself to a new policy. It is
// safe for concurrent use. A nil Subject is nobody and is allowed nothing.
type Subject struct {
	id    auth.Identity
	user  auth.UserID
	dev   Device
	email string // ASCII letters in lower case
	seen  atomic.Pointer[sight]
}

// NewSubject returns the subject for a verified identity and what its client says of the device.
func NewSubject(id auth.Identity, dev Device) *Subject {
	id.Groups = slices.Clone(id.Groups)
	return &Subject{id: id, user: id.UserID(), dev: dev, email: lowerASCII(id.Email)}
}

// Identity returns the identity; its slices are read-only. That of a nil Subject is the zero Identity.
func (sub *Subject) Identity() auth.Identity {
	if sub == nil {
		return auth.Identity{}
	}
	return sub.id
}

// A sight is one subject's view of one policy, with what conditions ask of the subject.
type sight struct {
	set   *Set
	view  *view
	facts atomic.Pointer[facts] // made at the first condition
}

func (s *sight) factsOf(set *Set, sub *Subject) *facts {
	if f := s.facts.Load(); f != nil {
		return f
	}
	f := set.factsOf(sub)
	s.facts.Store(f)
	return f
}

// A view is a policy seen by the subjects whom the same rules match: a verdict for each service. It never changes.
type view struct {
	verdicts []verdict
	// candidates are the rules that still have a say, by service: denies first, certain before doubtful ones, then allows,
	// each in the file's order.
	candidates    map[int32][]candidate
	groupsUnknown bool // the provider did not say which groups
	emailIgnored  bool // a rule would allow by the e-mail address, but it is not trusted
}

// A verdict is the rule that decides and how it does: rule<<4 | conditional | kind. Zero: no rule.
type verdict uint32

const (
	verdictNone      verdict = iota
	verdictAllow             // an allow matched
	verdictStepUp            // an allow matches after a fresh login
	verdictGranted           // an approved request
	verdictDeny              // a deny matched
	verdictDenyGroup         // a deny by group, and the groups are unknown
	verdictDenyEmail         // a deny by an e-mail address, and theirs is not trusted

	conditional verdict = 8 // in a view: there are candidates besides
)

// A candidate is a rule whose subjects match; whether it applies depends on its conditions.
type candidate = verdict

func newVerdict(rule int32, kind verdict) verdict { return verdict(rule)<<4 | kind }

func (v verdict) kind() verdict { return v & 7 }
func (v verdict) rule() int     { return int(v >> 4) }
func (v verdict) denies() bool  { return v.kind() >= verdictDeny }
func (v verdict) allows() bool  { return v.kind() == verdictAllow || v.kind() == verdictGranted }

// A match lists the rules that apply to a subject, by ascending index.
type match struct {
	certain []int32 // they match
	byGroup []int32 // their denies apply because the groups are unknown
	byEmail []int32 // their denies apply because the e-mail address is not trusted
	ignored []int32 // they name the e-mail address, which is not trusted
}

// see returns what the subject sees of this policy, made at its first use.
func (s *Set) see(sub *Subject) *sight {
	if sub == nil {
		return s.nobody
	}
	if seen := sub.seen.Load(); seen != nil && seen.set == s {
		return seen
	}
	m := s.match(sub)
	build := func() *view { return s.buildView(m, !sub.id.GroupsKnown) }
	seen := &sight{set: s, view: s.views.share(m.key(!sub.id.GroupsKnown), build)}
	sub.seen.Store(seen)
	return seen
}

func (s *Set) match(sub *Subject) match {
	var m match
	p := sub.id.Provider
	add := func(list *[]int32, found []int32) { *list = append(*list, found...) }
	add(&m.certain, s.everyone[""])
	add(&m.certain, s.byUser[userKey{"", true, sub.id.Subject}])
	if p != "" {
		add(&m.certain, s.everyone[p])
		add(&m.certain, s.byUser[userKey{p, true, sub.id.Subject}])
	}
	s.matchEmail(sub, &m)
	s.matchGroups(sub, &m)
	for _, list := range []*[]int32{&m.certain, &m.byGroup, &m.byEmail, &m.ignored} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return m
}

// matchEmail: whoever shows no address, or one that nobody vouches for, may be anybody whom a deny names. (The client chooses the
// scopes of its login, so an address can be left out at will.)
func (s *Set) matchEmail(sub *Subject, m *match) {
	p := sub.id.Provider
	var named []int32
	if sub.email != "" {
		named = append(slices.Clone(s.byUser[userKey{"", false, sub.email}]), s.byUser[userKey{p, false, sub.email}]...)
	}
	if sub.id.EmailTrusted {
		m.certain = append(m.certain, named...)
		return
	}
	m.ignored = named
	m.byEmail = append(slices.Clone(s.emailDeny[""]), s.emailDeny[p]...)
}

func (s *Set) matchGroups(sub *Subject, m *match) {
	p := sub.id.Provider
	if !sub.id.GroupsKnown {
		m.byGroup = append(slices.Clone(s.groupDeny[""]), s.groupDeny[p]...)
		return
	}
	for _, g := range sub.id.Groups {
		m.certain = append(m.certain, s.byGroup[groupKey{"", g}]...)
		if p != "" {
			m.certain = append(m.certain, s.byGroup[groupKey{p, g}]...)
		}
	}
}

// key identifies the view that a match leads to.
func (m match) key(groupsUnknown bool) string {
	n := len(m.certain) + len(m.byGroup) + len(m.byEmail) + len(m.ignored) + 4
	b := make([]byte, 0, 4*n)
	for _, list := range [][]int32{m.certain, m.byGroup, m.byEmail, m.ignored} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(list)))
		for _, i := range list {
			b = binary.LittleEndian.AppendUint32(b, uint32(i))
		}
	}
	if groupsUnknown {
		b = append(b, 1)
	}
	return string(b)
}

func (s *Set) buildView(m match, groupsUnknown bool) *view {
	v := &view{verdicts: make([]verdict, len(s.doc.Services)), groupsUnknown: groupsUnknown}
	b := viewBuilder{set: s, view: v}
	b.denies(m.certain, verdictDeny)
	b.denies(m.byGroup, verdictDenyGroup)
	b.denies(m.byEmail, verdictDenyEmail)
	for _, i := range m.ignored {
		v.emailIgnored = v.emailIgnored || len(s.rules[i].allow) > 0
	}
	b.allows(m.certain)
	return v
}

// A viewBuilder puts the rules that match into a view. The order of the calls is what makes a deny win, a certain one name
// itself before a doubtful one, and the first rule of the file decide.
type viewBuilder struct {
	set  *Set
	view *view
}

// denies: first those that nothing can lift, so that no conditions are kept for what they deny.
func (b viewBuilder) denies(rules []int32, kind verdict) {
	for _, i := range rules {
		if b.set.rules[i].timeless() {
			b.view.apply(b.set.rules[i].deny, newVerdict(i, kind))
		}
	}
	for _, i := range rules {
		if !b.set.rules[i].timeless() {
			b.view.consider(b.set.rules[i].deny, newVerdict(i, kind))
		}
	}
}

func (b viewBuilder) allows(rules []int32) {
	for _, i := range rules {
		if b.set.rules[i].plain() {
			b.view.apply(b.set.rules[i].allow, newVerdict(i, verdictAllow))
		}
	}
	for _, i := range rules {
		if !b.set.rules[i].plain() {
			b.view.consider(b.set.rules[i].allow, newVerdict(i, verdictAllow))
		}
	}
}

// apply gives a verdict to the services that have none yet.
func (v *view) apply(lists [][]int32, verdict verdict) {
	for _, list := range lists {
		for _, svc := range list {
			if v.verdicts[svc].kind() == verdictNone {
				v.verdicts[svc] |= verdict
			}
		}
	}
}

// consider keeps a rule with conditions for the services for which it can make a difference.
func (v *view) consider(lists [][]int32, c candidate) {
	for _, list := range lists {
		for _, svc := range list {
			if has := v.verdicts[svc]; has.denies() || has.kind() == verdictAllow && !c.denies() {
				continue
			}
			if v.candidates == nil {
				v.candidates = make(map[int32][]candidate)
			}
			if known := v.candidates[svc]; len(known) == 0 || known[len(known)-1] != c {
				v.candidates[svc] = append(known, c)
				v.verdicts[svc] |= conditional
			}
		}
	}
}

// lowerASCII folds the letters A to Z only: Unicode folding would make some other letters equal to
// ASCII ones (U+212A KELVIN SIGN is a k), and another person's address equal to ours.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
