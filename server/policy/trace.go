package policy

// Explain answers like [Set.Decide], and says besides what each rule had to say about the target: whether it matched,
// and if it did not, what stood in its way.
func (s *Set) Explain(sub *Subject, r Request) Explanation {
	e := Explanation{Decision: s.Decide(sub, r)}
	if s == nil {
		return e
	}
	return e
}

// An Explanation is a decision with the rules that were about the target, in the file's order. A rule that allows
// one of the services at an address and denies another stands there twice.
type Explanation struct {
	Decision Decision
	Rules    []RuleTrace
}

// A RuleTrace is what one rule had to say.
type RuleTrace struct {
	Name    string      `json:"name"`
	Effect  Effect      `json:"effect"`
	Outcome Outcome     `json:"outcome"`
	Failed  []Criterion `json:"failed,omitempty"` // empty exactly when the rule matched
	// Doubts are criteria that nobody could decide and that therefore count against the person: a deny matches with them.
	Doubts []Criterion `json:"doubts,omitempty"`
	Pos    Pos         `json:"pos"`
}

// A Criterion is one thing that a rule asks for, and a sentence on why it is not so.
type Criterion struct {
	What   string `json:"what"`   // "subjects", "when", "reauth_within", "not_before", "expires" or "strict"
	Detail string `json:"detail"` // "group engineering: you are in sales, it"
}

// Effect is what a rule does to a target that it names.
type Effect string

// The effects of a rule.
const (
	EffectAllow Effect = "allow"
	EffectDeny  Effect = "deny"
)

// Outcome is how close a rule came.
type Outcome string

// The outcomes of a rule. One at most decides.
const (
	OutcomeDecides Outcome = "decides" // it is Decision.Rule
	OutcomeMatches Outcome = "matches" // it matched, and another one decided
	OutcomeNearly  Outcome = "nearly"  // one criterion failed
	OutcomeNo      Outcome = "no"      // several did
)
