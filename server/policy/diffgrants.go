package policy

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
)

// grantsOf works out what the rules of a match grant, by the index of the service.
func (s side) grantsOf(m match) map[int32]grant {
	grants := make(map[int32]grant)
	for _, i := range m.certain {
		s.collect(grants, i, s.set.rules[i].allow, false)
	}
	for _, list := range [][]int32{m.certain, m.byGroup, m.byEmail} {
		for _, i := range list {
			s.collect(grants, i, s.set.rules[i].deny, true)
		}
	}
	var raw, last grant // of the service before: many are named alike, by a tag or "*"
	for svc, g := range grants {
		if !g.equal(raw) {
			raw, last = g, g
			last.normalize()
		}
		grants[svc] = last
	}
	return grants
}

func (s side) collect(grants map[int32]grant, rule int32, lists [][]int32, deny bool) {
	t := s.rules[rule].terms
	for _, list := range lists {
		for _, svc := range list {
			g := grants[svc]
			if deny {
				g.deny = append(g.deny, t)
			} else {
				g.allow = append(g.allow, t)
			}
			grants[svc] = g
		}
	}
}

// grantOf is grantsOf for one service.
func (s side) grantOf(m match, svc int32) grant {
	var g grant
	one := []int32{svc}
	for _, i := range m.certain {
		if len(intersect(one, s.set.rules[i].allow)) > 0 {
			g.allow = append(g.allow, s.rules[i].terms)
		}
	}
	for _, list := range [][]int32{m.certain, m.byGroup, m.byEmail} {
		for _, i := range list {
			if len(intersect(one, s.set.rules[i].deny)) > 0 {
				g.deny = append(g.deny, s.rules[i].terms)
			}
		}
	}
	g.normalize()
	return g
}

// matchOf is match for somebody who may be nobody.
func (s *Set) matchOf(sub *Subject) match {
	if sub == nil {
		return match{}
	}
	return s.match(sub)
}

// access returns what somebody reaches, by the name of the service.
func (s side) access(sub *Subject) map[string]grant {
	named := make(map[string]grant)
	if s.set == nil {
		return named
	}
	for svc, g := range s.grantsOf(s.set.match(sub)) {
		if len(g.allow) > 0 {
			named[s.doc.Services[svc].Name] = g
		}
	}
	return named
}

// reach is how often the rules that match somebody name a service.
func (s side) reach(sub *Subject) (n int) {
	if s.set == nil {
		return 0
	}
	m := s.set.match(sub)
	for _, list := range [][]int32{m.certain, m.byGroup, m.byEmail} {
		for _, i := range list {
			n += size(s.set.rules[i].allow) + size(s.set.rules[i].deny)
		}
	}
	return n
}

// meaningsOf identifies what the rules of a match mean, so that equal ones need not be worked out.
func (s side) meaningsOf(sub *Subject) string {
	if s.set == nil {
		return ""
	}
	m := s.set.match(sub)
	var b strings.Builder
	for _, list := range [][]int32{m.certain, m.byGroup, m.byEmail} {
		keys := make([]string, 0, len(list))
		for _, i := range list {
			keys = append(keys, string(s.rules[i].key[:]))
		}
		for _, k := range sorted(keys) {
			b.WriteString(k)
		}
		b.WriteByte('|')
	}
	return b.String()
}

// compare returns the grants of one person that differ, by service. Those for which skip holds are left out.
func (d *differ) compare(sub *Subject, skip map[string]GrantChange) []GrantChange {
	reach := d.old.reach(sub) + d.new.reach(sub)
	if d.compared += reach; reach > maxReach {
		d.cut = true
	}
	if d.full() {
		return nil
	}
	old, new := d.old.access(sub), d.new.access(sub)
	names := slices.Collect(maps.Keys(old))
	names = sorted(slices.AppendSeq(names, maps.Keys(new)))
	var changes []GrantChange
	for _, name := range names {
		was, is := old[name], new[name]
		if was.equal(is) {
			continue
		}
		if d.full() {
			break
		}
		c := GrantChange{Service: name, Change: Changed, Old: was.String(), New: is.String()}
		switch {
		case c.Old == "":
			c.Change = Gained
		case c.New == "":
			c.Change = Lost
		}
		if skip[name] != c {
			changes = append(changes, c)
		}
		d.text += len(c.Old) + len(c.New)
	}
	return changes
}

