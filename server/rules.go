package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// rules is the policy in force and the file that it comes from. Readers take
// the set without waiting; loads go one at a time.
type rules struct {
	file    string
	opts    policy.Options
	log     *slog.Logger
	store   *store.Store
	metrics *metrics
	// accepted and refused are told what became of the file; not nil. accepted
	// is called after the set is in force.
	accepted func(ctx context.Context, set *policy.Set, why string)
	refused  func(ctx context.Context, file string, err error)

	current atomic.Pointer[policy.Set]
	alarm   atomic.Bool // the file is not what is in force

	mu sync.Mutex // one load at a time
}

func (r *rules) set() *policy.Set { return r.current.Load() }

// start loads the file. A policy that does not compile refuses the start. One
// whose tests fail does, too, unless it was accepted before: then the gateway
// must not stay down because the calendar moved, but an alarm sounds.
func (r *rules) start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, data, err := r.load()
	var failed *policy.TestError
	if errors.As(err, &failed) && r.acceptedBefore(ctx, set) {
		r.current.Store(set)
		r.sound(ctx, fmt.Errorf("it was accepted before and is in force, but its tests fail now: %w", err))
		return nil
	}
	if err != nil {
		r.refused(ctx, r.file, err)
		return fmt.Errorf("load the policy: %w", err)
	}
	if err := r.record(ctx, set, data); err != nil {
		return fmt.Errorf("record the policy: %w", err)
	}
	r.use(ctx, set, "start")
	return nil
}

// reload takes the file's content into force when it loads and its tests hold;
// otherwise what is in force stays, and the error says why.
func (r *rules) reload(ctx context.Context, why string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, data, err := r.load()
	r.metrics.reloaded("policy", err)
	if err != nil {
		r.sound(ctx, err)
		return fmt.Errorf("reload the policy: %w", err)
	}
	if now := r.set(); now != nil && now.Version() == set.Version() && !r.alarm.Load() {
		return nil
	}
	// The file is the source: a database that is away must not keep a rule in
	// force that its owner has taken back.
	if err := r.record(ctx, set, data); err != nil {
		r.log.Error("the policy comes into force but could not be recorded as accepted", "file", r.file, "error", err)
	}
	r.use(ctx, set, why)
	return nil
}

func (r *rules) load() (*policy.Set, []byte, error) {
	data, err := readOwned(r.file, policy.MaxFileSize)
	if err != nil {
		return nil, nil, err
	}
	set, err := policy.Load(r.file, data, r.opts)
	return set, data, err
}

func (r *rules) acceptedBefore(ctx context.Context, set *policy.Set) bool {
	_, err := r.store.Policy(ctx, set.Version())
	return err == nil
}

func (r *rules) record(ctx context.Context, set *policy.Set, data []byte) error {
	_, err := r.store.AcceptPolicy(ctx, store.PolicyVersion{Digest: set.Version(), Source: "file", Document: data})
	return err
}

func (r *rules) use(ctx context.Context, set *policy.Set, why string) {
	r.current.Store(set)
	r.alarm.Store(false)
	r.metrics.alarm.WithLabelValues("policy").Set(0)
	doc := set.Document()
	for _, warning := range doc.Warnings {
		r.log.Warn("policy", "warning", warning)
	}
	r.log.Info("policy is in force", "file", r.file, "version", set.Version(), "services", len(doc.Services), "rules", len(doc.Rules), "tests", len(doc.Tests))
	r.accepted(ctx, set, why)
}

// sound raises the alarm: log, metric, audit.
func (r *rules) sound(ctx context.Context, err error) {
	r.alarm.Store(true)
	r.metrics.alarm.WithLabelValues("policy").Set(1)
	inForce := ""
	if set := r.set(); set != nil {
		inForce = set.Version()
	}
	r.log.Error("the policy file is not in force; what was accepted before stays", "file", r.file, "in_force", inForce, "error", err)
	r.refused(ctx, r.file, err)
}
