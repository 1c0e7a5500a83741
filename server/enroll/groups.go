package enroll

import (
	"slices"
	"strings"
)

// groupFilter is the setting groups.keep. Its zero value keeps every group.
type groupFilter struct {
	patterns []string
	// qualified says that patterns are written provider/group.
	qualified bool
}

// apply gives the groups to keep, in their order.
func (f groupFilter) apply(provider string, groups []string) []string {
	if len(f.patterns) == 0 {
		return groups
	}
	return slices.DeleteFunc(slices.Clone(groups), func(g string) bool { return !f.keeps(provider, g) })
}

func (f groupFilter) keeps(provider, group string) bool {
	if f.qualified {
		group = provider + "/" + group
	}
	return len(f.patterns) == 0 || slices.ContainsFunc(f.patterns, func(p string) bool { return glob(p, group) })
}

// KeptGroups says, for the setting groups.keep and a gateway's providers, whether a provider's group
// goes into certificates.
func KeptGroups(keep, providers []string) func(provider, group string) bool {
	return groupFilter{patterns: keep, qualified: len(providers) > 1}.keeps
}

// glob matches with "*" for any text, slashes included, since groups of some
// providers are paths. It takes time in the product of the lengths at worst.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, parts[last])
}
