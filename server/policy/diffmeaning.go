package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A field is one setting as text. A list is compared as a set.
type field struct {
	name string
	text string
	list []string // sorted; text is empty then
}

// compareFields returns the fields that differ, in the order of the sides; a nil side has none of them.
func compareFields(old, new []field) []FieldChange {
	was := make(map[string]field, len(old))
	for _, f := range old {
		was[f.name] = f
	}
	var changes []FieldChange
	for _, f := range new {
		changes = appendChange(changes, was[f.name], f)
		delete(was, f.name)
	}
	for _, f := range old {
		if _, left := was[f.name]; left {
			changes = appendChange(changes, f, field{name: f.name})
		}
	}
	return changes
}

func appendChange(changes []FieldChange, old, new field) []FieldChange {
	o, n := old.text, new.text
	if old.list != nil || new.list != nil {
		o, n = strings.Join(without(old.list, new.list), ", "), strings.Join(without(new.list, old.list), ", ")
	}
	if o == n {
		return changes
	}
	return append(changes, FieldChange{new.name, o, n})
}

// without returns what a has and b has not; both are sorted.
func without(a, b []string) []string {
	var left []string
	for _, s := range a {
		if _, found := slices.BinarySearch(b, s); !found {
			left = append(left, s)
		}
	}
	return left
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// fieldsOf describes a service: everything that has a meaning for the gateway, a desktop or a person.
func fieldsOf(s *Service) []field {
	fields := []field{
		{name: "description", text: s.Description},
		{name: "kind", text: string(s.Kind)},
		{name: "label", text: s.Label},
		{name: "tags", list: slices.Clone(s.Tags)},
		{name: "hidden", text: yes(s.Hidden)},
		{name: "requestable", text: requestableText(s.Requestable)},
	}
	if s.IsNetwork() {
		return append(fields, field{name: "network", text: s.Network.Masked().String()},
			field{name: "ports", list: portTexts(s.Ports)}, field{name: "zones", list: sorted(slices.Clone(s.Zones))})
	}
	return append(fields, field{name: "address", text: wire.HostTarget(wire.KindTCP, s.Host, s.HostPort).String()},
		field{name: "hostnames", list: sorted(slices.Clone(s.Hostnames))}, field{name: "port", text: strconv.Itoa(int(s.Port))})
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func portTexts(ports []wire.PortRange) []string {
	list := make([]string, 0, len(ports))
	for _, p := range ports {
		text := strconv.Itoa(int(p.First))
		if p.Last != p.First {
			text += "-" + strconv.Itoa(int(p.Last))
		}
		list = append(list, text)
	}
	return sorted(list)
}

func requestableText(r *Requestable) string {
	if r == nil {
		return ""
	}
	return "at most " + duration(r.Max) + ", approved by " + strings.Join(append(groupTexts(r.Groups), userTexts(r.Users)...), ", ")
}

func groupTexts(groups []GroupRef) []string {
	list := make([]string, 0, len(groups))
	for _, g := range groups {
		list = append(list, g.Text)
	}
	return sorted(list)
}

func userTexts(users []UserRef) []string {
	list := make([]string, 0, len(users))
	for _, u := range users {
		list = append(list, userText(u))
	}
	return sorted(list)
}

// userText is the one spelling of an entry: UserRef.Text has the letters as they were written.
func userText(u UserRef) string {
	who := u.Email
	switch {
	case u.Everyone:
		who = everyone
	case u.Subject != "":
		who = "sub:" + u.Subject
	}
	if u.Provider != "" {
		return u.Provider + ":" + who
	}
	return who
}

// A meaning is a rule made comparable: two rules with the same key mean the same at the differ's moment.
type meaning struct {
	terms  terms
	fields []field
	key    string
}

func (s *Set) meaningOf(i int, r *Rule, now time.Time, n *normalizer) meaning {
	m := meaning{terms: termsOf(r, now, n)}
	m.fields = []field{
		{name: "groups", list: groupTexts(r.Groups)},
		{name: "users", list: userTexts(r.Users)},
		{name: "allow", list: s.namesIn(s.rules[i].allow)},
		{name: "deny", list: s.namesIn(s.rules[i].deny)},
	}
	m.fields = append(m.fields, m.terms.fields()...)
	m.fields = append(m.fields, field{name: "reason", text: r.Reason})
	var key strings.Builder
	for _, f := range m.fields {
		key.WriteString(f.text)
		for _, e := range f.list {
			key.WriteString(strconv.Quote(e))
		}
		key.WriteByte('\n')
	}
	m.key = key.String()
	return m
}

// namesIn returns the services that expanded entries stand for.
func (s *Set) namesIn(lists [][]int32) []string {
	set := make(map[string]bool)
	for _, list := range lists {
		for _, svc := range list {
			set[s.doc.Services[svc].Name] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
