package policy

import (
	"crypto/sha256"
	"fmt"
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
	terms terms
	key   [sha256.Size]byte
}

func (s *Set) meaningOf(i int, r *Rule, now time.Time, n *normalizer) meaning {
	m := meaning{terms: termsOf(r, now, n)}
	h := sha256.New()
	for _, list := range [][]string{groupTexts(r.Groups), userTexts(r.Users), {m.terms.String(), r.Reason}} {
		fmt.Fprintf(h, "%q\n", list)
	}
	for _, lists := range [][][]int32{s.rules[i].allow, s.rules[i].deny} {
		fmt.Fprintln(h, n.servicesIn(s, lists))
	}
	h.Sum(m.key[:0])
	return m
}

// ruleFields describes a rule, for the differences of two that mean something else.
func (s side) ruleFields(i int) []field {
	r := s.doc.Rules[i]
	return slices.Concat([]field{
		{name: "groups", list: groupTexts(r.Groups)},
		{name: "users", list: userTexts(r.Users)},
		{name: "allow", list: s.set.namesIn(s.set.rules[i].allow)},
		{name: "deny", list: s.set.namesIn(s.set.rules[i].deny)},
	}, s.rules[i].terms.fields(), []field{{name: "reason", text: r.Reason}})
}

// namesIn returns the services that expanded entries stand for.
func (s *Set) namesIn(lists [][]int32) []string {
	names := []string{}
	for _, list := range lists {
		for _, svc := range list {
			names = append(names, s.doc.Services[svc].Name)
		}
	}
	return sorted(names)
}
