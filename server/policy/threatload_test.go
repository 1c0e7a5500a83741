package policy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// longest is far more than a load takes on any machine, and far less than what these files took once.
const longest = time.Minute

// numbered returns n texts, each with its number in it.
func numbered(n int, format string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// Class: verification burns CPU. Whoever may check a policy hands in any file: it takes seconds, and ends in an answer, whatever is in it.
func TestThreatPolicyThatIsWorkToLoad(t *testing.T) {
	services := "version: 1\nservices:\n"
	var zones, names, ports strings.Builder
	for i := range 200 {
		fmt.Fprintf(&zones, "  n%d: {network: 10.%d.%d.0/24, ports: [443], zones: [%s]}\n", i, i/256, i%256, numbered(256, fmt.Sprintf("z%%d.n%d.corp.example,", i)))
		fmt.Fprintf(&names, "  h%d: {address: 'h%d.internal:443', hostnames: [%s]}\n", i, i, numbered(250, fmt.Sprintf("'*.h%%d.n%d.corp.test',", i)))
	}
	for i := range 2000 {
		fmt.Fprintf(&ports, "  p%d: {network: 10.0.0.0/8, ports: [%s]}\n", i, numbered(200, fmt.Sprintf("%d%%03d,", 1+i%60)))
	}
	many := numbered(8000, "  s%d: {address: 'x:1'}\n")
	both := "allow: [" + numbered(4000, "s%d,") + "], deny: [" + numbered(4000, "s4%03d,") + "]"
	loads := map[string]bool{"zones and host names": true, "networks and ports": true, "tests that all fail": true}
	for name, text := range map[string]string{
		"zones and host names":    services + zones.String() + names.String(),
		"networks and ports":      services + ports.String(),
		"entries in both lists":   services + many + "rules:\n" + numbered(20, "  - {name: r%d, subjects: {users: ['*']}, "+both+"}\n"),
		"names that nobody knows": services + many + "rules:\n" + numbered(30, "  - {name: r%d, subjects: {users: ['*']}, allow: ["+numbered(4000, "an-unknown-name-of-a-service-%d,")+"]}\n"),
		"values that are none":    "version: 1\nrules:\n" + numbered(50, "  - {name: r%d, subjects: {users: ["+strings.Repeat("1,", 10_000)+"]}}\n"),
		"commas":                  "version: 1\nrules: [" + strings.Repeat("1,", 8_000_000) + "]\n",
		"conditions everywhere": services + many + "rules:\n" + numbered(3000, "  - {name: r%d, subjects: {users: ['*']}, allow: ['*'], when: device.firewall}\n") +
			"tests:\n  - {name: t, subject: {}, deny: [s1]}\n",
		"long conditions":     services + many + "rules:\n" + numbered(300, "  - {name: r%[1]d, subjects: {users: ['*']}, allow: [s1], when: 'request.port == %[1]d"+strings.Repeat(" || request.port == 0", 190)+"'}\n"),
		"tests that all fail": services + many + "tests:\n" + numbered(5000, "  - {name: t%d, subject: {}, allow: ['*']}\n"),
	} {
		began := time.Now()
		set, err := Load("policy.yaml", []byte(text), Options{})
		if took := time.Since(began); took > longest {
			t.Errorf("%s: took %s", name, took)
		}
		if refused := set == nil; refused != (err != nil && name != "tests that all fail") || refused == loads[name] {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 1<<20 {
			t.Errorf("%s: an answer of %d bytes", name, len(err.Error()))
		}
		var failed *TestError
		if errors.As(err, &failed) && len(failed.Failures) > maxFailures {
			t.Errorf("%s: %d failures are kept", name, len(failed.Failures))
		}
	}
}

// Class: verification burns CPU. What a small file changes for many groups is cut at a length, and says so.
func TestThreatPolicyThatChangesALot(t *testing.T) {
	services := "version: 1\nservices:\n" + numbered(2000, "  s%d: {address: 'x:1'}\n") + "rules:\n"
	grown := mustLoad(t, services+numbered(500, "  - {name: r%[1]d, subjects: {groups: [g%[1]d]}, allow: ['*']}\n"), "corp")
	began := time.Now()
	d := Diff(mustLoad(t, services+" []\n", "corp"), grown, []*Subject{sub("a@b.c", "g1")()}, began)
	listed := 0
	for _, g := range append(d.Groups, d.Users...) {
		listed += len(g.Grants)
	}
	if took := time.Since(began); took > longest || listed > maxChanges+MaxServices || !d.Cut {
		t.Errorf("%d changes in %s, cut: %v", listed, took, d.Cut)
	}
	few := mustLoad(t, services+numbered(10, "  - {name: r%[1]d, subjects: {groups: [g%[1]d]}, allow: ['*']}\n"), "corp")
	if d := Diff(mustLoad(t, services+" []\n", "corp"), few, nil, began); d.Cut || len(d.Groups) != 10 {
		t.Errorf("%d groups, cut: %v", len(d.Groups), d.Cut)
	}
}

// Class: verification burns CPU. However many rules have conditions that take long, one decision does not; what is not asked any more
// counts against the person.
func TestThreatManyCostlyConditions(t *testing.T) {
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	costly := fmt.Sprintf("%[1]s.all(a, %[1]s.all(b, %[1]s.all(c, %[1]s.all(d, a+b+c+d >= 0))))", ten)
	text := "version: 1\nservices: {wiki: {address: 'x:1'}, erp: {address: 'y:1'}}\nrules:\n" +
		numbered(1000, "  - {name: r%d, subjects: {users: ['*']}, allow: [wiki, erp], when: '"+costly+"'}\n") +
		"  - {name: simple, subjects: {users: ['*']}, allow: [wiki], when: request.service == \"wiki\"}\n" +
		"  - {name: never, subjects: {users: ['*']}, deny: [erp], when: request.service == \"wiki\"}\n"
	s := mustLoad(t, text, "corp")
	began := time.Now()
	d := s.Decide(sub("a@b.c")(), ask(service("wiki")))
	if took := time.Since(began); took > longest {
		t.Errorf("a decision took %s", took)
	}
	if d.Allowed || d.Condition != ConditionCost {
		t.Errorf("decided: %+v", d)
	}
	began = time.Now()
	if e := s.Explain(sub("a@b.c")(), ask(service("wiki"))); len(e.Rules) != 1001 || time.Since(began) > longest {
		t.Errorf("an explanation by %d rules took %s", len(e.Rules), time.Since(began))
	}
	denied := mustLoad(t, strings.Replace(text, "allow: [wiki, erp]", "deny: [wiki, erp]", 1000), "corp")
	if d := denied.Decide(sub("a@b.c")(), ask(service("erp"))); d.Allowed || d.Condition != ConditionCost {
		t.Errorf("denied by what was not asked: %+v", d)
	}
}
