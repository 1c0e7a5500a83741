package store

import (
	"context"
	"errors"
	"math"
)

// AcceptPolicy records that a policy came into force, and returns its record.
// While the newest record is of the same policy, nothing is added.
func (s *Store) AcceptPolicy(ctx context.Context, p PolicyVersion) (PolicyVersion, error) {
	if p.Digest == "" {
		return PolicyVersion{}, errors.New("a policy without a digest cannot be recorded")
	}
	if p.Document == nil {
		p.Document = []byte{}
	}
	err := s.inTx(ctx, func(tx *tx) error {
		newest, err := all(ctx, tx, scanPolicy, policiesPage, int64(math.MaxInt64), 1)
		if err != nil {
			return err
		}
		p.Number, p.Accepted = 1, tx.now
		if len(newest) == 1 {
			if newest[0].Digest == p.Digest {
				p = newest[0]
				return nil
			}
			p.Number = newest[0].Number + 1
		}
		return tx.exec(ctx, insertPolicy, p.Number, p.Digest, p.Source, p.Author, millis(p.Accepted), p.Document)
	})
	return p, err
}

// Policy gets the newest record of an accepted policy, or ErrNotFound for one that was
// never accepted here.
func (s *Store) Policy(ctx context.Context, digest string) (PolicyVersion, error) {
	return one(ctx, s.read, scanPolicy, policyByDigest, digest)
}

// Policies lists up to limit accepted policies, the newest first, beginning
// below the number before; 0 begins at the newest.
func (s *Store) Policies(ctx context.Context, before int64, limit int) ([]PolicyVersion, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	return all(ctx, s.read, scanPolicy, policiesPage, before, limit)
}

func scanPolicy(scan scanFunc) (PolicyVersion, error) {
	var p PolicyVersion
	var accepted int64
	err := scan(&p.Number, &p.Digest, &p.Source, &p.Author, &accepted, &p.Document)
	p.Accepted = fromMillis(accepted)
	return p, err
}
