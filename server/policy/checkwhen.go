package policy

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/internal/strictconf"
)

// A celFault is something wrong with a condition, at a character of its text.
type celFault struct {
	offset int
	msg    string
}

// check parses a condition and holds that it is well-typed, boolean and cannot cost too much.
func (e *environment) check(text string) (*cel.Ast, []celFault) {
	checked, issues := e.env.Compile(text)
	if issues.Err() != nil {
		return nil, e.explain(text, issues)
	}
	rep := checked.NativeRep()
	if t := checked.OutputType(); !t.IsExactType(cel.BoolType) {
		return nil, []celFault{{0, fmt.Sprintf("the condition is of type %s, and must be true or false (bool)", t)}}
	}
	if faults := badZones(rep); len(faults) > 0 {
		return nil, faults
	}
	estimate, err := e.env.EstimateCost(checked, sizes{})
	switch {
	case err != nil:
		return nil, []celFault{{0, err.Error()}}
	case estimate.Max > maxStaticCost:
		return nil, []celFault{{0, fmt.Sprintf("the condition can take too long: CEL estimates a cost of up to %d, at most %d is accepted", estimate.Max, maxStaticCost)}}
	}
	return checked, nil
}

// explain puts CEL's findings into this file's form.
func (e *environment) explain(text string, issues *cel.Issues) []celFault {
	parsed, _ := e.env.Parse(text)
	faults := make([]celFault, 0, len(issues.Errors()))
	for _, issue := range issues.Errors() {
		f := celFault{offsetOf(text, issue.Location.Line(), issue.Location.Column()), issue.Message}
		if parsed != nil {
			e.better(&f, parsed.NativeRep(), issue)
		}
		f.msg = strings.ReplaceAll(strings.ReplaceAll(f.msg, " (in container '')", ""), "'", `"`)
		faults = append(faults, f)
	}
	return faults
}

// offsetOf turns CEL's line (from 1) and column (from 0) into a number of characters.
func offsetOf(text string, line, column int) int {
	offset := 0
	for l := range strings.Lines(text) {
		if line--; line <= 0 {
			break
		}
		offset += len([]rune(l))
	}
	return offset + max(column, 0)
}

// better says it in the words of this language where CEL's would mislead.
func (e *environment) better(f *celFault, parsed *ast.AST, issue *cel.Error) {
	if !strings.HasPrefix(issue.Message, "undeclared reference") {
		return
	}
	found := false
	ast.PreOrderVisit(parsed.Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		switch name, root := dotted(x); {
		case found:
		case isCall(x, "has") && x.ID() == issue.ExprID:
			f.msg = "there is no has(): what nobody told is unknown, and an allow that asks for it does not match"
		case root != nil && (x.ID() == issue.ExprID || root.ID() == issue.ExprID):
			at, _ := parsed.SourceInfo().GetOffsetRange(root.ID())
			found, f.offset, f.msg = true, int(at.Start), unknownName(name)
		}
	}))
}

// dotted returns "device.os" for a chain of selections, and the identifier that it begins with.
func dotted(x ast.Expr) (name string, root ast.Expr) {
	switch x.Kind() {
	case ast.IdentKind:
		return x.AsIdent(), x
	case ast.SelectKind:
		head, root := dotted(x.AsSelect().Operand())
		return head + "." + x.AsSelect().FieldName(), root
	}
	return "", nil
}

// sections are what facts are grouped by.
var sections = []string{"user", "device", "auth", "request"}

func unknownName(name string) string {
	root, _, isField := strings.Cut(name, ".")
	var under []string
	for _, n := range factNames {
		if strings.HasPrefix(n, root+".") {
			under = append(under, n)
		}
	}
	switch {
	case !isField && under != nil:
		return fmt.Sprintf("%q alone is nothing; there are %s", name, strings.Join(under, ", "))
	case under != nil:
		if hint := strictconf.DidYouMean(name, under); hint != "" {
			return fmt.Sprintf("there is no %q%s", name, hint)
		}
		return fmt.Sprintf("there is no %q; there are %s", name, strings.Join(under, ", "))
	case isField:
		if hint := strictconf.DidYouMean(name, factNames[:]); hint != "" {
			return fmt.Sprintf("there is no %q%s", name, hint)
		}
	}
	return fmt.Sprintf("there is no %q%s", name, strictconf.DidYouMean(root, append([]string{"now"}, sections...)))
}

