package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // a decision must not depend on what is installed beside the gateway

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"
	"cel.dev/cel-go/interpreter"
)

// Limits of conditions, in CEL's units of cost: about one for each step, one for each ten characters of a text that
// is walked through.
const (
	maxWhen       = 4096    // bytes of one condition
	maxWhens      = 1 << 20 // bytes of all conditions of a file that differ
	maxStaticCost = 500_000 // of a condition, with the largest people and devices that are to be expected
	maxCost       = 100_000 // of one evaluation; some milliseconds
	maxSpent      = 500_000 // of all evaluations for one decision
	maxDepth      = 64      // of nesting
	maxRegexSize  = 1000    // of a compiled pattern
)

// A condition is a compiled "when". It never changes.
type condition struct {
	text  string
	parts []part // all have to hold: what && joins at the top
	facts factSet
	// groups are the literal groups that are looked for in user.groups.
	groups []groupLiteral
}

// A part is one operand of the condition, so that a refusal can say which one failed.
type part struct {
	program cel.Program
	facts   factSet
}

type groupLiteral struct {
	text   string
	offset int // in the condition's text, in characters
}

// A result is what became of a condition.
type result struct {
	holds  Tri
	why    Condition // why it does not hold for certain
	detail string    // which facts: "device.os"; or the error
	cost   uint64
}

// environment compiles conditions. It is made at the first one.
type environment struct {
	env   *cel.Env
	known map[string]*condition // by text: policies repeat themselves
	read  int                   // bytes of those that were compiled
}

func newEnvironment() (*environment, error) {
	opts := []cel.EnvOption{
		cel.StdLib(), cel.ClearMacros(),
		cel.Macros(cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro, cel.MapMacro, cel.MapFilterMacro, cel.FilterMacro),
		ext.Network(),
		cel.ParserExpressionSizeLimit(maxWhen), cel.ParserRecursionLimit(maxDepth), cel.RegexProgramSizeLimit(maxRegexSize),
		cel.ASTValidators(cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals()),
	}
	for f, name := range factNames {
		opts = append(opts, cel.Variable(name, typeOfFact(fact(f))))
	}
	env, err := cel.NewCustomEnv(append(opts, zonedTimes()...)...)
	if err != nil {
		return nil, err
	}
	return &environment{env: env, known: make(map[string]*condition)}, nil
}

// compile returns the condition, or what is wrong with it.
func (e *environment) compile(text string) (*condition, []celFault) {
	if c := e.known[text]; c != nil {
		return c, nil
	}
	if e.read += len(text); e.read > maxWhens {
		return nil, []celFault{{0, fmt.Sprintf("the conditions have more than %d bytes, equal ones counted once", maxWhens)}}
	}
	checked, faults := e.check(text)
	if len(faults) > 0 {
		return nil, faults
	}
	c := &condition{text: text, groups: groupsLookedFor(checked.NativeRep())}
	for _, expr := range operands(checked.NativeRep().Expr(), operators.LogicalAnd) {
		p, err := e.plan(checked.NativeRep(), expr)
		if err != nil {
			return nil, []celFault{{0, err.Error()}}
		}
		c.parts = append(c.parts, p)
		c.facts |= p.facts
	}
	e.known[text] = c
	return c, nil
}

// plan makes one operand of a checked condition ready to run.
func (e *environment) plan(whole *ast.AST, expr ast.Expr) (part, error) {
	p := part{}
	ast.PreOrderVisit(expr, ast.NewExprVisitor(func(e ast.Expr) {
		if r := whole.ReferenceMap()[e.ID()]; r != nil {
			if f, ok := factByName[r.Name]; ok {
				p.facts |= 1 << f
			}
		}
	}))
	operand := ast.NewCheckedAST(ast.NewAST(expr, whole.SourceInfo()), whole.TypeMap(), whole.ReferenceMap())
	var err error
	p.program, err = e.env.PlanProgram(operand, cel.EvalOptions(cel.OptOptimize, cel.OptPartialEval), cel.CostLimit(maxCost))
	return p, err
}

// eval decides a condition: it holds when all parts do. A part that does not hold outweighs one that cannot be decided.
func (c *condition) eval(a *activation) result {
	out := result{holds: Yes}
	unknown := a.unknown()
	spent := uint64(0)
	for i := range c.parts {
		r := c.parts[i].eval(a, unknown)
		spent += r.cost
		switch {
		case r.holds == No:
			r.cost = spent
			return r
		case r.holds == Unknown && out.holds == Yes:
			out = r
		case r.holds == Unknown && r.why == out.why && !strings.Contains(out.detail, r.detail):
			out.detail += ", " + r.detail
		}
	}
	out.cost = spent
	return out
}

func (p *part) eval(a *activation, unknown factSet) result {
	var vars cel.Activation = a
	if missing := unknown & p.facts; missing != 0 {
		vars = &partialActivation{a, patternsOf(missing)}
	}
	out, details, err := p.program.Eval(vars)
	r := p.result(out, err)
	if cost := details.ActualCost(); cost != nil {
		r.cost = *cost
	}
	return r
}

func (p *part) result(out ref.Val, err error) result {
	switch {
	case err != nil:
		return failed(err)
	case out == types.True:
		return result{holds: Yes}
	case out == types.False:
		return result{holds: No, why: ConditionFalse, detail: p.facts.String()}
	}
	if u, ok := out.(*types.Unknown); ok {
		return result{holds: Unknown, why: ConditionUnknown, detail: namesOf(u)}
	}
	return result{holds: Unknown, why: ConditionError, detail: "it is neither true nor false"}
}

