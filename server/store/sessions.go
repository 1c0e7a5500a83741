package store

import (
	"context"

	"github.com/culvert-vpn/culvert/auth"
)

// Session gets one session, or ErrNotFound.
func (s *Store) Session(ctx context.Context, id auth.SessionID) (Session, error) {
	return one(ctx, s.read, scanSession, sessionByID, id)
}

// LiveSessions lists up to limit sessions that may still be renewed, by id,
// beginning behind the id after.
func (s *Store) LiveSessions(ctx context.Context, after auth.SessionID, limit int) ([]Session, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read.listing(), scanSession, liveSessions, millis(now), after, limit)
}

// SessionsOf lists up to limit sessions of a person, newest first, with those
// that have ended.
func (s *Store) SessionsOf(ctx context.Context, id auth.UserID, limit int) ([]Session, error) {
	return all(ctx, s.read.listing(), scanSession, sessionsOfUser, id, limit)
}

// EndedSessions lists the sessions that were ended before their deadline, as long as that is to come: those of which somebody may
// still hold a certificate that has not expired.
func (s *Store) EndedSessions(ctx context.Context) ([]auth.SessionID, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read, scanSessionID, endedSessions, millis(now))
}

// EndSession ends a session for good, with the reason for the list of sessions.
// Ending one that has ended, or never was, changes nothing.
func (s *Store) EndSession(ctx context.Context, id auth.SessionID, reason string) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		n, err := tx.execCount(ctx, endSession, id, millis(tx.now), reason)
		if err != nil || n == 0 {
			return err
		}
		return tx.changed(ctx)
	})
}

func scanSession(scan scanFunc) (Session, error) {
	var s Session
	var authTime, created, deadline, tokenIssued, ended int64
	err := scan(&s.ID, &s.User, &s.Device, &s.Provider, &s.Login, &s.Key, &s.Nonce, &s.Client,
		&authTime, &created, &deadline, &tokenIssued, &ended, &s.EndReason, &s.ProviderSID, &s.Issuer, &s.Subject)
	s.AuthTime, s.Created, s.Deadline = fromMillis(authTime), fromMillis(created), fromMillis(deadline)
	s.TokenIssuedAt, s.Ended = fromMillis(tokenIssued), fromMillis(ended)
	return s, err
}

func scanSessionID(scan scanFunc) (id auth.SessionID, err error) { return id, scan(&id) }
