package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of one rule's lists.
const (
	maxSubjects = 10_000
	maxRefs     = MaxServices
)

// everyone is the user that stands for all who are logged in.
const everyone = "*"

func (d *decoder) rule(n *yaml.Node) {
	r := &Rule{Pos: posOf(n)}
	d.doc.Rules = append(d.doc.Rules, r)
	subjects := false
	d.section(n, "a rule", keys{
		"name":     func(n *yaml.Node) { r.Name, _ = d.text(n, "name", maxName) },
		"subjects": func(n *yaml.Node) { subjects = true; d.subjects(n, r) },
		"allow":    func(n *yaml.Node) { r.Allow = d.refs(n, "allow") },
		"deny":     func(n *yaml.Node) { r.Deny = d.refs(n, "deny") },
		"reason":   func(n *yaml.Node) { r.Reason, _ = d.text(n, "reason", maxText) },

		"when":          func(n *yaml.Node) { d.when(n, r) },
		"reauth_within": func(n *yaml.Node) { r.ReauthWithin = d.duration(n, "reauth_within") },
		"not_before":    func(n *yaml.Node) { r.NotBefore = d.instant(n) },
		"expires":       func(n *yaml.Node) { r.Expires = d.instant(n) },
		"strict":        func(n *yaml.Node) { r.Strict = d.boolean(n, "strict") },
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	d.want(n, r.Name != "", "name", "a rule needs a name: decisions and the audit log name it")
	d.want(n, subjects, "subjects", "a rule needs subjects: groups, users or both")
	if !hasKey(n, "allow") && !hasKey(n, "deny") {
		d.fault(r.Pos, `the rule %s needs "allow" or "deny"`, quote(r.Name))
	}
	d.ruleAsAWhole(n, r)
}

// ruleAsAWhole holds what concerns several keys.
func (d *decoder) ruleAsAWhole(n *yaml.Node, r *Rule) {
	if !r.NotBefore.IsZero() && !r.Expires.IsZero() && !r.NotBefore.Before(r.Expires) {
		d.fault(r.Pos, "the rule %s expires before it begins", quote(r.Name))
	}
	if hasKey(n, "allow") || !hasKey(n, "deny") {
		return
	}
	for _, key := range []string{"reauth_within", "strict"} {
		if at := keyNode(n, key); at != nil {
			d.fault(posOf(at), "the key %q is only for rules that allow something", key)
		}
	}
}

// want reports a key that is missing; a key that is there but wrong was reported where it stands.
func (d *decoder) want(n *yaml.Node, ok bool, key, msg string) {
	if !ok && !hasKey(n, key) {
		d.fault(posOf(n), "%s", msg)
	}
}

func hasKey(n *yaml.Node, key string) bool { return keyNode(n, key) != nil }

func keyNode(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i]
		}
	}
	return nil
}

func (d *decoder) subjects(n *yaml.Node, r *Rule) {
	before := len(d.faults)
	d.section(n, "subjects", keys{
		"groups": func(n *yaml.Node) { r.Groups = d.groups(n) },
		"users":  func(n *yaml.Node) { r.Users = d.users(n) },
	})
	if len(d.faults) == before && len(r.Groups)+len(r.Users) == 0 {
		d.fault(posOf(n), "subjects name nobody: write groups or users; everyone who is logged in is users: [%q]", everyone)
	}
}

func (d *decoder) users(n *yaml.Node) []UserRef {
	var users []UserRef
	d.list(n, "users", maxSubjects, func(n *yaml.Node) {
		if u, ok := d.user(n); ok {
			users = append(users, u)
		}
	})
	d.noRepeats(textsOf(users, func(u UserRef) (string, Pos) { return u.Text, u.Pos }))
	return users
}

func (d *decoder) groups(n *yaml.Node) []GroupRef {
	var groups []GroupRef
	d.list(n, "groups", maxSubjects, func(n *yaml.Node) {
		if text, ok := d.text(n, "group", maxText); ok {
			groups = append(groups, GroupRef{text, posOf(n)})
		}
	})
	d.noRepeats(textsOf(groups, func(g GroupRef) (string, Pos) { return g.Text, g.Pos }))
	return groups
}

