package adminctl

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// auditFlags select records, as they are typed.
type auditFlags struct {
	q                       adminapi.AuditQuery
	since, until, reference string
	limit                   int
}

func (c *ctl) auditCommand() *cobra.Command {
	cmd := c.auditList("audit", "Find who did what, by person, service, time or reference")
	cmd.Args = c.onlyCommands
	cmd.AddCommand(c.auditList("list", "Find who did what, by person, service, time or reference"), c.auditShow())
	return cmd
}

func (c *ctl) auditList(use, short string) *cobra.Command {
	f := &auditFlags{}
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		Long: `Lists records of the audit log, the newest first, by the index in the database. The
files at each gateway are the record; "culvert-gateway audit verify" proves them.
--reference, or "audit show REFERENCE", is for the number that a person was told.`,
		Example: `  NAME admin audit --user ada@corp.example --since 1d
  NAME admin audit --event stream.denied --service payroll --since 2026-12-24
  NAME admin audit show k7qw-3m9p`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.audit(cmd.Context(), f) },
	}
	limitFlag(cmd, &f.limit)
	flags := cmd.Flags()
	flags.StringVar(&f.q.User, "user", "", "about this person")
	flags.StringVar(&f.q.Service, "service", "", "about this service")
	flags.StringVar(&f.q.Event, "event", "", "of this kind, as stream.denied or policy.changed")
	flags.StringVar(&f.q.Session, "session", "", "of this session")
	flags.StringVar(&f.q.Device, "device", "", "of this device; the beginning of its id is enough")
	flags.StringVar(&f.q.Gateway, "gateway", "", "of this gateway")
	flags.StringVar(&f.since, "since", "", "not before: 30d, 2026-12-24, \"2026-12-24 10:00\"")
	flags.StringVar(&f.until, "until", "", "before, written likewise")
	flags.StringVar(&f.reference, "reference", "", "with this reference, which a person was told")
	cmd.MarkFlagsMutuallyExclusive("reference", "user")
	_ = cmd.RegisterFlagCompletionFunc("user", c.completeUser)
	_ = cmd.RegisterFlagCompletionFunc("event", cobra.FixedCompletions(events, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// events are what audit records in the index tell of.
var events = []string{
	"stream.open", "stream.close", "stream.denied", "stream.failed", "session.open", "session.close", "session.refused", "session.renewed",
	"session.posture", "session.ended", "enroll.issued", "enroll.refused", "policy.loaded", "policy.refused", "policy.changed",
	"policy.rolled_back", "lock.added", "lock.removed", "request.created", "request.approved", "request.denied", "request.withdrawn",
	"request.ended", "admin.denied", "admin.break_glass", "logout.backchannel", "config.loaded", "config.refused", "gateway.start",
	"gateway.stop", "log.opened", "log.segment", "log.linked", "log.recovered", "log.removed", "log.lost", "log.closed",
}

// unknownEvent warns of a word that is in no record, as far as this version knows: an empty list would look like an answer.
func (c *ctl) unknownEvent(event string) {
	if event == "" || slices.Contains(events, event) {
		return
	}
	c.note("warning: no event is called %q; there are %s", clean(event), strings.Join(events, ", "))
}

func (c *ctl) audit(ctx context.Context, f *auditFlags) error {
	if f.reference != "" {
		return c.reference(ctx, f.reference)
	}
	c.unknownEvent(f.q.Event)
	var err error
	if f.q.Since, err = c.momentFlag("since", f.since); err != nil {
		return err
	}
	if f.q.Until, err = c.momentFlag("until", f.until); err != nil {
		return err
	}
	if !f.q.Until.IsZero() && !f.q.Since.Before(f.q.Until) {
		return usagef("", "--since is not before --until")
	}
	l := listing[adminapi.AuditRecord]{what: "record", none: "no record", limit: f.limit, table: auditTable}
	l.fetch = func(ctx context.Context, api *adminapi.Client, page adminapi.List) (_ *adminapi.Page[adminapi.AuditRecord], err error) {
		if f.q.Device, err = findDevice(ctx, api, f.q.Device); err != nil {
			return nil, err
		}
		f.q.List = page
		return api.Audit(ctx, f.q)
	}
	return l.run(ctx, c)
}

// auditTable leaves the day out when it is today in every row, and the room to what happened.
func auditTable(items []adminapi.AuditRecord, cal calendar) *table {
	sameDay := !slices.ContainsFunc(items, func(r adminapi.AuditRecord) bool {
		return cal.day(r.Time) != cal.day(cal.now)
	})
	layout := "2006-01-02 15:04:05"
	if sameDay {
		layout = "15:04:05"
	}
	t := newTable(column{name: cal.zoned("TIME")}, column{name: "EVENT"}, column{name: "USER", most: 24}, column{name: "REFERENCE"}, column{name: "WHAT", words: true})
	for _, r := range items {
		who := ""
		if r.User != nil {
			who = person(*r.User)
		}
		t.add(r.Time.In(cal.now.Location()).Format(layout), clean(r.Event), who, clean(r.Reference), auditWhat(r))
	}
	return t
}

func (c calendar) day(t time.Time) string { return t.In(c.now.Location()).Format("2006-01-02") }

// auditWhat is a record in one sentence.
func auditWhat(r adminapi.AuditRecord) string {
	var parts []string
	say := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case r.Service != "" && r.Target != "" && r.Kind == "": // what an administrator did, about the service
		say("%s: %s", r.Service, shortIDs(r.Target))
	case r.Service != "" && r.Target != "" && r.Target != r.Service:
		say("%s as %s", r.Target, r.Service)
	case r.Service != "":
		say("%s", r.Service)
	case r.Target != "":
		say("%s", shortIDs(r.Target))
	}
	if r.Code != "" && r.Code != "ok" && r.Code != "denied" {
		say("%s", r.Code)
	}
	switch {
	case r.Reason != "":
		say("%s", strings.TrimSuffix(r.Reason, "."))
	case r.Condition != "":
		say("%s", r.Condition)
	}
	if r.Rule != "" {
		say("rule %q", r.Rule)
	}
	if r.Detail != "" && r.Detail != r.Target {
		say("%s", r.Detail)
	}
	if r.User == nil && r.Gateway != "" { // of the gateway itself
		say("at %s", r.Gateway)
	}
	if r.Sent > 0 || r.Received > 0 || r.DurationMS > 0 {
		say("%s to it, %s from it, %s", size(r.Sent), size(r.Received), span(time.Duration(r.DurationMS)*time.Millisecond))
	}
	if len(parts) == 0 && r.Remote != "" {
		say("from %s", fromAddress(r.Remote))
	}
	return clean(strings.Join(parts, "; "))
}

// wholeID is a person's or device's id.
var wholeID = regexp.MustCompile(`\b[a-z2-7]{52}\b`)

// shortIDs leaves the beginning of each id in a text.
func shortIDs(text string) string { return wholeID.ReplaceAllStringFunc(text, shortID) }

func (c *ctl) auditShow() *cobra.Command {
	return &cobra.Command{
		Use: "show REFERENCE", Short: "Show everything that is recorded under a reference", Args: cobra.ExactArgs(1),
		Long: `Shows the records with the reference that a person was told, field by field: what
was asked for, which rule decided, and why.`,
		Example: `  NAME admin audit show k7qw-3m9p`,
		RunE:    func(cmd *cobra.Command, args []string) error { return c.reference(cmd.Context(), args[0]) },
	}
}

func (c *ctl) reference(ctx context.Context, reference string) error {
	return c.call(ctx, func(ctx context.Context, api *adminapi.Client) error {
		found, err := api.AuditReference(ctx, strings.TrimSpace(reference))
		if err != nil {
			return err
		}
		if c.JSON() {
			return c.json(found)
		}
		if len(found.Records) == 0 {
			return &Error{Code: ExitError, Message: "no record has the reference " + clean(reference),
				Hint: "a record is in the index some seconds after it is written; culvert-gateway audit reindex makes the index anew"}
		}
		var b strings.Builder
		for i, r := range found.Records {
			if i > 0 {
				b.WriteByte('\n')
			}
			_ = c.auditSheet(r).write(&b, c.Width())
		}
		return c.printf("%s", b.String())
	})
}

func (c *ctl) auditSheet(r adminapi.AuditRecord) *sheet {
	s := &sheet{}
	s.add("time", c.calendar().full(r.Time))
	s.add("event", clean(r.Event))
	s.add("reference", clean(r.Reference))
	if r.User != nil {
		s.add("person", fullPerson(*r.User))
	}
	s.add("service", clean(r.Service))
	s.add("target", clean(strings.TrimSpace(r.Kind+" "+r.Target)))
	s.add("dialed", clean(r.Address))
	s.add("answer", clean(r.Code))
	s.add("rule", clean(r.Rule))
	s.add("condition", clean(r.Condition))
	s.add("reason", clean(r.Reason))
	s.add("detail", clean(r.Detail))
	if r.Sent > 0 || r.Received > 0 || r.DurationMS > 0 {
		s.add("bytes", size(r.Sent)+" to the service, "+size(r.Received)+" from it")
		s.add("duration", span(time.Duration(r.DurationMS)*time.Millisecond))
	}
	s.add("from", clean(r.Remote))
	s.add("device", clean(r.Device))
	s.add("session", clean(r.Session))
	s.add("certificate", clean(r.Serial))
	s.add("stream", clean(r.Stream))
	s.add("connection", clean(r.Link))
	s.add("policy", clean(r.Policy))
	s.add("record", clean(r.Gateway)+", log "+clean(r.Log)+", number "+strconv.FormatUint(r.Seq, 10))
	return s
}
