package audit

import (
	"fmt"
	"slices"
	"time"
)

// A batch is records that are written with one call. Before it is taken out of the queue the log's mutex guards it;
// then who has the pen. After done everybody may read it.
type batch struct {
	bodies   []body
	done     chan struct{}
	err      error
	first    uint64 // number of the first record
	unsynced int    // bytes that wait for a sync
	round    *round // that syncs it
}

// A ticket is a record's place in a batch.
type ticket struct {
	batch *batch
	at    int
}

// enqueueLocked puts a record's line behind those that wait to be written.
func (l *Log) enqueueLocked(e Event, text body) (ticket, error) {
	if l.stopped {
		return ticket{}, ErrClosed
	}
	if err := l.admitLocked(e); err != nil {
		return ticket{}, err
	}
	last := len(l.queue) - 1
	if last < 0 || len(l.queue[last].bodies) >= maxBatch {
		l.queue = append(l.queue, &batch{done: make(chan struct{})})
		last++
	}
	b := l.queue[last]
	b.bodies = append(b.bodies, text)
	l.queued++
	return ticket{b, len(b.bodies) - 1}, nil
}

// admitLocked refuses everything while the queue is full, and what opens something while space is short.
func (l *Log) admitLocked(e Event) error {
	if n := l.queued + l.snap.unsynced; n >= l.cfg.Queue {
		return fmt.Errorf("%w: %d of them", ErrBusy, n)
	}
	switch e {
	case EventStreamOpen, EventSessionOpen, EventIssued:
		if l.cfg.OnFailure == Refuse {
			return l.snap.space
		}
	}
	return nil
}

// written returns when a record was handed to the system. Of those who wait the first writes for all: meanwhile the next
// ones gather.
func (l *Log) written(t ticket) error {
	b := t.batch
	select {
	case <-b.done:
		return b.err
	default:
	}
	l.pen.Lock()
	select {
	case <-b.done: // by somebody who had the pen before
		l.pen.Unlock()
	default:
		l.drain()
		l.writeQueue(b)
		l.putDown()
	}
	return b.err
}

// writeQueue writes the queue up to a batch, or all of it.
func (l *Log) writeQueue(until *batch) {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return
		}
		b := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		l.queued -= len(b.bodies)
		l.mu.Unlock()
		b.first, b.err = l.w.write(b.bodies)
		b.unsynced, b.round = l.w.bytes, l.w.next
		l.note()
		close(b.done)
		if b == until {
			return
		}
	}
}

// drain writes the backlog, with the pen in hand.
func (l *Log) drain() {
	for {
		l.mu.Lock()
		list, lost := l.backlog[:min(len(l.backlog), maxBatch)], l.lost
		l.mu.Unlock()
		if len(list) == 0 {
			l.tellLost(lost)
			return
		}
		if _, err := l.w.write(list); err != nil {
			return
		}
		l.mu.Lock()
		if l.backlog = l.backlog[len(list):]; len(l.backlog) == 0 {
			l.backlog = nil
		}
		l.mu.Unlock()
	}
}

func (l *Log) tellLost(lost uint64) {
	if lost == 0 {
		return
	}
	r := Record{Time: l.stamp(time.Time{}), Event: EventLogLost,
		Detail: fmt.Sprintf("%d records did not fit into memory while nothing could be written", lost)}
	if l.w.put(&r) == nil {
		l.mu.Lock()
		l.lost -= lost
		l.mu.Unlock()
	}
}

// putDown gives the pen back.
func (l *Log) putDown() {
	l.note()
	l.pen.Unlock()
}

// note tells those without the pen how the writer is.
func (l *Log) note() {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.w
	l.snap = snapshot{seq: w.tree.size, unsynced: len(w.pending), bytes: w.bytes, fault: w.fault, space: w.checkSpace(),
		free: w.free, low: w.low, signed: w.signed}
}
