package policy

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/publicsuffix"
)

// wildcard begins a host name that stands for every name below the rest.
const wildcard = "*."

func (d *serviceDecoder) hostname(n *yaml.Node) {
	text, ok := d.text(n, "host name", maxText)
	if !ok {
		return
	}
	base, wild := strings.CutPrefix(text, wildcard)
	name, err := canonicalHost(base)
	switch {
	case err != nil && strings.Contains(text, "*"):
		d.fault(posOf(n), `host name %s: a wildcard is "*." and a name, such as "*.wiki.corp.example"`, quote(text))
		return
	case err != nil:
		d.fault(posOf(n), "host name %s: %v", quote(text), err)
		return
	case isLocalhost(name):
		d.fault(posOf(n), "host name %q: that name means each desktop itself", name)
		return
	case wild && isPublic(name):
		d.fault(posOf(n), "host name %s: a wildcard over a top-level domain would take names that are not yours", quote(text))
		return
	case wild:
		name = wildcard + name
	}
	if slices.Contains(d.s.Hostnames, name) {
		d.fault(posOf(n), "host name %q stands here a second time", name)
		return
	}
	d.s.Hostnames = append(d.s.Hostnames, name)
}

func (d *serviceDecoder) zone(n *yaml.Node) {
	text, ok := d.text(n, "zone", maxText)
	if !ok {
		return
	}
	name, err := canonicalHost(text)
	switch {
	case strings.HasPrefix(text, "*") || strings.HasPrefix(text, "."):
		d.fault(posOf(n), "zone %s: write the domain alone; every name in it belongs to the zone", quote(text))
	case err != nil:
		d.fault(posOf(n), "zone %s: %v", quote(text), err)
	case isLocalhost(name):
		d.fault(posOf(n), "zone %q: that name means each desktop itself", name)
	case isPublic(name):
		d.fault(posOf(n), "zone %q is a top-level domain; name one of your own below it", name)
	case slices.Contains(d.s.Zones, name):
		d.fault(posOf(n), "zone %q stands here a second time", name)
	default:
		d.s.Zones = append(d.s.Zones, name)
	}
}

// isPublic reports a name under which strangers register theirs: a single label, and suffixes such as co.uk.
func isPublic(name string) bool {
	suffix, icann := publicsuffix.PublicSuffix(name)
	return suffix == name && (icann || !strings.Contains(name, "."))
}

func (d *serviceDecoder) requestable(n *yaml.Node) {
	r := new(Requestable)
	d.s.Requestable = r
	d.section(n, "requestable", keys{
		"max": func(n *yaml.Node) { r.Max = d.duration(n, "max") },
		"approvers": func(n *yaml.Node) {
			d.section(n, "approvers", keys{
				"groups": func(n *yaml.Node) { r.Groups = d.groups(n) },
				"users":  func(n *yaml.Node) { r.Users = d.users(n) },
			})
			for _, u := range r.Users {
				if u.Everyone {
					d.fault(u.Pos, "approvers: %s would let anybody approve; name groups or users", quote(u.Text))
				}
			}
		},
	})
	if n.Kind == yaml.MappingNode || isNull(n) {
		d.want(n, false, "max", `requestable needs "max", the longest time that can be granted, such as 4h`)
	}
}

// uniqueNames holds that a name and port that a desktop uses lead to one service. Exact names and wildcards may overlap, as the
// more precise one wins; a name or wildcard may not overlap a zone, whose names are resolved and not listed.
func (d *decoder) uniqueNames() {
	taken := make(map[endpoint]*Service)
	for _, s := range d.doc.Services {
		for _, h := range s.Hostnames {
			k := endpoint{s.Kind, h, s.Port}
			if first := taken[k]; first != nil {
				d.fault(s.Pos, "service %q: %s with %s port %d is the service %q already (line %d)", s.Name, h, s.Kind, s.Port, first.Name, first.Pos.Line)
				continue
			}
			taken[k] = s
		}
	}
	z := d.uniqueZones()
	if z == nil {
		return
	}
	for _, s := range d.doc.Services {
		for _, h := range s.Hostnames {
			if d.hopeless() {
				return
			}
			d.outsideZones(s, h, z)
		}
	}
}

// zoneIndex says whose the ports are in a zone, and in all zones below a domain and the domain itself.
type zoneIndex struct {
	at, below map[zoneKey]*portIndex
}

// maxZonePorts bounds what zones take to compare: the labels of their names times the port ranges of their services.
const maxZonePorts = 1_000_000

// uniqueZones holds that a zone, protocol and port lead to one network. It returns nil where there are no zones.
func (d *decoder) uniqueZones() *zoneIndex {
	z := &zoneIndex{at: make(map[zoneKey]*portIndex), below: make(map[zoneKey]*portIndex)}
	size := 0
	for _, s := range d.doc.Services {
		for _, name := range s.Zones {
			size += (1 + strings.Count(name, ".")) * len(s.Ports)
			if size > maxZonePorts || d.hopeless() {
				d.fault(s.Pos, "service %q: zones and ports are too many here and above, taken together", s.Name)
				return nil
			}
			if other := indexAt(z.at, zoneKey{s.Kind, name}).claim(s); other != nil {
				d.fault(s.Pos, "service %q: the zone %s with these ports is of the service %q already (line %d)", s.Name, name, other.Name, other.Pos.Line)
			}
			for domain, more := name, true; more; _, domain, more = strings.Cut(domain, ".") {
				indexAt(z.below, zoneKey{s.Kind, domain}).claim(s)
			}
		}
	}
	if size == 0 {
		return nil
	}
	return z
}

// outsideZones holds that a host name and port are not in a zone, nor a zone below a wildcard.
func (d *decoder) outsideZones(s *Service, h string, z *zoneIndex) {
	base, wild := strings.CutPrefix(h, wildcard)
	found := func(other *Service, where, zone string) bool {
		if other != nil {
			d.fault(s.Pos, "service %q: %s with %s port %d is ambiguous: it is also in %s %s of the service %q (line %d)",
				s.Name, h, s.Kind, s.Port, where, zone, other.Name, other.Pos.Line)
		}
		return other != nil
	}
	for domain, more := base, true; more; _, domain, more = strings.Cut(domain, ".") {
		if found(z.at[zoneKey{s.Kind, domain}].owner(s.Port), "the zone", domain) {
			return
		}
	}
	if wild {
		found(z.below[zoneKey{s.Kind, base}].owner(s.Port), "a zone below", base)
	}
}
