package policy

import "net/netip"

// A specialRange is a range that no wide network may reach by accident.
type specialRange struct {
	prefix netip.Prefix
	what   string
}

// specialRanges are in order of precision: metadata addresses stand before the link-local range
// that holds some of them. Translated spellings (NAT64, 6to4, Teredo, IPv4-compatible) hide another
// address behind theirs, which would escape the network denies.
func specialRanges() []specialRange {
	ranges := []struct{ prefix, what string }{
		{"169.254.169.254/32", "a cloud metadata address"},
		{"169.254.170.2/32", "a cloud metadata address"},   // container credentials
		{"100.100.100.200/32", "a cloud metadata address"}, // Alibaba
		{"168.63.129.16/32", "a cloud metadata address"},   // Azure wire server
		{"192.0.0.192/32", "a cloud metadata address"},     // Oracle
		{"fd00:ec2::/32", "a cloud metadata address"},      // EC2: ::254, ::23
		{"fd20:ce::254/128", "a cloud metadata address"},   // Google
		{"0.0.0.0/8", "an unspecified address"},            // RFC 1122, 3.2.1.3; Linux connects it to itself
		{"127.0.0.0/8", "a loopback address"},
		{"169.254.0.0/16", "a link-local address"},
		{"224.0.0.0/4", "a multicast address"},
		{"255.255.255.255/32", "the broadcast address"},
		{"::/128", "an unspecified address"},
		{"::1/128", "a loopback address"},
		{"::/96", "an IPv4-compatible spelling"},                        // RFC 4291, 2.5.5.1
		{"::ffff:0:0:0/96", "an IPv4-translated spelling"},              // RFC 2765
		{"64:ff9b::/96", "a NAT64 spelling of an IPv4 address"},         // RFC 6052
		{"64:ff9b:1::/48", "a local NAT64 spelling of an IPv4 address"}, // RFC 8215
		{"2002::/16", "a 6to4 spelling of an IPv4 address"},             // RFC 3056
		{"2001::/32", "a Teredo spelling of an IPv4 address"},           // RFC 4380
		{"fe80::/10", "a link-local address"},
		{"ff00::/8", "a multicast address"},
	}
	parsed := make([]specialRange, len(ranges))
	for i, r := range ranges {
		parsed[i] = specialRange{netip.MustParsePrefix(r.prefix), r.what}
	}
	return parsed
}

// special is filled once; it is never written again.
var special = specialRanges()

// SpecialRange reports whether addr lies in a range that is refused unless a service names the
// address literally, and what the range is ("a loopback address"). The address is unmapped first; an
// address with a zone, and the zero Addr, are always special.
func SpecialRange(addr netip.Addr) (what string, is bool) {
	if !addr.IsValid() {
		return "not an address", true
	}
	if addr.Zone() != "" {
		return "an address with a zone", true
	}
	addr = addr.Unmap()
	for i := range special {
		if special[i].prefix.Contains(addr) {
			return special[i].what, true
		}
	}
	return "", false
}
