package dialer

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		known := make(map[string]int)
		d := newDialer(t, Config{
			Resolve: names(map[string][]string{"a.internal": {"10.0.0.1"}, "b.internal": {"10.0.0.2"}}),
			Resolved: func(host string, got []netip.Addr) {
				mu.Lock()
				defer mu.Unlock()
				known[host]++
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done, now := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			d.Watch(ctx, time.Minute, now, func() []string { return []string{"a.internal", "gone.internal", "b.internal"} })
		}()
		time.Sleep(90 * time.Second)
		now <- struct{}{}
		time.Sleep(60 * time.Second)
		cancel()
		<-done
		counts := []int{known["a.internal"], known["b.internal"], known["gone.internal"]}
		if !slices.Equal(counts, []int{4, 4, 0}) {
			t.Errorf("look-ups %v", counts)
		}
	})
}
