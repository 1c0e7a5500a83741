package store

import (
	"context"
	"errors"
	"time"
)

// ErrTooMany reports that a table with a bound is full.
var ErrTooMany = errors.New("too many at once")

// ErrTooSoon reports a poll before the interval was over, or beside another.
var ErrTooSoon = errors.New("polled too soon")

// PutGrant remembers a device login, unless limit of them are under way, which
// is ErrTooMany.
func (s *Store) PutGrant(ctx context.Context, g DeviceGrant, limit int) error {
	return s.inTx(ctx, orderGrant, func(tx *tx) error {
		n, err := one(ctx, tx, readNumber, countGrants, millis(tx.now))
		if err != nil {
			return err
		}
		if n >= int64(limit) {
			return ErrTooMany
		}
		return tx.exec(ctx, insertGrant, g.IDHash, g.Provider, g.CSR, g.Device, g.Client, g.SealedCode, []byte{},
			g.Interval.Milliseconds(), millis(tx.now.Add(g.Interval)), millis(tx.now), millis(g.Expires))
	})
}

// Grant gets a device login, or ErrNotFound. The caller judges its expiry.
func (s *Store) Grant(ctx context.Context, idHash string) (DeviceGrant, error) {
	return one(ctx, s.read, scanGrant, selectGrant, idHash)
}

// ClaimPoll allows one poll of the provider per interval, whoever asks and at
// whichever gateway. ErrTooSoon means: not now, or not any more.
func (s *Store) ClaimPoll(ctx context.Context, idHash string) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		n, err := tx.execCount(ctx, claimPoll, idHash, millis(tx.now))
		if err == nil && n == 0 {
			return ErrTooSoon
		}
		return err
	})
}

// SlowGrant sets a longer interval, because the provider asked for it.
func (s *Store) SlowGrant(ctx context.Context, idHash string, interval time.Duration) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		return tx.exec(ctx, slowGrant, idHash, interval.Milliseconds(), millis(tx.now.Add(interval)))
	})
}

// FailGrant ends a device login without a certificate.
func (s *Store) FailGrant(ctx context.Context, idHash, failure string) error {
	return s.inTx(ctx, unordered, func(tx *tx) error { return tx.exec(ctx, failGrant, idHash, failure, []byte{}) })
}

// complete notes the redemption in the same transaction, so that a repeated poll
// finds its certificate and the sealed refresh token; the device code is dropped.
func (d *DeviceIssuance) complete(ctx context.Context, tx *tx, token string) error {
	if d == nil {
		return nil
	}
	n, err := tx.execCount(ctx, completeGrant, d.IDHash, token, d.SealedRefresh, []byte{})
	if err == nil && n == 0 {
		return ErrRedeemed // somebody else completed it, or it failed
	}
	return err
}

func scanGrant(scan scanFunc) (DeviceGrant, error) {
	var g DeviceGrant
	var interval, created, expires int64
	err := scan(&g.IDHash, &g.Provider, &g.CSR, &g.Device, &g.Client, &g.SealedCode, &g.SealedRefresh,
		&g.Redemption, &g.Failure, &interval, &created, &expires)
	g.Interval = time.Duration(interval) * time.Millisecond
	g.Created, g.Expires = fromMillis(created), fromMillis(expires)
	return g, err
}
