package adminctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func (c *ctl) policyCommand() *cobra.Command {
	return c.group("policy", "Try, change and explain the rules", "",
		c.policyCheckCommand(), c.policyTestCommand(), c.policyShowCommand(), c.policyDiffCommand(), c.policyApplyCommand(),
		c.policyHistoryCommand(), c.policyRollbackCommand(), c.explainCommand(), c.whoCommand(), c.whatCommand())
}

func (c *ctl) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check FILE", Short: "Ask the gateway whether it would accept a policy, and why not", Args: cobra.ExactArgs(1),
		Long: `Asks the gateway whether it would accept the policy in FILE ("-" is standard
input): whether it loads, with the gateway's own providers, and whether its tests
hold. Nothing changes. Exit code 1 when it would be refused.`,
		Example: `  NAME admin policy check policy.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.check(cmd.Context(), args[0], c.checkText)
		},
	}
}

func (c *ctl) policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use: "test FILE", Short: "Run a policy's own tests at the gateway", Args: cobra.ExactArgs(1),
		Long: `Runs the tests in the policy FILE ("-" is standard input) at the gateway, and says
which do not hold. Exit code 1 when one does not. "culvert-gateway policy test"
does the same without a gateway, in a repository's CI.`,
		Example: `  NAME admin policy test policy.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.check(cmd.Context(), args[0], c.testText)
		},
	}
}

func (c *ctl) check(ctx context.Context, path string, text func(name string, r *adminapi.PolicyCheck) string) error {
	name, document, err := c.document(path)
	if err != nil {
		return err
	}
	return c.call(ctx, func(ctx context.Context, api *adminapi.Client) error {
		r, err := api.PolicyCheck(ctx, document)
		if err != nil {
			return err
		}
		if c.JSON() {
			err = c.json(r)
		} else {
			err = c.printf("%s", text(name, r))
		}
		if err == nil && !r.Valid {
			err = quietly(ExitError)
		}
		return err
	})
}

func (c *ctl) checkText(name string, r *adminapi.PolicyCheck) string {
	var b strings.Builder
	faults(&b, name, "", r.Faults)
	faults(&b, name, "", r.Failures)
	faults(&b, name, "warning: ", r.Warnings)
	verdict := "would be accepted"
	if !r.Valid {
		verdict = "would be refused"
	}
	fmt.Fprintf(&b, "%s: %s", name, verdict)
	if len(r.Faults) == 0 {
		fmt.Fprintf(&b, "; %s, %s, %s\n%s", plural(r.Services, "service"), plural(r.Rules, "rule"), plural(r.Tests, "test"), clean(r.Digest))
	}
	b.WriteByte('\n')
	return b.String()
}

func (c *ctl) testText(name string, r *adminapi.PolicyCheck) string {
	var b strings.Builder
	faults(&b, name, "", r.Faults)
	faults(&b, name, "", r.Failures)
	switch {
	case len(r.Faults) > 0:
		fmt.Fprintf(&b, "%s: does not load, no test ran\n", name)
	case r.Tests == 0:
		fmt.Fprintf(&b, "%s: has no tests; write some under \"tests\"\n", name)
	case len(r.Failures) > 0:
		met := "are"
		if len(r.Failures) == 1 {
			met = "is"
		}
		fmt.Fprintf(&b, "%s: tests fail: %s %s not met\n", name, plural(len(r.Failures), "expectation"), met)
	default:
		fmt.Fprintf(&b, "%s: ok, %s passed\n", name, plural(r.Tests, "test"))
	}
	return b.String()
}

// faults prints each as editors can jump to it.
func faults(b *strings.Builder, name, kind string, list []adminapi.Fault) {
	for _, f := range list {
		where := name
		if f.Line > 0 {
			where += ":" + strconv.Itoa(f.Line)
			if f.Column > 0 {
				where += ":" + strconv.Itoa(f.Column)
			}
		}
		fmt.Fprintf(b, "%s: %s%s\n", where, kind, clean(f.Message))
	}
}

func (c *ctl) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [NUMBER]", Short: "Print the policy in force, or an earlier version", Args: cobra.MaximumNArgs(1),
		Long: `Prints the policy file that is in force, or the version NUMBER of "history", byte
for byte on standard output; which version it is goes to standard error.`,
		Example: `  NAME admin policy show
  NAME admin policy show 12 > policy-12.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			number := int64(0)
			if len(args) == 1 {
				var err error
				if number, err = versionNumber(args[0]); err != nil {
					return err
				}
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error { return c.show(ctx, api, number) })
		},
	}
}

func versionNumber(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, usagef("admin policy history lists the versions", "%q is not the number of a version", s)
	}
	return n, nil
}

func (c *ctl) show(ctx context.Context, api *adminapi.Client, number int64) error {
	var doc *adminapi.PolicyDocument
	var err error
	if number == 0 {
		doc, err = api.Policy(ctx)
	} else {
		doc, err = api.PolicyVersion(ctx, number)
		err = c.ifMissing(err, "policy history lists the versions")
	}
	if err != nil {
		return err
	}
	if c.JSON() {
		return c.json(doc)
	}
	force := "not in force"
	if doc.InForce {
		force = "in force"
	}
	c.note("%s, %s", c.versionLine(doc.PolicyVersion), force)
	text := doc.Document
	if terminal(c.Out) {
		text = cleanDocument(text)
	}
	if !strings.HasSuffix(text, "\n") && terminal(c.Out) {
		text += "\n"
	}
	return c.printf("%s", text)
}

