package policy

import (
	"cmp"
	"slices"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A portIndex says whose a port is, among services that are at one place. A file may have a million ranges, and each is compared with
// the others by a search.
type portIndex struct {
	claims []portClaim // in order, and apart from each other
}

type portClaim struct {
	wire.PortRange
	of *Service
}

// search returns the first claim that does not end before a port.
func (x *portIndex) search(port int) int {
	i, _ := slices.BinarySearchFunc(x.claims, port, func(c portClaim, port int) int { return cmp.Compare(int(c.Last), port) })
	return i
}

// claim makes those ports of a service its own that are nobody's, and returns the first other service that has one of them.
func (x *portIndex) claim(s *Service) (other *Service) {
	for _, r := range s.Ports {
		for next := int(r.First); next <= int(r.Last); {
			i, free := x.search(next), int(r.Last)
			if i < len(x.claims) && int(x.claims[i].First) <= int(r.Last) {
				free = int(x.claims[i].First) - 1
				if has := x.claims[i].of; other == nil && has != s {
					other = has
				}
			}
			if next <= free {
				x.claims = slices.Insert(x.claims, i, portClaim{wire.PortRange{First: uint16(next), Last: uint16(free)}, s})
			}
			next = int(x.claims[i].Last) + 1
		}
	}
	return other
}

// owner returns the service that a port is of, or nil.
func (x *portIndex) owner(port uint16) *Service {
	if x == nil {
		return nil
	}
	if i := x.search(int(port)); i < len(x.claims) && x.claims[i].Contains(port) {
		return x.claims[i].of
	}
	return nil
}

// indexAt returns the index of a key, and makes it at its first use.
func indexAt[K comparable](m map[K]*portIndex, k K) *portIndex {
	v := m[k]
	if v == nil {
		v = new(portIndex)
		m[k] = v
	}
	return v
}
