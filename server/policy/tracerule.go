package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types/ref"
)

// What a criterion can be, as rules spell it.
const (
	criterionSubjects = "subjects"
	criterionWhen     = "when"
	criterionReauth   = "reauth_within"
	criterionBefore   = "not_before"
	criterionExpires  = "expires"
	criterionStrict   = "strict"
)

// trace asks every criterion of a rule, where a decision would stop at the first that fails.
func (t *tracer) trace(i int, svc int32, effect Effect) RuleTrace {
	doc, r := t.set.doc.Rules[i], &t.set.rules[i]
	out := RuleTrace{Name: doc.Name, Effect: effect, Service: t.set.doc.Services[svc].Name, Pos: doc.Pos}
	fail := func(what, format string, args ...any) {
		out.Failed = append(out.Failed, Criterion{what, fmt.Sprintf(format, args...)})
	}
	switch is := t.set.names(doc, t.q.sub); {
	case is == No || is == Unknown && effect == EffectAllow:
		fail(criterionSubjects, "%s", t.set.otherSubjects(doc, t.q.sub))
	case is == Unknown:
		out.Doubts = append(out.Doubts, Criterion{criterionSubjects, t.set.otherSubjects(doc, t.q.sub)})
	}
	now := t.q.clock()
	if now.Before(r.notBefore) {
		fail(criterionBefore, "not before %s (in %s)", moment(r.notBefore), roughly(r.notBefore.Sub(now)))
	}
	if !r.expires.IsZero() && !now.Before(r.expires) {
		fail(criterionExpires, "expired %s (%s ago)", moment(r.expires), roughly(now.Sub(r.expires)))
	}
	if effect == EffectAllow && r.strict && t.q.stale {
		fail(criterionStrict, "strict: the gateway cannot ask its database at the moment")
	}
	if r.cond != nil && t.q.sub != nil {
		t.traceWhen(&out, r.cond, svc)
	}
	if effect == EffectAllow && r.stepUp != nil && t.q.sub != nil && !t.q.loginWithin(r.stepUp.MaxAge) {
		fail(criterionReauth, "reauth_within %s: %s", duration(r.stepUp.MaxAge), lastLogin(t.q.sub, now))
	}
	if len(out.Failed) > 0 {
		out.Doubts = nil
	}
	return out
}

func lastLogin(sub *Subject, now time.Time) string {
	if sub.id.AuthTime.IsZero() {
		return "nobody knows when you logged in"
	}
	return "last login " + roughly(now.Sub(sub.id.AuthTime)) + " ago"
}

// roughly drops what nobody wants to know: the seconds of minutes, and the minutes of days.
func roughly(d time.Duration) string {
	switch {
	case d >= 24*time.Hour:
		d = d.Round(time.Hour)
	case d >= time.Minute:
		d = d.Round(time.Minute)
	case d >= time.Second:
		d = d.Round(time.Second)
	}
	return duration(d)
}

// names says whether a rule names somebody: by a group or an entry of its users. Unknown is for whom it would name if
// the provider said more.
func (s *Set) names(r *Rule, sub *Subject) Tri {
	if sub == nil {
		return No
	}
	out := No
	for _, g := range r.Groups {
		switch {
		case s.inGroup(sub, g):
			return Yes
		case !sub.id.GroupsKnown && s.ofProvider(g, sub):
			out = Unknown
		}
	}
	for _, u := range r.Users {
		switch {
		case isUser(sub, u):
			return Yes
		case u.Email != "" && !sub.id.EmailTrusted && (u.Provider == "" || u.Provider == sub.id.Provider):
			out = Unknown
		}
	}
	return out
}

func (s *Set) ofProvider(g GroupRef, sub *Subject) bool {
	return slices.ContainsFunc(groupKeys(g, s.several), func(k groupKey) bool { return k.provider == "" || k.provider == sub.id.Provider })
}

// maxListed is how many names a sentence lists.
const maxListed = 6

// otherSubjects says whom a rule names, and who the person is instead.
func (s *Set) otherSubjects(r *Rule, sub *Subject) string {
	var names, is []string
	if len(r.Groups) > 0 {
		names = append(names, plural("group", groupTexts(r.Groups)))
		is = append(is, s.groupsSentence(sub))
	}
	if len(r.Users) > 0 {
		names = append(names, plural("user", userTexts(r.Users)))
		is = append(is, userSentence(r, sub))
	}
	if sub == nil {
		is = []string{"nobody is logged in"}
	}
	return strings.Join(names, " or ") + ": " + strings.Join(is, ", ")
}

func plural(what string, names []string) string {
	if len(names) > 1 {
		what += "s"
	}
	return what + " " + some(names)
}

