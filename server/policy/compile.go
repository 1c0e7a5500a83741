package policy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A Set is a compiled policy. It never changes and is safe for concurrent use.
type Set struct {
	doc      *Document
	version  string
	rules    []rule
	noAllow  []string // per service: the reason of a default deny
	resolved *Resolved
	grants   *Grants
	hosts    []string // names that the gateway dials, sorted
	expander *expander
	several  bool   // more than one provider
	provider string // the only one, if known

	// Where a target leads: indexes into doc.Services.
	byName   map[string]int32
	byHost   map[endpoint]int32   // desktop host name and port, unique; "*.x" for a wildcard
	wild     bool                 // there are wildcards
	byZone   map[zoneKey][]int32  // networks that have the zone
	byDial   map[endpoint][]int32 // name and port that the gateway dials
	byAddr   map[addrKey][]int32  // address and port that the gateway dials
	networks [2]trie              // IPv4, IPv6

	// Whom a rule matches: ascending indexes into rules.
	byGroup   map[groupKey][]int32
	byUser    map[userKey][]int32
	everyone  map[string][]int32 // by provider; "" is everyone of every provider
	groupDeny map[string][]int32 // rules that deny a group, by the group's provider
	emailDeny map[string][]int32 // rules that deny an e-mail address, by its provider

	views  viewCache
	nobody *sight // of a nil Subject
}

// A rule is what matching needs of a Rule. Each element of allow and deny is one entry of its list,
// expanded; equal entries share their slice between rules.
type rule struct {
	name   string
	allow  [][]int32
	deny   [][]int32
	reason string // of a refusal by this rule

	cond               *condition // nil: none
	notBefore, expires time.Time  // zero: unbounded
	stepUp             *StepUp    // nil: any login will do
	strict             bool
}

// timeless reports that a rule, as a deny, applies to its subjects whatever else is the case.
func (r *rule) timeless() bool { return r.cond == nil && r.notBefore.IsZero() && r.expires.IsZero() }

// plain reports the same of a rule as an allow.
func (r *rule) plain() bool { return r.timeless() && r.stepUp == nil && !r.strict }

type endpoint struct {
	kind wire.Kind
	host string
	port uint16
}

type zoneKey struct {
	kind wire.Kind
	name string
}

type addrKey struct {
	kind wire.Kind
	addr netip.AddrPort
}

// In a groupKey and a userKey the provider is "" for an entry that names none.
type groupKey struct{ provider, group string }

type userKey struct {
	provider string
	subject  bool // value is the provider's identifier, not an e-mail address
	value    string
}

// Compile makes a document decide. It checks what the file cannot know: the names of the providers,
// and that with more than one of them groups and users say whose they are. Its errors are
// *strictconf.Error, joined.
func Compile(doc *Document, opts Options) (*Set, error) {
	if doc == nil || doc.File == "" {
		return nil, errUnparsed
	}
	if err := checkProviders(doc, opts.Providers); err != nil {
		return nil, err
	}
	if err := checkKept(doc, opts); err != nil {
		return nil, err
	}
	s := &Set{
		doc: doc, version: doc.Digest.String(), resolved: opts.Resolved, grants: opts.Grants,
		expander: newExpander(doc.Services), several: len(opts.Providers) > 1,
	}
	if len(opts.Providers) == 1 {
		s.provider = opts.Providers[0]
	}
	if s.resolved == nil {
		s.resolved = NewResolved()
	}
	if s.grants == nil {
		s.grants = NewGrants()
	}
	s.nobody = &sight{set: s, view: &view{verdicts: make([]verdict, len(doc.Services))}}
	s.indexServices()
	if err := s.indexRules(); err != nil {
		return nil, err
	}
	s.indexSubjects()
	s.explainDefaults()
	return s, nil
}

// Version returns the policy's version as decisions and audit records name it.
func (s *Set) Version() string { return s.version }

// Document returns what the set was compiled from; it is read-only.
func (s *Set) Document() *Document { return s.doc }

// Hosts returns the names that the gateway dials, sorted: what [Set.Learn] wants to hear about. The
// slice is read-only.
func (s *Set) Hosts() []string { return s.hosts }

