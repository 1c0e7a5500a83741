package adminctl

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// explainFlags are the question, as it is typed.
type explainFlags struct {
	as, at, client, file   string
	groups, device         []string
	authAge, acr, login    string
	amr                    []string
	groupsGiven, authGiven bool
}

func (c *ctl) explainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use: "explain --as USER SERVICE|HOST:PORT", Short: "Say how somebody's access to a service is decided, and why", Args: cobra.ExactArgs(1),
		Long: `Decides for USER as the gateway would, with the groups of their last login, and
prints the decision, the rule that makes it, and each rule that nearly matched with
what failed. Nothing is opened and nothing changes.

What is not given is unknown, as from a device that does not say: a rule that asks
for it then allows nobody. The login counts as one of this moment unless --auth-age
says how old it is. --device takes os, os_version, arch, client_version,
disk_encrypted, firewall, screen_lock and hardware_key.

Exit code 4 when the answer is no.`,
		Example: `  NAME admin policy explain --as ada@corp.example wiki
  NAME admin policy explain --as corp:bob@corp.example --device os=linux,disk_encrypted=true --auth-age 20m db:5432
  NAME admin policy explain --as ada@corp.example --groups contractors --at "2026-12-24 10:00" --policy new.yaml lab`,
		ValidArgsFunction: c.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.groupsGiven = cmd.Flags().Changed("groups")
			for _, name := range []string{"auth-age", "acr", "amr", "login"} {
				f.authGiven = f.authGiven || cmd.Flags().Changed(name)
			}
			req, err := c.explainRequest(f, args[0])
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error { return c.explain(ctx, api, req) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.as, "as", "", "the person; nobody in particular if left out, and then --groups says what counts")
	flags.StringSliceVar(&f.groups, "groups", nil, `instead of the groups of the last login, as the policy writes them; "" for none`)
	flags.StringSliceVar(&f.device, "device", nil, "what the device says of itself, as os=linux,disk_encrypted=true")
	flags.StringVar(&f.at, "at", "", "the moment of the decision (default now)")
	flags.StringVar(&f.authAge, "auth-age", "", "how long ago the person logged in, as 20m")
	flags.StringVar(&f.acr, "acr", "", "how they logged in, in the provider's words")
	flags.StringSliceVar(&f.amr, "amr", nil, "with what they logged in, as pwd,otp")
	flags.StringVar(&f.login, "login", "", "the kind of login: login (browser) or device (code)")
	flags.StringVar(&f.client, "client", "", "the address that the desktop connects from")
	flags.StringVar(&f.file, "policy", "", "decide by this policy file instead of the one in force")
	_ = cmd.RegisterFlagCompletionFunc("as", c.completeUser)
	return cmd
}

func (c *ctl) explainRequest(f explainFlags, target string) (adminapi.PolicyExplain, error) {
	req := adminapi.PolicyExplain{Target: target, User: f.as, Client: f.client}
	if f.as == "" && !f.groupsGiven {
		return req, usagef("name a person with --as USER, or groups with --groups", "whose access?")
	}
	if f.groupsGiven {
		groups := append([]string{}, f.groups...)
		req.Groups = &groups
	}
	var err error
	if req.Device, err = parseDevice(f.device); err != nil {
		return req, err
	}
	if f.at != "" {
		if req.At, err = c.calendar().parseMoment(f.at); err != nil {
			return req, usagef("", "--at: %v", err)
		}
	}
	if f.authGiven {
		if req.Auth, err = parseAuth(f); err != nil {
			return req, err
		}
	}
	if f.file != "" {
		if _, req.Document, err = c.document(f.file); err != nil {
			return req, err
		}
	}
	return req, nil
}

func parseAuth(f explainFlags) (*adminapi.Auth, error) {
	auth := &adminapi.Auth{ACR: f.acr, AMR: f.amr, Login: f.login}
	if f.login != "" && f.login != "login" && f.login != "device" {
		return nil, usagef("login is one in the browser, device one by a code", "--login %q: login or device", f.login)
	}
	if f.authAge != "" {
		age, err := ParseDuration(f.authAge)
		if err != nil {
			return nil, usagef("", "--auth-age: %v", err)
		}
		auth.Age = (*adminapi.Duration)(&age)
	}
	return auth, nil
}

