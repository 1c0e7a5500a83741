package store

import (
	"context"
	"math"
)

// policyHistory is a page of policies without their documents, each of which
// may have megabytes.
const policyHistory = `SELECT number, digest, source, author, accepted_at, substr(document, 1, 0), comment FROM policy_versions
	WHERE number < $1 ORDER BY number DESC LIMIT $2`

// PolicyHistory is like Policies, without the documents.
func (s *Store) PolicyHistory(ctx context.Context, before int64, limit int) ([]PolicyVersion, error) {
	if before == 0 {
		before = math.MaxInt64
	}
	return all(ctx, s.read, scanPolicy, policyHistory, before, limit)
}
