package policy

import (
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/auth"
)

func TestPeopleInclude(t *testing.T) {
	one, err := ParsePeople([]string{"admins", "team/leads"}, []string{"ada@corp.example", "corp:sub:42"}, []string{"corp"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := ParsePeople([]string{"corp/admins"}, []string{"partner:eve@partner.example"}, []string{"corp", "partner"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		people *People
		id     auth.Identity
		want   bool
	}{
		{"by group", one, auth.Identity{Provider: "corp", GroupsKnown: true, Groups: []string{"admins"}}, true},
		{"a group with a slash", one, auth.Identity{Provider: "corp", GroupsKnown: true, Groups: []string{"team/leads"}}, true},
		{"groups unknown", one, auth.Identity{Provider: "corp", Groups: []string{"admins"}}, false},
		{"by e-mail, in other letters", one, auth.Identity{Provider: "corp", Email: "Ada@Corp.Example", EmailTrusted: true}, true},
		{"an e-mail that nobody vouches for", one, auth.Identity{Provider: "corp", Email: "ada@corp.example"}, false},
		{"by subject", one, auth.Identity{Provider: "corp", Subject: "42"}, true},
		{"another provider's subject", one, auth.Identity{Provider: "other", Subject: "42"}, false},
		{"nobody in particular", one, auth.Identity{Provider: "corp", GroupsKnown: true}, false},
		{"the group of the right provider", two, auth.Identity{Provider: "corp", GroupsKnown: true, Groups: []string{"admins"}}, true},
		{"the same group of a partner", two, auth.Identity{Provider: "partner", GroupsKnown: true, Groups: []string{"admins"}}, false},
		{"a partner by e-mail", two, auth.Identity{Provider: "partner", Email: "eve@partner.example", EmailTrusted: true}, true},
		{"nobody is named", nil, auth.Identity{Provider: "corp", GroupsKnown: true, Groups: []string{"admins"}}, false},
	} {
		if got := c.people.Include(NewSubject(c.id, Device{})); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if one.Include(nil) {
		t.Error("nobody is included")
	}
}

func TestParsePeopleRefuses(t *testing.T) {
	for _, c := range []struct {
		groups, users, providers []string
		want                     string
	}{
		{nil, []string{"ada"}, []string{"corp"}, "want an e-mail address"},
		{nil, []string{"crop:ada@corp.example"}, []string{"corp"}, `did you mean "corp"`},
		{[]string{"admins"}, nil, []string{"corp", "partner"}, "write whose group it is"},
		{[]string{"crop/admins"}, nil, []string{"corp", "partner"}, `there is no provider "crop"`},
	} {
		if _, err := ParsePeople(c.groups, c.users, c.providers); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v %v: %v, want %q", c.groups, c.users, err, c.want)
		}
	}
}
