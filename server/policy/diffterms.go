package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// terms are what a rule asks for besides its subjects, at one moment: a time that has come is no term any more.
// The zero terms are "always".
type terms struct {
	when   string // normalized
	reauth time.Duration
	from   time.Time // UTC
	until  time.Time // UTC
	strict bool
	over   bool // it expired: the rule does nothing
}

func termsOf(r *Rule, now time.Time, n *normalizer) terms {
	t := terms{when: n.when(r.When), reauth: r.ReauthWithin, strict: r.Strict, until: r.Expires.UTC()}
	if now.Before(r.NotBefore) {
		t.from = r.NotBefore.UTC()
	}
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		t.over = true
	}
	return t
}

// String returns the terms for a person: `when device.os == "linux", until 2027-01-31`.
func (t terms) String() string {
	var parts []string
	add := func(is bool, format string, args ...any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(t.over, "never: expired %s", moment(t.until))
	add(t.when != "", "when %s", t.when)
	add(t.reauth != 0, "with a login at most %s old", duration(t.reauth))
	add(!t.from.IsZero(), "from %s", moment(t.from))
	add(!t.over && !t.until.IsZero(), "until %s", moment(t.until))
	add(t.strict, "while the database answers")
	if len(parts) == 0 {
		return "always"
	}
	return strings.Join(parts, ", ")
}

func (t terms) fields() []field {
	fields := []field{{name: "when", text: t.when}, {name: "reauth_within"}, {name: "not_before"}, {name: "expires"}, {name: "strict", text: yes(t.strict)}}
	if t.reauth != 0 {
		fields[1].text = duration(t.reauth)
	}
	if !t.from.IsZero() {
		fields[2].text = moment(t.from)
	}
	if !t.until.IsZero() {
		fields[3].text = moment(t.until)
	}
	return fields
}

// covers reports that t holds whenever other does, as far as that can be seen without knowing what conditions mean.
func (t terms) covers(other terms) bool {
	switch {
	case t.over || other.over:
		return other.over
	case t.when != "" && t.when != other.when:
		return false
	case t.reauth != 0 && (other.reauth == 0 || other.reauth > t.reauth):
		return false
	case !t.from.IsZero() && (other.from.IsZero() || other.from.Before(t.from)):
		return false
	case !t.until.IsZero() && (other.until.IsZero() || other.until.After(t.until)):
		return false
	}
	return !t.strict || other.strict
}

func (t terms) compare(other terms) int {
	return cmp.Or(strings.Compare(t.when, other.when), cmp.Compare(t.reauth, other.reauth), t.from.Compare(other.from),
		t.until.Compare(other.until), strings.Compare(yes(t.strict), yes(other.strict)))
}

// A grant is one subject's access to one service: any of allow, and none of deny. The zero grant is none.
type grant struct {
	allow, deny []terms
}

// normalize drops what changes nothing, and puts the rest into one order.
func (g *grant) normalize() {
	g.deny = widest(g.deny)
	g.allow = slices.DeleteFunc(widest(g.allow), func(a terms) bool {
		return slices.ContainsFunc(mayCover(g.deny, a), func(d terms) bool { return d.covers(a) }) ||
			slices.ContainsFunc(mayCover(g.deny, terms{}), func(d terms) bool { return d.covers(a) })
	})
	if len(g.allow) == 0 {
		g.deny = nil
	}
}

// widest returns those that no other one covers.
func widest(list []terms) []terms {
	list = slices.DeleteFunc(slices.Clone(list), func(t terms) bool { return t.over })
	slices.SortFunc(list, terms.compare)
	list = slices.Compact(list)
	var kept []terms
	for _, t := range list {
		other := func(o terms) bool { return o != t && o.covers(t) }
		if !slices.ContainsFunc(mayCover(list, t), other) && !slices.ContainsFunc(mayCover(list, terms{}), other) {
			kept = append(kept, t)
		}
	}
	return kept
}

// mayCover returns those of a sorted list with the condition of t: they, and those without any, are all that can cover it.
func mayCover(list []terms, t terms) []terms {
	first, _ := slices.BinarySearchFunc(list, t.when, func(o terms, when string) int { return strings.Compare(o.when, when) })
	end := first
	for end < len(list) && list[end].when == t.when {
		end++
	}
	return list[first:end]
}

func (g grant) equal(other grant) bool {
	return slices.Equal(g.allow, other.allow) && slices.Equal(g.deny, other.deny)
}

// String returns the grant for a person, or "" where there is none.
func (g grant) String() string {
	if len(g.allow) == 0 {
		return ""
	}
	text := joinTerms(g.allow)
	if len(g.deny) > 0 {
		text += "; not " + joinTerms(g.deny)
	}
	return text
}

func joinTerms(list []terms) string {
	texts := make([]string, len(list))
	for i, t := range list {
		texts[i] = t.String()
	}
	return strings.Join(texts, ", or ")
}

// moment writes a time as a person would: the day alone where it begins the day.
func moment(t time.Time) string {
	t = t.UTC()
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format("2006-01-02 15:04:05 UTC")
}

// duration writes 15m as "15m", 90 s as "1m30s" and 7 days as "7 days".
func duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return strconv.Itoa(int(d/day)) + " days"
	case d%time.Minute != 0 || d == 0:
		return d.String()
	}
	text := strings.TrimSuffix(d.String(), "0s")
	if h, found := strings.CutSuffix(text, "h0m"); found {
		return h + "h"
	}
	return text
}
