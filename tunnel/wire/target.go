package wire

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Kind is what a stream carries.
type Kind string

// Kinds of streams.
const (
	KindTCP Kind = "tcp" // bytes, with a half-close in each direction
	KindUDP Kind = "udp" // datagrams, whose boundaries are kept
)

// Target names what a stream leads to: either a service by its name in the policy, or a
// host (a name or an IP literal) and a port. Names travel as they are and are resolved at
// the gateway.
type Target struct {
	Kind    Kind   `cbor:"1,keyasint"`
	Service string `cbor:"2,keyasint,omitempty"`
	Host    string `cbor:"3,keyasint,omitempty"`
	Port    uint16 `cbor:"4,keyasint,omitempty"`
}

// ServiceTarget is the target of a service by its name.
func ServiceTarget(kind Kind, service string) Target {
	return Target{Kind: kind, Service: service}
}

// HostTarget is the target of a host name or IP literal and a port.
func HostTarget(kind Kind, host string, port uint16) Target {
	return Target{Kind: kind, Host: host, Port: port}
}

// Validate checks the form only: the kind is known, and either a service or a host with
// a port is there, within the limits and without control characters or spaces. Whether a
// host is a sensible name is for the policy to say.
func (t Target) Validate() error {
	if t.Kind != KindTCP && t.Kind != KindUDP {
		return malformed("unknown stream kind %q", t.Kind)
	}
	if t.Service != "" {
		if t.Host != "" || t.Port != 0 {
			return malformed("a target has a service or a host, not both")
		}
		return checkToken("service", t.Service, MaxName)
	}
	if t.Port == 0 {
		return malformed("a target without a service needs a host and a port")
	}
	return checkToken("host", t.Host, MaxHost)
}

// BuiltInPrefix begins the names of the services inside a gateway. No policy names such a service.
const BuiltInPrefix = "culvert-"

// BuiltIn reports whether the target is, or is spelled like, a service inside the gateway.
func (t Target) BuiltIn() bool {
	name := t.Service
	if name == "" && !strings.ContainsAny(t.Host, ".:") {
		name = t.Host
	}
	return strings.HasPrefix(strings.ToLower(name), BuiltInPrefix)
}

// CheckOffered refuses the targets that no front may lead programs to: those inside the gateway,
// which only the commands that are made for them open. The error is a *Refusal.
func (t Target) CheckOffered() error {
	if !t.BuiltIn() {
		return nil
	}
	return &Refusal{Code: CodeNoSuchService, Service: t.Service, Reason: t.String() + " is inside the gateway: nothing leads other programs there",
		Remedy: "use culvert admin or culvert request"}
}

// Addr returns the address of a target that is an IP literal and a port, unmapped
// (::ffff:10.0.0.1 is 10.0.0.1), and whether it is one. A literal with a zone is not.
func (t Target) Addr() (netip.AddrPort, bool) {
	addr, err := netip.ParseAddr(t.Host)
	if err != nil || addr.Zone() != "" {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr.Unmap(), t.Port), true
}

// String returns "wiki" or "10.0.0.1:22", and "dns/udp" for a udp target.
func (t Target) String() string {
	s := t.Service
	if s == "" {
		s = net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port)))
	}
	if t.Kind != KindTCP {
		s += "/" + string(t.Kind)
	}
	return s
}
