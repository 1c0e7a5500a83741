package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/policy"
)

// roleTable is who has which role, as the configuration says. It never changes.
type roleTable struct {
	from    []RoleConfig
	entries []roleEntry
}

type roleEntry struct {
	role   string
	people *policy.People
}

// newRoleTable reads admin.roles. With several providers each entry must name its
// own, so that a partner's provider cannot make our administrators.
func newRoleTable(list []RoleConfig, providers []string) (*roleTable, error) {
	table := &roleTable{from: list}
	var errs []error
	for i, r := range list {
		people, err := policy.ParsePeople(r.Groups, r.Users, providers)
		if err != nil {
			errs = append(errs, fmt.Errorf("admin.roles[%d]: %w", i, err))
			continue
		}
		table.entries = append(table.entries, roleEntry{r.Role, people})
	}
	return table, errors.Join(errs...)
}

// Doubts says what of a valid configuration probably does not do what was meant: an administrator who finds out when they need
// their role finds out too late.
func (c *Config) Doubts() []string {
	var doubts []string
	for i, r := range c.Admin.Roles {
		for _, user := range r.Users {
			provider, address, named := strings.Cut(user, ":")
			if !named {
				provider, address = "", user
			}
			at := strings.LastIndexByte(address, '@')
			if at < 0 || strings.HasPrefix(address, "sub:") || c.vouched(provider, address[at+1:]) {
				continue
			}
			doubts = append(doubts, fmt.Sprintf("admin.roles[%d]: %q gives nobody the role %s: no provider's email_domains has %s, so its addresses do not count",
				i, user, r.Role, address[at+1:]))
		}
	}
	return doubts
}

// vouched reports whether addresses of a domain count, at one provider or at any.
func (c *Config) vouched(provider, domain string) bool {
	return slices.ContainsFunc(c.Providers, func(p oidc.ProviderConfig) bool {
		return (provider == "" || p.Name == provider) && slices.ContainsFunc(p.EmailDomains, func(d string) bool { return strings.EqualFold(d, domain) })
	})
}

// of returns somebody's roles, each once; none for almost everybody.
func (t *roleTable) of(id *auth.Identity) []string {
	var roles []string
	sub := policy.NewSubject(*id, policy.Device{})
	for _, e := range t.entries {
		if !slices.Contains(roles, e.role) && e.people.Include(sub) {
			roles = append(roles, e.role)
		}
	}
	return roles
}
