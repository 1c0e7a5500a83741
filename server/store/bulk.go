package store

import (
	"context"
	"fmt"
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

func (b *bulk) flush(ctx context.Context) error {
	if len(b.args) == 0 {
		return nil
	}
	query := b.head + placeholders(len(b.args)/b.columns, b.columns, b.tx.dialect.unnumbered) + b.tail
	err := b.tx.exec(ctx, query, b.args...)
	b.args = b.args[:0]
	return err
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
			fmt.Fprintf(&sb, "$%d", i+1)
		}
	}
	sb.WriteByte(')')
	return sb.String()
}
