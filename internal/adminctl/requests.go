package adminctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// states are those of a request, for help and completion.
var states = []string{"pending", "approved", "denied", "withdrawn", "ended"}

func (c *ctl) requestsCommand() *cobra.Command {
	cmd := c.requestsList("requests", "List, approve and deny requests for access")
	cmd.Args = c.onlyCommands
	cmd.AddCommand(c.requestsList("list", "List requests for access"), c.requestShow(),
		c.decision("approve", "Approve a request of somebody else", "approved", (*adminapi.Client).ApproveRequest,
			`The service is open to them from now on, for as long as they asked; their access ends
by itself, and their streams with it. Nobody approves their own request.`),
		c.decision("deny", "Deny a request of somebody else", "denied", (*adminapi.Client).DenyRequest, ""),
		c.decision("end", "End an approved request before its time", "ended", (*adminapi.Client).EndRequest,
			`Ends an approved request before its time. Streams that lived by it are cut within a second.`))
	return cmd
}

func (c *ctl) requestsList(use, short string) *cobra.Command {
	var q adminapi.RequestQuery
	l := listing[adminapi.Request]{what: "request"}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		Long: `Lists requests for access, the newest first. Who approves by the policy and has no
role sees those that they may decide.`,
		Example: `  NAME admin requests --state pending
  NAME admin requests approve k7qw-3m9p --note "until the migration is done"
  NAME admin requests deny k7qw-3m9p --note "use the replica"`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkState(q.State); err != nil {
				return err
			}
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Request], error) {
				q.List = page
				return api.Requests(ctx, q)
			}
			l.table = func(items []adminapi.Request, cal calendar) *table { return requestTable(items, cal, true) }
			l.none = strings.ReplaceAll("no "+q.State+" request", "  ", " ")
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&q.State, "state", "", "only those that are "+strings.Join(states, ", "))
	cmd.Flags().StringVar(&q.User, "user", "", "of this person only")
	_ = cmd.RegisterFlagCompletionFunc("user", c.completeUser)
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func checkState(s string) error {
	if s == "" {
		return nil
	}
	for _, known := range states {
		if s == known {
			return nil
		}
	}
	return usagef("one of "+strings.Join(states, ", "), "--state %q: there is no such state", s)
}

func requestTable(items []adminapi.Request, cal calendar, people bool) *table {
	t := newTable(column{name: "REQUEST"}, column{name: "USER", most: 24}, column{name: "SERVICE", most: 20}, column{name: "FOR"},
		column{name: "ASKED"}, column{name: "STATE"}, column{name: "REASON", words: true})
	for _, r := range items {
		who := ""
		if people {
			who = person(r.User)
		}
		t.add(clean(r.ID), who, clean(r.Service), span(time.Duration(r.For)), cal.relative(r.Created), requestState(r, cal), clean(r.Reason))
	}
	return t
}

func requestState(r adminapi.Request, cal calendar) string {
	if r.State == "approved" && !r.Until.IsZero() {
		return "approved, ends " + cal.relative(r.Until)
	}
	return clean(r.State)
}

func (c *ctl) requestShow() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show a request, and what became of it", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				r, err := api.Request(ctx, args[0])
				if err != nil {
					return c.ifMissing(err, "requests lists them")
				}
				if c.JSON() {
					return c.json(r)
				}
				return c.requestSheet(*r).write(c.Out, c.Width())
			})
		},
	}
}

func (c *ctl) requestSheet(r adminapi.Request) *sheet {
	cal := c.calendar()
	s := &sheet{}
	s.add("request", clean(r.ID))
	s.add("person", fullPerson(r.User))
	s.add("service", clean(r.Service))
	s.add("for", span(time.Duration(r.For)))
	s.add("reason", clean(r.Reason))
	s.add("asked", cal.full(r.Created))
	s.add("state", clean(r.State))
	s.add("by", clean(r.DecidedBy))
	s.add("at", cal.full(r.DecidedAt))
	s.add("note", clean(r.Note))
	s.add("until", cal.full(r.Until))
	return s
}

