package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// FeedsConfig says where a log's records go.
type FeedsConfig struct {
	Log     *Log     // Required.
	Targets []Target // exports. Optional.
	Sink    Sink     // index. Optional.
	Gateway string   // for the index. Required with it.
	Stdout  io.Writer
	Logger  *slog.Logger
}

// Feeds are the index and the exports of a log, running. Start them after Open; stop them after Close, so that the last
// record gets through.
type Feeds struct {
	cancel  context.CancelFunc
	drain   chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
	sources []interface{ Status() FeedStatus }
}

// StartFeeds starts the index and the exports.
func StartFeeds(cfg FeedsConfig) (*Feeds, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Feeds{cancel: cancel, drain: make(chan struct{})}
	var runs []func(context.Context) error
	names := make(map[string]bool)
	for _, t := range cfg.Targets {
		x, err := NewExporter(ExporterConfig{Dir: cfg.Log.Dir(), Log: cfg.Log, Target: t, Stdout: cfg.Stdout, Logger: cfg.Logger})
		if err == nil && names[t.Name] {
			err = fmt.Errorf("audit export: two have the name %q", t.Name)
		}
		if err != nil {
			cancel()
			return nil, err
		}
		names[t.Name] = true
		x.feed.drain = f.drain
		runs, f.sources = append(runs, x.Run), append(f.sources, x)
	}
	if cfg.Sink != nil {
		x, err := NewIndexer(IndexerConfig{Dir: cfg.Log.Dir(), Log: cfg.Log, Gateway: cfg.Gateway, Sink: cfg.Sink, Logger: cfg.Logger})
		if err != nil {
			cancel()
			return nil, err
		}
		x.feed.drain = f.drain
		runs, f.sources = append(runs, x.Run), append(f.sources, x)
	}
	for _, run := range runs {
		f.wg.Go(func() { _ = run(ctx) })
	}
	return f, nil
}

// Status says how far each of them is.
func (f *Feeds) Status() []FeedStatus {
	var list []FeedStatus
	for _, s := range f.sources {
		list = append(list, s.Status())
	}
	return list
}

// Stop lets each of them reach the end of the log, until ctx ends. What is left is sent after the next start.
func (f *Feeds) Stop(ctx context.Context) error {
	f.once.Do(func() { close(f.drain) })
	defer f.cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	f.cancel()
	<-done
	var errs []error
	for _, st := range f.Status() {
		if st.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", st.Name, st.Err))
		}
	}
	return errors.Join(errs...)
}
