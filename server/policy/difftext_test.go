package policy

import (
	"fmt"
	"strings"
)

// maxNamedPeople is how many people a line of the text names who all gain and lose the same.
const maxNamedPeople = 5

// diffText writes a difference so that a test can show it: a plus is new, a minus gone, a tilde changed. Subjects with
// the same changes share their lines.
func diffText(d Difference) string {
	p := &printer{}
	if isEmpty(d) {
		return "no difference in meaning\n"
	}
	p.section("services", len(d.Services))
	for _, c := range d.Services {
		p.line("  %s %s", sign(c.Change), clean(c.Name))
		p.fields(c.Change, c.Fields)
	}
	p.section("rules", len(d.Rules))
	for _, c := range d.Rules {
		if c.Change == Renamed {
			p.line("  ~ %s, which was %s", clean(c.Name), clean(c.Was))
			continue
		}
		p.line("  %s %s", sign(c.Change), clean(c.Name))
		p.fields(c.Change, c.Fields)
	}
	p.subjects("grants of what rules name", d.Groups)
	p.subjects("grants of people", d.Users)
	return p.text.String()
}

// isEmpty reports that both policies mean the same for the subjects that were looked at.
func isEmpty(d Difference) bool {
	return len(d.Services)+len(d.Rules)+len(d.Groups)+len(d.Users) == 0
}

type printer struct {
	text  strings.Builder
	began bool
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(&p.text, format+"\n", args...)
}

func (p *printer) section(name string, n int) {
	if n == 0 {
		return
	}
	if p.began {
		p.line("")
	}
	p.began = true
	p.line("%s:", name)
}

// fields writes what differs. Of lists, a change may have both: what came and what went.
func (p *printer) fields(c Change, fields []FieldChange) {
	for _, f := range fields {
		switch {
		case c == Removed:
			p.line("      %s: %s", f.Field, clean(f.Old))
		case c == Added:
			p.line("      %s: %s", f.Field, clean(f.New))
		case f.Old == "":
			p.line("      %s: + %s", f.Field, clean(f.New))
		case f.New == "":
			p.line("      %s: - %s", f.Field, clean(f.Old))
		default:
			p.line("      %s: - %s + %s", f.Field, clean(f.Old), clean(f.New))
		}
	}
}

// subjects writes subjects with equal changes as one.
func (p *printer) subjects(title string, list []SubjectChange) {
	p.section(title, len(list))
	type block struct {
		names  []string
		grants []GrantChange
	}
	var order []string
	blocks := make(map[string]*block)
	for _, c := range list {
		key := fmt.Sprintf("%q", c.Grants)
		if blocks[key] == nil {
			blocks[key] = &block{grants: c.Grants}
			order = append(order, key)
		}
		blocks[key].names = append(blocks[key].names, c.title())
	}
	for _, key := range order {
		b := blocks[key]
		p.line("  %s", several(b.names))
		for _, g := range b.grants {
			p.grant(g)
		}
	}
}

func (c SubjectChange) title() string {
	switch {
	case c.Kind == SubjectGroup:
		return "group " + clean(c.Name)
	case c.Kind == SubjectEveryone && c.Name == everyone:
		return "everyone"
	case c.Kind == SubjectEveryone:
		return "everyone of " + clean(strings.TrimSuffix(c.Name, ":"+everyone))
	}
	return clean(c.Name)
}

func several(names []string) string {
	if n := len(names) - maxNamedPeople; n > 0 {
		return fmt.Sprintf("%s and %d others", strings.Join(names[:maxNamedPeople], ", "), n)
	}
	return strings.Join(names, ", ")
}

func (p *printer) grant(g GrantChange) {
	switch g.Change {
	case Gained:
		p.line("    + %s: %s", clean(g.Service), clean(g.New))
	case Lost:
		p.line("    - %s: was %s", clean(g.Service), clean(g.Old))
	default:
		p.line("    ~ %s: was %s, is %s", clean(g.Service), clean(g.Old), clean(g.New))
	}
}

func sign(c Change) string {
	switch c {
	case Added, Gained:
		return "+"
	case Removed, Lost:
		return "-"
	}
	return "~"
}
