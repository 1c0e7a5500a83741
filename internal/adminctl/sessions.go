package adminctl

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func (c *ctl) sessionsCommand() *cobra.Command {
	cmd := c.sessionsList("sessions", "List who is connected, at every gateway; show or end a session")
	cmd.Args = c.onlyCommands
	cmd.AddCommand(c.sessionsList("list", "List who is connected, at every gateway"), c.sessionShow(), c.sessionEnd())
	return cmd
}

func (c *ctl) sessionsList(use, short string) *cobra.Command {
	var q adminapi.SessionQuery
	l := listing[adminapi.Session]{what: "session", none: "nobody is connected", table: sessionTable}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		Example: `  NAME admin sessions
  NAME admin sessions --user ada@corp.example --detached
  NAME admin sessions show SESSION`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (_ *adminapi.Page[adminapi.Session], err error) {
				if q.Device, err = findDevice(ctx, api, q.Device); err != nil {
					return nil, err
				}
				q.List = page
				return api.Sessions(ctx, q)
			}
			if q != (adminapi.SessionQuery{List: q.List}) {
				l.none = "no such session"
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	flags := cmd.Flags()
	flags.StringVar(&q.User, "user", "", "of this person only")
	flags.StringVar(&q.Device, "device", "", "of this device only; the beginning of its id is enough")
	flags.StringVar(&q.Gateway, "gateway", "", "connected to this gateway only")
	flags.BoolVar(&q.Detached, "detached", false, "also those that are not connected and could be renewed")
	_ = cmd.RegisterFlagCompletionFunc("user", c.completeUser)
	return cmd
}

func sessionTable(items []adminapi.Session, cal calendar) *table {
	t := newTable(column{name: "SESSION"}, column{name: "USER", most: 16}, column{name: "FROM", most: 15}, column{name: "GATEWAY", most: 8},
		column{name: cal.zoned("SINCE")}, column{name: "STREAMS", right: true})
	for _, s := range items {
		if len(s.Connections) == 0 {
			t.add(clean(s.ID), person(s.User), "", "", sessionRest(s, cal), "")
		}
		for _, conn := range s.Connections {
			t.add(clean(s.ID), person(s.User), fromAddress(conn.Remote), clean(conn.Gateway), cal.brief(conn.Since), count(int64(conn.Streams)))
		}
	}
	return t
}

// sessionRest says why a session has no connection.
func sessionRest(s adminapi.Session, cal calendar) string {
	if !s.Ended.IsZero() {
		return "ended " + cal.relative(s.Ended)
	}
	if !s.Deadline.IsZero() && s.Deadline.Before(cal.now) {
		return "over since " + briefly(cal.now.Sub(s.Deadline))
	}
	return "away, to " + s.Deadline.In(cal.now.Location()).Format("15:04")
}

// fromAddress leaves the port out, which tells nobody anything in a table.
func fromAddress(remote string) string {
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		return ap.Addr().Unmap().String()
	}
	return clean(remote)
}

func (c *ctl) sessionShow() *cobra.Command {
	return &cobra.Command{
		Use: "show SESSION", Short: "Show a session with its connections, open streams and certificates", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				s, err := api.Session(ctx, args[0])
				if err != nil {
					return c.ifMissing(err, "sessions lists them")
				}
				if c.JSON() {
					return c.json(s)
				}
				return c.printf("%s", c.sessionText(s))
			})
		},
	}
}

func (c *ctl) sessionText(d *adminapi.SessionDetail) string {
	cal := c.calendar()
	b := c.page()
	s := &sheet{}
	s.add("session", clean(d.ID))
	s.add("person", fullPerson(d.User))
	s.add("device", clean(d.Device))
	s.add("client", clean(d.Client))
	s.add("login", clean(d.Login))
	s.add("logged in", cal.full(d.AuthTime))
	s.add("begun", cal.full(d.Created))
	s.add("ends", cal.full(d.Deadline))
	s.add("ended", cal.full(d.Ended))
	s.add("because", clean(d.EndReason))
	_ = s.write(b, b.width)
	if len(d.Connections) == 0 {
		b.WriteString("\nnot connected\n")
	}
	for _, conn := range d.Connections {
		c.connection(b, conn)
	}
	if len(d.Certificates) > 0 {
		b.WriteString("\ncertificates\n")
		_ = certificateTable(d.Certificates, cal, false).write(indented(b), b.width)
	}
	return b.String()
}

