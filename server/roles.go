package server

import (
	"errors"
	"fmt"
	"slices"

	"github.com/culvert-vpn/culvert/auth"
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
