package client

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// withoutOverreach returns services without the host names and networks that no gateway may draw to itself, whatever
// it announces (docs/protocol.md, section 3), and says which those were. A browser follows what is left. The
// services themselves stay: who names one means it. own are the hosts of the gateway and the login provider.
func withoutOverreach(services []wire.Service, own []string) (kept []wire.Service, refused []string) {
	kept = slices.Clone(services)
	for i := range kept {
		s := &kept[i]
		s.Hostnames = slices.DeleteFunc(slices.Clone(s.Hostnames), func(name string) bool {
			return note(&refused, name, hostOverreaches(name, own))
		})
		s.Networks = slices.DeleteFunc(slices.Clone(s.Networks), func(p netip.Prefix) bool {
			return note(&refused, p.String(), networkOverreaches(p, own))
		})
	}
	return kept, refused
}

func note(list *[]string, what string, bad bool) bool {
	if bad {
		*list = append(*list, what)
	}
	return bad
}

func hostOverreaches(name string, own []string) bool {
	name = canonicalHost(name)
	if addr, err := netip.ParseAddr(name); err == nil {
		return networkOverreaches(netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), own)
	}
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || slices.Contains(own, name)
}

// The widest networks that are inside some organization are 10.0.0.0/8 and fc00::/7; what is wider takes the
// internet, or half of it.
const (
	widestIPv4 = 8
	widestIPv6 = 7
)

var neverRemote = []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
}

func networkOverreaches(p netip.Prefix, own []string) bool {
	widest := widestIPv6
	if p.Addr().Is4() {
		widest = widestIPv4
	}
	return p.Bits() < widest || slices.ContainsFunc(neverRemote, p.Overlaps) || slices.ContainsFunc(own, func(host string) bool {
		addr, err := netip.ParseAddr(host)
		return err == nil && p.Contains(addr.Unmap())
	})
}

// ownHosts are the hosts that a login depends on: nobody may stand between the desktop and them.
func (l *Login) ownHosts() []string {
	var hosts []string
	for _, address := range []string{l.URL, "tcp://" + l.Tunnel, l.Identity.Issuer} {
		if u, err := url.Parse(address); err == nil && u.Hostname() != "" {
			hosts = append(hosts, canonicalHost(u.Hostname()))
		}
	}
	return hosts
}

func canonicalHost(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }
