package store

import (
	"context"
	"errors"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// ErrOlderCheckpoint reports a checkpoint that does not follow the one that is
// known of its log: somebody set the log back.
var ErrOlderCheckpoint = errors.New("a later or another checkpoint of this log is known")

// A Checkpoint is a signed statement of how far an audit log went.
type Checkpoint struct {
	Gateway auth.GatewayID
	Log     string
	Size    int64     // records
	Note    string    // signed; server/audit reads it
	Time    time.Time // set by the store
}

// PutCheckpoint keeps the newest checkpoint of each log. One that is smaller
// than the known one, or differs from it at the same size, is refused with
// ErrOlderCheckpoint.
func (s *Store) PutCheckpoint(ctx context.Context, c Checkpoint) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		n, err := tx.execCount(ctx, upsertCheckpoint, c.Gateway, c.Log, c.Size, c.Note, millis(tx.now))
		if err == nil && n == 0 {
			return ErrOlderCheckpoint
		}
		return err
	})
}

// Checkpoints lists the newest checkpoint of each of up to limit logs of a
// gateway, the latest first.
func (s *Store) Checkpoints(ctx context.Context, gateway auth.GatewayID, limit int) ([]Checkpoint, error) {
	return all(ctx, s.read, scanCheckpoint, checkpointsOf, gateway, limit)
}

func scanCheckpoint(scan scanFunc) (Checkpoint, error) {
	var c Checkpoint
	var at int64
	err := scan(&c.Gateway, &c.Log, &c.Size, &c.Note, &at)
	c.Time = fromMillis(at)
	return c, err
}
