package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/server/policy"
)

func lines(err error) []string { return strings.Split(err.Error(), "\n") }

func trimNewline(text []byte) []byte { return bytes.TrimRight(text, "\n") }

func (p *program) policyCommand() *cobra.Command {
	check := &cobra.Command{
		Use: "check FILE", Short: "Report what is wrong with a policy file", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.policyCheck(cmd, args[0]) },
	}
	test := &cobra.Command{
		Use: "test FILE", Short: "Run the tests that a policy file brings along", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.policyTest(cmd, args[0]) },
	}
	for _, cmd := range []*cobra.Command{check, test} {
		cmd.Flags().StringArray("provider", nil, "name of a provider that the gateway has, instead of those in --config; repeat for each")
	}
	return p.group("policy", "Check and test access rules before they count", check, test)
}

// A policyReport is what both commands print with --json.
type policyReport struct {
	OK       bool            `json:"ok"`
	File     string          `json:"file"`
	Version  string          `json:"version,omitempty"`
	Services int             `json:"services"`
	Rules    int             `json:"rules"`
	Tests    int             `json:"tests"`
	Warnings []string        `json:"warnings,omitempty"`
	Errors   []string        `json:"errors,omitempty"`
	Failures []policyFailure `json:"failures,omitempty"`
}

type policyFailure struct {
	Test   string `json:"test"`
	Line   int    `json:"line"`
	Column int    `json:"column,omitempty"`
	Target string `json:"target"`
	Want   string `json:"want"`
	Got    string `json:"got"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// loadPolicy reads a file as the gateway would. The names of the providers come from --provider, or from the
// configuration where one was named; otherwise any name goes.
func (p *program) loadPolicy(cmd *cobra.Command, file string) (*policy.Set, error) {
	data, err := durable.ReadFile(file, policy.MaxFileSize)
	if err != nil {
		return nil, err
	}
	var opts policy.Options
	if names, err := cmd.Flags().GetStringArray("provider"); err != nil {
		return nil, err
	} else if len(names) > 0 {
		opts.Providers = names
	} else if cmd.Flags().Changed("config") {
		cfg, err := p.load(nil)
		if err != nil {
			return nil, err
		}
		opts = cfg.PolicyOptions()
	}
	return policy.Load(file, data, opts)
}

func report(file string, set *policy.Set) policyReport {
	r := policyReport{File: file}
	if set == nil {
		return r
	}
	doc := set.Document()
	r.OK, r.Version = true, set.Version()
	r.Services, r.Rules, r.Tests = len(doc.Services), len(doc.Rules), len(doc.Tests)
	for _, warning := range doc.Warnings {
		r.Warnings = append(r.Warnings, warning.Error())
	}
	return r
}

func (p *program) policyCheck(cmd *cobra.Command, file string) error {
	set, err := p.loadPolicy(cmd, file)
	var failed *policy.TestError
	if errors.As(err, &failed) {
		err = nil // that is for "policy test"
	}
	r := report(file, set)
	if err == nil {
		return p.print(r, r.text(fmt.Sprintf("%d services, %d rules, %d tests\nversion %s\n", r.Services, r.Rules, r.Tests, r.Version)))
	}
	return p.policyRefused(r, err)
}

func (p *program) policyRefused(r policyReport, err error) error {
	var faults *strictconf.Error
	switch {
	case p.json:
	case errors.As(err, &faults): // as compilers do, so that editors find the place
		for _, line := range lines(err) {
			fmt.Fprintln(p.err, line)
		}
		return exitCode(exitError)
	default:
		return err
	}
	r.OK, r.Errors = false, lines(err)
	if err := p.print(r, ""); err != nil {
		return err
	}
	return exitCode(exitError)
}

func (r policyReport) text(rest string) string {
	var b strings.Builder
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	fmt.Fprintf(&b, "%s: ok, %s", r.File, rest)
	return b.String()
}

func (p *program) policyTest(cmd *cobra.Command, file string) error {
	set, err := p.loadPolicy(cmd, file)
	r := report(file, set)
	var failed *policy.TestError
	switch {
	case errors.As(err, &failed):
		return p.policyFailed(r, failed)
	case err != nil:
		return p.policyRefused(r, err)
	case r.Tests == 0:
		return p.print(r, r.text("but it has no tests; write some under \"tests\"\n"))
	default:
		return p.print(r, r.text(plural(r.Tests, "test holds", "tests hold")+"\n"))
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// policyFailed prints the difference between what the tests want and get.
func (p *program) policyFailed(r policyReport, failed *policy.TestError) error {
	r.OK = false
	var b strings.Builder
	for _, f := range failed.Failures {
		d := failure(f)
		r.Failures = append(r.Failures, d)
		fmt.Fprintf(&b, "%s:%d:%d: test %q\n  target  %s\n  want    %s\n  got     %s\n", r.File, d.Line, d.Column, d.Test, d.Target, d.Want, d.Got)
		if d.Rule != "" {
			fmt.Fprintf(&b, "  rule    %s\n", d.Rule)
		}
		if d.Reason != "" {
			fmt.Fprintf(&b, "  because %s\n", d.Reason)
		}
	}
	fmt.Fprintf(&b, "%s: %s\n", r.File, plural(len(r.Failures), "expectation does not hold", "expectations do not hold"))
	if err := p.print(r, b.String()); err != nil {
		return err
	}
	return exitCode(exitError)
}

func failure(f policy.Failure) policyFailure {
	return policyFailure{Test: f.Test, Line: f.Pos.Line, Column: f.Pos.Column, Target: f.Target, Want: string(f.Want), Got: string(f.Got()),
		Rule: f.Decision.Rule, Reason: f.Decision.Reason}
}