// versionLine is a version in one sentence.
func (c *ctl) versionLine(v adminapi.PolicyVersion) string {
	text := "version " + strconv.FormatInt(v.Number, 10)
	if v.Number == 0 {
		text = "a policy without a number"
	}
	if v.Author != "" {
		text += " by " + clean(v.Author)
	} else if v.Source == "file" {
		text += " from the gateway's file"
	}
	if !v.Accepted.IsZero() {
		text += ", " + c.calendar().full(v.Accepted)
	}
	if v.Comment != "" {
		text += ": " + clean(v.Comment)
	}
	return text
}

func (c *ctl) policyHistoryCommand() *cobra.Command {
	l := listing[adminapi.PolicyVersion]{what: "version", none: "no version is recorded", table: versionTable}
	cmd := &cobra.Command{
		Use: "history", Short: "List who changed the policy when, and why", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context(), c) },
	}
	limitFlag(cmd, &l.limit)
	l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.PolicyVersion], error) {
		return api.PolicyVersions(ctx, page)
	}
	return cmd
}

func versionTable(items []adminapi.PolicyVersion, cal calendar) *table {
	t := newTable(column{name: "NUMBER", right: true}, column{name: cal.zoned("ACCEPTED")}, column{name: "BY", most: 24},
		column{name: "DIGEST"}, column{name: "COMMENT", words: true})
	for _, v := range items {
		by := clean(v.Author)
		if by == "" && v.Source == "file" {
			by = "(file)"
		}
		t.add(strconv.FormatInt(v.Number, 10), cal.short(v.Accepted), by, shortDigest(v.Digest), clean(v.Comment))
	}
	return t
}

// shortDigest is enough to compare by eye.
func shortDigest(s string) string {
	s = strings.TrimPrefix(clean(s), "sha256:")
	if len(s) > 12 {
		s = s[:12]
	}
	return s
}

func (c *ctl) policyApplyCommand() *cobra.Command {
	var comment string
	var expect int64
	cmd := &cobra.Command{
		Use: "apply FILE --comment TEXT", Short: "Put a policy into force", Args: cobra.ExactArgs(1),
		Long: `Puts the policy in FILE ("-" is standard input) into force, where policies are
managed (policy.source: managed). It is refused, and the policy in force stays, when
it does not load, when one of its tests does not hold, or when somebody else changed
the policy meanwhile: --expect is the number of the version that yours is based on;
left out, it is the one in force when the command starts.

Streams that the new policy no longer allows are cut within a second.
"policy diff FILE" shows before what would change.`,
		Example: `  NAME admin policy diff policy.yaml --since 30d
  NAME admin policy apply policy.yaml --expect 12 --comment "contractors leave the lab"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(comment) == "" {
				return usagef("say why, for the history: --comment TEXT", "a change of the policy needs a comment")
			}
			name, document, err := c.document(args[0])
			if err != nil {
				return err
			}
			given := cmd.Flags().Changed("expect")
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				if !given {
					if expect, err = c.currentVersion(ctx, api); err != nil {
						return err
					}
				}
				applied, err := api.PolicyApply(ctx, adminapi.PolicyApply{Document: document, Expected: expect, Comment: comment})
				if err != nil {
					return c.policyRefused(name, expect, err)
				}
				return c.applied(name, applied)
			})
		},
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why, for the history (required)")
	cmd.Flags().Int64Var(&expect, "expect", 0, "the number of the version that FILE is based on (default the one in force)")
	return cmd
}

// currentVersion is what a change is based on when nobody said it.
func (c *ctl) currentVersion(ctx context.Context, api *adminapi.Client) (int64, error) {
	doc, err := api.Policy(ctx)
	if err != nil {
		return 0, fmt.Errorf("ask for the version in force: %w", err)
	}
	c.note("based on %s", c.versionLine(doc.PolicyVersion))
	return doc.Number, nil
}

func (c *ctl) applied(name string, a *adminapi.PolicyApplied) error {
	if c.JSON() {
		return c.json(a)
	}
	var b strings.Builder
	faults(&b, name, "warning: ", a.Warnings)
	fmt.Fprintf(&b, "version %d is in force\nreference %s\n", a.Number, clean(a.Reference))
	return c.printf("%s", b.String())
}

func (c *ctl) policyRollbackCommand() *cobra.Command {
	var comment string
	var expect int64
	cmd := &cobra.Command{
		Use: "rollback NUMBER", Short: "Put an earlier version into force again, as a new one", Args: cobra.ExactArgs(1),
		Long: `Puts the document of version NUMBER into force again, as a new version, where
policies are managed. Streams that it does not allow are cut within a second.
--expect is as for "apply".`,
		Example: `  NAME admin policy history
  NAME admin policy rollback 11 --comment "12 locked the night shift out"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := versionNumber(args[0])
			if err != nil {
				return err
			}
			given := cmd.Flags().Changed("expect")
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				if !given {
					if expect, err = c.currentVersion(ctx, api); err != nil {
						return err
					}
				}
				applied, err := api.PolicyRollback(ctx, adminapi.PolicyRollback{Number: number, Expected: expect, Comment: comment})
				if err != nil {
					err = c.ifMissing(err, "policy history lists the versions")
					return c.policyRefused("version "+args[0], expect, err)
				}
				return c.applied("version "+args[0], applied)
			})
		},
	}
	cmd.Flags().StringVar(&comment, "comment", "", "why, for the history, which says by itself that it is a rollback")
	cmd.Flags().Int64Var(&expect, "expect", 0, "the number of the version that is in force")
	return cmd
}
