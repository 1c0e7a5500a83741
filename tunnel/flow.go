package tunnel

import (
	"sync"
	"time"
)

// flowControl is what the receive windows of one session share: the budget and the round trip.
//
// A stream starts with 256 KiB. When half of its window is consumed in less than one and a half round trips, the window may be what
// holds the sender back, and it doubles, as long as the sum of all windows stays within the budget: it ends at two to four times what
// the path holds. On a short path it doubles up to 1 MiB while the stream is fast, which spares both ends half of their waiting for
// each other; more would only cost cache there.
type flowControl struct {
	limits Limits
	out    *frameWriter

	mu      sync.Mutex
	windows int64 // sum over all streams
	rtt     time.Duration
	rttAt   time.Time
}

// rttAge is how long a round trip counts before another one is measured.
const rttAge = 30 * time.Second

// On a short path, a window below shortWindow grows while half of it is consumed within shortTime.
const (
	shortWindow = 1 << 20
	shortTime   = 20 * time.Millisecond
)

func (c *flowControl) add(n int) {
	c.mu.Lock()
	c.windows += int64(n)
	c.mu.Unlock()
}

// measured notes a round trip. The smallest one counts, for about a minute.
func (c *flowControl) measured(rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rtt == 0 || rtt <= c.rtt || time.Since(c.rttAt) > 2*rttAge {
		c.rtt, c.rttAt = rtt, time.Now()
	}
}

// stale reports that the round trip was measured long ago.
func (c *flowControl) stale() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.rttAt) > rttAge
}

func (c *flowControl) minRTT() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rtt
}

// grow decides how much a window of that size grows when n bytes were consumed within took, and reserves it.
func (c *flowControl) grow(window, n int, took time.Duration) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	half := time.Duration(float64(took) * float64(window/2) / float64(n))
	limit := c.rtt * 3 / 2
	if window < shortWindow {
		limit = max(limit, shortTime)
	}
	if half > limit || 2*window > c.limits.MaxWindow || c.windows+int64(window) > c.limits.Budget {
		return 0
	}
	c.windows += int64(window)
	return window
}

// maxOwed is how much is consumed at most before the peer gets credit for it.
const maxOwed = 512 << 10

// credit tells the peer that it may send n more bytes on a stream.
func (c *flowControl) credit(id uint32, n int) {
	c.out.control(frame{kind: frameWindow, id: id, length: uint32(n)})
}
