package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/pressly/goose/v3"
)

// tx is a write transaction with its time: one instant of the database's clock
// for everything that happens in it.
type tx struct {
	*sql.Tx
	dialect dialect
	now     time.Time
}

// inTx runs fn in a write transaction and commits when it returns nil. On
// SQLite the transaction holds the only write lock from its first moment
// (_txlock=immediate), so fn sees nobody else's changes.
func (s *Store) inTx(ctx context.Context, fn func(*tx) error) error {
	sqlTx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return unavailable("begin a transaction", err)
	}
	defer func() { _ = sqlTx.Rollback() }() // does nothing after a commit
	t := &tx{Tx: sqlTx, dialect: s.dialect}
	if t.now, err = s.txNow(ctx, sqlTx); err != nil {
		return err
	}
	if err := fn(t); err != nil {
		return err
	}
	return unavailable("commit", sqlTx.Commit())
}

func (s *Store) txNow(ctx context.Context, sqlTx *sql.Tx) (time.Time, error) {
	if s.clock != nil {
		return s.Now(ctx)
	}
	return s.dialect.clock(ctx, sqlTx)
}

func (t *tx) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.ExecContext(ctx, query, args...)
	return unavailable("write", err)
}

// execCount is exec for statements whose effect matters.
func (t *tx) execCount(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := t.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, unavailable("write", err)
	}
	n, err := res.RowsAffected()
	return n, unavailable("write", err)
}

// queryer is what a pool and a transaction have in common.
type queryer interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	QueryRowContext(context.Context, string, ...any) *sql.Row
}

// scanFunc is a row's Scan.
type scanFunc func(dest ...any) error

// one reads a single row, or ErrNotFound.
func one[T any](ctx context.Context, q queryer, read func(scanFunc) (T, error), query string, args ...any) (T, error) {
	v, err := read(q.QueryRowContext(ctx, query, args...).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return v, ErrNotFound
	}
	return v, unavailable("read", err)
}

// all reads every row.
func all[T any](ctx context.Context, q queryer, read func(scanFunc) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, unavailable("read", err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := read(rows.Scan)
		if err != nil {
			return nil, unavailable("read", err)
		}
		out = append(out, v)
	}
	return out, unavailable("read", rows.Err())
}

// changed notes that something happened which other gateways must look at.
func (t *tx) changed(ctx context.Context) error {
	return t.exec(ctx, countChange, metaChanges)
}

// dialect is the seam between SQLite and what comes after it: all that one
// database needs to be told differently.
type dialect struct {
	// goose is this database's name in the migration tool, migrations the
	// folder with its schema, countVersionTable finds the tool's table.
	goose             goose.Dialect
	migrations        string
	countVersionTable string
	// now is the clock as an expression in milliseconds.
	now string
	// forUpdate locks the rows of a SELECT until the transaction ends. SQLite
	// needs none, as a write transaction has the database to itself.
	forUpdate string
}

func (d dialect) clock(ctx context.Context, q queryer) (time.Time, error) {
	var ms int64
	err := q.QueryRowContext(ctx, "SELECT "+d.now).Scan(&ms)
	if err != nil {
		return time.Time{}, unavailable("read the clock", err)
	}
	if ms <= 0 {
		return time.Time{}, fmt.Errorf("read the clock: %w: it says %d", ErrUnavailable, ms)
	}
	return fromMillis(ms), nil
}
