package store

import (
	"context"
	"time"
)

// The margins of the clean-up: what is past its time stays this much longer, so
// that a clock that is set back does not bring anything back to life.
const (
	redemptionMargin = 7 * 24 * time.Hour
	lockMargin       = 7 * 24 * time.Hour
	shortMargin      = time.Hour
)

// Cleaned counts the rows that a clean-up removed.
type Cleaned struct {
	Challenges, Grants, Redemptions, Locks, Certificates, Sessions int64
}

// Cleanup marks sessions past their deadline as ended, for good, and removes
// what is past its time and its margin. It never removes a lock in force, or
// a redemption whose token could still be presented. Call it now and then.
func (s *Store) Cleanup(ctx context.Context) (Cleaned, error) {
	var done Cleaned
	err := s.inTx(ctx, func(tx *tx) error {
		if err := tx.exec(ctx, endOldSession, millis(tx.now)); err != nil {
			return err
		}
		for _, step := range []struct {
			count  *int64
			query  string
			margin time.Duration
		}{
			{&done.Challenges, dropChallenges, shortMargin},
			{&done.Grants, dropGrants, shortMargin},
			{&done.Redemptions, dropRedemptions, redemptionMargin},
			{&done.Locks, dropLocks, lockMargin},
			{&done.Certificates, dropCerts, s.retention},
			{&done.Sessions, dropSessions, s.retention},
		} {
			n, err := tx.execCount(ctx, step.query, millis(tx.now.Add(-step.margin)))
			if err != nil {
				return err
			}
			*step.count = n
		}
		return nil
	})
	return done, err
}