// parseDevice reads os=linux and the like.
func parseDevice(list []string) (*adminapi.Device, error) {
	if len(list) == 0 {
		return nil, nil
	}
	d := &adminapi.Device{}
	texts := map[string]*string{"os": &d.OS, "os_version": &d.OSVersion, "arch": &d.Arch, "client_version": &d.ClientVersion}
	facts := map[string]**bool{"disk_encrypted": &d.DiskEncrypted, "firewall": &d.Firewall, "screen_lock": &d.ScreenLock, "hardware_key": &d.HardwareKey}
	for _, pair := range list {
		key, value, found := strings.Cut(pair, "=")
		text, fact := texts[key], facts[key]
		switch {
		case !found || value == "":
			return nil, usagef("--device os=linux,disk_encrypted=true", "--device %q is not KEY=VALUE", pair)
		case text != nil:
			*text = value
		case fact != nil && value == "unknown":
			*fact = nil
		case fact != nil:
			b, err := strconv.ParseBool(value)
			if err != nil {
				return nil, usagef("", "--device %s: %q is not true, false or unknown", key, value)
			}
			*fact = &b
		default:
			return nil, usagef("os, os_version, arch, client_version, disk_encrypted, firewall, screen_lock, hardware_key",
				"--device: a device says nothing called %q", key)
		}
	}
	return d, nil
}

func (c *ctl) explain(ctx context.Context, api *adminapi.Client, req adminapi.PolicyExplain) error {
	e, err := api.PolicyExplain(ctx, req)
	if err != nil {
		return err
	}
	if c.JSON() {
		err = c.json(e)
	} else {
		err = c.printf("%s", c.explanation(req, e))
	}
	if err == nil && !e.Answer.Allowed {
		return quietly(ExitDenied)
	}
	return err
}

// explanation puts the answer first, and after it what an administrator changes if it is the wrong one.
func (c *ctl) explanation(req adminapi.PolicyExplain, e *adminapi.Explanation) string {
	cal, d := c.calendar(), e.Answer
	b := c.page()
	fmt.Fprintf(b, "%s  %s\n", verdict(d), clean(req.Target))
	s := &sheet{}
	if d.Service != "" && d.Service != req.Target {
		s.add("decided as", clean(d.Service))
	}
	s.add("by", byRule(d))
	s.add("condition", clean(d.Condition))
	s.add("told", clean(d.Reason))
	s.add("remedy", clean(d.Remedy))
	s.add("may change", cal.full(d.Until))
	if e.Subject != nil {
		s.add("person", fullPerson(e.Subject.Person))
	}
	s.add("groups", explainedGroups(req, e.Subject))
	if !req.At.IsZero() {
		s.add("moment", cal.full(req.At))
	}
	s.add("policy", shortDigest(e.Policy))
	_ = s.write(indented(b), b.width)
	if len(e.Rules) == 0 && d.Code != "no_such_service" {
		b.WriteString("\nno rule names this target\n")
	}
	traces(b, e.Rules)
	for _, at := range e.Addresses {
		fmt.Fprintf(b, "\nbut it leads to %s, which is refused: %s\n", clean(at.Address), clean(at.Answer.Reason))
		traces(b, at.Rules)
	}
	return b.String()
}

// verdict is the answer in capitals, which a tired reader finds.
func verdict(d adminapi.Decision) string {
	switch {
	case d.Allowed:
		return "ALLOWED"
	case d.StepUp > 0:
		return "NEEDS A FRESH LOGIN (not older than " + span(time.Duration(d.StepUp)) + ")"
	case d.Code != "" && d.Code != "denied":
		return "DENIED (" + clean(d.Code) + ")"
	default:
		return "DENIED"
	}
}

func byRule(d adminapi.Decision) string {
	switch {
	case d.Rule != "":
		return "rule " + strconv.Quote(clean(d.Rule))
	case d.Allowed, d.Code == "no_such_service":
		return ""
	default:
		return "no rule allows it"
	}
}

func explainedGroups(req adminapi.PolicyExplain, u *adminapi.User) string {
	switch {
	case req.Groups != nil && len(*req.Groups) == 0:
		return "none, as given"
	case req.Groups != nil:
		return clean(strings.Join(*req.Groups, ", ")) + ", as given"
	case u == nil:
		return ""
	case !u.GroupsKnown:
		return "unknown: the provider did not say at the last login"
	case len(u.Groups) == 0:
		return "none at the last login"
	default:
		return clean(strings.Join(u.Groups, ", "))
	}
}

