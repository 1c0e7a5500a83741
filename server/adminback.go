package server

import (
	"context"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/preview"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

// What the administration API asks of the gateway: the store, and beside it what
// must have happened here before an answer is given.

// adminPolicies is an admin.Policies.
type adminPolicies struct {
	*store.Store
	rules *rules
}

func (p adminPolicies) Set() *policy.Set { return p.rules.set() }

// Load loads as this gateway would.
func (p adminPolicies) Load(document []byte) (*policy.Set, error) {
	return policy.Load("policy", document, p.rules.opts)
}

func (p adminPolicies) Apply(ctx context.Context, set *policy.Set, v store.PolicyVersion, expected int64) (store.PolicyVersion, error) {
	return p.rules.apply(ctx, set, v, expected)
}

// adminSessions is an admin.Sessions.
type adminSessions struct {
	*store.Store
	self     auth.GatewayID
	registry *session.Registry
	standing *standing
}

// LiveAll lists what the gateways have told, and what this one knows by now of its own.
func (s adminSessions) LiveAll(ctx context.Context, f store.LiveFilter, limit int) ([]store.Live, error) {
	told, err := s.Store.LiveAll(ctx, f, limit)
	if err != nil {
		return nil, err
	}
	return byNow(s.self, told, s.registry.List()), nil
}

// byNow leaves out the connections of self that are gone, and counts the streams and bytes of the others: a list after somebody was
// cut off must not have them.
func byNow(self auth.GatewayID, told []store.Live, own []session.Info) []store.Live {
	known := make(map[uint64]session.Info, len(own))
	for _, i := range own {
		known[i.ID] = i
	}
	list := make([]store.Live, 0, len(told))
	for _, l := range told {
		if l.Gateway == self {
			i, open := known[l.ID]
			if !open || i.Identity.Session != l.Session {
				continue
			}
			l.Streams, l.BytesIn, l.BytesOut = len(i.Streams), i.BytesIn, i.BytesOut
		}
		list = append(list, l)
	}
	return list
}

func (s adminSessions) EndSession(ctx context.Context, id auth.SessionID, reason string) error {
	if err := s.Store.EndSession(ctx, id, reason); err != nil {
		return err
	}
	s.standing.look(ctx)
	return nil
}

func (s adminSessions) Local(id auth.SessionID) []session.Info {
	var local []session.Info
	for _, info := range s.registry.List() {
		if info.Identity.Session == id {
			local = append(local, info)
		}
	}
	return local
}

// adminLocks is an admin.Locks.
type adminLocks struct {
	*store.Store
	standing *standing
}

func (l adminLocks) AddLock(ctx context.Context, lock store.Lock) (store.Lock, error) {
	lock, err := l.Store.AddLock(ctx, lock)
	if err == nil {
		l.standing.look(ctx)
	}
	return lock, err
}

func (l adminLocks) RemoveLock(ctx context.Context, id string) error {
	err := l.Store.RemoveLock(ctx, id)
	if err == nil {
		l.standing.look(ctx)
	}
	return err
}

// adminRequests is an admin.Requests.
type adminRequests struct {
	*store.Store
	standing *standing
}

func (r adminRequests) DecideRequest(ctx context.Context, id string, approve bool, by string, byUser auth.UserID, note string, longest time.Duration) (store.Request, error) {
	return r.followed(ctx)(r.Store.DecideRequest(ctx, id, approve, by, byUser, note, longest))
}

func (r adminRequests) WithdrawRequest(ctx context.Context, id string, user auth.UserID) (store.Request, error) {
	return r.followed(ctx)(r.Store.WithdrawRequest(ctx, id, user))
}

func (r adminRequests) EndRequest(ctx context.Context, id, by string) (store.Request, error) {
	return r.followed(ctx)(r.Store.EndRequest(ctx, id, by))
}

// followed has a change in force here before it is told.
func (r adminRequests) followed(ctx context.Context) func(store.Request, error) (store.Request, error) {
	return func(request store.Request, err error) (store.Request, error) {
		if err == nil {
			r.standing.catchUp(ctx)
		}
		return request, err
	}
}

// preview is an admin.Preview over the index of the audit logs.
func (s *Server) preview(ctx context.Context, old, next *policy.Set, since time.Time, progress func(done, total int64)) (*adminapi.Preview, error) {
	found, err := preview.Run(ctx, preview.Config{New: next, Old: old, Source: s.store, Since: since, Progress: progress})
	if err != nil {
		return nil, fmt.Errorf("decide the recorded streams again: %w", err)
	}
	shown := &adminapi.Preview{
		Since: since, Streams: found.Streams, Unchanged: found.Unchanged, Drifted: found.Drifted, Undecidable: found.Undecidable,
		NotByPolicy: found.NotByPolicy, Changed: found.Changed,
		Transitions: make([]adminapi.Transition, 0, len(found.Transitions)), Changes: make([]adminapi.PreviewChange, 0, len(found.Changes)),
	}
	if found.Omitted != nil {
		shown.Omitted = found.Omitted.Streams
	}
	for _, t := range found.Transitions {
		shown.Transitions = append(shown.Transitions, adminapi.Transition{Was: string(t.Was), Becomes: string(t.Becomes), Count: t.Count})
	}
	for _, c := range found.Changes {
		shown.Changes = append(shown.Changes, adminapi.PreviewChange{
			User: adminapi.Person{ID: string(c.User), Name: c.Name, Email: c.Email}, Service: c.Service, Was: string(c.Was), Becomes: string(c.Becomes),
			Rule: c.Rule, Reason: c.Reason, Count: c.Count, First: c.First, Last: c.Last,
		})
	}
	return shown, nil
}
