package store

import (
	"context"
	"errors"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// logoutSeen records that a logout token was accepted, until it expires; first is
// false when it had been already.
func (t *tx) logoutSeen(ctx context.Context, tokenHash string, expires time.Time) (first bool, err error) {
	n, err := t.execCount(ctx, insertLogout, tokenHash, millis(t.now), millis(expires))
	return n > 0, err
}

// A Logout is a verified logout token (OpenID Connect Back-Channel Logout 1.0,
// section 2.4). SID or User is set, or both; SID then decides, and of User those
// sessions end whose SID is not known.
type Logout struct {
	// TokenHash is the hash of the token's jti, and Expires when the token can
	// no longer be presented.
	TokenHash string
	Expires   time.Time
	Provider  string
	SID       string
	User      auth.UserID
	// LockID names the lock, which stands for LockFor.
	LockID  string
	LockFor time.Duration
	Message string
	Author  string
}

// LoggedOut is the outcome of a logout.
type LoggedOut struct {
	// Repeated says that the token was accepted before; nothing was done.
	Repeated bool
	Lock     Lock
	Ended    []auth.SessionID
}

// Logout accepts a logout token: it is remembered, the sessions that it names
// are ended, and a lock refuses those that are being begun with a token from
// before it. All or nothing, so that a provider may try again.
func (s *Store) Logout(ctx context.Context, in Logout) (LoggedOut, error) {
	if in.TokenHash == "" || (in.SID == "" && in.User == "") {
		return LoggedOut{}, errors.New("a logout needs a token and a session or a user")
	}
	var out LoggedOut
	err := s.inTx(ctx, orderLock, func(tx *tx) error {
		first, err := tx.logoutSeen(ctx, in.TokenHash, in.Expires)
		if err != nil || !first {
			out = LoggedOut{Repeated: !first}
			return err
		}
		out.Lock = in.lock(tx.now)
		if err := tx.addLock(ctx, &out.Lock); err != nil {
			return err
		}
		if out.Ended, err = tx.endCovered(ctx, out.Lock, loggedOut); err != nil {
			return err
		}
		return tx.endUnnamed(ctx, in, &out)
	})
	return out, err
}

const loggedOut = "logged out at the provider"

// endUnnamed ends the person's sessions of which nobody knows what the provider
// calls them: each of them may be the one that was logged out.
func (t *tx) endUnnamed(ctx context.Context, in Logout, out *LoggedOut) error {
	if in.SID == "" || in.User == "" {
		return nil
	}
	ended, err := all(ctx, t, scanSessionID, endUnnamed, in.User, in.Provider, millis(t.now), loggedOut)
	if err != nil || len(ended) == 0 {
		return err
	}
	out.Ended = append(out.Ended, ended...)
	return t.changed(ctx)
}

func (in Logout) lock(now time.Time) Lock {
	l := Lock{
		ID: in.LockID, Kind: LockUser, Target: string(in.User), Message: in.Message, Author: in.Author,
		IssuedBefore: now, Expires: now.Add(in.LockFor),
	}
	if in.SID != "" {
		// A session at the provider that is over begins nothing ever again.
		l.Kind, l.Target, l.IssuedBefore = LockLogin, in.Provider+"/"+in.SID, time.Time{}
	}
	return l
}
