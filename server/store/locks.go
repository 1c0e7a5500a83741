package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/culvert-vpn/culvert/auth"
)

// AddLock puts a lock in force and returns it as recorded. An issuance for a
// session that it covers came wholly before it, and is then covered by it, or
// comes after it and is refused. ErrNotFound means that a certificate to lock is
// not in the inventory.
func (s *Store) AddLock(ctx context.Context, l Lock) (Lock, error) {
	err := s.inTx(ctx, orderLock, func(tx *tx) error { return tx.addLock(ctx, &l) })
	return l, err
}

// endCovered ends the sessions that a lock on a user, device, session, certificate
// or login covers, for good: lifting the lock does not bring them back.
func (t *tx) endCovered(ctx context.Context, l Lock, reason string) ([]auth.SessionID, error) {
	session := string(l.Session)
	if l.Kind == LockSession {
		session = l.Target
	}
	ended, err := all(ctx, t, scanSessionID, endCovered, l.Kind, l.Target, session, millis(l.IssuedBefore), millis(t.now), reason)
	if err != nil || len(ended) == 0 {
		return nil, err
	}
	return ended, t.changed(ctx)
}

func (t *tx) addLock(ctx context.Context, l *Lock) error {
	kinds := []LockKind{LockUser, LockDevice, LockSession, LockCertificate, LockGroup, LockLogin}
	if l.ID == "" || l.Target == "" || !slices.Contains(kinds, l.Kind) {
		return errors.New("a lock needs an id, a target and a known kind")
	}
	if l.Kind == LockCertificate {
		cert, err := one(ctx, t, scanCertificate, certificateBySerial, l.Target)
		if err != nil {
			return err
		}
		l.Session = cert.Session
	}
	l.Created = t.now
	if err := t.exec(ctx, insertLock, l.ID, l.Kind, l.Target, l.Session, l.Message, l.Author,
		millis(l.Created), millis(l.IssuedBefore), millis(l.Expires)); err != nil {
		return err
	}
	return t.changed(ctx)
}

// RemoveLock lifts a lock. ErrNotFound means that there is none of that id.
func (s *Store) RemoveLock(ctx context.Context, id string) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		n, err := tx.execCount(ctx, deleteLock, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return ErrNotFound
		}
		return tx.changed(ctx)
	})
}

// Locks lists the locks in force, oldest first.
func (s *Store) Locks(ctx context.Context) ([]Lock, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read, scanLock, allLocks, millis(now))
}

// Changes counts what other gateways must look at: locks made and lifted,
// sessions ended. Whoever keeps a view of the locks polls this number, and
// reads them again when it differs.
func (s *Store) Changes(ctx context.Context) (int64, error) {
	text, err := s.meta(ctx, metaChanges)
	if err != nil || text == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the change counter: %w", err)
	}
	return n, nil
}

func scanLock(scan scanFunc) (Lock, error) {
	var l Lock
	var session string
	var created, before, expires int64
	err := scan(&l.ID, &l.Kind, &l.Target, &session, &l.Message, &l.Author, &created, &before, &expires)
	l.Session = auth.SessionID(session)
	l.Created, l.IssuedBefore, l.Expires = fromMillis(created), fromMillis(before), fromMillis(expires)
	return l, err
}
