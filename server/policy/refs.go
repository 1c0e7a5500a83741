package policy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// names are what entries can refer to.
type names struct {
	services []string
	tags     []string
	known    map[string]bool // services by name, tags with their prefix, "*"
}

func newNames(services []*Service) *names {
	n := &names{known: map[string]bool{"*": true}}
	for _, s := range services {
		n.services = append(n.services, s.Name)
		n.known[s.Name] = true
		for _, tag := range s.Tags {
			if !n.known[tagPrefix+tag] {
				n.tags = append(n.tags, tag)
			}
			n.known[tagPrefix+tag] = true
		}
	}
	return n
}

func (d *decoder) checkRefs(n *names, lists ...[]Ref) {
	for _, list := range lists {
		for _, r := range list {
			if d.hopeless() {
				return
			}
			d.checkRef(n, r)
		}
	}
}

// checkRef reports an entry that names nothing, with what was probably meant.
func (d *decoder) checkRef(n *names, r Ref) {
	if n.known[r.Text] {
		return
	}
	if tag, ok := isTag(r.Text); ok {
		d.fault(r.Pos, "no service has the tag %s%s", quote(tag), strictconf.DidYouMean(tag, n.tags))
		return
	}
	hint := ""
	if len(d.faults) < maxFaults { // each takes a look at every service
		hint = strictconf.DidYouMean(r.Text, n.services)
	}
	if hint == "" && slices.Contains(n.tags, r.Text) {
		hint = ` (did you mean "` + tagPrefix + r.Text + `"?)`
	}
	d.fault(r.Pos, "there is no service %s%s", quote(r.Text), hint)
}

// sharedAddresses warns where one right opens more than it says: the gateway forwards bytes, and cannot tell
// two services at one address and port from one another.
func (d *decoder) sharedAddresses() {
	dials := make(map[endpoint]*Service)
	nets := make(map[netKey]*portIndex)
	for _, s := range d.doc.Services {
		if s.IsNetwork() {
			if other := indexAt(nets, netKey{s.Kind, s.Network}).claim(s); other != nil {
				d.warn(s.Pos, "services %q and %q share addresses and ports: a deny of either denies both there", other.Name, s.Name)
			}
			continue
		}
		k := endpoint{s.Kind, s.Host, s.HostPort}
		if first := dials[k]; first != nil && s.Host != "" {
			d.warn(s.Pos, "services %q and %q are at the same address: who reaches one reaches the other", first.Name, s.Name)
			continue
		}
		dials[k] = s
	}
}

type netKey struct {
	kind    wire.Kind
	network netip.Prefix
}

// testTarget reads an entry of a test that is a host and port: "10.20.0.1:22", "wiki.corp.example:80",
// "10.20.0.53:53/udp".
func testTarget(text string) (wire.Target, bool) {
	kind := wire.KindTCP
	rest, udp := strings.CutSuffix(text, "/udp")
	if udp {
		kind = wire.KindUDP
	}
	if _, tag := isTag(rest); tag {
		return wire.Target{}, false
	}
	host, port, ok := splitHostPort(rest)
	if !ok {
		return wire.Target{}, false
	}
	return wire.HostTarget(kind, host, port), true
}
