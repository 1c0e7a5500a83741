package store

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// AcceptPolicy records that a policy came into force, and returns its record.
// While the newest record is of the same policy, nothing is added.
func (s *Store) AcceptPolicy(ctx context.Context, p PolicyVersion) (PolicyVersion, error) {
	if p.Digest == "" {
		return PolicyVersion{}, errNoDigest
	}
	err := s.inTx(ctx, orderPolicy, func(tx *tx) error {
		head, err := tx.headPolicy(ctx)
		if err != nil {
			return err
		}
		if head.Digest == p.Digest {
			p = head
			return nil
		}
		return tx.addPolicy(ctx, &p, head.Number+1)
	})
	return p, err
}

// A ConflictError reports that the newest policy is another one than the change
// was made for: somebody else was quicker.
type ConflictError struct {
	// Current is the number of the newest policy; 0 where there is none.
	Current int64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the policy was changed meanwhile: the newest version is %d", e.Current)
}

// PutPolicy makes p the newest policy, if the newest one is number expected (0:
// there is none yet), and tells the other gateways. Of two calls with one
// expected number, the second gets a *ConflictError. While the newest record is
// of the same policy, nothing is added.
func (s *Store) PutPolicy(ctx context.Context, p PolicyVersion, expected int64) (PolicyVersion, error) {
	if p.Digest == "" {
		return PolicyVersion{}, errNoDigest
	}
	err := s.inTx(ctx, orderPolicy, func(tx *tx) error {
		head, err := tx.headPolicy(ctx)
		switch {
		case err != nil:
			return err
		case head.Number != expected:
			return &ConflictError{Current: head.Number}
		case head.Digest == p.Digest:
			p = head
			return nil
		}
		if err := tx.addPolicy(ctx, &p, head.Number+1); err != nil {
			return err
		}
		return tx.changed(ctx)
	})
	return p, err
}

var errNoDigest = errors.New("a policy without a digest cannot be recorded")

// headPolicy is the newest policy; its number is 0 where there is none.
func (t *tx) headPolicy(ctx context.Context) (PolicyVersion, error) {
	newest, err := all(ctx, t, scanPolicy, newestPolicy)
	if err != nil || len(newest) == 0 {
		return PolicyVersion{}, err
	}
	return newest[0], nil
}

func (t *tx) addPolicy(ctx context.Context, p *PolicyVersion, number int64) error {
	p.Number, p.Accepted = number, t.now
	if p.Document == nil {
		p.Document = []byte{}
	}
	return t.exec(ctx, insertPolicy, p.Number, p.Digest, p.Source, p.Author, millis(p.Accepted), p.Document, p.Comment)
}

// HeadPolicy gets the newest policy, or ErrNotFound.
func (s *Store) HeadPolicy(ctx context.Context) (PolicyVersion, error) {
	return one(ctx, s.read, scanPolicy, newestPolicy)
}

// PolicyByNumber gets one accepted policy, or ErrNotFound.
func (s *Store) PolicyByNumber(ctx context.Context, number int64) (PolicyVersion, error) {
	return one(ctx, s.read, scanPolicy, policyByNumber, number)
}

// Policy gets the newest record of an accepted policy, or ErrNotFound for one that was
// never accepted here.
func (s *Store) Policy(ctx context.Context, digest string) (PolicyVersion, error) {
	return one(ctx, s.read, scanPolicy, policyByDigest, digest)
}

// PolicyHistory lists up to limit accepted policies, the newest first, beginning
// below the number before; 0 begins at the newest. Their documents, each of which
// may have megabytes, are left out: see [Store.PolicyByNumber].
func (s *Store) PolicyHistory(ctx context.Context, before int64, limit int) ([]PolicyVersion, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	return all(ctx, s.read.listing(), scanPolicy, policyHistory, before, limit)
}

func scanPolicy(scan scanFunc) (PolicyVersion, error) {
	var p PolicyVersion
	var accepted int64
	err := scan(&p.Number, &p.Digest, &p.Source, &p.Author, &accepted, &p.Document, &p.Comment)
	p.Accepted = fromMillis(accepted)
	return p, err
}
