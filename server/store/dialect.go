package store

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// dialect is the seam between SQLite and PostgreSQL: all that one database needs
// to be told differently. Empty statements are left out.
type dialect struct {
	// goose is this database's name in the migration tool, migrations the
	// folder with its schema, countVersionTable finds the tool's table, and
	// locker lets one process migrate at a time.
	goose             goose.Dialect
	migrations        string
	countVersionTable string
	locker            lock.SessionLocker
	// now is the clock as an expression in milliseconds.
	now string
	// forUpdate locks the rows of a SELECT until the transaction ends. SQLite
	// needs none, as a write transaction has the database to itself.
	forUpdate string
	// orderShared and orderExclusive wait for an order's turn.
	orderShared    string
	orderExclusive string
	// notify tells other processes that the change counter moved.
	notify string
	// unnumbered says that many values are marked "?" and not "$1": SQLite takes
	// that for a name, and compares each with all before it.
	unnumbered bool
	// retries is how many dead connections in a row a pool may hold.
	retries int
}

func (d dialect) clock(ctx context.Context, q queryer) (time.Time, error) {
	ms, err := one(ctx, q, readNumber, "SELECT "+d.now)
	if err == nil && ms <= 0 {
		err = fmt.Errorf("%w: it says %d", ErrUnavailable, ms)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock: %w", err)
	}
	return fromMillis(ms), nil
}

// storable makes texts such that every database takes them. PostgreSQL refuses
// bytes that are not UTF-8, and NUL: a client that sends such a thing must not
// stop, say, the index of the audit log.
func storable(args []any) []any {
	var out []any
	for i, arg := range args {
		v := reflect.ValueOf(arg)
		if v.Kind() != reflect.String {
			continue
		}
		text := v.String()
		clean := strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
		if clean == text {
			continue
		}
		if out == nil {
			out = append(out, args...)
		}
		out[i] = clean
	}
	if out == nil {
		return args
	}
	return out
}
