package adminctl

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// lockFlags say what a lock is on and how long it holds.
type lockFlags struct {
	user, session, device, certificate, group string
	until                                     string
	message                                   string
	relogin                                   bool
}

func (f *lockFlags) register(c *ctl, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.session, "session", "", "this session, with every certificate of it")
	flags.StringVar(&f.device, "device", "", "this device, whoever logs in with it; the beginning of its id is enough")
	flags.StringVar(&f.certificate, "certificate", "", "the session of this certificate, by its serial number")
	flags.StringVar(&f.group, "group", "", "everybody in this group, as provider/group; the group alone where there is one provider")
	flags.StringVar(&f.until, "for", "", "how long, as 2h or 7d (default until it is removed)")
	flags.StringVar(&f.message, "message", "", "what the person is told")
	flags.BoolVar(&f.relogin, "relogin", false, "end what there is by now, and let them log in again at once")
	cmd.ValidArgsFunction = c.completeUser
}

// lock is the API's request for what was typed.
func (f *lockFlags) lock(cal calendar, args []string) (adminapi.LockAdd, error) {
	if len(args) == 1 {
		f.user = args[0]
	}
	req := adminapi.LockAdd{Message: f.message, Existing: f.relogin}
	named := 0
	for kind, target := range map[string]string{"user": f.user, "session": f.session, "device": f.device, "certificate": f.certificate, "group": f.group} {
		if target != "" {
			req.Kind, req.Target = kind, target
			named++
		}
	}
	if named != 1 {
		return req, usagef("one of USER, --session, --device, --certificate, --group", "name one person or thing to lock out, not %d", named)
	}
	if f.until != "" {
		d, err := ParseDuration(f.until)
		if err != nil || d <= 0 {
			return req, usagef("for example --for 2h", "--for %q is not a length of time", f.until)
		}
		if f.relogin {
			return req, usagef("--relogin ends what there is by now, and holds for nothing after it", "--for and --relogin exclude each other")
		}
		req.Expires = cal.now.Add(d)
	}
	return req, nil
}

func (c *ctl) revokeCommand() *cobra.Command {
	var f lockFlags
	var yes, dry bool
	cmd := &cobra.Command{
		Use: "revoke USER", Short: "Cut somebody off at once, at every gateway, and keep them out", Args: cobra.MaximumNArgs(1),
		Long: `Locks a person, session, device, certificate or group: what they have open is cut
within a second at every gateway, and they can neither reconnect, renew nor log in
while the lock holds. It holds until "admin locks remove", or for as long as --for
says. With --relogin only what there is by now ends, and a new login is free.

It says first how many sessions it will cut, and asks. --yes answers, which it needs
where nobody sits at a terminal; --dry-run only says.`,
		Example: `  NAME admin revoke ada@corp.example --message "Call the help desk, extension 12."
  NAME admin revoke ada@corp.example --for 2h --yes
  NAME admin revoke --device m2x7qk3vabcd --message "This laptop was reported as stolen."
  NAME admin revoke --group corp/contractors --relogin`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.lock(c.calendar(), args)
			if err != nil {
				return err
			}
			if !yes && !dry && !c.Terminal() {
				return usagef("add --yes, or --dry-run to see what it would cut", "nobody sits at a terminal to confirm this")
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				return c.revoke(ctx, api, req, yes, dry)
			})
		},
	}
	f.register(c, cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be cut, and do nothing")
	return cmd
}

func (c *ctl) revoke(ctx context.Context, api *adminapi.Client, req adminapi.LockAdd, yes, dry bool) error {
	req, hit, err := c.hit(ctx, api, req)
	if err != nil {
		return err
	}
	c.note("%s", c.hitText(req, hit))
	if err := c.warnOfOneself(ctx, api, hit); err != nil {
		return err
	}
	if dry {
		if c.JSON() {
			return c.json(adminapi.Page[adminapi.Session]{Items: append([]adminapi.Session{}, hit...)})
		}
		return nil
	}
	if !yes && !c.confirm("cut them off?") {
		c.note("nothing was done")
		return quietly(ExitError)
	}
	return c.addLock(ctx, api, req)
}

// warnOfOneself says when an administrator is about to cut the ground from under their own feet.
func (c *ctl) warnOfOneself(ctx context.Context, api *adminapi.Client, hit []adminapi.Session) error {
	me, err := api.Whoami(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(hit, func(s adminapi.Session) bool { return me.User != "" && s.User.ID == me.User }) {
		c.note("warning: this cuts you off too; then only another administrator, or root at a gateway, can lift it")
	}
	return nil
}

// hit finds the sessions that a lock would end, and whether what it names exists: a lock on a name that was typed wrong would look as
// if it helped.
func (c *ctl) hit(ctx context.Context, api *adminapi.Client, req adminapi.LockAdd) (adminapi.LockAdd, []adminapi.Session, error) {
	switch req.Kind {
	case "session":
		s, err := api.Session(ctx, req.Target)
		if err != nil {
			return req, nil, err
		}
		return req, alive(c.Now(), s.Session), nil
	case "certificate":
		return c.hitCertificate(ctx, api, req)
	case "group":
		hit, err := c.hitGroup(ctx, api, req.Target)
		return req, hit, err
	}
	q := adminapi.SessionQuery{Detached: true}
	var err error
	if req.Kind == "user" {
		q.User = req.Target
	} else if req.Target, err = findDevice(ctx, api, req.Target); err == nil {
		q.Device = req.Target
	}
	if err != nil {
		return req, nil, err
	}
	hit, err := allSessions(ctx, api, q)
	return req, hit, err
}

func (c *ctl) hitCertificate(ctx context.Context, api *adminapi.Client, req adminapi.LockAdd) (adminapi.LockAdd, []adminapi.Session, error) {
	req.Target = strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(req.Target)) // as openssl and browsers print it
	page, err := api.Certificates(ctx, adminapi.CertificateQuery{Serial: req.Target})
	if err != nil {
		return req, nil, err
	}
	if len(page.Items) == 0 {
		return req, nil, &Error{Code: ExitError, Message: "no certificate has the serial number " + clean(req.Target)}
	}
	if page.Items[0].Session == "" {
		return req, nil, &Error{Code: ExitError, Message: "the certificate " + clean(req.Target) + " belongs to no session", Hint: "only those of people can be locked"}
	}
	s, err := api.Session(ctx, page.Items[0].Session)
	if err != nil {
		return req, nil, err
	}
	return req, alive(c.Now(), s.Session), nil
}

