package dialer

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// refused reports what the dialer itself does not dial.
func (d *Dialer) refused(t Target, at netip.AddrPort) error {
	if t.Literal {
		if lit, err := netip.ParseAddr(t.Host); err == nil && lit.Zone() == "" && lit.Unmap() == at.Addr() {
			return nil
		}
	}
	what, special := policy.SpecialRange(at.Addr())
	if !special && d.isOwn(at) {
		what, special = "an address of the gateway itself", true
	}
	if !special {
		return nil
	}
	return &Error{
		Code: wire.CodeDenied, Remedy: remedyAdmin,
		Reason: fmt.Sprintf("%s leads to %s, which the gateway does not open", t.Host, what),
	}
}

// isOwn reports whether an address and port are one of the gateway's own. When the machine's addresses
// cannot be listed, a port of an own listener counts as own everywhere.
func (d *Dialer) isOwn(at netip.AddrPort) bool {
	for _, own := range d.cfg.Own() {
		if own.Port() != at.Port() {
			continue
		}
		addr := own.Addr().Unmap()
		if addr == at.Addr() {
			return true
		}
		if !addr.IsValid() || addr.IsUnspecified() {
			local, err := d.cfg.LocalAddrs()
			if err != nil || slices.Contains(local, at.Addr()) {
				return true
			}
		}
	}
	return false
}

// interfaceAddrs returns the addresses of this machine's network interfaces.
func interfaceAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range list {
		if ipn, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ipn.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs, nil
}
