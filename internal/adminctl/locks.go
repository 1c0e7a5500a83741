package adminctl

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func (c *ctl) locksCommand() *cobra.Command {
	cmd := c.locksList("locks", "List who is locked out; add and remove locks")
	cmd.Args = c.onlyCommands
	cmd.AddCommand(c.locksList("list", "List who is locked out"), c.lockAdd(), c.lockRemove())
	return cmd
}

func (c *ctl) locksList(use, short string) *cobra.Command {
	l := listing[adminapi.Lock]{what: "lock", none: "nobody is locked out", table: lockTable}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.Lock], error) {
				return api.Locks(ctx, page)
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	return cmd
}

func lockTable(items []adminapi.Lock, cal calendar) *table {
	t := newTable(column{name: "LOCK"}, column{name: "ON", most: 28}, column{name: "SINCE"}, column{name: "UNTIL"},
		column{name: "BY", most: 14}, column{name: "MESSAGE", words: true})
	for _, l := range items {
		t.add(clean(l.ID), clean(l.Kind)+" "+lockTarget(l), cal.relative(l.Created), lockUntil(l, cal), clean(l.Author), clean(l.Message))
	}
	return t
}

func lockTarget(l adminapi.Lock) string {
	switch {
	case l.User != nil:
		return person(*l.User)
	case l.Kind == "device":
		return shortID(l.Target)
	default:
		return clean(l.Target)
	}
}

func lockUntil(l adminapi.Lock, cal calendar) string {
	switch {
	case !l.IssuedBefore.IsZero():
		return "new login"
	case l.Expires.IsZero():
		return "removed"
	default:
		return cal.absolute(l.Expires)
	}
}

func (c *ctl) lockAdd() *cobra.Command {
	var f lockFlags
	cmd := &cobra.Command{
		Use: "add USER", Short: "Lock somebody or something out, without asking; see also admin revoke", Args: cobra.MaximumNArgs(1),
		Long: `Adds a lock, as "admin revoke" does, without looking at what it cuts and without
asking. It also locks what has never been seen, as a group before its first member
logs in.`,
		Example: `  NAME admin locks add --group partner/everyone --for 7d --message "The partner's provider is being audited."`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.lock(c.calendar(), args)
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				if req.Kind == "device" {
					if req.Target, err = findDevice(ctx, api, req.Target); err != nil {
						return err
					}
				}
				return c.addLock(ctx, api, req)
			})
		},
	}
	f.register(c, cmd)
	return cmd
}

func (c *ctl) addLock(ctx context.Context, api *adminapi.Client, req adminapi.LockAdd) error {
	l, err := api.AddLock(ctx, req)
	if err != nil {
		return err
	}
	if c.JSON() {
		return c.json(l)
	}
	until := "until it is removed: " + c.Program + " admin locks remove " + clean(l.ID)
	switch {
	case !l.IssuedBefore.IsZero():
		until = "what was issued by now has ended, a new login is free"
	case !l.Expires.IsZero():
		until = "until " + c.calendar().full(l.Expires)
	}
	return c.printf("locked out: %s %s, lock %s\n%s\nreference %s\n", clean(l.Kind), lockTarget(l.Lock), clean(l.ID), until, clean(l.Reference))
}

func (c *ctl) lockRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove LOCK", Short: "Lift a lock", Args: cobra.ExactArgs(1),
		Long: `Lifts the lock with this id; "admin locks" lists them. Sessions that the lock has
cut do not come back by themselves: a client that was locked out stays stopped until
its person starts it again.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				done, err := api.RemoveLock(ctx, args[0])
				if err != nil {
					return c.ifMissing(err, "locks lists those in force")
				}
				if c.JSON() {
					return c.json(done)
				}
				return c.printf("lock %s is lifted\nreference %s\n", clean(args[0]), clean(done.Reference))
			})
		},
	}
}
