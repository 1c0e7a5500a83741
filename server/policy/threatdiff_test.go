package policy

import (
	"strings"
	"testing"
	"time"
)

// Class: verification burns CPU and memory. Every rule has a condition of its own and allows everything, so that each person has
// hundreds of conditions for each service, and each of them is to be told.
func TestThreatDifferenceThatIsLong(t *testing.T) {
	before := "version: 1\nservices:\n" + numbered(1000, "  s%d: {address: 'x:1'}\n") + "rules:\n" +
		numbered(1000, "  - {name: r%[1]d, subjects: {groups: [g%[1]d, all]}, allow: ['*'], when: device.os == \"x%[1]d\"}\n")
	var known []*Subject
	for _, g := range strings.Fields(numbered(300, "g%d ")) {
		known = append(known, sub(g+"@corp.example", "all", g)())
	}
	began := time.Now()
	d := Diff(mustLoad(t, before, "corp"), mustLoad(t, strings.ReplaceAll(before, `"x1`, `"y1`), "corp"), known, began)
	told := 0
	for _, s := range append(d.Groups, d.Users...) {
		told += textOf(s.Grants)
	}
	if took := time.Since(began); took > longest || told > 2*maxTold || !d.Cut {
		t.Errorf("%d bytes in %s, cut: %v", told, took, d.Cut)
	}
}

// The shorter way to what covers what finds the same.
func TestWidestAgreesWithEachAgainstEach(t *testing.T) {
	var all []terms
	for _, when := range []string{"", "a", "b"} {
		for _, reauth := range []time.Duration{0, time.Minute, time.Hour} {
			for _, strict := range []bool{false, true} {
				all = append(all, terms{when: when, reauth: reauth, strict: strict})
			}
		}
	}
	for mask := range 1 << 12 { // some lists of them, each in two orders
		var list, back []terms
		for i, x := range all {
			if mask*2654435761>>(i%24)&1 == 1 {
				list, back = append(list, x), append([]terms{x}, back...)
			}
		}
		var want []terms
		for _, x := range list {
			covered := false
			for _, o := range list {
				covered = covered || o != x && o.covers(x)
			}
			if !covered {
				want = append(want, x)
			}
		}
		for _, l := range [][]terms{list, back} {
			got := widest(l)
			if len(got) != len(want) {
				t.Fatalf("%v: %v, want %v", l, got, want)
			}
			for _, x := range want {
				if !strings.Contains(joinTerms(got), x.String()) {
					t.Fatalf("%v: %v, want %v", l, got, want)
				}
			}
		}
	}
}
