package server

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// handshakes holds the connections whose TLS handshake is not done, oldest
// first. It never turns a newcomer away: where one is too many, the oldest is
// closed, of the same address first. An honest handshake is done in a few round
// trips, so those that are withheld on purpose are the oldest, and logins still
// work while a thousand of them stand there. Safe for concurrent use.
type handshakes struct {
	max, maxPerAddress int
	displaced          func(n int) // told how many were closed; not nil

	mu        sync.Mutex
	all       *list.List // of *handshake
	byAddress map[netip.Prefix]*list.List
}

type handshake struct {
	conn    net.Conn
	key     netip.Prefix
	inAll   *list.Element
	inOwn   *list.Element
	removed bool
}

func newHandshakes(max, maxPerAddress int, displaced func(int)) *handshakes {
	return &handshakes{max: max, maxPerAddress: maxPerAddress, displaced: displaced,
		all: list.New(), byAddress: make(map[netip.Prefix]*list.List)}
}

// add notes conn and closes whom it displaces. The caller calls done when the
// handshake has ended in any way.
func (h *handshakes) add(conn net.Conn, key netip.Prefix) *handshake {
	h.mu.Lock()
	own := h.byAddress[key]
	if own == nil {
		own = list.New()
		h.byAddress[key] = own
	}
	one := &handshake{conn: conn, key: key}
	one.inAll, one.inOwn = h.all.PushBack(one), own.PushBack(one)
	var victims []*handshake
	if own.Len() > h.maxPerAddress {
		victims = append(victims, h.removeLocked(own.Front().Value.(*handshake)))
	}
	if h.all.Len() > h.max {
		victims = append(victims, h.removeLocked(h.all.Front().Value.(*handshake)))
	}
	h.mu.Unlock()
	for _, victim := range victims {
		_ = victim.conn.Close() // its handshake fails and its goroutine ends
	}
	if len(victims) > 0 {
		h.displaced(len(victims))
	}
	return one
}

func (h *handshakes) done(one *handshake) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(one)
}

func (h *handshakes) removeLocked(one *handshake) *handshake {
	if one.removed {
		return one
	}
	one.removed = true
	h.all.Remove(one.inAll)
	own := h.byAddress[one.key]
	own.Remove(one.inOwn)
	if own.Len() == 0 {
		delete(h.byAddress, one.key)
	}
	return one
}

func (h *handshakes) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all.Len()
}

// closeAll ends every handshake that is under way.
func (h *handshakes) closeAll() {
	h.mu.Lock()
	var all []*handshake
	for e := h.all.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*handshake))
	}
	h.mu.Unlock()
	for _, one := range all {
		_ = one.conn.Close()
	}
}
