package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// grantChange returns what Diff says of one service when the rules of everyone become others.
func grantChange(t *testing.T, old, new string) string {
	t.Helper()
	load := func(rules string) *Set {
		return mustLoad(t, "version: 1\nservices:\n  wiki: {address: 'wiki.internal:80'}\nrules:\n"+rules, "corp")
	}
	d := Diff(load(old), load(new), nil, diffNow)
	if len(d.Groups) == 0 {
		return ""
	}
	c := d.Groups[0].Grants[0]
	return fmt.Sprintf("%s: %q to %q", c.Change, c.Old, c.New)
}

// rulesOf writes rules of everyone for the wiki: each of the entries is "allow" or "deny" and terms.
func rulesOf(entries ...string) string {
	var b strings.Builder
	for i, e := range entries {
		effect, terms, _ := strings.Cut(e, " ")
		fmt.Fprintf(&b, "  - {name: r%d, subjects: {users: ['*']}, %s: [wiki]%s}\n", i, effect, terms)
	}
	return b.String()
}

func TestDiffOfTerms(t *testing.T) {
	list := func(entries ...string) []string { return entries }
	tests := []struct {
		name     string
		old, new []string
		want     string
	}{
		{"a condition comes", list("allow"), list(`allow , when: 'device.os == "linux"'`), `changed: "always" to "when device.os == \"linux\""`},
		{"spelled differently", list(`allow , when: 'device.os == "linux" && (device.firewall || device.screen_lock)'`),
			list(`allow , when: '(device.screen_lock || device.firewall)   &&  (device.os == "linux")'`), ""},
		{"not the same", list(`allow , when: 'device.firewall || device.screen_lock'`), list(`allow , when: 'device.firewall && device.screen_lock'`),
			`changed: "when device.firewall || device.screen_lock" to "when device.firewall && device.screen_lock"`},
		{"precedence", list(`allow , when: '(device.firewall || device.screen_lock) && device.disk_encrypted'`),
			list(`allow , when: 'device.firewall || device.screen_lock && device.disk_encrypted'`),
			`changed: "when (device.firewall || device.screen_lock) && device.disk_encrypted" to "when device.disk_encrypted && device.screen_lock || device.firewall"`},
		{"another rule grants it anyway", list("allow"), list("allow", `allow , when: device.firewall`, "allow , strict: true", "allow , reauth_within: 5m"), ""},
		{"a wider one covers a narrower", list("allow , reauth_within: 1h"), list("allow , reauth_within: 1h", "allow , reauth_within: 5m, strict: true"), ""},
		{"alternatives", list("allow , when: device.firewall"), list("allow , when: device.firewall", "allow , reauth_within: 15m"),
			`changed: "when device.firewall" to "with a login at most 15m old, or when device.firewall"`},
		{"until", list("allow"), list("allow , expires: 2027-01-31T00:00:00Z"), `changed: "always" to "until 2027-01-31"`},
		{"from", list(), list("allow , not_before: 2026-12-01T08:30:00+01:00, expires: 2027-01-31T00:00:00Z"), `gained: "" to "from 2026-12-01 07:30:00 UTC, until 2027-01-31"`},
		{"has begun", list("allow"), list("allow , not_before: 2026-11-01T00:00:00Z"), ""},
		{"is over", list("allow"), list("allow , expires: 2026-11-01T00:00:00Z"), `lost: "always" to ""`},
		{"was over", list("allow , expires: 2026-11-01T00:00:00Z"), list(), ""},
		{"the same moment", list("allow , expires: 2027-01-31T00:00:00Z"), list("allow , expires: 2027-01-31T01:00:00+01:00"), ""},
		{"a deny", list("allow"), list("allow", "deny"), `lost: "always" to ""`},
		{"a deny with a condition", list("allow"), list("allow", "deny , when: request.port == 80"), `changed: "always" to "always; not when request.port == 80"`},
		{"a deny that is over", list("allow"), list("allow", "deny , expires: 2026-11-01T00:00:00Z"), ""},
		{"a deny of what was not granted", list(), list("deny"), ""},
		{"a deny of the same condition", list(), list("allow , when: device.firewall", "deny , when: device.firewall"), ""},
		{"strict", list("allow"), list("allow , strict: true"), `changed: "always" to "while the database answers"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := grantChange(t, rulesOf(tt.old...), rulesOf(tt.new...)); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestDurationsAndMoments(t *testing.T) {
	for d, want := range map[time.Duration]string{
		15 * time.Minute: "15m", 90 * time.Second: "1m30s", time.Hour: "1h", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h",
		48 * time.Hour: "2 days", 7*24*time.Hour + time.Minute: "7 days", 0: "0s", time.Millisecond: "1ms",
	} {
		if got := duration(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		40*time.Minute + 12*time.Second: "40m", 90*time.Minute + time.Second: "1h30m", 1500 * time.Millisecond: "2s", 26*time.Hour + 40*time.Minute: "27h",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

// Where Diff sees no difference for a person, both policies answer them alike, whatever the device and the moment's facts.
func TestDiffMissesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := drawTerms(t, drawPolicy(t))
		head, rules, _ := strings.Cut(text, "rules:\n")
		lines := rapid.Permutation(strings.Split(strings.TrimSuffix(rules, "\n"), "\n")).Draw(t, "order")
		for i := range lines {
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
				lines[i] = strings.Replace(lines[i], "allow: [", "deny: [", 1)
				lines[i] = strings.ReplaceAll(strings.ReplaceAll(lines[i], ", reauth_within: 15m", ""), ", strict: true", "")
			}
		}
		lines = lines[rapid.IntRange(0, len(lines)).Draw(t, "dropped"):]
		load := func(text string) *Set {
			set, err := Load("p.yaml", []byte(text), Options{Providers: someProviders})
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			return set
		}
		old, new := load(text), load(head+"rules:\n"+strings.Join(lines, "\n"))
		sub := drawSubject(t)
		differs := map[string]bool{}
		for _, c := range Diff(old, new, []*Subject{sub}, traceNow).Users {
			for _, g := range c.Grants {
				differs[g.Service] = true
			}
		}
		r := Request{Now: traceNow, Opening: rapid.Bool().Draw(t, "opening"), Stale: rapid.Bool().Draw(t, "stale")}
		for _, s := range old.Document().Services {
			if s.IsNetwork() || differs[s.Name] {
				continue
			}
			r.Target = wire.ServiceTarget(s.Kind, s.Name)
			if a, b := old.Decide(sub, r), new.Decide(sub, r); a.Code != b.Code {
				t.Fatalf("%s: %s and %s, and Diff saw nothing\n%s\n%s", s.Name, a.Code, b.Code, text, strings.Join(lines, "\n"))
			}
		}
	})
}
