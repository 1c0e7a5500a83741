package policy

import (
	"errors"
	"slices"

	"go.yaml.in/yaml/v3"
)

// People names persons the way rules do, by groups and users, for what is decided beside the policy: who may administrate.
// It never changes and is safe for concurrent use; a nil *People includes nobody.
type People struct {
	groups []groupKey
	users  []UserRef
}

// ParsePeople reads groups and users as a rule has them. With more than one provider each must name its own. The error
// joins everything that is wrong.
func ParsePeople(groups, users, providers []string) (*People, error) {
	var errs []error
	fault := func(pos Pos, format string, args ...any) {
		err := errorAt("", pos, format, args...)
		errs = append(errs, errors.New(err.Msg)) // there is no place to name
	}
	p := new(People)
	d := &decoder{doc: new(Document)}
	for _, text := range users {
		if u, ok := d.user(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}); ok {
			checkUserProvider(u, providers, fault)
			p.users = append(p.users, u)
		}
	}
	for _, text := range groups {
		g := GroupRef{Text: text}
		checkGroupProvider(g, providers, fault)
		p.groups = append(p.groups, groupKeys(g, len(providers) > 1)...)
	}
	for _, err := range d.faults {
		errs = append(errs, errors.New(err.Msg))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

// Include reports whether somebody is certainly one of them: unknown groups and an e-mail address that the provider
// does not vouch for are no ground for it.
func (p *People) Include(sub *Subject) bool {
	if p == nil || sub == nil {
		return false
	}
	for _, u := range p.users {
		if isUser(sub, u) {
			return true
		}
	}
	for _, k := range p.groups {
		if sub.id.GroupsKnown && (k.provider == "" || k.provider == sub.id.Provider) && slices.Contains(sub.id.Groups, k.group) {
			return true
		}
	}
	return false
}