// decision is one of the three commands that decide a request.
func (c *ctl) decision(verb, short, done string, decide func(*adminapi.Client, context.Context, string, string) (*adminapi.RequestDecided, error), long string) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use: verb + " ID", Short: short, Long: long, Args: cobra.ExactArgs(1),
		Example: fmt.Sprintf("  NAME admin requests %s k7qw-3m9p", verb),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				r, err := decide(api, ctx, args[0], note)
				if err != nil {
					return c.ifMissing(err, "requests lists them")
				}
				if c.JSON() {
					return c.json(r)
				}
				until := ""
				if r.State == "approved" && !r.Until.IsZero() {
					until = ", until " + c.calendar().full(r.Until)
				}
				return c.printf("request %s of %s for %s: %s%s\nreference %s\n", clean(r.ID), person(r.User), clean(r.Service), done, until, clean(r.Reference))
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "what the person is told")
	return cmd
}

// requestCommand is "request", the employee's side.
func (c *ctl) requestCommand() *cobra.Command {
	var length, reason string
	cmd := &cobra.Command{
		Use: "request SERVICE --for TIME --reason TEXT", Short: "Ask for access to a service for some time",
		Long: `Asks for access to a service that the policy does not give you and that may be
asked for. Somebody who may approve it decides; then the service is open to you for
the time that you asked for, and it ends by itself. "culvert request list" tells what
became of it.`,
		Example: `  NAME request db --for 2h --reason "migration of ticket 4711"
  NAME request list
  NAME request withdraw k7qw-3m9p`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return c.ask(cmd, args, length, reason) },
	}
	cmd.Flags().StringVar(&length, "for", "", "how long you need it, as 2h (required)")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for who approves (required)")
	cmd.AddCommand(c.ownRequests(), c.withdrawCommand())
	return cmd
}

func (c *ctl) ask(cmd *cobra.Command, args []string, length, reason string) error {
	if len(args) == 0 {
		return usagef("for example "+c.Program+` request db --for 2h --reason "migration of ticket 4711"`, "name the service that you ask for")
	}
	d, err := ParseDuration(length)
	switch {
	case length == "":
		return usagef("for example --for 2h", "say how long you need it")
	case err != nil || d <= 0:
		return usagef("for example --for 2h", "--for %q is not a length of time", length)
	case strings.TrimSpace(reason) == "":
		return usagef("for example --reason \"migration of ticket 4711\"", "say why, for who approves")
	}
	return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
		r, err := api.Ask(ctx, adminapi.RequestNew{Service: args[0], For: adminapi.Duration(d), Reason: reason})
		if err != nil {
			return err
		}
		if c.JSON() {
			return c.json(r)
		}
		return c.printf("asked for %s for %s: request %s\nnext: somebody approves it; %s request list tells what became of it\n",
			clean(r.Service), span(time.Duration(r.For)), clean(r.ID), c.Program)
	})
}

func (c *ctl) ownRequests() *cobra.Command {
	var q adminapi.OwnRequestQuery
	l := listing[adminapi.Request]{what: "request", none: "you have asked for nothing"}
	cmd := &cobra.Command{
		Use: "list", Short: "List what you asked for, and what became of it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkState(q.State); err != nil {
				return err
			}
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Request], error) {
				q.List = page
				return api.OwnRequests(ctx, q)
			}
			l.table = ownRequestTable
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&q.State, "state", "", "only those that are "+strings.Join(states, ", "))
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func ownRequestTable(items []adminapi.Request, cal calendar) *table {
	t := newTable(column{name: "REQUEST"}, column{name: "SERVICE", most: 24}, column{name: "FOR"}, column{name: "ASKED"},
		column{name: "STATE"}, column{name: "BY", most: 20}, column{name: "NOTE", words: true})
	for _, r := range items {
		t.add(clean(r.ID), clean(r.Service), span(time.Duration(r.For)), cal.relative(r.Created), requestState(r, cal), clean(r.DecidedBy), clean(r.Note))
	}
	return t
}

func (c *ctl) withdrawCommand() *cobra.Command {
	return &cobra.Command{
		Use: "withdraw ID", Short: "Take a request back, or give back what was approved", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				r, err := api.Withdraw(ctx, args[0])
				if err != nil {
					return err
				}
				if c.JSON() {
					return c.json(r)
				}
				return c.printf("request %s for %s: %s\n", clean(r.ID), clean(r.Service), clean(r.State))
			})
		},
	}
}
