package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/internal/strictconf"
)

const (
	tagPrefix = "tag:"
	maxFaults = 50
	maxFound  = 500       // faults after which nobody looks for more
	maxValues = 3_000_000 // of keys and values in a file: each takes a few hundred bytes while it is read
	maxText   = 512       // of a description or reason, in bytes; the tunnel carries 1,024
	maxName   = 128
)

// Parse reads a policy file strictly. name stands in messages. All faults found are reported
// together, by place: errors.Join of *strictconf.Error.
func Parse(name string, data []byte) (*Document, error) {
	if name == "" {
		name = "policy"
	}
	if len(data) > MaxFileSize {
		return nil, strictconf.Errorf(name, nil, "%d bytes, at most %d are accepted", len(data), MaxFileSize)
	}
	if values(data) > maxValues {
		return nil, strictconf.Errorf(name, nil, "more than %d keys and values", maxValues)
	}
	root, err := strictconf.Parse(name, data)
	if err != nil {
		return nil, hintStar(err)
	}
	if root == nil {
		return nil, strictconf.Errorf(name, nil, `the file is empty; it begins with "version: 1"`)
	}
	// Anchors, keys that stand twice, absurd depth.
	if err := strictconf.DecodeNode(name, root, new(yaml.Node)); err != nil {
		return nil, err
	}
	d := &decoder{doc: &Document{File: name, Digest: DigestOf(data)}, source: locator{data: data}}
	d.document(root)
	d.resolve()
	if err := d.err(); err != nil {
		return nil, err
	}
	return d.doc, nil
}

// values counts what keys and values are set apart by. There are hardly more of them, and it takes no memory.
func values(data []byte) (n int) {
	for _, c := range data {
		switch c {
		case ',', ':', '[', '{', '\n', '\r':
			n++
		}
	}
	return n
}

// hintStar explains what YAML makes of an unquoted star.
func hintStar(err error) error {
	var e *strictconf.Error
	if errors.As(err, &e) && strings.Contains(e.Msg, "alphabetic or numeric character") {
		e.Msg += ` (a star for all services is written "*", in quotes)`
	}
	return err
}

func errorAt(file string, pos Pos, format string, args ...any) *strictconf.Error {
	return &strictconf.Error{File: file, Line: pos.Line, Column: pos.Column, Msg: fmt.Sprintf(format, args...)}
}

// A decoder walks the nodes and collects faults.
type decoder struct {
	doc        *Document
	source     locator
	conditions *environment // made at the first condition
	faults     []*strictconf.Error
}

func (d *decoder) fault(pos Pos, format string, args ...any) {
	if d.hopeless() {
		return
	}
	d.faults = append(d.faults, errorAt(d.doc.File, pos, format, args...))
}

// hopeless reports that so many faults are known that the search for more can end: to find what was probably meant takes time.
func (d *decoder) hopeless() bool { return len(d.faults) >= maxFound }

func (d *decoder) warn(pos Pos, format string, args ...any) {
	if len(d.doc.Warnings) >= maxFound {
		return
	}
	d.doc.Warnings = append(d.doc.Warnings, errorAt(d.doc.File, pos, format, args...))
}

// err returns the faults by place, at most maxFaults of them.
func (d *decoder) err() error {
	if len(d.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(d.faults, func(a, b *strictconf.Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for _, e := range d.faults[:min(len(d.faults), maxFaults)] {
		errs = append(errs, e)
	}
	switch n := len(d.faults) - maxFaults; {
	case d.hopeless():
		errs = append(errs, fmt.Errorf("%s: and more than %d more", d.doc.File, n-1))
	case n > 0:
		errs = append(errs, fmt.Errorf("%s: and %d more", d.doc.File, n))
	}
	return errors.Join(errs...)
}

func posOf(n *yaml.Node) Pos { return Pos{n.Line, n.Column} }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// keys are what a section accepts.
type keys map[string]func(*yaml.Node)

// section reads a mapping key by key. An empty value is an empty section.
func (d *decoder) section(n *yaml.Node, what string, k keys) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.fault(posOf(n), "want %s here, a section with keys", what)
		return
	}
	for i := 0; i+1 < len(n.Content) && !d.hopeless(); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if read, known := k[key.Value]; known {
			read(value)
			continue
		}
		d.fault(posOf(key), "unknown key %s in %s%s", quote(key.Value), what, didYouMean(key.Value, k))
	}
}

func didYouMean[V any](got string, known map[string]V) string {
	names := make([]string, 0, len(known))
	for k := range known {
		names = append(names, k)
	}
	slices.Sort(names)
	return strictconf.DidYouMean(got, names)
}

// list reads a sequence element by element. An empty value is an empty list.
func (d *decoder) list(n *yaml.Node, what string, limit int, each func(*yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.fault(posOf(n), "want %s here, a list such as [a, b]", what)
		return
	}
	if len(n.Content) > limit {
		d.fault(posOf(n), "%s: %d entries, at most %d are accepted", what, len(n.Content), limit)
		return
	}
	for _, c := range n.Content {
		if d.hopeless() {
			return
		}
		each(c)
	}
}

// scalar returns a plain value as it is written.
func (d *decoder) scalar(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		d.fault(posOf(n), "want %s here", what)
		return "", false
	}
	return n.Value, true
}

// text returns a value that must be text: YAML's numbers, dates and booleans need quotes, so that what
// is compared is what is written.
func (d *decoder) text(n *yaml.Node, what string, limit int) (string, bool) {
	s, ok := d.scalar(n, what)
	switch {
	case !ok:
		return "", false
	case n.ShortTag() != "!!str":
		d.fault(posOf(n), "%s: write %q in quotes, otherwise it is not text", what, s)
	case strings.TrimSpace(s) == "":
		d.fault(posOf(n), "%s is empty", what)
	case len(s) > limit:
		d.fault(posOf(n), "%s has %d bytes, at most %d are accepted", what, len(s), limit)
	case strings.ContainsFunc(s, unprintable):
		d.fault(posOf(n), "%s has a line break or another character that is not printed", what)
	default:
		return strings.TrimSpace(s), true
	}
	return "", false
}

// number returns a decimal number in its one spelling.
func (d *decoder) number(n *yaml.Node, what string, low, high int) (int, bool) {
	s, ok := d.scalar(n, what)
	if !ok {
		return 0, false
	}
	v, err := strconv.Atoi(s)
	switch {
	case err == nil && strconv.Itoa(v) == s && low <= v && v <= high:
		return v, true
	case low == high:
		d.fault(posOf(n), "%s: %s is not %d, the only one that this program knows", what, quote(s), low)
		return 0, false
	default:
		d.fault(posOf(n), "%s: %s is no number from %d to %d", what, quote(s), low, high)
		return 0, false
	}
}

func (d *decoder) document(root *yaml.Node) {
	versioned := false
	d.section(root, "the policy", keys{
		"version": func(n *yaml.Node) {
			versioned = true
			d.number(n, "version", 1, 1)
		},
		"services": d.services,
		"rules":    func(n *yaml.Node) { d.list(n, "rules", MaxRules, d.rule) },
		"tests":    func(n *yaml.Node) { d.list(n, "tests", MaxTests, d.test) },
	})
	if !versioned {
		d.fault(posOf(root), `the key "version" is missing; write "version: 1"`)
	}
}

// isLabel reports a name of services, tags and providers: 1 to 63 of a–z, 0–9 and hyphens inside.
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
