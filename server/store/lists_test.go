package store

import (
	"context"
	"sync"
	"testing"
	"time"
)

// endless is a read that does not end by itself.
const endless = `WITH RECURSIVE n(i) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT count(*) FROM n`

// Somebody who may read asks for long lists by the dozen: locks are seen, and sessions found, as if nobody did.
func TestThreatListsByTheDozen(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		s := db.open(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		defer readers.Wait()
		defer cancel()
		for range 32 {
			readers.Go(func() {
				if _, err := one(ctx, s.read.patient(), readNumber, endless); err == nil {
					t.Error("the read has ended")
				}
			})
		}
		for tick := time.Tick(time.Millisecond); len(s.read.lists) < cap(s.read.lists); <-tick {
		}
		for range 20 {
			began := time.Now()
			if _, err := s.AddLock(ctx, Lock{ID: began.String(), Kind: LockUser, Target: "u"}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Changes(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Locks(ctx); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("a lock was seen after %s, want at most 1s", took)
			}
		}
	})
}
