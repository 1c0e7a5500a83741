package backoff

import (
	"testing"
	"time"
)

func TestNextGrowsToMaxAndNeverBeyond(t *testing.T) {
	b := Backoff{Base: 100 * time.Millisecond, Max: time.Second, Rand: func(n int64) int64 { return n - 1 }}
	want := []time.Duration{100, 200, 400, 800, 1000, 1000}
	for i, w := range want {
		if got := b.Next(); got != w*time.Millisecond {
			t.Errorf("try %d: wait %v, want %v", i, got, w*time.Millisecond)
		}
	}
	for range 100 { // far beyond where the shift would overflow
		if got := b.Next(); got != time.Second {
			t.Fatalf("wait %v after many tries, want 1s", got)
		}
	}
	b.Reset()
	if got := b.Next(); got != 100*time.Millisecond {
		t.Errorf("after Reset: wait %v, want 100ms", got)
	}
}

func TestNextIsFullJitter(t *testing.T) {
	var low, high bool
	for range 1000 {
		var b Backoff
		d := b.Next()
		if d < 0 || d > 500*time.Millisecond {
			t.Fatalf("first wait %v is outside [0, 500ms]", d)
		}
		low = low || d < 100*time.Millisecond
		high = high || d > 400*time.Millisecond
	}
	if !low || !high {
		t.Errorf("1,000 first waits cover low %v, high %v: not uniform over the whole range", low, high)
	}
}
