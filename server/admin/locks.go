package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

func (a *API) locks(ctx context.Context, _ *call, q adminapi.List) (*adminapi.Page[adminapi.Lock], error) {
	list, err := a.Locks.Locks(ctx)
	if err != nil {
		return nil, err
	}
	people := a.names()
	entry := func(l store.Lock) adminapi.Lock { return lockOf(ctx, people, l) }
	return pageFrom(list, q, entry, func(l store.Lock) place { return oldest(l.Created, l.ID) })
}

func lockOf(ctx context.Context, people *names, l store.Lock) adminapi.Lock {
	reply := adminapi.Lock{
		ID: l.ID, Kind: string(l.Kind), Target: l.Target, Message: l.Message, Author: l.Author, Created: l.Created,
		IssuedBefore: l.IssuedBefore, Expires: l.Expires,
	}
	if l.Kind == store.LockUser {
		user := people.of(ctx, auth.UserID(l.Target))
		reply.User = &user
	}
	return reply
}

func (a *API) lockAdd(ctx context.Context, c *call, m adminapi.LockAdd) (*adminapi.LockAdded, error) {
	if err := checkText("message", m.Message, false); err != nil {
		return nil, err
	}
	now, err := a.Locks.Now(ctx)
	if err != nil {
		return nil, err
	}
	if !m.Expires.IsZero() && !m.Expires.After(now) {
		return nil, refuse(adminapi.CodeBadRequest, "the lock would have ended already; it is %s", now.UTC().Format("2006-01-02T15:04:05Z"))
	}
	target, err := a.lockTarget(ctx, m)
	if err != nil {
		return nil, err
	}
	l := store.Lock{
		ID: audit.NewReference(), Kind: store.LockKind(m.Kind), Target: target, Message: m.Message, Author: c.caller.name(), Expires: m.Expires,
	}
	if m.Existing {
		l.IssuedBefore = now
	}
	r := audit.Record{Event: audit.EventLockAdded, Reason: m.Message, Admin: c.facts(a.recordedLock(ctx, l)), Detail: lockDetail(l)}
	ref, err := a.change(ctx, c, r, func(ctx context.Context) (err error) {
		l, err = a.Locks.AddLock(ctx, l)
		if errors.Is(err, store.ErrNotFound) {
			return refuse(adminapi.CodeNotFound, "there is no %s %s", m.Kind, plaintext.Clip(target, 128)).because(err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminapi.LockAdded{Lock: lockOf(ctx, a.names(), l), Reference: ref}, nil
}

// recordedLock is a lock as audit records name it.
func (a *API) recordedLock(ctx context.Context, l store.Lock) string {
	target := l.Target
	if l.Kind == store.LockUser {
		target = a.names().recorded(ctx, auth.UserID(target))
	}
	return "lock " + l.ID + " on " + string(l.Kind) + " " + target
}

// lockDetail says what of the lock its kind and target do not.
func lockDetail(l store.Lock) string {
	var parts []string
	if !l.IssuedBefore.IsZero() {
		parts = append(parts, "for what was issued by "+l.IssuedBefore.UTC().Format("2006-01-02T15:04:05.000Z"))
	}
	if !l.Expires.IsZero() {
		parts = append(parts, "until "+l.Expires.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return strings.Join(parts, ", ")
}

// lockTarget finds what is to be locked. A lock on something misspelled would look as if it held.
func (a *API) lockTarget(ctx context.Context, m adminapi.LockAdd) (string, error) {
	wrong := func(err error) error {
		return refuse(adminapi.CodeBadRequest, "%s", plaintext.Clip(err.Error(), 200))
	}
	switch store.LockKind(m.Kind) {
	case store.LockUser:
		id, err := a.userID(ctx, m.Target)
		return string(id), err
	case store.LockDevice:
		id, err := auth.ParseDeviceID(m.Target)
		if err != nil {
			return "", wrong(err)
		}
		return string(id), nil
	case store.LockSession:
		id, err := auth.ParseSessionID(m.Target)
		if err != nil {
			return "", wrong(err)
		}
		_, err = a.Sessions.Session(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return "", refuse(adminapi.CodeNotFound, "there is no session %s", id)
		}
		return string(id), err
	case store.LockCertificate:
		serial, err := auth.ParseSerial(m.Target)
		if err != nil {
			return "", wrong(err)
		}
		return string(serial), nil
	case store.LockGroup:
		return a.groupTarget(m.Target)
	}
	return "", refuse(adminapi.CodeBadRequest, "a lock is on a user, device, session, certificate or group")
}

func (a *API) groupTarget(target string) (string, error) {
	provider, group, ok := strings.Cut(target, "/")
	if !ok && a.OnlyProvider != "" { // as in the policy
		provider, group, ok = a.OnlyProvider, target, true
	}
	if !ok || group == "" || len(target) > maxName {
		return "", refuse(adminapi.CodeBadRequest, "a group is provider/group where there is more than one provider")
	}
	if err := checkText("group", group, true); err != nil {
		return "", err
	}
	if _, known := a.Issuer(provider); !known {
		return "", refuse(adminapi.CodeNotFound, "there is no provider %q", plaintext.Clip(provider, 64))
	}
	if !a.Kept(provider, group) {
		// It would look as if it held, and those who are connected would go on.
		return "", refuse(adminapi.CodeBadRequest, "groups.keep leaves the group %q out of certificates, so that nobody can tell who is in it", plaintext.Clip(group, 64)).
			remedy("lock the people, or keep the group and have them log in anew")
	}
	return provider + "/" + group, nil
}

func (a *API) lockRemove(ctx context.Context, c *call) (*adminapi.Done, error) {
	id := c.params["id"]
	list, err := a.Locks.Locks(ctx)
	if err != nil {
		return nil, err
	}
	var lock *store.Lock
	for i := range list {
		if list[i].ID == id {
			lock = &list[i]
		}
	}
	if lock == nil {
		return nil, refuse(adminapi.CodeNotFound, "there is no lock %q", plaintext.Clip(id, 64))
	}
	r := audit.Record{Event: audit.EventLockRemoved, Admin: c.facts(a.recordedLock(ctx, *lock))}
	ref, err := a.change(ctx, c, r, func(ctx context.Context) error { return a.Locks.RemoveLock(ctx, id) })
	if err != nil {
		return nil, err
	}
	return &adminapi.Done{Reference: ref}, nil
}
