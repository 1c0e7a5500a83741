package adminctl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

func (c *ctl) policyDiffCommand() *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use: "diff FILE", Short: "Say what a new policy would change, for rules, people and recorded streams", Args: cobra.ExactArgs(1),
		Long: `Compares the policy in FILE ("-" is standard input) with the one in force, by what
they mean: services, what each group and named user gains and loses, and what changes
for the people whom the gateways have seen. Order and comments do not matter.

With --since the streams that the audit log has since then are decided again under
the new policy, with what was known of their people then; those whose answer changes
are listed by person and service, the most frequent first. Progress goes to standard
error. Nothing changes.`,
		Example: `  NAME admin policy diff new.yaml
  NAME admin policy diff new.yaml --since 30d`,
		RunE: func(cmd *cobra.Command, args []string) error {
			moment, err := c.momentFlag("since", since)
			if err != nil {
				return err
			}
			if moment.After(c.Now()) {
				return usagef("for example --since 30d", "--since %s is not in the past", since)
			}
			name, document, err := c.document(args[0])
			if err != nil {
				return err
			}
			return c.call(cmd.Context(), func(ctx context.Context, api *adminapi.Client) error {
				return c.diff(ctx, api, name, adminapi.PolicyDiff{Document: document, Since: moment})
			})
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "decide the recorded streams since then again: 30d, 2026-12-24")
	return cmd
}

func (c *ctl) diff(ctx context.Context, api *adminapi.Client, name string, req adminapi.PolicyDiff) error {
	bar := &progress{out: c.Err, now: c.Now, terminal: terminal(c.Err)}
	r, err := api.PolicyDiff(ctx, req, bar.tell)
	bar.done()
	if err != nil {
		return c.policyRefused(name, 0, err)
	}
	if c.JSON() {
		return c.json(r)
	}
	b := c.page()
	faults(&b.Builder, name, "warning: ", r.Warnings)
	if r.UsersCut {
		b.WriteString("warning: this is not all: more people have been seen, or they gain and lose more, than are listed\n")
	} else if same(r.Difference) {
		b.WriteString("no difference in meaning\n")
	}
	difference(b, r.Difference)
	if r.Preview != nil {
		c.preview(b, *r.Preview)
	}
	return c.printf("%s", b.String())
}

func same(d adminapi.Difference) bool {
	return len(d.Services)+len(d.Rules)+len(d.Groups)+len(d.Users) == 0
}

// sign is how a difference reads at a glance.
func sign(change string) string {
	switch change {
	case "added", "gained":
		return "+"
	case "removed", "lost":
		return "-"
	default:
		return "~"
	}
}

func difference(b *page, d adminapi.Difference) {
	named(b, "services", d.Services)
	named(b, "rules", d.Rules)
	subjects(b, "for everyone, groups and named users, by the rules", d.Groups)
	subjects(b, "for people whom the gateways have seen", d.Users)
}

func heading(b *page, text string) {
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(text + "\n")
}

// entry is a line with what explains it below.
func entry(b *page, sign, text string, details ...string) {
	fmt.Fprintf(b, "  %s %s\n", sign, text)
	for _, d := range details {
		for _, line := range wrap(clean(d), b.width-8) {
			fmt.Fprintf(b, "      %s\n", line)
		}
	}
}

func named(b *page, title string, list []adminapi.NamedChange) {
	if len(list) == 0 {
		return
	}
	heading(b, title)
	for _, n := range list {
		text := clean(n.Name)
		if n.Was != "" {
			text += ", which was " + clean(n.Was)
		}
		entry(b, sign(n.Change), text, fields(n)...)
	}
}

// fields says what is different. Of a list, a change may have both: what came and what went.
func fields(n adminapi.NamedChange) []string {
	var list []string
	for _, f := range n.Fields {
		switch {
		case n.Change != "changed":
			list = append(list, f.Field+": "+f.Old+f.New)
		case f.Old == "":
			list = append(list, f.Field+": + "+f.New)
		case f.New == "":
			list = append(list, f.Field+": - "+f.Old)
		default:
			list = append(list, f.Field+": - "+f.Old, f.Field+": + "+f.New)
		}
	}
	return list
}

// mostNamed subjects who gain and lose the same are named on their line.
const mostNamed = 5

// subjects puts those who gain and lose the same together: a change for a department is one thing to read.
func subjects(b *page, title string, list []adminapi.SubjectChange) {
	if len(list) == 0 {
		return
	}
	heading(b, title)
	var order []string
	names, grants := make(map[string][]string), make(map[string][]adminapi.GrantChange)
	for _, s := range list {
		key := fmt.Sprintf("%q", s.Grants)
		if _, known := names[key]; !known {
			order = append(order, key)
			grants[key] = s.Grants
		}
		names[key] = append(names[key], subjectName(s))
	}
	for _, key := range order {
		who := names[key]
		text := strings.Join(who[:min(len(who), mostNamed)], ", ")
		if len(who) > mostNamed {
			text += fmt.Sprintf(" and %d more", len(who)-mostNamed)
		}
		for _, line := range wrap(text, b.width-2) {
			fmt.Fprintf(b, "  %s\n", line)
		}
		for _, g := range grants[key] {
			fmt.Fprintf(b, "  ")
			entry(b, sign(g.Change), clean(g.Service)+transition(g))
		}
	}
}

