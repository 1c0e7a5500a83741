package policy

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Difference is what a new policy means that the old one did not. Order and comments of the files make none, nor
// does how a list of services is written: by name, by tag or as "*".
type Difference struct {
	Old string `json:"old"` // versions; "" where there was no policy
	New string `json:"new"`

	Services []ServiceChange `json:"services"` // by name
	Rules    []RuleChange    `json:"rules"`    // by name
	// Groups are the subjects that rules name, each taken alone: everyone, then groups, then users. A grant that everyone
	// gains or loses alike stands with everyone only.
	Groups []SubjectChange `json:"groups"`
	// Users are the known people, with all their groups, by name.
	Users []SubjectChange `json:"users"`
	// Cut says that subjects are missing, because they gain and lose more than is worked out, or listed, of one difference.
	Cut bool `json:"cut,omitempty"`
}

// Change is the kind of a difference.
type Change string

// The kinds of a difference.
const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
	Renamed Change = "renamed" // of a rule: the same meaning under another name
	Gained  Change = "gained"  // of a grant
	Lost    Change = "lost"
)

// A ServiceChange is a service that is new, gone or defined differently.
type ServiceChange struct {
	Name   string        `json:"name"`
	Change Change        `json:"change"`
	Fields []FieldChange `json:"fields,omitempty"`
}

// A RuleChange is a rule that is new, gone, renamed, or means something else.
type RuleChange struct {
	Name   string        `json:"name"`
	Change Change        `json:"change"`
	Was    string        `json:"was,omitempty"` // the old name of a renamed rule
	Fields []FieldChange `json:"fields,omitempty"`
}

// A FieldChange is one setting in both policies, as text; "" where it is not set. Of a list, Old is what only the old
// one has and New what only the new one has.
type FieldChange struct {
	Field string `json:"field"`
	Old   string `json:"old,omitempty"`
	New   string `json:"new,omitempty"`
}

// A SubjectChange is what one group or person gains and loses.
type SubjectChange struct {
	Kind   SubjectKind   `json:"kind"`
	Name   string        `json:"name"`           // "engineering", "ada@corp.example"; "*" for everyone
	User   auth.UserID   `json:"user,omitempty"` // of a known person
	Grants []GrantChange `json:"grants"`         // by service
}

// SubjectKind says what a SubjectChange is about.
type SubjectKind string

// The kinds of subjects, in their order.
const (
	SubjectEveryone SubjectKind = "everyone"
	SubjectGroup    SubjectKind = "group"
	SubjectUser     SubjectKind = "user"
)

// A GrantChange is the access to one service under both policies: "always", "when device.os == \"linux\"",
// "until 2027-01-31", or "" where there is none.
type GrantChange struct {
	Service string `json:"service"`
	Change  Change `json:"change"` // Gained, Lost or Changed
	Old     string `json:"old,omitempty"`
	New     string `json:"new,omitempty"`
}

// Diff compares what two policies mean at a moment; a nil set is one that allows nothing. known are the people for
// whom it is worked out what they gain and lose. Of an address that lies in several services it says what is true of
// each service alone.
func Diff(old, new *Set, known []*Subject, now time.Time) Difference {
	if now.IsZero() {
		now = time.Now()
	}
	d := newDiffer(old, new, now)
	is := Difference{
		Old: versionOf(old), New: versionOf(new),
		Services: d.services(), Rules: d.rules(),
		Groups: d.named(), Users: d.users(known),
	}
	is.Cut = d.full()
	return is
}

// Bounds of a difference: grants that are worked out, and those that are listed. A file of a few hundred kilobytes can make a hundred million.
const (
	maxCompared = 20_000_000
	maxReach    = 2_000_000 // of one subject, all of which are in memory at once
	maxChanges  = 500_000
	maxTold     = 64 << 20 // bytes of the conditions in them
)

func (d *differ) full() bool {
	return d.cut || d.compared > maxCompared || d.listed > maxChanges || d.text > maxTold
}

func versionOf(s *Set) string {
	if s == nil {
		return ""
	}
	return s.Version()
}

