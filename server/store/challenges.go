package store

import (
	"context"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// maxChallenges bounds the outstanding challenges of one certificate; the
// oldest make room.
const maxChallenges = 16

// PutChallenge remembers a challenge for the certificate, for ttl. Only its hash
// is kept. It returns when the challenge expires.
func (s *Store) PutChallenge(ctx context.Context, challenge []byte, serial auth.Serial, ttl time.Duration) (time.Time, error) {
	var expires time.Time
	err := s.inTx(ctx, unordered, func(tx *tx) error {
		expires = tx.now.Add(ttl)
		if err := tx.exec(ctx, insertChallenge, hexSum(challenge), serial, millis(tx.now), millis(expires)); err != nil {
			return err
		}
		return tx.exec(ctx, trimChallenges, serial, maxChallenges)
	})
	return expires, err
}

// TakeChallenge uses a challenge up. ErrNotFound means that it is unknown, was
// used before, has expired or belongs to another certificate; it is used up in
// every case.
func (s *Store) TakeChallenge(ctx context.Context, challenge []byte, serial auth.Serial) error {
	var taken takenChallenge
	var now time.Time
	err := s.inTx(ctx, unordered, func(tx *tx) (err error) {
		now = tx.now
		taken, err = one(ctx, tx, scanTaken, takeChallenge, hexSum(challenge))
		return err
	})
	if err != nil {
		return err
	}
	if taken.serial != serial || !now.Before(fromMillis(taken.expires)) {
		return ErrNotFound
	}
	return nil
}

type takenChallenge struct {
	serial  auth.Serial
	expires int64
}

func scanTaken(scan scanFunc) (takenChallenge, error) {
	var c takenChallenge
	err := scan(&c.serial, &c.expires)
	return c, err
}
