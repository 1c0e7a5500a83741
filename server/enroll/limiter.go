package enroll

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter is a token bucket for each key, in a table of bounded size: when it is
// full, the key that was quiet for longest is forgotten. Safe for concurrent use.
type limiter[K comparable] struct {
	perMinute int
	size      int
	now       func() time.Time

	mu      sync.Mutex
	buckets map[K]*list.Element
	order   *list.List // of *bucket[K], the latest at the front
}

type bucket[K comparable] struct {
	key     K
	limiter *rate.Limiter
}

func newLimiter[K comparable](perMinute, size int, now func() time.Time) *limiter[K] {
	return &limiter[K]{perMinute: perMinute, size: size, now: now, buckets: make(map[K]*list.Element), order: list.New()}
}

// take counts one event. It returns 0, or how long to wait before the next try; the
// event is not counted then.
func (l *limiter[K]) take(key K) time.Duration {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.bucketLocked(key).limiter.ReserveN(now, 1)
	if !r.OK() {
		return time.Minute
	}
	wait := r.DelayFrom(now)
	if wait > 0 {
		r.CancelAt(now)
	}
	return wait
}

func (l *limiter[K]) bucketLocked(key K) *bucket[K] {
	if e, ok := l.buckets[key]; ok {
		l.order.MoveToFront(e)
		return e.Value.(*bucket[K])
	}
	if l.order.Len() >= l.size {
		oldest := l.order.Remove(l.order.Back()).(*bucket[K])
		delete(l.buckets, oldest.key)
	}
	b := &bucket[K]{key, rate.NewLimiter(rate.Limit(float64(l.perMinute)/60), l.perMinute)}
	l.buckets[key] = l.order.PushFront(b)
	return b
}
