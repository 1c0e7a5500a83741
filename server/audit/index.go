package audit

import "context"

// An IndexedRecord is a record of a log on its way into an index.
type IndexedRecord struct {
	Log    string
	Record Record
}

// A Sink is an index of the log in a database. The files are the record: what an index has can be made again from them.
type Sink interface {
	// IndexBatch stores the records and the position behind them, both or neither. Records that are there already
	// are left as they are.
	IndexBatch(ctx context.Context, gateway, position string, records []IndexedRecord) error
	// IndexPosition returns the position of the last batch, or "".
	IndexPosition(ctx context.Context, gateway string) (string, error)
}
