package store

import (
	"context"
	"math/bits"
	"strconv"
	"strings"
)

// bulk inserts many rows with few statements. Not safe for concurrent use.
type bulk struct {
	tx         *tx
	head, tail string
	columns    int
	chunk      int
	args       []any
}

// newBulk inserts by head, rows of values and tail, in statements of at most
// chunk rows.
func newBulk(t *tx, head, tail string, columns, chunk int) *bulk {
	return &bulk{tx: t, head: head, tail: tail, columns: columns, chunk: chunk, args: make([]any, 0, columns*chunk)}
}

// add takes one row. flush must follow the last.
func (b *bulk) add(ctx context.Context, row ...any) error {
	b.args = append(b.args, row...)
	if len(b.args) < b.columns*b.chunk {
		return nil
	}
	return b.flush(ctx)
}

// flush writes in powers of two: the statements are few, and so are prepared once
// on a connection.
func (b *bulk) flush(ctx context.Context) error {
	args := b.args
	for len(args) > 0 {
		rows := 1 << (bits.Len(uint(len(args)/b.columns)) - 1)
		n := rows * b.columns
		if err := b.tx.exec(ctx, b.head+placeholders(rows, b.columns, b.tx.dialect.unnumbered)+b.tail, args[:n]...); err != nil {
			return err
		}
		args = args[n:]
	}
	b.args = b.args[:0]
	return nil
}

// placeholders writes ($1,$2),($3,$4) for two rows of two columns, or (?,?),(?,?).
func placeholders(rows, columns int, unnumbered bool) string {
	var sb strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			sb.WriteByte('(')
		case i%columns == 0:
			sb.WriteString("),(")
		default:
			sb.WriteByte(',')
		}
		if unnumbered {
			sb.WriteByte('?')
		} else {
			sb.WriteByte('$')
			sb.WriteString(strconv.Itoa(i + 1))
		}
	}
	sb.WriteByte(')')
	return sb.String()
}
