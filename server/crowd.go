package server

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// A crowd holds connections of which there may be so many, oldest first: those
// whose TLS handshake is not done, and those of the HTTPS side. It never turns a
// newcomer away: where one is too many, the oldest is closed, of the same address
// first. An honest handshake or login is done in a few round trips, so those that
// are withheld on purpose are the oldest, and logins still work while a thousand
// of them stand there. Safe for concurrent use.
type crowd struct {
	max, maxPerAddress int
	displaced          func(n int) // told how many were closed; not nil

	mu        sync.Mutex
	all       *list.List // of *member
	byAddress map[netip.Prefix]*list.List
}

type member struct {
	conn    net.Conn
	key     netip.Prefix
	inAll   *list.Element
	inOwn   *list.Element
	removed bool
}

func newCrowd(max, maxPerAddress int, displaced func(int)) *crowd {
	return &crowd{max: max, maxPerAddress: maxPerAddress, displaced: displaced,
		all: list.New(), byAddress: make(map[netip.Prefix]*list.List)}
}

// add notes conn and closes whom it displaces. The caller calls done when conn
// does not belong here any more.
func (c *crowd) add(conn net.Conn, key netip.Prefix) *member {
	c.mu.Lock()
	own := c.byAddress[key]
	if own == nil {
		own = list.New()
		c.byAddress[key] = own
	}
	one := &member{conn: conn, key: key}
	one.inAll, one.inOwn = c.all.PushBack(one), own.PushBack(one)
	var victims []*member
	if own.Len() > c.maxPerAddress {
		victims = append(victims, c.removeLocked(own.Front().Value.(*member)))
	}
	if c.all.Len() > c.max {
		victims = append(victims, c.removeLocked(c.all.Front().Value.(*member)))
	}
	c.mu.Unlock()
	for _, victim := range victims {
		_ = victim.conn.Close() // whoever serves it gets an error and ends
	}
	if len(victims) > 0 {
		c.displaced(len(victims))
	}
	return one
}

func (c *crowd) done(one *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(one)
}

func (c *crowd) removeLocked(one *member) *member {
	if one.removed {
		return one
	}
	one.removed = true
	c.all.Remove(one.inAll)
	own := c.byAddress[one.key]
	own.Remove(one.inOwn)
	if own.Len() == 0 {
		delete(c.byAddress, one.key)
	}
	return one
}

func (c *crowd) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.Len()
}

// closeAll closes every connection.
func (c *crowd) closeAll() {
	c.mu.Lock()
	var all []*member
	for e := c.all.Front(); e != nil; e = e.Next() {
		all = append(all, e.Value.(*member))
	}
	c.mu.Unlock()
	for _, one := range all {
		_ = one.conn.Close()
	}
}