// users compares the grants of known people. People whom the same rules match share the work.
func (d *differ) users(known []*Subject) []SubjectChange {
	list := []SubjectChange{}
	cache := make(map[[sha256.Size]byte][]GrantChange)
	for _, sub := range known {
		if sub == nil || d.full() {
			continue
		}
		old, new := d.old.meaningsOf(sub), d.new.meaningsOf(sub)
		if old == new {
			continue
		}
		key := sha256.Sum256([]byte(old + "\n" + new))
		changes, ok := cache[key]
		if !ok {
			changes = d.compare(sub, nil)
			cache[key] = changes
		} else {
			d.text += textOf(changes) // told once more
		}
		if d.listed += len(changes); len(changes) > 0 {
			list = append(list, SubjectChange{Kind: SubjectUser, Name: nameOf(sub.id), User: sub.id.UserID(), Grants: changes})
		}
	}
	sortSubjects(list)
	return list
}

func textOf(changes []GrantChange) (bytes int) {
	for _, c := range changes {
		bytes += len(c.Old) + len(c.New)
	}
	return bytes
}

// nameOf names somebody so that a rule could: by the e-mail address, else by the provider's identifier.
func nameOf(id auth.Identity) string {
	if id.Email != "" {
		return id.Email
	}
	return id.Provider + ":sub:" + id.Subject
}

func sortSubjects(list []SubjectChange) {
	order := []SubjectKind{SubjectEveryone, SubjectGroup, SubjectUser}
	slices.SortStableFunc(list, func(a, b SubjectChange) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), strings.Compare(a.Name, b.Name), strings.Compare(string(a.User), string(b.User)))
	})
}

// named compares the grants of what rules name as subjects. What everyone gains or loses alike is said of everyone only.
func (d *differ) named() []SubjectChange {
	list := []SubjectChange{}
	everybody := make(map[string]map[string]GrantChange)
	baseline := func(provider string) map[string]GrantChange {
		m, ok := everybody[provider]
		if !ok {
			m = byService(d.compare(NewSubject(madeUp(provider), Device{}), nil))
			everybody[provider] = m
		}
		return m
	}
	for _, n := range d.entries() {
		if d.full() {
			break
		}
		sub := NewSubject(n.id, Device{})
		if d.old.meaningsOf(sub) == d.new.meaningsOf(sub) {
			continue
		}
		var skip map[string]GrantChange
		switch {
		case n.kind != SubjectEveryone:
			skip = baseline(n.id.Provider)
		case n.id.Provider != d.provider:
			skip = baseline(d.provider)
		}
		changes := d.compare(sub, skip)
		if d.listed += len(changes); len(changes) > 0 {
			list = append(list, SubjectChange{Kind: n.kind, Name: n.name, Grants: changes})
		}
	}
	sortSubjects(list)
	return list
}

func byService(changes []GrantChange) map[string]GrantChange {
	m := make(map[string]GrantChange, len(changes))
	for _, c := range changes {
		m[c.Service] = c
	}
	return m
}

// An entry is what a rule names as a subject, as the person of whom nothing else is known.
type entry struct {
	kind SubjectKind
	name string
	id   auth.Identity
}

// madeUp is somebody whom no rule names.
func madeUp(provider string) auth.Identity {
	return auth.Identity{Provider: provider, GroupsKnown: true, EmailTrusted: true}
}

// entries returns what the rules of both policies name, once each. Everyone is always there.
func (d *differ) entries() []entry {
	found := map[string]entry{}
	add := func(e entry) { found[string(e.kind)+" "+e.name] = e }
	add(entry{SubjectEveryone, everyone, madeUp(d.provider)})
	for _, r := range slices.Concat(d.old.doc.Rules, d.new.doc.Rules) {
		for _, g := range r.Groups {
			add(d.groupEntry(g))
		}
		for _, u := range r.Users {
			add(d.userEntry(u))
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b entry) int { return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name)) })
}

func (d *differ) groupEntry(g GroupRef) entry {
	id := madeUp(d.provider)
	id.Groups = []string{g.Text}
	if provider, name, ok := strings.Cut(g.Text, "/"); ok && d.several {
		id.Provider, id.Groups = provider, []string{name}
	}
	return entry{SubjectGroup, g.Text, id}
}

func (d *differ) userEntry(u UserRef) entry {
	id := madeUp(cmp.Or(u.Provider, d.provider))
	id.Subject, id.Email = u.Subject, u.Email
	switch {
	case u.Everyone && id.Provider == d.provider:
		return entry{SubjectEveryone, everyone, id}
	case u.Everyone:
		return entry{SubjectEveryone, userText(u), id}
	}
	return entry{SubjectUser, userText(u), id}
}