func alive(now time.Time, s adminapi.Session) []adminapi.Session {
	if !s.Ended.IsZero() || !s.Deadline.IsZero() && s.Deadline.Before(now) {
		return nil
	}
	return []adminapi.Session{s}
}

func (c *ctl) hitGroup(ctx context.Context, api *adminapi.Client, target string) ([]adminapi.Session, error) {
	users, err := collect(ctx, 0, func(ctx context.Context, l adminapi.List) (*adminapi.Page[adminapi.User], error) {
		return api.Users(ctx, adminapi.UserQuery{List: l})
	})
	if err != nil {
		return nil, err
	}
	plain := !strings.Contains(target, "/")
	provider := "" // of those seen
	members := make(map[string]bool)
	for _, u := range users.Items {
		if plain && provider != "" && u.Provider != provider {
			return nil, usagef("for example "+clean(provider+"/"+target), "with more than one provider a group is written provider/group")
		}
		provider = u.Provider
		// A lock on a group also holds against those whose groups the provider did not tell.
		unknown := !u.GroupsKnown && (plain || strings.HasPrefix(target, u.Provider+"/"))
		if unknown || slices.ContainsFunc(u.Groups, func(g string) bool { return g == target || u.Provider+"/"+g == target }) {
			members[u.ID] = true
		}
	}
	if len(members) == 0 {
		c.note("warning: nobody whom the gateways have seen is in %s; is it written as the provider does?", clean(target))
		return nil, nil
	}
	sessions, err := allSessions(ctx, api, adminapi.SessionQuery{Detached: true})
	return slices.DeleteFunc(sessions, func(s adminapi.Session) bool { return !members[s.User.ID] }), err
}

func allSessions(ctx context.Context, api *adminapi.Client, q adminapi.SessionQuery) ([]adminapi.Session, error) {
	page, err := collect(ctx, 0, func(ctx context.Context, l adminapi.List) (*adminapi.Page[adminapi.Session], error) {
		q.List = l
		return api.Sessions(ctx, q)
	})
	return page.Items, err
}

// mostShown sessions are named one by one before a revocation.
const mostShown = 5

// hitText says what a lock will do, in the words of its effect.
func (c *ctl) hitText(req adminapi.LockAdd, hit []adminapi.Session) string {
	var b strings.Builder
	streams, connected := 0, 0
	persons := map[string]bool{}
	for _, s := range hit {
		persons[s.User.ID] = true
		if len(s.Connections) > 0 {
			connected++
		}
		for _, conn := range s.Connections {
			streams += conn.Streams
		}
	}
	switch {
	case len(hit) == 0:
		fmt.Fprintf(&b, "this %s has no session at the moment", req.Kind)
	case len(persons) > 1:
		fmt.Fprintf(&b, "this cuts %s of %s (%d connected, %s)", plural(len(hit), "session"), people(len(persons)), connected, plural(streams, "open stream"))
	default:
		fmt.Fprintf(&b, "this cuts %s of %s (%d connected, %s)", plural(len(hit), "session"), person(hit[0].User), connected, plural(streams, "open stream"))
	}
	for i, s := range hit {
		if i == mostShown {
			fmt.Fprintf(&b, "\n  and %d more", len(hit)-mostShown)
			break
		}
		fmt.Fprintf(&b, "\n  %s  %s", clean(s.ID), person(s.User))
		if len(s.Connections) > 0 {
			fmt.Fprintf(&b, "  from %s", fromAddress(s.Connections[0].Remote))
		}
	}
	switch {
	case req.Existing:
		b.WriteString("\na new login is free at once")
	case req.Expires.IsZero():
		b.WriteString("\nno login and no renewal until the lock is removed")
	default:
		fmt.Fprintf(&b, "\nno login and no renewal until %s", c.calendar().full(req.Expires))
	}
	return b.String()
}

func people(n int) string {
	if n == 1 {
		return "1 person"
	}
	return count(int64(n)) + " people"
}

// confirm asks a person at the terminal; only yes is yes.
func (c *ctl) confirm(question string) bool {
	fmt.Fprintf(c.Err, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(c.In, 64)).ReadString('\n')
	if err != nil {
		fmt.Fprintln(c.Err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}