// some lists the first names.
func some(names []string) string {
	if n := len(names) - maxListed; n > 0 {
		return fmt.Sprintf("%s and %d others", some(names[:maxListed]), n)
	}
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = clean(short(name, 64))
	}
	return strings.Join(texts, ", ")
}

func (s *Set) groupsSentence(sub *Subject) string {
	switch {
	case sub == nil:
		return ""
	case !sub.id.GroupsKnown:
		return "your provider did not say which groups you are in"
	case len(sub.id.Groups) == 0:
		return "you are in no group"
	}
	return "you are in " + some(s.groupsOf(&sub.id))
}

func userSentence(r *Rule, sub *Subject) string {
	if sub == nil {
		return ""
	}
	byEmail := slices.ContainsFunc(r.Users, func(u UserRef) bool { return u.Email != "" })
	switch {
	case byEmail && sub.id.Email == "":
		return "your provider did not say your e-mail address"
	case byEmail && !sub.id.EmailTrusted:
		return "your provider does not vouch for your e-mail address " + clean(short(sub.id.Email, 96))
	case byEmail && sub.id.Provider != "":
		return "you are " + clean(short(sub.id.Provider+":"+sub.email, 96))
	}
	return "you are " + clean(short(sub.id.Provider+":sub:"+sub.id.Subject, 96))
}

// maxTraced is what all conditions of an explanation may cost. Those that come after it are not asked.
const maxTraced = 4 * maxSpent

// traceWhen asks every operand of a condition: those that are false fail it, and so do, for an allow, those that cannot
// be decided. A deny holds with those, unless another one is false.
func (t *tracer) traceWhen(out *RuleTrace, c *condition, svc int32) {
	a := &activation{
		facts: t.q.seen.factsOf(t.set, t.q.sub), now: t.q.clock().UTC(), authAt: t.q.sub.id.AuthTime, client: t.q.client, at: t.q.at,
		service: t.set.doc.Services[svc].Name, kind: string(t.q.kind),
	}
	texts := t.operandTexts(c)
	var no, doubt []Criterion
	for i := range c.parts {
		p := &c.parts[i]
		r := result{holds: Unknown, why: ConditionCost}
		if t.q.spent <= maxTraced {
			r = p.eval(a, a.unknown())
			t.q.spent += r.cost
		}
		switch {
		case r.holds == No:
			no = append(no, Criterion{criterionWhen, "when: " + texts[i] + " is false" + valuesOf(a, p.facts)})
		case r.holds == Unknown:
			doubt = append(doubt, Criterion{criterionWhen, "when: " + undecided(r, texts[i])})
		}
	}
	switch {
	case out.Effect == EffectAllow:
		out.Failed = slices.Concat(out.Failed, no, doubt)
	case len(no) > 0:
		out.Failed = append(out.Failed, no...)
	default:
		out.Doubts = append(out.Doubts, doubt...)
	}
}

func undecided(r result, text string) string {
	switch r.why {
	case ConditionUnknown:
		return are(r.detail) + " unknown"
	case ConditionCost:
		return text + " takes too long"
	}
	return text + " fails: " + clean(r.detail)
}

func are(names string) string {
	if strings.Contains(names, ", ") {
		return names + " are"
	}
	return names + " is"
}

// operandTexts writes what && joins at the top, in the order of the condition's parts.
func (t *tracer) operandTexts(c *condition) []string {
	texts := make([]string, len(c.parts))
	for i := range texts {
		texts[i] = clean(short(strings.Join(strings.Fields(c.text), " "), 256))
	}
	parsed, ok := t.n.parse(c.text)
	if !ok {
		return texts
	}
	list := operands(parsed.NativeRep().Expr(), operators.LogicalAnd)
	for i := range min(len(list), len(texts)) {
		if text, err := cel.ExprToString(list[i], parsed.NativeRep().SourceInfo()); err == nil && len(list) == len(texts) {
			texts[i] = clean(short(strings.Join(strings.Fields(text), " "), 256))
		}
	}
	return texts
}

// valuesOf says what the facts of an operand are: ` (device.os is "windows")`.
func valuesOf(a *activation, of factSet) string {
	var list []string
	for f, name := range factNames {
		if v, ok := a.ResolveName(name); ok && of.has(fact(f)) {
			list = append(list, name+" is "+valueText(v))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

func valueText(v any) string {
	if r, ok := v.(ref.Val); ok {
		v = r.Value()
	}
	switch v := v.(type) {
	case string:
		return quote(v)
	case []string:
		return "[" + some(v) + "]"
	case time.Time:
		return moment(v)
	case time.Duration:
		return roughly(v)
	}
	return clean(short(fmt.Sprint(v), 96))
}
