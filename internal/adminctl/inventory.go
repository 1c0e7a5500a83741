package adminctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func (c *ctl) certificatesCommand() *cobra.Command {
	var q adminapi.CertificateQuery
	l := listing[adminapi.Certificate]{what: "certificate", none: "no such certificate"}
	cmd := &cobra.Command{
		Use: "certificates", Short: "List the certificates of a person or session, or find one by its serial number", Args: cobra.NoArgs,
		Example: `  NAME admin certificates --user ada@corp.example
  NAME admin certificates --serial 4f1d2c3b5a69788796a5b4c3d2e1f001`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if one := countSet(q.Session, q.User, q.Serial); one != 1 {
				return usagef("--user USER, --session SESSION or --serial NUMBER", "name whose certificates: one of --user, --session, --serial")
			}
			q.Serial = strings.ToLower(strings.ReplaceAll(q.Serial, ":", ""))
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Certificate], error) {
				q.List = page
				return api.Certificates(ctx, q)
			}
			l.table = func(items []adminapi.Certificate, cal calendar) *table {
				return certificateTable(items, cal, q.Session == "")
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&q.User, "user", "", "of this person")
	cmd.Flags().StringVar(&q.Session, "session", "", "of this session")
	cmd.Flags().StringVar(&q.Serial, "serial", "", "with this serial number, in hexadecimal")
	_ = cmd.RegisterFlagCompletionFunc("user", c.completeUser)
	return cmd
}

func countSet(list ...string) int {
	n := 0
	for _, s := range list {
		if s != "" {
			n++
		}
	}
	return n
}

func certificateTable(items []adminapi.Certificate, cal calendar, sessions bool) *table {
	t := newTable(column{name: "SERIAL"}, column{name: "KIND"}, column{name: "SESSION"}, column{name: "ISSUED"}, column{name: "EXPIRES"})
	for _, x := range items {
		session := ""
		if sessions {
			session = clean(x.Session)
		}
		expires := cal.short(x.NotAfter)
		if !x.NotAfter.After(cal.now) {
			expires = "expired " + cal.relative(x.NotAfter)
		}
		t.add(clean(x.Serial), clean(x.Kind), session, cal.relative(x.IssuedAt), expires)
	}
	return t
}

func (c *ctl) gatewaysCommand() *cobra.Command {
	l := listing[adminapi.Gateway]{what: "gateway", none: "no gateway has reported itself"}
	cmd := &cobra.Command{
		Use: "gateways", Short: "List the gateways that share the database, and whether they decide alike", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Gateway], error) {
				return api.Gateways(ctx, page)
			}
			l.table = func(items []adminapi.Gateway, cal calendar) *table {
				if policies := livePolicies(items); policies > 1 {
					c.note("warning: the gateways decide by %d different policies; see the column POLICY", policies)
				}
				return gatewayTable(items, cal)
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	return cmd
}

// livePolicies counts by how many policies the gateways that are there decide.
func livePolicies(items []adminapi.Gateway) int {
	digests := make(map[string]bool)
	for _, g := range items {
		if g.Alive {
			digests[g.Policy] = true
		}
	}
	return len(digests)
}

func gatewayTable(items []adminapi.Gateway, cal calendar) *table {
	t := newTable(column{name: "GATEWAY", most: 20}, column{name: "STATE"}, column{name: "ADDRESS", most: 24}, column{name: "VERSION", most: 12}, column{name: "POLICY"},
		column{name: "STARTED"}, column{name: "SESSIONS", right: true}, column{name: "STREAMS", right: true})
	for _, g := range items {
		state := "alive"
		if !g.Alive {
			state = "silent since " + briefly(cal.now.Sub(g.LastSeen))
		}
		t.add(clean(g.ID), state, clean(g.Address), clean(g.Version), shortDigest(g.Policy), cal.relative(g.Started), count(int64(g.Sessions)), count(int64(g.Streams)))
	}
	return t
}

