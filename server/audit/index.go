package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/culvert-vpn/culvert/internal/durable"
)

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

// IndexerConfig configures an indexer.
type IndexerConfig struct {
	Dir     string       // the log's folder. Required.
	Log     *Log         // of this process, in the same folder. Optional: without it the files are looked at.
	Gateway string       // the name under which the sink keeps the position. Required.
	Sink    Sink         // Required.
	Logger  *slog.Logger // Optional.
}

// indexBatch is how many records go into the index at once.
const indexBatch = 500

// An Indexer puts the records of a folder into an index: each that is on the disk, once, in order. Of several processes
// with one folder only one at a time does it. Checkpoints are left out.
type Indexer struct {
	cfg   IndexerConfig
	feed  feed
	in    *Reader
	known string // the sink's position that in goes on from
	next  *Entry // read, and not in the index
}

// NewIndexer returns an indexer. Run does the work.
func NewIndexer(cfg IndexerConfig) (*Indexer, error) {
	if cfg.Dir == "" || cfg.Gateway == "" || cfg.Sink == nil {
		return nil, errors.New("audit: an index needs a folder, a gateway and a sink")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Indexer{cfg: cfg, feed: feed{name: "index", logger: cfg.Logger}}, nil
}

// Run indexes until ctx ends. What fails is tried again.
func (x *Indexer) Run(ctx context.Context) error {
	defer x.drop()
	return x.feed.run(ctx, func(ctx context.Context) (int, error) {
		n, err := x.step(ctx)
		if err != nil {
			x.drop()
		}
		return n, err
	}, x.wait)
}

// Status says how far the index is.
func (x *Indexer) Status() FeedStatus { return x.feed.status() }

// drop forgets the reader; the next step asks the sink where to go on.
func (x *Indexer) drop() {
	if x.in != nil {
		_ = x.in.Close()
	}
	x.in, x.next = nil, nil
}

func (x *Indexer) wait(ctx context.Context) error {
	if x.in == nil || x.next != nil { // another process has the index
		sleep(ctx, pollInterval)
		return ctx.Err()
	}
	return x.in.Wait(ctx)
}

// step puts a batch into the index, and returns how many records it had.
func (x *Indexer) step(ctx context.Context) (int, error) {
	if x.in != nil { // ask the database only when there is something for it
		if more, err := x.more(); !more || err != nil {
			return 0, err
		}
	}
	lock, err := durable.TryLock(filepath.Join(x.cfg.Dir, indexLock))
	if errors.Is(err, durable.ErrLocked) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = lock.Unlock() }()
	if err := x.resume(ctx); err != nil {
		return 0, err
	}
	return x.batch(ctx)
}

const indexLock = "index.lock"

// more reads ahead.
func (x *Indexer) more() (bool, error) {
	if x.next != nil {
		return true, nil
	}
	e, err := x.in.TryNext()
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	x.next = &e
	return true, nil
}

// resume goes on where the sink says that the index ends.
func (x *Indexer) resume(ctx context.Context) error {
	at, err := x.cfg.Sink.IndexPosition(ctx, x.cfg.Gateway)
	if err != nil {
		return fmt.Errorf("position of the audit index: %w", err)
	}
	if x.in != nil && at == x.known {
		return nil
	}
	pos, err := ParsePosition(at)
	if err != nil {
		x.cfg.Logger.Warn("the audit index begins again", "position", at, "error", err)
	}
	x.drop()
	if x.known = at; x.cfg.Log != nil {
		x.in = x.cfg.Log.Follow(pos)
	} else {
		x.in = NewReader(x.cfg.Dir, pos)
	}
	return nil
}

func (x *Indexer) batch(ctx context.Context) (int, error) {
	var list []IndexedRecord
	var end Position
	n := 0
	for ; n < indexBatch; n++ {
		more, err := x.more()
		if err != nil {
			return 0, err
		}
		if !more {
			break
		}
		e := x.next
		x.next, end = nil, e.Position
		if e.Gap {
			x.cfg.Logger.Error("records are missing in the audit index: retention removed them before they were indexed", "before", e.Position)
		}
		if e.Event == EventLogCheckpoint {
			continue
		}
		r, err := e.Decode()
		if err != nil {
			x.cfg.Logger.Error("an audit record is left out of the index", "log", e.Log, "seq", e.Seq, "error", err)
			continue
		}
		list = append(list, IndexedRecord{Log: e.Log, Record: r})
	}
	if len(list) == 0 {
		return n, nil
	}
	if err := x.cfg.Sink.IndexBatch(ctx, x.cfg.Gateway, end.String(), list); err != nil {
		return 0, fmt.Errorf("index audit records: %w", err)
	}
	x.known = end.String()
	x.feed.moved(end, len(list))
	return n, nil
}

// Rebuild makes the index anew, up to the last record that is there when it is reached: drop has to empty it and to reset
// its position. Other processes' indexers wait meanwhile. progress is told how many bytes of how many are indexed;
// it may be nil.
func (x *Indexer) Rebuild(ctx context.Context, drop func(context.Context) error, progress func(done, total int64)) error {
	lock, err := durable.Lock(ctx, filepath.Join(x.cfg.Dir, indexLock))
	if err != nil {
		return err
	}
	defer func() { _ = lock.Unlock() }()
	defer x.drop()
	if err := drop(ctx); err != nil {
		return fmt.Errorf("empty the audit index: %w", err)
	}
	if err := x.resume(ctx); err != nil {
		return err
	}
	meter, err := newMeter(x.cfg.Dir, progress)
	if err != nil {
		return err
	}
	for {
		n, err := x.batch(ctx)
		if err != nil || n == 0 {
			return err
		}
		meter.at(x.in.Position())
	}
}