func subjectName(s adminapi.SubjectChange) string {
	switch s.Kind {
	case "everyone":
		if provider, ok := strings.CutSuffix(s.Name, ":*"); ok {
			return "everyone of " + clean(provider)
		}
		return "everyone"
	case "group":
		return "group " + clean(s.Name)
	default:
		return clean(s.Name)
	}
}

func transition(g adminapi.GrantChange) string {
	switch g.Change {
	case "gained":
		return ": " + clean(g.New)
	case "lost":
		return ": was " + clean(g.Old)
	default:
		return ": was " + clean(g.Old) + ", is " + clean(g.New)
	}
}

func (c *ctl) preview(b *page, p adminapi.Preview) {
	cal := c.calendar()
	heading(b, fmt.Sprintf("recorded streams since %s", cal.full(p.Since)))
	if p.Streams == 0 {
		b.WriteString("  none are recorded\n")
		return
	}
	t := newTable(column{name: "STREAMS", right: true}, column{name: "", words: true})
	t.add(count(p.Changed), "would be answered otherwise")
	t.add(count(p.Unchanged), "are answered as before")
	for _, rest := range []struct {
		n    int64
		what string
	}{
		{p.Drifted, "have another answer already: the policy in force is not the one of then"},
		{p.Undecidable, "cannot be decided again, since too little of them was recorded"},
		{p.NotByPolicy, "ended for reasons that no policy decides"},
	} {
		if rest.n > 0 {
			t.add(count(rest.n), rest.what)
		}
	}
	t.add(count(p.Streams), "in all")
	_ = t.write(indented(b), b.width)
	for i, tr := range p.Transitions {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(b, "  %s: %s\n", answers(tr.Was, tr.Becomes), plural(tr.Count, "stream"))
	}
	if len(p.Changes) > 0 {
		b.WriteByte('\n')
		_ = changeTable(p.Changes, cal).write(indented(b), b.width)
	}
	if p.Omitted > 0 {
		fmt.Fprintf(b, "  and %s whose change is not listed\n", plural(p.Omitted, "stream"))
	}
}

func changeTable(list []adminapi.PreviewChange, cal calendar) *table {
	t := newTable(column{name: "TIMES", right: true}, column{name: "USER", most: 24}, column{name: "SERVICE", most: 16},
		column{name: "ANSWER"}, column{name: "LAST"}, column{name: "WHY", words: true})
	for _, ch := range list {
		why := ""
		if ch.Rule != "" {
			why = fmt.Sprintf("rule %q", clean(ch.Rule))
		}
		if ch.Reason != "" {
			why = strings.TrimPrefix(why+"; "+clean(ch.Reason), "; ")
		}
		t.add(count(ch.Count), person(ch.User), clean(ch.Service), answers(ch.Was, ch.Becomes), cal.relative(ch.Last), why)
	}
	return t
}

// answers is what becomes of a stream.
func answers(was, becomes string) string { return answer(was) + " → " + answer(becomes) }

func answer(s string) string {
	if s == "step_up_required" {
		return "fresh login"
	}
	return clean(s)
}

// progress tells how far a preview is: over itself on a terminal, else a line now and then.
type progress struct {
	out      io.Writer
	now      func() time.Time
	terminal bool
	begun    time.Time
	said     time.Time
	open     bool // the terminal's line is not ended
	all      bool // that it is done was told
}

// How often something is said on a terminal, and in a log.
const (
	oftenEnough   = 200 * time.Millisecond
	seldomEnough  = 10 * time.Second
	estimateAfter = 2 * time.Second
)

func (p *progress) tell(d adminapi.DiffProgress) {
	now := p.now()
	if p.begun.IsZero() {
		p.begun = now
	}
	every := seldomEnough
	if p.terminal {
		every = oftenEnough
	}
	if d.Total == 0 || p.all || !p.said.IsZero() && now.Sub(p.said) < every && d.Done < d.Total {
		return
	}
	p.said, p.all = now, d.Done >= d.Total
	text := fmt.Sprintf("%s of %s streams, %d %%", count(d.Done), count(d.Total), 100*min(d.Done, d.Total)/d.Total)
	if took := now.Sub(p.begun); took >= estimateAfter && d.Done > 0 && d.Done < d.Total {
		text += ", " + span((time.Duration(float64(took) / float64(d.Done) * float64(d.Total-d.Done))).Round(time.Second)) + " left"
	}
	if p.terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", text)
		p.open = true
		return
	}
	fmt.Fprintln(p.out, text)
}

// done ends the line, so that what follows begins on its own.
func (p *progress) done() {
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.open = false
	}
}
