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

// The sources of the policy.
const (
	sourceFile    = "file"
	sourceManaged = "managed"
)

// rules is the policy in force and where it comes from: a file, of which the
// database keeps the versions, or the database, where administrators put it.
// Readers take the set without waiting; loads go one at a time.
type rules struct {
	source  string
	file    string
	opts    policy.Options
	log     *slog.Logger
	store   *store.Store
	metrics *metrics
	// accepted and refused are told what became of a policy; not nil. accepted
	// is called after the set is in force.
	accepted func(ctx context.Context, set *policy.Set, why string)
	refused  func(ctx context.Context, name string, err error)

	current atomic.Pointer[inForce]
	alarm   atomic.Bool // the file, or the newest version, is not what is in force

	mu       sync.Mutex // one load at a time
	unusable int64      // the number of a managed version that cannot be loaded here
}

// inForce is a policy and its record; of one that could not be recorded, the
// number is 0.
type inForce struct {
	set     *policy.Set
	version store.PolicyVersion
}

func (r *rules) set() *policy.Set {
	if now := r.current.Load(); now != nil {
		return now.set
	}
	return nil
}

// start loads the policy. One that does not compile refuses the start. One whose
// tests fail does, too, unless it was accepted before: then the gateway must not
// stay down because the calendar moved, but an alarm sounds.
func (r *rules) start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.source == sourceManaged {
		return r.startManaged(ctx)
	}
	set, data, err := r.load()
	var failed *policy.TestError
	if errors.As(err, &failed) {
		if known, ok := r.acceptedBefore(ctx, set); ok {
			r.current.Store(&inForce{set, known})
			r.sound(ctx, r.file, acceptedFails(err))
			return nil
		}
	}
	if err != nil {
		r.refused(ctx, r.file, err)
		return fmt.Errorf("load the policy: %w", err)
	}
	version, err := r.record(ctx, set, data)
	if err != nil {
		return fmt.Errorf("record the policy: %w", err)
	}
	r.use(ctx, inForce{set, version}, "start")
	return nil
}

func acceptedFails(err error) error {
	return fmt.Errorf("it was accepted before and is in force, but its tests fail now: %w", err)
}

// reload takes the file's content into force when it loads and its tests hold;
// otherwise what is in force stays, and the error says why. Where the policy is
// managed, the file does not count and the database is followed.
func (r *rules) reload(ctx context.Context, why string) error {
	if r.source == sourceManaged {
		return r.followManaged(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	set, data, err := r.load()
	r.metrics.reloaded("policy", err)
	if err != nil {
		r.sound(ctx, r.file, err)
		return fmt.Errorf("reload the policy: %w", err)
	}
	if now := r.set(); now != nil && now.Version() == set.Version() && !r.alarm.Load() {
		return nil
	}
	// The file is the source: a database that is away must not keep a rule in
	// force that its owner has taken back.
	version, err := r.record(ctx, set, data)
	if err != nil {
		r.log.Error("the policy comes into force but could not be recorded as accepted", "file", r.file, "error", err)
	}
	r.use(ctx, inForce{set, version}, why)
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

func (r *rules) acceptedBefore(ctx context.Context, set *policy.Set) (store.PolicyVersion, bool) {
	known, err := r.store.Policy(ctx, set.Version())
	return known, err == nil
}

func (r *rules) record(ctx context.Context, set *policy.Set, data []byte) (store.PolicyVersion, error) {
	version := store.PolicyVersion{Digest: set.Version(), Source: sourceFile, Document: data}
	recorded, err := r.store.AcceptPolicy(ctx, version)
	if err != nil {
		return version, err
	}
	return recorded, nil
}

func (r *rules) use(ctx context.Context, next inForce, why string) {
	r.current.Store(&next)
	r.alarm.Store(false)
	r.metrics.alarm.WithLabelValues("policy").Set(0)
	doc := next.set.Document()
	for _, warning := range doc.Warnings {
		r.log.Warn("policy", "warning", warning)
	}
	r.log.Info("policy loaded", "from", doc.File, "number", next.version.Number, "version", next.set.Version(),
		"services", len(doc.Services), "rules", len(doc.Rules), "tests", len(doc.Tests))
	r.accepted(ctx, next.set, why)
}

// sound raises the alarm: log, metric, audit.
func (r *rules) sound(ctx context.Context, name string, err error) {
	r.alarm.Store(true)
	r.metrics.alarm.WithLabelValues("policy").Set(1)
	version := ""
	if set := r.set(); set != nil {
		version = set.Version()
	}
	r.log.Error("a policy is not in force as it should be; what was accepted before stays", "policy", name, "in_force", version, "error", err)
	r.refused(ctx, name, err)
}
