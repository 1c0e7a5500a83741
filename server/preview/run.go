package preview

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/store"
)

// changeKey tells changes apart.
type changeKey struct {
	user         auth.UserID
	service      string
	was, becomes Outcome
	rule         string
}

type transitionKey struct{ was, becomes Outcome }

// run is one preview on its way. It belongs to one goroutine.
type run struct {
	cfg         Config
	people      *people
	found       Result // without what is made of the maps
	changes     map[changeKey]*Change
	transitions map[transitionKey]int64
	told        time.Time // when Progress was called last
}

func newRun(cfg Config) *run {
	if cfg.MaxChanges <= 0 {
		cfg.MaxChanges = DefaultMaxChanges
	}
	r := &run{cfg: cfg, people: newPeople(), changes: make(map[changeKey]*Change), transitions: make(map[transitionKey]int64)}
	r.found = Result{New: cfg.New.Version(), Since: cfg.Since}
	if cfg.Old != nil {
		r.found.Old = cfg.Old.Version()
	}
	return r
}

// A page is what the Source gave.
type page struct {
	streams []store.AuditStream
	err     error
}

// pages decides page after page, while the next one is being read.
func (r *run) pages(ctx context.Context, total int64) error {
	ctx, cancel := context.WithCancel(ctx)
	next := make(chan page)
	go func() {
		defer close(next)
		r.read(ctx, next)
	}()
	defer func() {
		cancel()
		for range next { // until the reader has gone
		}
	}()
	var done int64
	for p := range next {
		if p.err != nil {
			return fmt.Errorf("read the streams of the record: %w", p.err)
		}
		if err := r.decidePage(ctx, p.streams); err != nil {
			return err
		}
		done += int64(len(p.streams))
		r.progress(done, max(done, total))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.cfg.Progress != nil {
		r.cfg.Progress(done, done)
	}
	return nil
}

// progress tells how far it is, unless it did so a moment ago.
func (r *run) progress(done, total int64) {
	if now := time.Now(); r.cfg.Progress != nil && now.Sub(r.told) >= progressEvery {
		r.told = now
		r.cfg.Progress(done, total)
	}
}

func (r *run) read(ctx context.Context, next chan<- page) {
	var after int64
	for {
		streams, err := r.cfg.Source.StreamsSince(ctx, r.cfg.Since, after, PageSize)
		if err == nil && len(streams) == 0 {
			return
		}
		select {
		case next <- page{streams, err}:
		case <-ctx.Done():
			return
		}
		if err != nil || len(streams) < PageSize {
			return
		}
		after = streams[len(streams)-1].ID
	}
}

func (r *run) decidePage(ctx context.Context, streams []store.AuditStream) error {
	for i := range streams {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		r.decide(&streams[i])
	}
	return nil
}

// changed counts one change.
func (r *run) changed(s *store.AuditStream, v verdict) {
	n := weight(s)
	r.found.Changed += n
	r.transitions[transitionKey{v.was, v.becomes}] += n
	k := changeKey{s.User, v.service, v.was, v.becomes, v.rule}
	c := r.changes[k]
	if c == nil && len(r.changes) >= r.cfg.MaxChanges {
		if r.found.Omitted == nil {
			r.found.Omitted = new(Omitted)
		}
		o := r.found.Omitted
		o.Streams += n
		o.First, o.Last = spread(o.First, o.Last, s.Time)
		return
	}
	if c == nil {
		c = &Change{User: s.User, Service: v.service, Was: v.was, Becomes: v.becomes, Rule: v.rule}
		r.changes[k] = c
	}
	c.Count += n
	if c.First, c.Last = spread(c.First, c.Last, s.Time); c.Last.Equal(s.Time) {
		c.Name, c.Email, c.Reason = s.Name, s.Email, v.reason
	}
}

// spread widens a span of time.
func spread(first, last, at time.Time) (time.Time, time.Time) {
	if first.IsZero() || at.Before(first) {
		first = at
	}
	if at.After(last) {
		last = at
	}
	return first, last
}

// weight is how many streams a record stands for: itself, or the repetitions that it counts.
func weight(s *store.AuditStream) int64 { return max(s.Repeated, 1) }

func (r *run) result() Result {
	out := r.found
	out.Transitions = make([]Transition, 0, len(r.transitions))
	for k, n := range r.transitions {
		out.Transitions = append(out.Transitions, Transition{k.was, k.becomes, n})
	}
	slices.SortFunc(out.Transitions, func(a, b Transition) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(string(a.Was+a.Becomes), string(b.Was+b.Becomes)))
	})
	out.Changes = make([]Change, 0, len(r.changes))
	for _, c := range slices.SortedFunc(maps.Values(r.changes), (*Change).compare) {
		out.Changes = append(out.Changes, *c)
	}
	return out
}

// compare puts the most frequent change first.
func (c *Change) compare(o *Change) int {
	return cmp.Or(cmp.Compare(o.Count, c.Count), strings.Compare(c.Email, o.Email), strings.Compare(string(c.User), string(o.User)),
		strings.Compare(c.Service, o.Service), strings.Compare(string(c.Was+c.Becomes), string(o.Was+o.Becomes)), strings.Compare(c.Rule, o.Rule))
}
