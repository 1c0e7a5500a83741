package adminctl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// policyRefused explains why a change of the policy was not made: somebody else was faster, or the document is wrong.
func (c *ctl) policyRefused(name string, expected int64, err error) error {
	var p *adminapi.Problem
	if !errors.As(err, &p) {
		return err
	}
	switch {
	case p.Code == adminapi.CodeConflict && p.Current != nil:
		return c.conflict(p, expected)
	case p.Code == adminapi.CodePolicyInvalid && p.Check != nil:
		var b strings.Builder
		faults(&b, name, "", p.Check.Faults)
		faults(&b, name, "", p.Check.Failures)
		if b.Len() > 0 {
			c.note("%s", strings.TrimSuffix(b.String(), "\n"))
		}
		e := problemError(p)
		e.Message = name + " was refused: " + e.Message
		return e
	default:
		return err
	}
}

func (c *ctl) conflict(p *adminapi.Problem, expected int64) error {
	now := *p.Current
	comment := ""
	if now.Comment != "" {
		comment = ", with the comment: " + clean(now.Comment)
	}
	author := cleanOr(now.Author, "somebody")
	if now.Author == "" && now.Source == "file" {
		author = "the gateway's file"
	}
	e := problemError(p)
	e.Message = fmt.Sprintf("nothing was changed: yours is based on version %d, and version %d is in force, by %s, %s%s",
		expected, now.Number, author, c.calendar().full(now.Accepted), comment)
	e.Hint = fmt.Sprintf("look at it with %s admin policy show %d, bring your change onto it, and apply that with --expect %d", c.Program, now.Number, now.Number)
	return e
}
