package store

import (
	"context"
	"database/sql"
	"time"
)

// The time that a caller waits for the database before it counts as away. A long
// one is for what reads or removes many rows and nobody waits for.
const (
	patience     = 5 * time.Second
	longPatience = time.Minute
)

// tx is a write transaction with its time: one instant of the database's clock
// for everything that happens in it.
type tx struct {
	*sql.Tx
	dialect dialect
	now     time.Time
}

// An order makes transactions of one key come one after the other, or, those that
// share it, after and before those that do not. It is taken before the clock
// is read, so that the later transaction also has the later time. SQLite orders
// all of them.
type order struct {
	key    int
	shared bool
}

// The orders. An issuance and a lock that could cover it never overlap: the
// row of a session could not do that for a session that is just beginning.
var (
	unordered     = order{}
	orderIssuance = order{key: 1, shared: true}
	orderLock     = order{key: 1}
	orderPolicy   = order{key: 2}
	orderRequest  = order{key: 3}
	orderGrant    = order{key: 4}
)

// attempts bounds how often a transaction is tried that the database gives up in
// favour of another.
const attempts = 4

// inTx runs fn in a write transaction and commits when it returns nil. On
// SQLite the transaction holds the only write lock from its first moment
// (_txlock=immediate), so fn sees nobody else's changes. On PostgreSQL it reads
// what is committed; what must not change meanwhile is held by an order or a row
// (dialect.forUpdate). fn may be called again when the database asks for it.
func (s *Store) inTx(ctx context.Context, o order, fn func(*tx) error) error {
	return s.inTxWithin(ctx, s.read.patience, o, fn)
}

func (s *Store) inTxWithin(ctx context.Context, limit time.Duration, o order, fn func(*tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := s.tryTx(ctx, o, fn)
		if attempt == attempts || !mayRepeat(err) {
			return err
		}
	}
}

func (s *Store) tryTx(ctx context.Context, o order, fn func(*tx) error) error {
	sqlTx, err := s.begin(ctx)
	if err != nil {
		return unavailable("begin a transaction", err)
	}
	defer func() { _ = sqlTx.Rollback() }() // does nothing after a commit
	t := &tx{Tx: sqlTx, dialect: s.dialect}
	if err := t.queue(ctx, o); err != nil {
		return err
	}
	if t.now, err = s.txNow(ctx, t); err != nil {
		return err
	}
	if err := fn(t); err != nil {
		return err
	}
	return unavailable("commit", sqlTx.Commit())
}

// begin passes over connections that died in the pool, as all of them do when
// the database is restarted.
func (s *Store) begin(ctx context.Context) (*sql.Tx, error) {
	for left := s.dialect.retries; ; left-- {
		sqlTx, err := s.write.BeginTx(ctx, nil)
		if err == nil || left <= 0 || !connectionLost(err) {
			return sqlTx, err
		}
	}
}

// queue waits for the transaction's turn.
func (t *tx) queue(ctx context.Context, o order) error {
	query := t.dialect.orderExclusive
	if o.shared {
		query = t.dialect.orderShared
	}
	if o == unordered || query == "" {
		return nil
	}
	return t.exec(ctx, query, o.key)
}

func (s *Store) txNow(ctx context.Context, t *tx) (time.Time, error) {
	if s.clock != nil {
		return s.Now(ctx)
	}
	return s.dialect.clock(ctx, t)
}

func (t *tx) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.execCount(ctx, query, args...)
	return err
}

// execCount is exec for statements whose effect matters.
func (t *tx) execCount(ctx context.Context, query string, args ...any) (int64, error) {
	res, err := t.ExecContext(ctx, query, storable(args)...)
	if err != nil {
		return 0, unavailable("write", err)
	}
	n, err := res.RowsAffected()
	return n, unavailable("write", err)
}

// changed notes that something happened which other gateways must look at. It
// comes last in a transaction, since all of them meet at this row.
func (t *tx) changed(ctx context.Context) error {
	if err := t.exec(ctx, countChange, metaChanges); err != nil || t.dialect.notify == "" {
		return err
	}
	return t.exec(ctx, t.dialect.notify)
}

// A pool is where reads outside of transactions go.
type pool struct {
	*sql.DB
	patience time.Duration
	retries  int
	lists    chan struct{} // a place for each list that is read at once
	list     bool          // this is one
}

// listing is the pool for what has many rows to look at and nobody's tunnel waits
// for. Such reads never have all connections: whoever asks for lists and pages by
// the dozen must not keep a lock from being seen.
func (p pool) listing() pool {
	p.list = true
	return p
}

// patient is listing for what may take long besides.
func (p pool) patient() pool {
	p.patience = longPatience
	return p.listing()
}

// enter waits for a place, where one is needed.
func (p pool) enter(ctx context.Context) (leave func(), err error) {
	if !p.list {
		return func() {}, nil
	}
	select {
	case p.lists <- struct{}{}:
		return func() { <-p.lists }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// queryer is what a pool and a transaction have in common.
type queryer interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	// bounds says how long to wait, 0 for as long as ctx, and how often to
	// pass over a connection that died.
	bounds() (limit time.Duration, retries int)
	enter(context.Context) (leave func(), err error)
}

func (p pool) bounds() (time.Duration, int) { return p.patience, p.retries }

// A transaction has its time already, and is over with its connection.
func (*tx) bounds() (time.Duration, int) { return 0, 0 }

func (*tx) enter(context.Context) (func(), error) { return func() {}, nil }

// scanFunc is a row's Scan.
type scanFunc func(dest ...any) error

// one reads a single row, or ErrNotFound.
func one[T any](ctx context.Context, q queryer, read func(scanFunc) (T, error), query string, args ...any) (T, error) {
	list, err := all(ctx, q, read, query, args...)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		var none T
		return none, err
	}
	return list[0], nil
}

// all reads every row.
func all[T any](ctx context.Context, q queryer, read func(scanFunc) (T, error), query string, args ...any) ([]T, error) {
	limit, retries := q.bounds()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	leave, err := q.enter(ctx)
	if err != nil {
		return nil, unavailable("wait to read", err)
	}
	defer leave()
	args = storable(args)
	for ; ; retries-- {
		list, err := readRows(ctx, q, read, query, args)
		if retries <= 0 || !connectionLost(err) {
			return list, unavailable("read", err)
		}
	}
}

func readRows[T any](ctx context.Context, q queryer, read func(scanFunc) (T, error), query string, args []any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := read(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Err()
}

// readNumber and readText read rows of one column.
func readNumber(scan scanFunc) (n int64, err error) { return n, scan(&n) }

func readText(scan scanFunc) (text string, err error) { return text, scan(&text) }