func (c *ctl) connection(b *page, conn adminapi.Connection) {
	cal := c.calendar()
	fmt.Fprintf(b, "\nconnection %d at %s\n", conn.ID, clean(conn.Gateway))
	s := &sheet{}
	s.add("from", clean(conn.Remote))
	s.add("client", clean(conn.Client))
	s.add("since", cal.full(conn.Since))
	s.add("certificate", clean(conn.Serial)+", until "+cal.full(conn.NotAfter))
	s.add("streams", count(int64(conn.Streams)))
	s.add("bytes", size(conn.BytesIn)+" from the desktop, "+size(conn.BytesOut)+" to it")
	_ = s.write(indented(b), b.width)
	if len(conn.Open) == 0 {
		return
	}
	t := newTable(column{name: "SERVICE", most: 20}, column{name: "TARGET", most: 24}, column{name: "RULE", most: 20},
		column{name: "SINCE"}, column{name: "ACTIVE"}, column{name: "IN", right: true}, column{name: "OUT", right: true})
	for _, o := range conn.Open {
		rule := clean(o.Rule)
		if !o.Decided {
			rule = "(waits)"
		}
		active := ""
		if !o.LastActive.IsZero() {
			active = cal.relative(o.LastActive)
		}
		t.add(clean(o.Service), clean(o.Target), rule, cal.relative(o.Since), active, size(o.BytesIn), size(o.BytesOut))
	}
	_ = t.write(indented(b), b.width)
}

func (c *ctl) sessionEnd() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "end SESSION --reason TEXT", Short: "End a session for good; its person may log in again", Args: cobra.ExactArgs(1),
		Long: `Ends a session: its connections and streams are cut within a second at every
gateway, and its certificate renews no more. The person may log in again; to keep
somebody out there is "admin revoke".`,
		Example: `  NAME admin sessions end SESSION --reason "The laptop was found in a train."`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usagef("it is shown to the person: --reason TEXT", "ending a session needs a reason")
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				s, err := api.EndSession(ctx, args[0], reason)
				if err != nil {
					return c.ifMissing(err, "sessions lists them")
				}
				if c.JSON() {
					return c.json(s)
				}
				return c.printf("session %s of %s has ended\nreference %s\n", clean(s.ID), person(s.User), clean(s.Reference))
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; the person reads it (required)")
	return cmd
}

func (c *ctl) devicesCommand() *cobra.Command {
	var q adminapi.DeviceQuery
	l := listing[adminapi.DeviceEntry]{what: "device", none: "nobody has logged in yet", table: deviceTable}
	cmd := &cobra.Command{
		Use: "devices", Short: "List the devices that people logged in with", Args: cobra.NoArgs,
		Long: `Lists the devices that people logged in with. Commands take the beginning of a
device's id that is printed here; --json has the whole.`,
		Example: `  NAME admin devices --user ada@corp.example
  NAME admin revoke --device m2x7qk3vabcd --message "Reported as stolen."`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (*adminapi.Page[adminapi.DeviceEntry], error) {
				q.List = page
				return api.Devices(ctx, q)
			}
			if q.User != "" {
				l.none = "no device of this person"
			}
			return l.run(cmd.Context(), c)
		},
	}
	limitFlag(cmd, &l.limit)
	cmd.Flags().StringVar(&q.User, "user", "", "of this person only")
	_ = cmd.RegisterFlagCompletionFunc("user", c.completeUser)
	return cmd
}

func deviceTable(items []adminapi.DeviceEntry, cal calendar) *table {
	t := newTable(column{name: "DEVICE"}, column{name: "USER", most: 28}, column{name: "FIRST SEEN"}, column{name: "LAST SEEN"},
		column{name: "SESSIONS", right: true}, column{name: "CLIENT", most: 12})
	for _, d := range items {
		t.add(shortID(d.ID), person(d.User), cal.relative(d.FirstSeen), cal.relative(d.LastSeen), strconv.Itoa(d.Sessions), clean(d.Client))
	}
	return t
}