func failed(err error) result {
	var cancelled interpreter.EvalCancelledError
	if errors.As(err, &cancelled) && cancelled.Cause == interpreter.CostLimitExceeded {
		return result{holds: Unknown, why: ConditionCost, cost: maxCost}
	}
	return result{holds: Unknown, why: ConditionError, detail: short(err.Error(), 128)}
}

// namesOf returns the facts whose absence left a value unknown.
func namesOf(u *types.Unknown) string {
	var names []string
	for _, id := range u.IDs() {
		trails, _ := u.GetAttributeTrails(id)
		for _, t := range trails {
			names = append(names, t.Variable())
		}
	}
	return strings.Join(sorted(names), ", ")
}

// String returns the names, as "device.os, now".
func (s factSet) String() string {
	var names []string
	for f, name := range factNames {
		if s.has(fact(f)) {
			names = append(names, name)
		}
	}
	return strings.Join(names, ", ")
}

// groupsLookedFor finds `"engineering" in user.groups`.
func groupsLookedFor(checked *ast.AST) []groupLiteral {
	var found []groupLiteral
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if !isCall(e, operators.In) {
			return
		}
		args := e.AsCall().Args()
		list := checked.ReferenceMap()[args[1].ID()]
		if list == nil || list.Name != factNames[userGroups] || args[0].Kind() != ast.LiteralKind {
			return
		}
		if text, ok := args[0].AsLiteral().(types.String); ok {
			offset, _ := checked.SourceInfo().GetOffsetRange(args[0].ID())
			found = append(found, groupLiteral{string(text), int(offset.Start)})
		}
	}))
	return found
}

// locations keeps the time zones that conditions name: to load one costs more than a whole decision.
type locations struct {
	mu    sync.RWMutex
	named map[string]*time.Location
}

const maxLocations = 1024 // there are some 600

func (l *locations) load(name string) (*time.Location, error) {
	l.mu.RLock()
	loc := l.named[name]
	l.mu.RUnlock()
	if loc != nil {
		return loc, nil
	}
	loc, err := loadLocation(name)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.named) < maxLocations {
		l.named[name] = loc
	}
	return loc, nil
}

// loadLocation loads "Europe/Berlin" or an offset such as "+02:00". The gateway's own zone ("Local", "") is none: it would
// make a policy mean something else on another machine.
func loadLocation(name string) (*time.Location, error) {
	if at, err := time.Parse("-07:00", name); err == nil {
		return at.Location(), nil
	}
	if name == "" || name == "Local" {
		return nil, errors.New("the machine's own time zone is not available to conditions")
	}
	return time.LoadLocation(name)
}

// zonedGetters are the functions of a timestamp that take a time zone, and what CEL calls their overloads.
var zonedGetters = map[string]struct {
	overload string
	get      func(time.Time) int
}{
	overloads.TimeGetFullYear:     {overloads.TimestampToYearWithTz, time.Time.Year},
	overloads.TimeGetMonth:        {overloads.TimestampToMonthWithTz, func(t time.Time) int { return int(t.Month()) - 1 }},
	overloads.TimeGetDayOfYear:    {overloads.TimestampToDayOfYearWithTz, func(t time.Time) int { return t.YearDay() - 1 }},
	overloads.TimeGetDayOfMonth:   {overloads.TimestampToDayOfMonthZeroBasedWithTz, func(t time.Time) int { return t.Day() - 1 }},
	overloads.TimeGetDate:         {overloads.TimestampToDayOfMonthOneBasedWithTz, time.Time.Day},
	overloads.TimeGetDayOfWeek:    {overloads.TimestampToDayOfWeekWithTz, func(t time.Time) int { return int(t.Weekday()) }},
	overloads.TimeGetHours:        {overloads.TimestampToHoursWithTz, time.Time.Hour},
	overloads.TimeGetMinutes:      {overloads.TimestampToMinutesWithTz, time.Time.Minute},
	overloads.TimeGetSeconds:      {overloads.TimestampToSecondsWithTz, time.Time.Second},
	overloads.TimeGetMilliseconds: {overloads.TimestampToMillisecondsWithTz, func(t time.Time) int { return t.Nanosecond() / 1e6 }},
}

// zonedTimes are CEL's own functions with a table of time zones behind them: theirs reads the zone's file at every call.
func zonedTimes() []cel.EnvOption {
	table := &locations{named: make(map[string]*time.Location)}
	names := make([]string, 0, len(zonedGetters))
	for name := range zonedGetters {
		names = append(names, name)
	}
	slices.Sort(names)
	opts := make([]cel.EnvOption, 0, len(names))
	for _, name := range names {
		getter := zonedGetters[name]
		opts = append(opts, cel.Function(name, cel.MemberOverload(getter.overload, []*cel.Type{cel.TimestampType, cel.StringType}, cel.IntType,
			cel.BinaryBinding(func(at, zone ref.Val) ref.Val {
				loc, err := table.load(string(zone.(types.String)))
				if err != nil {
					return types.NewErrFromString(err.Error())
				}
				return types.Int(getter.get(at.(types.Timestamp).In(loc)))
			}))))
	}
	return opts
}
