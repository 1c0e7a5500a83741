package httpproxy

import (
	_ "embed"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

//go:embed pac.js
var pacScript string

// pacRules is what pac.js decides by.
type pacRules struct {
	Proxy    string              `json:"proxy"`
	Hosts    map[string][]uint16 `json:"hosts"` // lower case, without the final dot; the ports on each
	Networks []pacNetwork        `json:"networks"`
}

type pacNetwork struct {
	Bytes []int    `json:"bytes"` // of the address: 4 or 16
	Bits  int      `json:"bits"`
	Ports [][2]int `json:"ports"` // empty: all
}

// PAC returns a proxy auto-configuration script that sends a browser to the
// proxy at addr for the host names and networks of the tcp services, and
// directly for everything else. Services that are not allowed are sent there
// too, so that the person reads the reason.
func PAC(services []wire.Service, addr string) string {
	rules := pacRules{Proxy: "PROXY " + addr, Hosts: map[string][]uint16{}, Networks: []pacNetwork{}}
	for _, svc := range services {
		if svc.Kind != wire.KindTCP {
			continue
		}
		for _, name := range svc.Hostnames {
			name = strings.TrimSuffix(strings.ToLower(name), ".")
			if !slices.Contains(rules.Hosts[name], svc.Port) {
				rules.Hosts[name] = append(rules.Hosts[name], svc.Port)
			}
		}
		for _, network := range svc.Networks {
			rules.Networks = append(rules.Networks, pacNetworkOf(network, svc.Ports))
		}
	}
	// Marshalling escapes <, > and & and the line separators, so that no
	// name can leave its string.
	encoded, err := json.Marshal(rules)
	if err != nil { // maps of strings and numbers always marshal
		encoded = []byte(`{"proxy":"DIRECT","hosts":{},"networks":[]}`)
	}
	return "var rules = " + string(encoded) + ";\n" + pacScript
}

func pacNetworkOf(p netip.Prefix, ports []wire.PortRange) pacNetwork {
	n := pacNetwork{Bits: p.Bits(), Ports: [][2]int{}}
	for _, b := range p.Addr().AsSlice() {
		n.Bytes = append(n.Bytes, int(b))
	}
	for _, r := range ports {
		n.Ports = append(n.Ports, [2]int{int(r.First), int(r.Last)})
	}
	return n
}
