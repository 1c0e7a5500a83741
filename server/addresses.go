package server

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxAddresses bounds the addresses whose rates are remembered; a stranger
// with many networks must not make the table grow.
const maxAddresses = 1 << 16

// addressKey is what a stranger cannot change cheaply: the IPv4 address, or the
// /64 of an IPv6 address.
func addressKey(addr net.Addr) netip.Prefix {
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// addressRates limits how fast each address may come back. Safe for concurrent
// use.
type addressRates struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu     sync.Mutex
	seen   map[netip.Prefix]*rate.Limiter
	shared *rate.Limiter // for addresses that find the table full
}

func newAddressRates(perSecond, burst int, now func() time.Time) *addressRates {
	limit := rate.Limit(perSecond)
	return &addressRates{limit: limit, burst: burst, now: now,
		seen: make(map[netip.Prefix]*rate.Limiter), shared: rate.NewLimiter(limit, burst)}
}

// allow reports whether key may come once more now.
func (r *addressRates) allow(key netip.Prefix) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	limiter := r.seen[key]
	if limiter == nil {
		if len(r.seen) >= maxAddresses {
			r.forgetLocked(now)
		}
		if len(r.seen) >= maxAddresses {
			return r.shared.AllowN(now, 1)
		}
		limiter = rate.NewLimiter(r.limit, r.burst)
		r.seen[key] = limiter
	}
	return limiter.AllowN(now, 1)
}

// forgetLocked drops the addresses whose allowance is full again: a new entry
// would be the same.
func (r *addressRates) forgetLocked(now time.Time) {
	for key, limiter := range r.seen {
		if limiter.TokensAt(now) >= float64(r.burst) {
			delete(r.seen, key)
		}
	}
}
