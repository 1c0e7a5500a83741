package policy

import (
	"net/netip"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/culvert-vpn/culvert/auth"
)

func (d *decoder) test(n *yaml.Node) {
	t := &Test{Pos: posOf(n)}
	d.doc.Tests = append(d.doc.Tests, t)
	d.section(n, "a test", keys{
		"name":    func(n *yaml.Node) { t.Name, _ = d.text(n, "name", maxText) },
		"at":      func(n *yaml.Node) { t.At = d.instant(n) },
		"subject": func(n *yaml.Node) { d.testSubject(n, t) },
		"allow":   func(n *yaml.Node) { t.Allow = d.refs(n, "allow") },
		"deny":    func(n *yaml.Node) { t.Deny = d.refs(n, "deny") },
		"step_up": func(n *yaml.Node) { t.StepUp = d.refs(n, "step_up") },
	})
	if n.Kind != yaml.MappingNode {
		return
	}
	d.want(n, t.Name != "", "name", "a test needs a name")
	d.want(n, false, "subject", "a test needs a subject: user, groups or both")
	if !hasKey(n, "allow") && !hasKey(n, "deny") && !hasKey(n, "step_up") {
		d.fault(t.Pos, `the test %s needs "allow", "deny" or "step_up"`, quote(t.Name))
	}
}

func (d *decoder) testSubject(n *yaml.Node, t *Test) {
	d.section(n, "the subject of a test", keys{
		"user": func(n *yaml.Node) {
			u, ok := d.user(n)
			if ok && u.Everyone {
				d.fault(u.Pos, "a test is about one person, not everyone")
			} else if ok {
				t.User = &u
			}
		},
		"groups": func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && n.Value == "unknown" {
				t.GroupsUnknown = true
				return
			}
			t.Groups = d.groups(n)
		},
		"device": func(n *yaml.Node) { d.testDevice(n, t) },
		"auth":   func(n *yaml.Node) { d.testAuth(n, t) },
		"client": func(n *yaml.Node) { t.Client = d.address(n, "client") },
	})
}

// testDevice reads the facts of a device as conditions name them.
func (d *decoder) testDevice(n *yaml.Node, t *Test) {
	read := make(keys)
	for key, into := range map[string]*string{
		"os": &t.Device.OS, "os_version": &t.Device.OSVersion, "arch": &t.Device.Arch, "client_version": &t.Device.ClientVersion,
	} {
		read[key] = func(n *yaml.Node) { *into, _ = d.text(n, key, maxName) }
	}
	for key, into := range map[string]*Tri{
		"disk_encrypted": &t.Device.DiskEncrypted, "firewall": &t.Device.Firewall,
		"screen_lock": &t.Device.ScreenLock, "hardware_key": &t.Device.HardwareKey,
	} {
		read[key] = func(n *yaml.Node) { *into = d.tri(n, key) }
	}
	d.section(n, "the device of a test", read)
}

func (d *decoder) testAuth(n *yaml.Node, t *Test) {
	d.section(n, "the login of a test", keys{
		"age": func(n *yaml.Node) { t.AuthAge, t.LoginKnown = d.duration(n, "age"), true },
		"acr": func(n *yaml.Node) { t.ACR, _ = d.text(n, "acr", maxText) },
		"amr": func(n *yaml.Node) {
			d.list(n, "amr", maxPerService, func(n *yaml.Node) {
				if text, ok := d.text(n, "method", maxText); ok {
					t.AMR = append(t.AMR, text)
				}
			})
		},
		"login": func(n *yaml.Node) {
			switch text, ok := d.text(n, "login", maxName); auth.LoginKind(text) {
			case auth.LoginBrowser, auth.LoginDevice:
				t.Login = auth.LoginKind(text)
			default:
				if ok {
					d.fault(posOf(n), "login %s: login (in the browser) or device", quote(text))
				}
			}
		},
	})
}

// tri reads true, false or unknown.
func (d *decoder) tri(n *yaml.Node, what string) Tri {
	if n.Kind == yaml.ScalarNode && n.Value == "unknown" {
		return Unknown
	}
	if d.boolean(n, what) {
		return Yes
	}
	return No
}

func (d *decoder) boolean(n *yaml.Node, what string) bool {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && (n.Value == "true" || n.Value == "false") {
		return n.Value == "true"
	}
	d.fault(posOf(n), "%s: write true or false", what)
	return false
}

func (d *decoder) address(n *yaml.Node, what string) netip.Addr {
	text, ok := d.text(n, what, maxName)
	if !ok {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		d.fault(posOf(n), "%s: %s is no address", what, quote(text))
		return netip.Addr{}
	}
	return addr.Unmap()
}

// instant reads a moment. It has a time zone of its own, so that it means the same everywhere.
func (d *decoder) instant(n *yaml.Node) time.Time {
	s, ok := d.scalar(n, "a time")
	if !ok {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.Year() < 2000 || at.Year() > 9998 {
		d.fault(posOf(n), "%s is no time; write it as 2026-12-24T10:00:00Z or 2026-12-24T11:00:00+01:00", quote(s))
		return time.Time{}
	}
	return at
}

func (d *decoder) duration(n *yaml.Node, what string) time.Duration {
	s, ok := d.scalar(n, `a duration such as "15m"`)
	if !ok {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil || v <= 0 || strings.HasPrefix(s, "+") {
		d.fault(posOf(n), `%s: %s is no duration; write a number with a unit, such as "90s", "15m" or "4h"`, what, quote(s))
		return 0
	}
	return v
}

// when reads a condition. Unlike other text it may go over several lines.
func (d *decoder) when(n *yaml.Node, r *Rule) {
	s, ok := d.scalar(n, "a condition")
	switch {
	case !ok:
		return
	case n.ShortTag() != "!!str":
		d.fault(posOf(n), "when: write %q in quotes, otherwise it is not text", s)
		return
	case strings.TrimSpace(s) == "":
		d.fault(posOf(n), "when is empty")
		return
	case len(s) > maxWhen:
		d.fault(posOf(n), "when has %d bytes, at most %d are accepted", len(s), maxWhen)
		return
	case strings.ContainsFunc(s, func(c rune) bool { return c != '\n' && c != '\t' && unprintable(c) }):
		d.fault(posOf(n), "when has a character that is not printed")
		return
	}
	r.When, r.WhenPos = s, d.source.place(n, 0)
	if d.conditions == nil {
		env, err := newEnvironment()
		if err != nil {
			d.fault(posOf(n), "when: %v", err)
			return
		}
		d.conditions = env
	}
	cond, faults := d.conditions.compile(s)
	for _, f := range faults {
		d.fault(d.source.place(n, f.offset), "when: %s", f.msg)
	}
	if cond == nil {
		return
	}
	r.cond = cond
	for _, g := range cond.groups {
		r.lookup = append(r.lookup, GroupRef{g.text, d.source.place(n, g.offset)})
	}
}