func (s *Set) indexServices() {
	n := len(s.doc.Services)
	s.byName, s.byHost = make(map[string]int32, n), make(map[endpoint]int32, n)
	s.byDial, s.byAddr, s.byZone = make(map[endpoint][]int32, n), make(map[addrKey][]int32), make(map[zoneKey][]int32)
	for i, svc := range s.doc.Services {
		idx := int32(i)
		s.byName[svc.Name] = idx
		for _, h := range svc.Hostnames {
			s.byHost[endpoint{svc.Kind, h, svc.Port}] = idx
			s.wild = s.wild || strings.HasPrefix(h, wildcard)
		}
		for _, z := range svc.Zones {
			k := zoneKey{svc.Kind, z}
			s.byZone[k] = append(s.byZone[k], idx)
		}
		switch {
		case svc.IsNetwork():
			s.networks[familyOf(svc.Network.Addr())].insert(svc.Network, idx)
		case svc.Addr.IsValid():
			k := addrKey{svc.Kind, netip.AddrPortFrom(svc.Addr, svc.HostPort)}
			s.byAddr[k] = append(s.byAddr[k], idx)
		default:
			k := endpoint{svc.Kind, svc.Host, svc.HostPort}
			s.byDial[k] = append(s.byDial[k], idx)
			s.hosts = append(s.hosts, svc.Host)
		}
	}
	slices.Sort(s.hosts)
	s.hosts = slices.Compact(s.hosts)
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return 0
	}
	return 1
}

// An expander turns entries of allow and deny lists into services, once per distinct entry.
type expander struct {
	byText map[string][]int32
}

func newExpander(services []*Service) *expander {
	e := &expander{byText: make(map[string][]int32, len(services))}
	for i, svc := range services {
		idx := int32(i)
		e.byText[svc.Name] = []int32{idx}
		e.byText["*"] = append(e.byText["*"], idx)
		for _, tag := range svc.Tags {
			e.byText[tagPrefix+tag] = append(e.byText[tagPrefix+tag], idx)
		}
	}
	return e
}

func (e *expander) expand(refs []Ref) [][]int32 {
	lists := make([][]int32, 0, len(refs))
	for _, r := range refs {
		lists = append(lists, e.byText[r.Text])
	}
	return lists
}

// maxNamed bounds how often rules name services, all of them together and with tags and "*" written out: that is what views and differences
// are made of.
const maxNamed = 20_000_000

func (s *Set) indexRules() error {
	e, named := s.expander, 0
	s.rules = make([]rule, len(s.doc.Rules))
	for i, r := range s.doc.Rules {
		s.rules[i] = rule{
			name: r.Name, allow: e.expand(r.Allow), deny: e.expand(r.Deny), reason: r.Reason,
			cond: r.cond, notBefore: r.NotBefore, expires: r.Expires, strict: r.Strict,
		}
		if r.ReauthWithin > 0 {
			s.rules[i].stepUp = &StepUp{MaxAge: r.ReauthWithin}
		}
		if r.Reason == "" {
			s.rules[i].reason = "the rule " + quote(r.Name) + " denies it"
		}
		if named += size(s.rules[i].allow) + size(s.rules[i].deny); named > maxNamed {
			return errorAt(s.doc.File, r.Pos, "up to here, the rules name services more than %d times, with tags and \"*\" written out", maxNamed)
		}
	}
	return nil
}

func size(lists [][]int32) (n int) {
	for _, list := range lists {
		n += len(list)
	}
	return n
}

// indexSubjects files each rule under everything that makes it match.
func (s *Set) indexSubjects() {
	s.byGroup, s.byUser = make(map[groupKey][]int32), make(map[userKey][]int32)
	s.everyone, s.groupDeny, s.emailDeny = make(map[string][]int32), make(map[string][]int32), make(map[string][]int32)
	for i, r := range s.doc.Rules {
		for _, g := range r.Groups {
			for _, k := range groupKeys(g, s.several) {
				file(s.byGroup, k, int32(i))
				if len(r.Deny) > 0 {
					file(s.groupDeny, k.provider, int32(i))
				}
			}
		}
		for _, u := range r.Users {
			if u.Everyone {
				file(s.everyone, u.Provider, int32(i))
			} else {
				file(s.byUser, keyOfUser(u), int32(i))
			}
			if u.Email != "" && len(r.Deny) > 0 {
				file(s.emailDeny, u.Provider, int32(i))
			}
		}
	}
}

// file appends i to m[k] unless it is there; i never falls.
func file[K comparable](m map[K][]int32, k K, i int32) {
	list := m[k]
	if n := len(list); n == 0 || list[n-1] != i {
		m[k] = append(list, i)
	}
}

// groupKeys returns the keys under which a group is looked up. With several providers the text
// always names one. With a single provider the text is the group's name as it is (some providers have
// slashes in theirs), and also the prefixed form, so that a policy written for several still holds.
func groupKeys(g GroupRef, several bool) []groupKey {
	provider, name, prefixed := strings.Cut(g.Text, "/")
	switch {
	case several:
		return []groupKey{{provider, name}}
	case prefixed && provider != "" && name != "":
		return []groupKey{{"", g.Text}, {provider, name}}
	default:
		return []groupKey{{"", g.Text}}
	}
}