// badZones finds time zones that do not exist, in the calls that name one.
func badZones(checked *ast.AST) []celFault {
	var faults []celFault
	ast.PreOrderVisit(checked.Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if x.Kind() != ast.CallKind {
			return
		}
		call := x.AsCall()
		if _, zoned := zonedGetters[call.FunctionName()]; !zoned || len(call.Args()) != 1 || call.Args()[0].Kind() != ast.LiteralKind {
			return
		}
		name, ok := call.Args()[0].AsLiteral().(types.String)
		if !ok {
			return
		}
		if _, err := loadLocation(string(name)); err != nil {
			at, _ := checked.SourceInfo().GetOffsetRange(call.Args()[0].ID())
			faults = append(faults, celFault{int(at.Start), fmt.Sprintf(`there is no time zone %s; write one such as "Europe/Berlin", "UTC" or "+02:00"`, quote(string(name)))})
		}
	}))
	return faults
}

// sizes bound what a condition may meet: a certificate has 16 KiB of groups at most, and a client's facts are short.
// The cost limit of an evaluation holds whatever they are.
type sizes struct{}

// EstimateSize implements [cost.Estimator].
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	path := n.Path()
	if len(path) == 0 {
		return nil
	}
	most := uint64(256)
	if f, ok := factByName[path[0]]; ok && len(path) == 1 && typeOfFact(f).Kind() == types.ListKind {
		most = 1024
	}
	return &cost.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost implements [cost.Estimator].
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// A locator finds the places of a value's characters in the file. YAML may have folded, indented and quoted it.
type locator struct {
	lines [][]rune // of the file; split at the first use
	data  []byte
}

func (l *locator) split() {
	if l.lines != nil {
		return
	}
	for line := range strings.Lines(string(l.data)) {
		l.lines = append(l.lines, []rune(line))
	}
}

// place returns where the character of the node's value that is offset away from its start stands; where that cannot
// be told, the node's own place.
func (l *locator) place(n *yaml.Node, offset int) Pos {
	l.split()
	at := Pos{n.Line - 1, n.Column - 1}
	switch n.Style & (yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle) {
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		at.Column++
	case yaml.LiteralStyle, yaml.FoldedStyle:
		at = Pos{at.Line + 1, 0}
	}
	for i, c := range []rune(n.Value) {
		space := c == ' ' || c == '\n' || c == '\t'
		if !space && !l.seek(&at, c, n.Style) {
			return posOf(n)
		}
		if i == offset {
			break
		}
		if !space {
			at.Column++
		}
	}
	return Pos{at.Line + 1, at.Column + 1}
}

// seek moves at to where c stands, over nothing but space, line breaks and the marks of an escape.
func (l *locator) seek(at *Pos, c rune, style yaml.Style) bool {
	for at.Line < len(l.lines) {
		switch r, ok := l.at(*at); {
		case !ok:
			*at = Pos{at.Line + 1, 0}
		case r == c:
			if style&yaml.SingleQuotedStyle != 0 && c == '\'' {
				at.Column++ // it is written twice
			}
			return true
		case r == ' ' || r == '\t' || r == '\\' && style&yaml.DoubleQuotedStyle != 0:
			at.Column++
		default:
			return false
		}
	}
	return false
}

// at returns the character at a place counted from 0; none at a line's end.
func (l *locator) at(p Pos) (rune, bool) {
	if p.Line >= len(l.lines) || p.Column >= len(l.lines[p.Line]) {
		return 0, false
	}
	r := l.lines[p.Line][p.Column]
	return r, r != '\n' && r != '\r'
}
