package store

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"
)

// watching runs Watch beside the test. Each call of it is in the channel.
func watching(t *testing.T, s *Store) <-chan struct{} {
	t.Helper()
	calls := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Watch(ctx, func() { calls <- struct{}{} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
	return calls
}

func wantCall(t *testing.T, calls <-chan struct{}, why string) {
	t.Helper()
	select {
	case <-calls:
	case <-time.After(20 * time.Second):
		t.Fatalf("not told: %s", why)
	}
}

func mustLock(t *testing.T, s *Store, id string) {
	t.Helper()
	if _, err := s.AddLock(t.Context(), Lock{ID: id, Kind: LockUser, Target: "u"}); err != nil {
		t.Fatal(err)
	}
}

func TestWatchIsToldOfChanges(t *testing.T) {
	gateways := two(t, newDatabase(t, "postgres"))
	calls := watching(t, gateways[0])
	wantCall(t, calls, "the beginning")
	for i := range 5 {
		mustLock(t, gateways[1], strconv.Itoa(i))
		wantCall(t, calls, "a lock")
	}
}

func TestWatchWithoutNotices(t *testing.T) {
	gateways := two(t, newDatabase(t, "sqlite"))
	calls := watching(t, gateways[0])
	mustLock(t, gateways[1], "l")
	if n, err := gateways[0].Changes(t.Context()); err != nil || n != 1 {
		t.Errorf("%d changes, %v", n, err)
	}
	if len(calls) != 0 {
		t.Error("somebody called")
	}
}

// The notification connection is cut: polling finds the change, and the notices
// come back.
func TestFaultNoticesCut(t *testing.T) {
	gateways := two(t, newDatabase(t, "postgres"))
	calls := watching(t, gateways[0])
	wantCall(t, calls, "the beginning")
	before, err := gateways[0].Changes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cut := mustRead(t, gateways[1], "SELECT CAST(pg_terminate_backend(pid) AS TEXT) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
	if len(cut) != 1 {
		t.Fatalf("%d connections cut", len(cut))
	}
	mustLock(t, gateways[1], "meanwhile")
	if after, err := gateways[0].Changes(t.Context()); err != nil || after == before {
		t.Errorf("polling does not see the change: %d, %v", after, err)
	}
	wantCall(t, calls, "the connection is there again")
	mustLock(t, gateways[1], "again")
	wantCall(t, calls, "a lock after that")
}
