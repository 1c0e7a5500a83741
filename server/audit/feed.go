package audit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/backoff"
)

// FeedStatus says how far an index or an export is.
type FeedStatus struct {
	Name     string
	Position Position // behind the last record that arrived there
	Sent     uint64   // records since the start
	Err      error    // why it does not go on at the moment
	Since    time.Time
}

// A feed is what index and exports have in common: steps that are tried again with growing pauses, and a status.
type feed struct {
	name   string
	logger *slog.Logger
	drain  <-chan struct{} // closed: return when there is no more. Optional.

	mu sync.Mutex
	st FeedStatus
}

// run repeats step until ctx ends; where step did nothing it waits. After drain is closed it ends at the first step that
// does nothing.
func (f *feed) run(ctx context.Context, step func(context.Context) (int, error), wait func(context.Context) error) error {
	pause := backoff.Backoff{Base: 250 * time.Millisecond, Max: 30 * time.Second}
	for ctx.Err() == nil {
		n, err := step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			f.failed(err)
			sleep(ctx, pause.Next())
			continue
		case n > 0:
			pause.Reset()
			f.failed(nil)
			continue
		case f.draining():
			return nil
		}
		_ = wait(ctx)
	}
	return nil
}

func (f *feed) draining() bool {
	select {
	case <-f.drain:
		return true
	default:
		return false
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// failed notes why a step failed, or that one did not. It logs the first failure, and then one a minute.
func (f *feed) failed(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := f.st.Err
	f.st.Err = err
	switch {
	case err == nil && had != nil:
		f.logger.Info("audit records go on", "to", f.name)
		f.st.Since = time.Time{}
	case err != nil && (had == nil || time.Since(f.st.Since) > shoutInterval):
		f.logger.Warn("audit records do not arrive; they are sent later", "to", f.name, "error", err)
		f.st.Since = time.Now()
	}
}

func (f *feed) moved(to Position, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.st.Position, f.st.Sent = to, f.st.Sent+uint64(n)
}

func (f *feed) status() FeedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.st
	st.Name = f.name
	return st
}

// A meter says how much of a folder lies before a position.
type meter struct {
	logs  []logFiles
	total int64
	tell  func(done, total int64)
}

func newMeter(dir string, tell func(done, total int64)) (*meter, error) {
	logs, err := listSegments(dir)
	if err != nil || tell == nil {
		return &meter{tell: func(int64, int64) {}}, err
	}
	return &meter{logs: logs, total: totalSize(logs), tell: tell}, nil
}

func (m *meter) at(pos Position) {
	done := pos.Offset
	for _, l := range m.logs {
		for i, p := range l.paths {
			if l.id < pos.Log || l.id == pos.Log && l.numbers[i] < pos.Segment {
				done += sizeOf(p)
			}
		}
	}
	m.tell(min(done, m.total), m.total)
}