// user reads "*", "ada@corp.example", "corp:ada@corp.example" or "corp:sub:248289761001".
func (d *decoder) user(n *yaml.Node) (UserRef, bool) {
	text, ok := d.text(n, "user", maxText)
	if !ok {
		return UserRef{}, false
	}
	u := UserRef{Text: text, Pos: posOf(n)}
	who := text
	if provider, rest, found := strings.Cut(text, ":"); found {
		if !isLabel(provider) {
			d.fault(u.Pos, "user %s: %s is no name of a provider", quote(text), quote(provider))
			return u, false
		}
		u.Provider, who = provider, rest
	}
	subject, isSubject := strings.CutPrefix(who, "sub:")
	switch {
	case who == everyone:
		u.Everyone = true
	case isSubject && subject != "" && u.Provider != "":
		u.Subject = subject
	case isEmail(who):
		u.Email = lowerASCII(who)
	default:
		d.fault(u.Pos, `user %s: want an e-mail address, "provider:" and one, "provider:sub:" and a subject, or %q for everyone who is logged in`, quote(text), everyone)
		return u, false
	}
	return u, true
}

// isEmail accepts what can be compared as a whole: one @ with something on both sides, and nothing that a
// quoted local part would need (RFC 5321, 4.1.2). An address with two is nobody's.
func isEmail(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && domain != "" && !strings.ContainsAny(domain, "@") &&
		!strings.ContainsAny(s, ` "(),:;<>[]\/*`)
}

func (d *decoder) refs(n *yaml.Node, what string) []Ref {
	var refs []Ref
	d.list(n, what, maxRefs, func(n *yaml.Node) {
		if text, ok := d.text(n, "service", maxText); ok {
			refs = append(refs, Ref{text, posOf(n)})
		}
	})
	d.noRepeats(textsOf(refs, func(r Ref) (string, Pos) { return r.Text, r.Pos }))
	return refs
}

func textsOf[T any](list []T, get func(T) (string, Pos)) []Ref {
	refs := make([]Ref, len(list))
	for i, e := range list {
		refs[i].Text, refs[i].Pos = get(e)
	}
	return refs
}

func (d *decoder) noRepeats(refs []Ref) {
	seen := make(map[string]bool, len(refs))
	for _, r := range refs {
		if seen[r.Text] {
			d.fault(r.Pos, "%s stands here a second time", quote(r.Text))
		}
		seen[r.Text] = true
	}
}

// isTag splits "tag:office".
func isTag(text string) (tag string, ok bool) { return strings.CutPrefix(text, tagPrefix) }

// resolve checks what entries name, now that all services are known.
func (d *decoder) resolve() {
	known := newNames(d.doc.Services)
	d.uniqueNames()
	d.sharedAddresses()
	rules := make(map[string]Pos, len(d.doc.Rules))
	for _, r := range d.doc.Rules {
		if first, taken := rules[r.Name]; taken && r.Name != "" {
			d.fault(r.Pos, "a rule named %s stands in line %d already", quote(r.Name), first.Line)
		}
		rules[r.Name] = r.Pos
		d.checkRefs(known, r.Allow, r.Deny)
		d.contradiction(r)
	}
	for _, t := range d.doc.Tests {
		d.checkRefs(known, slices.DeleteFunc(slices.Concat(t.Allow, t.Deny, t.StepUp), func(r Ref) bool {
			_, address := testTarget(r.Text)
			return address
		}))
	}
}

// contradiction refuses an entry in both lists of a rule: one of the two is a slip.
func (d *decoder) contradiction(r *Rule) {
	if len(r.Allow) == 0 || len(r.Deny) == 0 {
		return
	}
	allowed := make(map[string]bool, len(r.Allow))
	for _, a := range r.Allow {
		allowed[a.Text] = true
	}
	for _, deny := range r.Deny {
		if allowed[deny.Text] {
			d.fault(deny.Pos, "the rule %s allows and denies %s", quote(r.Name), quote(deny.Text))
		}
	}
}