// A differ holds both policies, made comparable at one moment.
type differ struct {
	old, new side
	several  bool   // more than one provider
	provider string // the only one, if known

	compared, listed int  // grants so far
	text             int  // bytes of their conditions
	cut              bool // one subject was too much
}

func newDiffer(old, new *Set, now time.Time) *differ {
	n := newNormalizer()
	d := &differ{old: newSide(old, now, n), new: newSide(new, now, n)}
	for _, s := range []*Set{old, new} {
		if s != nil {
			d.several, d.provider = s.several, s.provider
		}
	}
	return d
}

// A side is one of the two policies.
type side struct {
	set   *Set // nil: there is none
	doc   *Document
	rules []meaning // as doc.Rules
}

func newSide(set *Set, now time.Time, n *normalizer) side {
	if set == nil {
		return side{doc: &Document{}}
	}
	s := side{set: set, doc: set.doc, rules: make([]meaning, len(set.doc.Rules))}
	for i, r := range set.doc.Rules {
		s.rules[i] = set.meaningOf(i, r, now, n)
	}
	return s
}

// services compares the definitions of services.
func (d *differ) services() []ServiceChange {
	changes := []ServiceChange{}
	old := make(map[string]*Service, len(d.old.doc.Services))
	for _, s := range d.old.doc.Services {
		old[s.Name] = s
	}
	for _, s := range d.new.doc.Services {
		was := old[s.Name]
		delete(old, s.Name)
		if was == nil {
			changes = append(changes, ServiceChange{s.Name, Added, compareFields(nil, fieldsOf(s))})
		} else if fields := compareFields(fieldsOf(was), fieldsOf(s)); len(fields) > 0 {
			changes = append(changes, ServiceChange{s.Name, Changed, fields})
		}
	}
	for name := range old {
		changes = append(changes, ServiceChange{name, Removed, compareFields(fieldsOf(old[name]), nil)})
	}
	slices.SortFunc(changes, func(a, b ServiceChange) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// rules compares the meanings of rules by name. Of those that only one side has, equal ones are a renaming.
func (d *differ) rules() []RuleChange {
	changes := []RuleChange{}
	old := make(map[string]int, len(d.old.doc.Rules))
	for i, r := range d.old.doc.Rules {
		old[r.Name] = i
	}
	var added []int
	for i, r := range d.new.doc.Rules {
		was, ok := old[r.Name]
		if !ok {
			added = append(added, i)
			continue
		}
		delete(old, r.Name)
		if d.old.rules[was].key != d.new.rules[i].key {
			changes = append(changes, RuleChange{Name: r.Name, Change: Changed, Fields: compareFields(d.old.ruleFields(was), d.new.ruleFields(i))})
		}
	}
	changes = append(changes, d.comeAndGone(added, old)...)
	slices.SortFunc(changes, func(a, b RuleChange) int { return strings.Compare(a.Name, b.Name) })
	return changes
}

// comeAndGone tells rules that are new from those that have another name now.
func (d *differ) comeAndGone(added []int, gone map[string]int) []RuleChange {
	var changes []RuleChange
	byKey := make(map[[sha256.Size]byte]string, len(gone)) // the first in the order of names, so that the answer is always the same
	for name, i := range gone {
		if key := d.old.rules[i].key; byKey[key] == "" || name < byKey[key] {
			byKey[key] = name
		}
	}
	for _, i := range added {
		m, name := d.new.rules[i], d.new.doc.Rules[i].Name
		if was := byKey[m.key]; was != "" {
			delete(byKey, m.key)
			delete(gone, was)
			changes = append(changes, RuleChange{Name: name, Change: Renamed, Was: was})
			continue
		}
		changes = append(changes, RuleChange{Name: name, Change: Added, Fields: compareFields(nil, d.new.ruleFields(i))})
	}
	for name, i := range gone {
		changes = append(changes, RuleChange{Name: name, Change: Removed, Fields: compareFields(d.old.ruleFields(i), nil)})
	}
	return changes
}