// traces lists what each rule did. What decides comes first, what has nothing to do with the person last.
func traces(b *page, rules []adminapi.RuleTrace) {
	order := []struct{ outcome, title string }{
		{"decides", "decides"}, {"matches", "matches too"}, {"nearly", "nearly matches"}, {"no", "does not match"},
	}
	for _, o := range order {
		for _, r := range rules {
			if r.Outcome != o.outcome {
				continue
			}
			where := ""
			if r.Line > 0 {
				where = fmt.Sprintf(" (line %d)", r.Line)
			}
			fmt.Fprintf(b, "\n%s: %s rule %q%s\n", o.title, clean(r.Effect), clean(r.Name), where)
			criteria(b, "-", r.Failed)
			criteria(b, "?", r.Doubts)
		}
	}
}

func criteria(b *page, mark string, list []adminapi.Criterion) {
	for _, f := range list {
		text := clean(f.Detail)
		if !strings.HasPrefix(text, clean(f.What)) {
			text = strings.TrimSuffix(clean(f.What)+": "+text, ": ")
		}
		for n, line := range wrap(text, b.width-4) {
			if n > 0 {
				mark = " "
			}
			fmt.Fprintf(b, "  %s %s\n", mark, line)
		}
	}
}

func (c *ctl) whoCommand() *cobra.Command {
	var at string
	var all bool
	l := listing[adminapi.Access]{what: "person", none: "nobody whom the gateways have seen reaches it"}
	cmd := &cobra.Command{
		Use: "who SERVICE", Short: "List who reaches a service, of all people whom the gateways have seen", Args: cobra.ExactArgs(1),
		Long: `Decides for everybody whom the gateways have seen, with the groups of their last
login, a login of this moment and an unknown device. A rule that asks for the device
therefore shows as a condition that fails.`,
		Example: `  NAME admin policy who payroll
  NAME admin policy who payroll --all --json`,
		ValidArgsFunction: c.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			moment, err := c.momentFlag("at", at)
			if err != nil {
				return err
			}
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Access], error) {
				found, err := api.PolicyWho(ctx, adminapi.WhoQuery{Service: args[0], At: moment, All: all, List: page})
				return found, c.ifMissing(err, "policy what USER lists the services")
			}
			l.table = func(items []adminapi.Access, _ calendar) *table {
				return accessTable("USER", items, func(a adminapi.Access) string { return person(a.User) })
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&at, "at", "", "the moment of the decision (default now)")
	cmd.Flags().BoolVar(&all, "all", false, "list those too who do not reach it, and why")
	return cmd
}

func (c *ctl) whatCommand() *cobra.Command {
	var at string
	l := listing[adminapi.Access]{what: "service", none: "the policy has no service"}
	cmd := &cobra.Command{
		Use: "what USER", Short: "List what somebody gets at each service", Args: cobra.ExactArgs(1),
		Example:           `  NAME admin policy what ada@corp.example`,
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			moment, err := c.momentFlag("at", at)
			if err != nil {
				return err
			}
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Access], error) {
				return api.PolicyWhat(ctx, adminapi.WhatQuery{User: args[0], At: moment, List: page})
			}
			l.table = func(items []adminapi.Access, _ calendar) *table {
				return accessTable("SERVICE", items, func(a adminapi.Access) string { return clean(a.Service) })
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&at, "at", "", "the moment of the decision (default now)")
	return cmd
}

func accessTable(head string, items []adminapi.Access, name func(adminapi.Access) string) *table {
	t := newTable(column{name: head, most: 36}, column{name: "ACCESS"}, column{name: "RULE", most: 24}, column{name: "WHY", words: true})
	for _, a := range items {
		t.add(name(a), accessWord(a.Decision), clean(a.Decision.Rule), accessWhy(a))
	}
	return t
}

func accessWord(d adminapi.Decision) string {
	switch {
	case d.Allowed:
		return "yes"
	case d.StepUp > 0:
		return "fresh login"
	default:
		return "no"
	}
}

// accessWhy is what a table has room for: the conditions of a yes, the cause of a no.
func accessWhy(a adminapi.Access) string {
	d := a.Decision
	switch {
	case d.StepUp > 0:
		return "not older than " + span(time.Duration(d.StepUp))
	case d.Allowed && a.Grant == "always":
		return ""
	case d.Allowed:
		return clean(a.Grant)
	case d.Reason != "":
		return clean(d.Reason)
	default:
		return clean(d.Condition)
	}
}

// momentFlag reads a flag that is a time; empty is the zero time.
func (c *ctl) momentFlag(name, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := c.calendar().parseMoment(value)
	if err != nil {
		return t, usagef("", "--%s: %v", name, err)
	}
	return t, nil
}
