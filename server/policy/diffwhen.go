package policy

import (
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// A normalizer gives things that mean the same in both policies the same form.
type normalizer struct {
	env      *cel.Env // made at the first condition; nil where that failed
	whens    map[string]string
	services map[string]int32 // by name, over both policies
}

func newNormalizer() *normalizer {
	return &normalizer{whens: make(map[string]string), services: make(map[string]int32)}
}

// servicesIn returns the services that expanded entries stand for, as numbers that are the same for both policies.
func (n *normalizer) servicesIn(s *Set, lists [][]int32) []int32 {
	ids := []int32{}
	for _, list := range lists {
		for _, svc := range list {
			name := s.doc.Services[svc].Name
			id, ok := n.services[name]
			if !ok {
				id = int32(len(n.services))
				n.services[name] = id
			}
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// when returns the one spelling of a condition: white space, comments, redundant parentheses and the order of what
// && and || join make no difference. (Both are commutative in CEL, as an error of one side is absorbed by the other.)
func (n *normalizer) when(text string) string {
	if text == "" {
		return ""
	}
	if known, ok := n.whens[text]; ok {
		return known
	}
	form := strings.Join(strings.Fields(text), " ")
	if parsed, ok := n.parse(text); ok {
		if normal, err := normalForm(parsed.NativeRep().Expr(), parsed.NativeRep().SourceInfo()); err == nil {
			form = normal
		}
	}
	n.whens[text] = form
	return form
}

func (n *normalizer) parse(text string) (*cel.Ast, bool) {
	if n.env == nil {
		env, err := cel.NewEnv(cel.EnableMacroCallTracking())
		if err != nil {
			return nil, false
		}
		n.env = env
	}
	parsed, issues := n.env.Parse(text)
	return parsed, issues.Err() == nil
}

// normalForm writes an expression; what && and || join is sorted, at the top and below one another.
func normalForm(e ast.Expr, info *ast.SourceInfo) (string, error) {
	op := operatorOf(e)
	if op == "" {
		return cel.ExprToString(e, info)
	}
	var parts []string
	for _, operand := range operands(e, op) {
		text, err := normalForm(operand, info)
		if err != nil {
			return "", err
		}
		if inner := operatorOf(operand); inner == operators.LogicalOr || isCall(operand, operators.Conditional) {
			text = "(" + text + ")"
		}
		parts = append(parts, text)
	}
	slices.Sort(parts)
	if op == operators.LogicalAnd {
		return strings.Join(slices.Compact(parts), " && "), nil
	}
	return strings.Join(slices.Compact(parts), " || "), nil
}

// operatorOf returns the operator of a conjunction or disjunction, or "".
func operatorOf(e ast.Expr) string {
	for _, op := range []string{operators.LogicalAnd, operators.LogicalOr} {
		if isCall(e, op) {
			return op
		}
	}
	return ""
}

func isCall(e ast.Expr, function string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function
}

// operands returns what a chain of one operator joins.
func operands(e ast.Expr, op string) []ast.Expr {
	if !isCall(e, op) {
		return []ast.Expr{e}
	}
	var list []ast.Expr
	for _, arg := range e.AsCall().Args() {
		list = append(list, operands(arg, op)...)
	}
	return list
}
