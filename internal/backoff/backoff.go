// Package backoff spaces out retries with full jitter. It only computes
// durations; it neither sleeps nor knows what is tried.
package backoff

import (
	"math/rand/v2"
	"time"
)

// Backoff yields the waits between tries: the n-th is uniform between zero and
// min(Max, Base·2ⁿ), so that many clients of one failed server do not come back
// together. The zero value waits up to 500 ms first and up to 30 s at most. It
// is not safe for concurrent use.
type Backoff struct {
	// Base bounds the first wait. Default 500 ms.
	Base time.Duration
	// Max bounds every wait. Default 30 s.
	Max time.Duration
	// Rand returns a number in [0,n). Default math/rand/v2.
	Rand func(n int64) int64

	tries int
}

// Next returns how long to wait before the next try.
func (b *Backoff) Next() time.Duration {
	base, limit := b.Base, b.Max
	if base <= 0 {
		base = 500 * time.Millisecond
	}
	if limit <= 0 {
		limit = 30 * time.Second
	}
	ceiling := limit
	if b.tries < 32 && base<<b.tries > 0 && base<<b.tries < limit {
		ceiling = base << b.tries
	}
	b.tries++
	draw := b.Rand
	if draw == nil {
		draw = rand.Int64N
	}
	return time.Duration(draw(int64(ceiling) + 1))
}

// Reset starts over. Call it only after a connection has survived for a while:
// one that is accepted and dropped at once must keep backing off.
func (b *Backoff) Reset() { b.tries = 0 }
