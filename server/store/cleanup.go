package store

import (
	"context"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// The margins of the clean-up: what is past its time stays this much longer, so
// that a clock that is set back does not bring anything back to life.
const (
	redemptionMargin = 7 * 24 * time.Hour
	lockMargin       = 7 * 24 * time.Hour
	shortMargin      = time.Hour
	gatewayMargin    = 30 * 24 * time.Hour
)

// Cleaned counts the rows that a clean-up removed.
type Cleaned struct {
	Challenges, Grants, Redemptions, Locks, Certificates, Sessions int64
	Logouts, Requests, Live, Gateways                              int64
	AuditRows                                                      int64
}

// Cleanup marks sessions past their deadline as ended, for good, and removes
// what is past its time and its margin. It never removes a lock in force, or
// a redemption whose token could still be presented. Call it now and then.
func (s *Store) Cleanup(ctx context.Context) (Cleaned, error) {
	var done Cleaned
	err := s.inTxWithin(ctx, longPatience, unordered, func(tx *tx) error {
		for _, query := range []string{endOldSession, endOldRequests} {
			if err := tx.exec(ctx, query, millis(tx.now)); err != nil {
				return err
			}
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
			{&done.Logouts, dropLogouts, redemptionMargin},
			{&done.Live, dropLive, GatewayAlive},
			{&done.Gateways, dropGateways, gatewayMargin},
			{&done.Requests, dropRequests, s.retention},
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
	if err == nil {
		done.AuditRows, err = s.cleanIndex(ctx)
	}
	return done, err
}

// bite is how many rows of the index one transaction removes, so that others
// get their turn.
const bite = 2000

// cleanIndex removes what is past the index's retention.
func (s *Store) cleanIndex(ctx context.Context) (int64, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return 0, err
	}
	cutoff := millis(now.Add(-s.auditRetention))
	done, err := s.nibble(ctx, dropAuditRows, cutoff)
	if err != nil {
		return done, err
	}
	return done, s.inTxWithin(ctx, longPatience, unordered, func(tx *tx) error {
		for _, query := range []string{dropAuditLinks, dropAuditActors, dropAuditSubjects} {
			if err := tx.exec(ctx, query, cutoff); err != nil {
				return err
			}
		}
		return nil
	})
}

// nibble removes the rows that the query selects, bite by bite.
func (s *Store) nibble(ctx context.Context, query string, arg int64) (int64, error) {
	var done int64
	for {
		var n int64
		err := s.inTxWithin(ctx, longPatience, unordered, func(tx *tx) (err error) {
			n, err = tx.execCount(ctx, query, arg, bite)
			return err
		})
		done += n
		if err != nil || n < bite {
			return done, err
		}
	}
}

// DropIndex forgets the index of a gateway's audit files, so that it is made
// anew from them. Checkpoints stay.
func (s *Store) DropIndex(ctx context.Context, gateway auth.GatewayID) error {
	logs, err := all(ctx, s.read, readNumber, selectAuditLogsOf, gateway)
	if err != nil {
		return err
	}
	for _, log := range logs {
		if _, err := s.nibble(ctx, dropAuditRowsOf, log); err != nil {
			return err
		}
	}
	return s.inTxWithin(ctx, longPatience, unordered, func(tx *tx) error { return tx.exec(ctx, deleteAuditPosition, gateway) })
}
