package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

// errIsFile refuses a change where the policy is a file.
var errIsFile = errors.New("the policy is a file: change it there (policy.source is file)")

// startManaged takes the newest version of the database. A new database gets the
// file as its first.
func (r *rules) startManaged(ctx context.Context) error {
	head, err := r.store.HeadPolicy(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return r.firstManaged(ctx)
	}
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	set, err := policy.Load(versionName(head), head.Document, r.opts)
	if set == nil {
		r.refused(ctx, versionName(head), err)
		return fmt.Errorf("load the policy: %w", err)
	}
	if err != nil {
		r.current.Store(&inForce{set, head})
		r.sound(ctx, versionName(head), acceptedFails(err))
		return nil
	}
	r.use(ctx, inForce{set, head}, "start")
	return nil
}

func (r *rules) firstManaged(ctx context.Context) error {
	set, data, err := r.load()
	if err != nil {
		r.refused(ctx, r.file, err)
		return fmt.Errorf("load the first policy: %w", err)
	}
	first := store.PolicyVersion{Digest: set.Version(), Source: sourceManaged, Author: "the file of the first start", Document: data}
	version, err := r.store.PutPolicy(ctx, first, 0)
	var other *store.ConflictError
	if errors.As(err, &other) { // another gateway was first
		return r.startManaged(ctx)
	}
	if err != nil {
		return fmt.Errorf("record the policy: %w", err)
	}
	r.use(ctx, inForce{set, version}, "start")
	return nil
}

func versionName(v store.PolicyVersion) string { return fmt.Sprintf("policy version %d", v.Number) }

// followManaged takes over what another gateway, or this one, has put into the
// database. A version that this gateway cannot load leaves the old in force.
func (r *rules) followManaged(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	head, err := r.store.HeadPolicy(ctx)
	if err != nil {
		return err
	}
	if now := r.current.Load(); head.Number == r.unusable || now != nil && now.version.Number == head.Number {
		return nil
	}
	// Its tests held where it was accepted; here they may fail by a minute of the
	// clock, which must not make gateways decide differently. So they are not run.
	set, err := r.compile(head)
	r.metrics.reloaded("policy", err)
	if err != nil {
		r.sound(ctx, versionName(head), err)
		r.unusable = head.Number // trying again would give the same
		return nil
	}
	r.use(ctx, inForce{set, head}, fmt.Sprintf("version %d by %s", head.Number, head.Author))
	return nil
}

func (r *rules) compile(v store.PolicyVersion) (*policy.Set, error) {
	doc, err := policy.Parse(versionName(v), v.Document)
	if err != nil {
		return nil, err
	}
	return policy.Compile(doc, r.opts)
}

// apply makes a policy that was loaded for this gateway the next version, unless
// somebody was faster, which is a *store.ConflictError. It is in force here when apply
// returns, and at the other gateways within a second.
func (r *rules) apply(ctx context.Context, set *policy.Set, next store.PolicyVersion, expected int64) (store.PolicyVersion, error) {
	if r.source != sourceManaged {
		return store.PolicyVersion{}, errIsFile
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	next.Digest, next.Source = set.Version(), sourceManaged
	version, err := r.store.PutPolicy(ctx, next, expected)
	if err != nil {
		return store.PolicyVersion{}, err
	}
	r.use(ctx, inForce{set, version}, fmt.Sprintf("version %d by %s", version.Number, version.Author))
	return version, nil
}
