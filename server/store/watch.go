package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/internal/backoff"
	"github.com/jackc/pgx/v5"
)

// listenFor is how long a silent connection is believed to be alive.
const listenFor = 15 * time.Second

// Watch calls changed whenever another process may have changed something that
// [Store.Changes] counts, until ctx ends, whose error it returns. It is quick
// where the database can tell, and takes up a connection that was cut again;
// polling Changes stays the truth. On SQLite it only waits for ctx.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	if s.postgres == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	pause := backoff.Backoff{Base: 100 * time.Millisecond, Max: 5 * time.Second}
	for {
		began := time.Now()
		err := s.listen(ctx, changed)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > listenFor {
			pause.Reset()
		}
		wait := pause.Next()
		s.log.Warn("the database's notices are cut off; changes are found by polling", "error", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listen waits for notices on a connection of its own until it dies.
func (s *Store) listen(ctx context.Context, changed func()) error {
	conn, err := pgx.ConnectConfig(ctx, s.postgres.Copy())
	if err != nil {
		return err
	}
	defer func() {
		// Not ctx, which may be over: the server is told either way.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, "LISTEN "+notifyChannel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	for {
		// Also at the beginning: something may have been missed before it.
		changed()
		if err := waitNotice(ctx, conn); err != nil {
			return err
		}
	}
}

// waitNotice returns when there is a notice. A connection that is silent for long
// is asked whether it is still there.
func waitNotice(ctx context.Context, conn *pgx.Conn) error {
	for {
		silent, cancel := context.WithTimeout(ctx, listenFor)
		_, err := conn.WaitForNotification(silent)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		asked, cancel := context.WithTimeout(ctx, connectTimeout)
		err = conn.Ping(asked)
		cancel()
		if err != nil {
			return err
		}
	}
}
