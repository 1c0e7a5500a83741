package session

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Limits bounds what is connected. A zero field takes its default.
type Limits struct {
	Sessions              int // connections of this gateway; default 10,000
	SessionsPerUser       int // default 32
	ConnectionsPerSession int // default 8; several processes of one person may share a session
	Streams               int // of this gateway; default 100,000
	StreamsPerUser        int // default 4,096
	StreamsPerSession     int // of one connection; default 2,048
	UndecidedPerSession   int // of one connection, streams without a reply; default 64 (wire.MaxUndecided)
	// UndecidedPerUser is streams without a reply on all connections of a user; default 256. Most of them wait for a dial, of which
	// the gateway runs a bounded number (server/dialer): nobody may have them all.
	UndecidedPerUser int

	OpensPerSession rate.Limit // streams per second on one connection, burst twice that; default 1,000
	OpensPerUser    rate.Limit // the same for all connections of a user; default 2,000
}

// DefaultLimits are the limits of a gateway whose configuration does not say otherwise.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{
		{&l.Sessions, 10_000}, {&l.SessionsPerUser, 32}, {&l.ConnectionsPerSession, 8},
		{&l.Streams, 100_000}, {&l.StreamsPerUser, 4096}, {&l.StreamsPerSession, 2048}, {&l.UndecidedPerSession, wire.MaxUndecided},
		{&l.UndecidedPerUser, 256},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	if l.OpensPerSession == 0 {
		l.OpensPerSession = 1000
	}
	if l.OpensPerUser == 0 {
		l.OpensPerUser = 2000
	}
	return l
}

func limiter(l rate.Limit) *rate.Limiter { return rate.NewLimiter(l, max(1, int(2*l))) }

// user is what the connections of one person share.
type user struct {
	connections int // guarded by Registry.mu
	streams     atomic.Int64
	undecided   atomic.Int64
	rate        *rate.Limiter
}

func newUser(l Limits) *user { return &user{rate: limiter(l.OpensPerUser)} }

func tooMany(format string, args ...any) *wire.Termination {
	return &wire.Termination{Code: wire.TerminateLimit, Reason: fmt.Sprintf(format, args...)}
}

// take adds one to n unless that exceeds limit.
func take(n *atomic.Int64, limit int) bool {
	if n.Add(1) > int64(limit) {
		n.Add(-1)
		return false
	}
	return true
}
