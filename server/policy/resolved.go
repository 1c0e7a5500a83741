package policy

import (
	"net/netip"
	"slices"
	"sync"
)

// Resolved is what the names of services resolved to last. With it an address that belongs to a named
// service is decided as that service too. It outlives policies: share one between successive sets. It is
// safe for concurrent use; its zero value is empty.
type Resolved struct {
	mu     sync.RWMutex
	byHost map[string][]netip.Addr
	byAddr map[netip.Addr][]string
}

// maxLearned bounds the addresses kept of one name.
const maxLearned = 64

// NewResolved returns an empty table.
func NewResolved() *Resolved { return new(Resolved) }

// Learn records what the name that services dial resolved to. It replaces what was known, but an
// empty answer does not: a name that is gone for a moment must not open its address. Names that no
// service dials are ignored. It reports whether open streams have to be decided again: whether something
// changed, and addresses can be targets at all.
func (s *Set) Learn(host string, addrs []netip.Addr) (redecide bool) {
	if len(addrs) == 0 || !s.dials(host) {
		return false
	}
	changed := s.resolved.learn(host, addrs)
	return changed && len(s.networks[0].nodes)+len(s.networks[1].nodes) > 0
}

func (s *Set) dials(host string) bool {
	_, found := slices.BinarySearch(s.hosts, host)
	return found
}

func (r *Resolved) learn(host string, addrs []netip.Addr) (changed bool) {
	list := make([]netip.Addr, 0, min(len(addrs), maxLearned))
	for _, a := range addrs[:min(len(addrs), maxLearned)] {
		list = append(list, a.Unmap())
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.byHost[host], list) {
		return false
	}
	if r.byHost == nil {
		r.byHost, r.byAddr = make(map[string][]netip.Addr), make(map[netip.Addr][]string)
	}
	for _, a := range r.byHost[host] {
		r.forgetLocked(a, host)
	}
	for _, a := range list {
		r.byAddr[a] = append(r.byAddr[a], host)
	}
	r.byHost[host] = list
	return true
}

func (r *Resolved) forgetLocked(addr netip.Addr, host string) {
	// A new slice: lookups hand the old one out.
	var left []string
	for _, h := range r.byAddr[addr] {
		if h != host {
			left = append(left, h)
		}
	}
	if left == nil {
		delete(r.byAddr, addr)
		return
	}
	r.byAddr[addr] = left
}

// hostsAt returns the names that resolved to addr; read-only.
func (r *Resolved) hostsAt(addr netip.Addr) []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byAddr[addr]
}