func keyOfUser(u UserRef) userKey {
	if u.Subject != "" {
		return userKey{u.Provider, true, u.Subject}
	}
	return userKey{u.Provider, false, u.Email}
}

// checkProviders checks the providers that groups and users name.
func checkProviders(doc *Document, providers []string) error {
	if len(providers) == 0 {
		return nil
	}
	var errs []error
	fault := func(pos Pos, format string, args ...any) {
		errs = append(errs, errorAt(doc.File, pos, format, args...))
	}
	each := func(users []UserRef, groups []GroupRef) {
		for _, u := range users {
			checkUserProvider(u, providers, fault)
		}
		for _, g := range groups {
			checkGroupProvider(g, providers, fault)
		}
	}
	for _, r := range doc.Rules {
		each(r.Users, slices.Concat(r.Groups, r.lookup))
	}
	for _, svc := range doc.Services {
		if svc.Requestable != nil {
			each(svc.Requestable.Users, svc.Requestable.Groups)
		}
	}
	for _, t := range doc.Tests {
		each(t.users(), t.Groups)
		if len(providers) > 1 {
			checkOneProvider(t, fault)
		}
	}
	return errors.Join(errs...)
}

type faultFunc func(pos Pos, format string, args ...any)

func checkUserProvider(u UserRef, providers []string, fault faultFunc) {
	switch {
	case u.Provider != "" && !slices.Contains(providers, u.Provider):
		fault(u.Pos, "user %q: there is no provider %q%s", u.Text, u.Provider, strictconf.DidYouMean(u.Provider, providers))
	case u.Provider == "" && len(providers) > 1 && !u.Everyone:
		fault(u.Pos, "user %q: with more than one provider write whose user it is, such as %q", u.Text, providers[0]+":"+u.Text)
	}
}

func checkGroupProvider(g GroupRef, providers []string, fault faultFunc) {
	if len(providers) < 2 {
		return
	}
	provider, name, _ := strings.Cut(g.Text, "/")
	switch {
	case name == "":
		fault(g.Pos, "group %q: with more than one provider write whose group it is, such as %q", g.Text, providers[0]+"/"+g.Text)
	case !slices.Contains(providers, provider):
		fault(g.Pos, "group %q: there is no provider %q%s", g.Text, provider, strictconf.DidYouMean(provider, providers))
	}
}

// checkKept holds that the groups of rules are in certificates.
func checkKept(doc *Document, opts Options) error {
	if opts.Kept == nil {
		return nil
	}
	var named []GroupRef
	for _, svc := range doc.Services {
		if svc.Requestable != nil {
			named = append(named, svc.Requestable.Groups...)
		}
	}
	for _, r := range doc.Rules {
		named = append(append(named, r.Groups...), r.lookup...)
	}
	var errs []error
	for _, g := range named {
		provider, name, found := strings.Cut(g.Text, "/")
		if !found || !slices.Contains(opts.Providers, provider) {
			provider, name = "", g.Text // the only provider's, and slashes are its own
		}
		if !opts.Kept(provider, name) {
			errs = append(errs, errorAt(doc.File, g.Pos, "group %q: the gateway's setting groups.keep leaves it out of certificates, so that no rule for it can match", g.Text))
		}
	}
	return errors.Join(errs...)
}

// checkOneProvider holds that a test's person comes from one provider, as people do.
func checkOneProvider(t *Test, fault faultFunc) {
	var first string
	if t.User != nil {
		first = t.User.Provider
	}
	for _, g := range t.Groups {
		provider, _, _ := strings.Cut(g.Text, "/")
		if first == "" {
			first = provider
		}
		if provider != first {
			fault(g.Pos, "group %q: the person of a test comes from one provider, here %q", g.Text, first)
		}
	}
}

// viewCache shares views between subjects whom the same rules match: usually all people of a team.
// It is bounded; beyond that, subjects keep their own.
type viewCache struct {
	mu   sync.Mutex
	byID map[string]*view
}

const maxSharedViews = 4096

// share returns the view filed under id, or files what build makes.
func (c *viewCache) share(id string, build func() *view) *view {
	c.mu.Lock()
	v := c.byID[id]
	c.mu.Unlock()
	if v != nil {
		return v
	}
	v = build()
	c.mu.Lock()
	defer c.mu.Unlock()
	if first := c.byID[id]; first != nil {
		return first
	}
	if c.byID == nil {
		c.byID = make(map[string]*view)
	}
	if len(c.byID) < maxSharedViews {
		c.byID[id] = v
	}
	return v
}
