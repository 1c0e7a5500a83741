package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var diffNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const diffOld = `version: 1
services:
  wiki: {address: "wiki.internal:8080", tags: [office]}
  mail: {address: "mail.internal:25", tags: [office]}
  lab: {network: 10.20.0.0/16, ports: [22]}
  old: {address: "old.internal:80"}
rules:
  - {name: staff, subjects: {users: ["*"]}, allow: ["tag:office"]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab]}
  - {name: ops, subjects: {groups: [ops], users: [ADA@corp.example]}, allow: ["*"]}
  - {name: no contractors, subjects: {groups: [contractors]}, deny: [lab]}
`

func TestDiffText(t *testing.T) {
	tests := []struct {
		name, new, want string
		known           []*Subject
	}{
		{"order, comments and spelling", `version: 1
# the same
rules:
  - {deny: [lab], subjects: {groups: [contractors]}, name: no contractors}
  - {name: ops, subjects: {users: [ada@corp.example], groups: [ops]}, allow: [wiki, mail, lab, old]}
  - {name: engineers, subjects: {groups: [engineering]}, allow: [lab]}
  - {name: staff, subjects: {users: ["*"]}, allow: [mail, wiki]}
services:
  old: {address: "old.internal:80"}
  lab: {network: 10.20.0.0/16, ports: [22]}
  mail: {address: "MAIL.internal.:25", tags: [office]}
  wiki: {address: "wiki.internal:8080", tags: [office]}
`, "no difference in meaning\n", []*Subject{sub("ada@corp.example", "ops")()}},

		{"services and rules", `version: 1
services:
  wiki: {address: "wiki2.internal:8080", tags: [office], hostnames: [wiki.internal]}
  mail: {address: "mail.internal:25", tags: [office]}
  lab: {network: 10.20.0.0/16, ports: [22, 443]}
  new: {address: "new.internal:80", tags: [office]}
rules:
  - {name: everybody, subjects: {users: ["*"]}, allow: [mail, wiki, new]}
  - {name: staff, subjects: {users: ["*"]}, allow: [mail]}
  - {name: engineering, subjects: {groups: [engineering]}, allow: [lab]}
  - {name: ops, subjects: {groups: [ops], users: [ada@corp.example]}, allow: ["*"]}
`, `services:
  ~ lab
      ports: + 443
  + new
      kind: tcp
      tags: office
      address: new.internal:80
      port: 80
  - old
      kind: tcp
      address: old.internal:80
      port: 80
  ~ wiki
      address: - wiki.internal:8080 + wiki2.internal:8080
      hostnames: + wiki.internal

rules:
  ~ engineering, which was engineers
  + everybody
      users: *
      allow: mail, new, wiki
  - no contractors
      groups: contractors
      deny: lab
  ~ ops
      allow: - old + new
  ~ staff
      allow: - wiki

grants of what rules name:
  everyone
    + new: always
  group ops, ada@corp.example
    - old: was always

grants of people
`, nil},

		{"people", diffOld + `  - {name: guests, subjects: {groups: [guests]}, allow: [old]}
  - {name: out, subjects: {users: [eve@corp.example]}, deny: ["*"]}
`, `rules:
  + guests
      groups: guests
      allow: old
  + out
      users: eve@corp.example
      deny: lab, mail, old, wiki

grants of what rules name:
  group guests
    + old: always
  eve@corp.example
    - mail: was always
    - wiki: was always

grants of people:
  ann@x.y, dora@x.y
    + old: always
  corp:sub:s-
    - lab: was always
    - mail: was always
    - wiki: was always
  eve@corp.example
    - lab: was always
    - mail: was always
    - old: was always
    - wiki: was always
`, []*Subject{sub("dora@x.y", "guests")(), sub("eve@corp.example", "ops")(), sub("bob@x.y", "ops")(), sub("ann@x.y", "guests")(), untrusted()}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := Diff(mustLoad(t, diffOld, "corp"), mustLoad(t, tt.new, "corp"), tt.known, diffNow)
			want := strings.TrimSuffix(tt.want, "\ngrants of people\n")
			if got := diffText(d); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// untrusted is somebody whose provider vouches for no address.
func untrusted() *Subject {
	id := person("", "engineering")
	id.EmailTrusted = false
	return NewSubject(id, Device{})
}

func TestDiffWithoutAPolicy(t *testing.T) {
	set := mustLoad(t, diffOld, "corp")
	if d := Diff(nil, nil, []*Subject{nil}, diffNow); !isEmpty(d) || diffText(d) != "no difference in meaning\n" {
		t.Errorf("%+v", d)
	}
	d := Diff(nil, set, []*Subject{nil, sub("ada@corp.example")()}, time.Time{})
	if len(d.Services) != 4 || len(d.Rules) != 4 || len(d.Users) != 1 || d.Old != "" || d.New != set.Version() {
		t.Errorf("%+v", d)
	}
	gone := Diff(set, nil, []*Subject{sub("ada@corp.example")()}, diffNow)
	if len(gone.Users) != 1 || len(gone.Users[0].Grants) != 4 || gone.Users[0].Grants[0].Change != Lost {
		t.Errorf("%+v", gone.Users)
	}
}

func TestDiffAsJSON(t *testing.T) {
	empty, err := json.Marshal(Diff(nil, nil, nil, diffNow))
	if err != nil || string(empty) != `{"old":"","new":"","services":[],"rules":[],"groups":[],"users":[]}` {
		t.Errorf("%s, %v", empty, err)
	}
	d := Diff(nil, mustLoad(t, diffOld, "corp"), nil, diffNow)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var back Difference
	if err := json.Unmarshal(text, &back); err != nil || diffText(back) != diffText(d) {
		t.Errorf("%v\n%s", err, text)
	}
}

// A group of one provider is not the other's, and "*" of one is not everyone.
func TestDiffSeveralProviders(t *testing.T) {
	const text = `version: 1
services:
  wiki: {address: "wiki.internal:80"}
  lab: {address: "lab.internal:80"}
rules:
  - {name: a, subjects: {groups: [corp/engineering]}, allow: [lab]}
`
	old := mustLoad(t, text, "corp", "partner")
	new := mustLoad(t, text+`  - {name: b, subjects: {users: ["partner:*"], groups: [partner/x, corp/x]}, allow: [wiki]}
  - {name: c, subjects: {users: ["partner:sub:7", "corp:ada@x.y"]}, allow: [lab]}
`, "corp", "partner")
	want := `everyone of partner, group corp/x
    + wiki: always
  corp:ada@x.y, partner:sub:7
    + lab: always
`
	if got := diffText(Diff(old, new, nil, diffNow)); !strings.HasSuffix(got, want) {
		t.Errorf("got\n%s", got)
	}
}

func TestDiffNamesFewPeople(t *testing.T) {
	var known []*Subject
	for i := range 8 {
		known = append(known, sub(fmt.Sprintf("p%d@x.y", i))())
	}
	d := Diff(nil, mustLoad(t, diffOld, "corp"), known, diffNow)
	if text := diffText(d); !strings.Contains(text, "p0@x.y, p1@x.y, p2@x.y, p3@x.y, p4@x.y and 3 others\n") || len(d.Users) != 8 {
		t.Errorf("got\n%s", text)
	}
}

func TestDiffTextActsOnNoTerminal(t *testing.T) {
	d := Difference{Users: []SubjectChange{{Kind: SubjectUser, Name: "a\x1b[31m\u202e", Grants: []GrantChange{{Service: "x\r\n", Change: Gained, New: "\a"}}}}}
	if text := diffText(d); strings.ContainsFunc(strings.ReplaceAll(text, "\n", ""), unprintable) || strings.Count(text, "\n") != 3 {
		t.Errorf("%q", text)
	}
}

// Without conditions, grants that differ between two policies are the services that are decided differently.
func TestDiffEqualsDecisions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		load := func() *Set {
			text := drawPolicy(t)
			set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			return set
		}
		old, new := load(), load()
		sub := NewSubject(drawIdentity(t), Device{})
		want := map[string]Change{}
		for _, a := range old.What(sub, diffNow) {
			if a.Decision.Allowed {
				want[a.Service] = Lost
			}
		}
		for _, a := range new.What(sub, diffNow) {
			if _, both := want[a.Service]; both && a.Decision.Allowed {
				delete(want, a.Service)
			} else if a.Decision.Allowed {
				want[a.Service] = Gained
			}
		}
		got := map[string]Change{}
		for _, c := range Diff(old, new, []*Subject{sub}, diffNow).Users {
			for _, g := range c.Grants {
				got[g.Service] = g.Change
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// A policy is no different from itself.
func TestDiffWithItselfIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawPolicy(t)
		one, err := Load("p.yaml", []byte(text), Options{Providers: someProviders})
		two, err2 := Load("q.yaml", []byte("# again\n"+text), Options{Providers: someProviders})
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if d := Diff(one, two, []*Subject{NewSubject(drawIdentity(t), Device{})}, diffNow); !isEmpty(d) {
			t.Fatalf("%s\n%s", diffText(d), text)
		}
	})
}

// What an administrator waits for: a large policy, one of whose rules changes, and everybody who was ever seen.
func BenchmarkDiff(b *testing.B) {
	old := largePolicy(b)
	new := mustLoad(b, strings.Replace(largePolicyText(), "allow: [s1, 'tag:t0']", "allow: ['*'], when: 'device.os == \"linux\"'", 1), "corp")
	var known []*Subject
	for i := range 10_000 {
		known = append(known, sub(fmt.Sprintf("u%d@corp.example", i), fmt.Sprintf("g%d", i%500), fmt.Sprintf("g%d", i*7%500))())
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := Diff(old, new, known, diffNow); len(d.Users) == 0 {
			b.Fatal("no difference")
		}
	}
}

// One service, and everybody who was ever seen.
func BenchmarkWho(b *testing.B) {
	set := largePolicy(b)
	var known []*Subject
	for i := range 10_000 {
		known = append(known, sub(fmt.Sprintf("u%d@corp.example", i), fmt.Sprintf("g%d", i%500), fmt.Sprintf("g%d", i*7%500))())
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := set.Who("s1", known, diffNow); err != nil {
			b.Fatal(err)
		}
	}
}