func (c *ctl) usersCommand() *cobra.Command {
	var q adminapi.UserQuery
	l := listing[adminapi.User]{what: "user", none: "nobody has logged in yet", table: userTable}
	cmd := &cobra.Command{
		Use: "users [USER]", Short: "List the people whom the gateways have seen, with their groups", Args: cobra.MaximumNArgs(1),
		Example: `  NAME admin users
  NAME admin users ada@corp.example`,
		ValidArgsFunction: c.completeUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return c.user(cmd.Context(), args[0])
			}
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.User], error) {
				q.List = page
				return api.Users(ctx, q)
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	return cmd
}

func userTable(items []adminapi.User, cal calendar) *table {
	t := newTable(column{name: "USER", most: 36}, column{name: "NAME", most: 24}, column{name: "LAST SEEN"}, column{name: "LOGIN"}, column{name: "GROUPS", words: true})
	for _, u := range items {
		t.add(userName(u), clean(u.Name), cal.relative(u.LastSeen), clean(u.Login), userGroups(u))
	}
	return t
}

// userName is what commands take for USER, as the audit log writes it: an address counts only where it is trusted.
func userName(u adminapi.User) string {
	if u.Email == "" || !u.EmailTrusted {
		return clean(u.Provider + ":sub:" + u.Subject)
	}
	return person(u.Person)
}

func userGroups(u adminapi.User) string {
	if !u.GroupsKnown {
		return "(unknown)"
	}
	return clean(strings.Join(u.Groups, ", "))
}

func (c *ctl) user(ctx context.Context, name string) error {
	return c.call(ctx, func(ctx context.Context, api *adminapi.Client) error {
		page, err := api.Users(ctx, adminapi.UserQuery{User: name})
		if err != nil {
			return err
		}
		if c.JSON() {
			return c.json(page)
		}
		if len(page.Items) == 0 {
			return &Error{Code: ExitError, Message: "nobody whom the gateways have seen is called " + clean(name), Hint: "admin users lists them"}
		}
		var b strings.Builder
		for i, u := range page.Items {
			if i > 0 {
				b.WriteByte('\n')
			}
			_ = c.userSheet(u).write(&b, c.Width())
		}
		return c.printf("%s", b.String())
	})
}

func (c *ctl) userSheet(u adminapi.User) *sheet {
	cal := c.calendar()
	s := &sheet{}
	s.add("user", userName(u))
	s.add("name", clean(u.Name))
	trusted := ", not trusted: rules do not see it"
	if u.EmailTrusted {
		trusted = ", trusted"
	}
	if u.Email != "" {
		s.add("e-mail", clean(u.Email)+trusted)
	}
	s.add("groups", cleanOr(userGroups(u), "none"))
	s.add("login", clean(strings.TrimSpace(u.Login+" "+u.ACR)))
	s.add("first seen", cal.full(u.FirstSeen))
	s.add("last seen", cal.full(u.LastSeen))
	s.add("provider", clean(u.Provider)+", "+clean(u.Issuer))
	s.add("subject", clean(u.Provider+":sub:"+u.Subject))
	s.add("id", clean(u.ID))
	return s
}

func (c *ctl) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Say whom the gateway takes you for, and what you may do", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				w, err := api.Whoami(ctx)
				if err != nil {
					return err
				}
				if c.JSON() {
					return c.json(w)
				}
				return whoamiSheet(w).write(c.Out, c.Width())
			})
		},
	}
}

func whoamiSheet(w *adminapi.Whoami) *sheet {
	s := &sheet{}
	s.add("you are", clean(w.Name))
	s.add("user", clean(w.User))
	via := "through the tunnel"
	if w.Via == "socket" {
		via = "at the gateway's own socket (break-glass: recorded as such)"
	}
	s.add("connected", via)
	roles := make([]string, 0, len(w.Roles))
	for _, r := range w.Roles {
		roles = append(roles, clean(string(r)))
	}
	s.add("roles", cleanOr(strings.Join(roles, ", "), "none; you may decide requests that the policy lets you approve"))
	s.add("gateway", clean(w.Gateway)+", version "+clean(w.Version))
	source := "managed: admin policy apply changes it"
	if w.Policy == "file" {
		source = "a file at each gateway, changed there"
	}
	s.add("policy", source)
	return s
}
