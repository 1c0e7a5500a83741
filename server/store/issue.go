package store

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// An Issuance is one enrolment that has been verified and may become a
// certificate. All fields but those marked are required.
type Issuance struct {
	// Token is the key under which the token is redeemed once.
	Token string
	// Spent is another name that the token could be redeemed under, and never
	// is any more. Optional.
	Spent string
	// TokenExpires is when the token can no longer be presented; the
	// redemption is kept longer than that.
	TokenExpires  time.Time
	TokenIssuedAt time.Time
	// Key is the hash of the key that the certificate is for.
	Key  KeyHash
	User User
	// Groups and GroupsKnown are what locks on groups are held against. Those
	// of User are what is remembered of the person.
	Groups      []string
	GroupsKnown bool
	// Renewal says that Session.ID exists; otherwise Session becomes a new one,
	// with Created set by the store.
	Renewal bool
	Session Session
	// StepUp says that the renewal proves a fresh login, whose time
	// Session.AuthTime is; it is refused when that is older than the session's.
	// Session.Nonce replaces the session's too, and so does Session.ProviderSID
	// where the token has one.
	StepUp bool
	// Undated says that a renewal's token has no date of its own to compare
	// with that of the last one. Optional.
	Undated bool
	// Device completes a device login together with the issuance. Optional.
	Device *DeviceIssuance
	// Sign makes the certificate. It is called inside the transaction, once
	// unless the database has it repeated: what it makes is in the inventory
	// before anybody gets it, or is lost. at is the database's clock.
	Sign func(at time.Time, s Session) (Certificate, error)
}

// A DeviceIssuance is the device login that an issuance completes.
type DeviceIssuance struct {
	IDHash        string
	SealedRefresh []byte
}

// Issued is the outcome of an issuance.
type Issued struct {
	Certificate Certificate
	Session     Session
	// Repeated says that the token had been redeemed for this key before, and
	// the certificate is the one from then.
	Repeated bool
	At       time.Time
}

// Issue redeems the token and records session, user and certificate, all or
// nothing. Of any number of calls with one token, in any number of processes,
// one makes a certificate; the others get the same one if their key is the same.
//
// Errors: ErrRedeemed, ErrSessionEnded, ErrWrongKey, ErrTokenOld, ErrNotFound
// (no such session), *LockedError, ErrUnavailable, and those of Sign.
func (s *Store) Issue(ctx context.Context, in Issuance) (Issued, error) {
	var out Issued
	err := s.inTx(ctx, orderIssuance, func(tx *tx) error {
		n, err := tx.execCount(ctx, claimToken, in.Token, in.Key, millis(tx.now), millis(in.TokenExpires))
		if err != nil {
			return err
		}
		if n == 0 {
			out, err = tx.repeat(ctx, in)
			return err
		}
		out, err = tx.issue(ctx, in)
		return err
	})
	return out, err
}

// Redeemed gets again what was issued for the token, if it was for this key.
// ErrRedeemed means that it was not, or that there is nothing to give any more;
// other errors are those of Issue.
func (s *Store) Redeemed(ctx context.Context, token string, key KeyHash) (Issued, error) {
	var out Issued
	err := s.inTx(ctx, orderIssuance, func(tx *tx) (err error) {
		out, err = tx.repeat(ctx, Issuance{Token: token, Key: key, GroupsKnown: true})
		return err
	})
	return out, err
}

// issue makes the certificate of a token that is redeemed for the first time.
func (t *tx) issue(ctx context.Context, in Issuance) (Issued, error) {
	if err := t.spend(ctx, in); err != nil {
		return Issued{}, err
	}
	session, err := t.sessionFor(ctx, in)
	if err != nil {
		return Issued{}, err
	}
	if err := t.refuseLocked(ctx, in, session); err != nil {
		return Issued{}, err
	}
	cert, err := in.Sign(t.now, session)
	if err != nil {
		return Issued{}, err
	}
	cert.Session = session.ID
	if err := t.putCertificate(ctx, cert); err != nil {
		return Issued{}, err
	}
	if err := t.exec(ctx, fillRedemption, in.Token, session.ID, cert.Serial); err != nil {
		return Issued{}, err
	}
	if err := in.Device.complete(ctx, t, in.Token); err != nil {
		return Issued{}, err
	}
	return Issued{Certificate: cert, Session: session, At: t.now}, nil
}

// spend redeems the token's other name for no key at all.
func (t *tx) spend(ctx context.Context, in Issuance) error {
	if in.Spent == "" {
		return nil
	}
	n, err := t.execCount(ctx, claimToken, in.Spent, "", millis(t.now), millis(in.TokenExpires))
	if err == nil && n == 0 {
		return ErrRedeemed
	}
	return err
}

// sessionFor begins a session, or takes the row of the one to renew.
func (t *tx) sessionFor(ctx context.Context, in Issuance) (Session, error) {
	if err := t.putUser(ctx, in); err != nil {
		return Session{}, err
	}
	if in.Renewal {
		return t.renew(ctx, in)
	}
	s := in.Session
	s.User, s.Issuer, s.Subject = in.User.ID, in.User.Issuer, in.User.Subject
	s.Key, s.TokenIssuedAt, s.Created = in.Key, in.TokenIssuedAt, t.now
	if !s.Live(t.now) {
		return Session{}, ErrSessionEnded
	}
	return s, t.exec(ctx, insertSession, s.ID, s.User, s.Device, s.Provider, s.Login, s.Key, s.Nonce, s.Client,
		millis(s.AuthTime), millis(s.Created), millis(s.Deadline), millis(s.TokenIssuedAt), s.ProviderSID)
}

func (t *tx) putUser(ctx context.Context, in Issuance) error {
	u := in.User
	groups, amr := textList(u.Groups), textList(u.AMR)
	return t.exec(ctx, upsertUser, u.ID, u.Issuer, u.Subject, u.Provider, u.Name, u.Email, millis(t.now),
		groups, u.GroupsKnown, u.EmailTrusted, u.ACR, amr, in.Session.Login)
}

// renew checks the session again, now that its row is held: it may have been
// ended, locked or renewed since the caller looked.
func (t *tx) renew(ctx context.Context, in Issuance) (Session, error) {
	s, err := one(ctx, t, scanSession, sessionByID+t.dialect.forUpdate, in.Session.ID)
	switch {
	case err != nil:
		return Session{}, err
	case s.User != in.User.ID || s.Key != in.Key:
		return Session{}, ErrWrongKey
	case !s.Live(t.now):
		return Session{}, ErrSessionEnded
	case !in.Undated && in.TokenIssuedAt.Before(s.TokenIssuedAt):
		// Whole seconds: of two tokens with the same one, neither is the older,
		// and each is redeemed once.
		return Session{}, ErrTokenOld
	case in.StepUp && in.Session.AuthTime.Before(s.AuthTime):
		return Session{}, ErrTokenOld
	}
	if !in.Undated {
		s.TokenIssuedAt = in.TokenIssuedAt
	}
	if in.StepUp {
		s.AuthTime, s.Nonce = in.Session.AuthTime, in.Session.Nonce
		s.ProviderSID = cmp.Or(in.Session.ProviderSID, s.ProviderSID)
	}
	return s, t.exec(ctx, renewSession, s.ID, millis(s.TokenIssuedAt), millis(s.AuthTime), s.Nonce, s.ProviderSID)
}

// repeat answers a token that was redeemed before.
func (t *tx) repeat(ctx context.Context, in Issuance) (Issued, error) {
	r, err := one(ctx, t, scanRedemption, selectRedemption, in.Token)
	if errors.Is(err, ErrNotFound) {
		return Issued{}, ErrRedeemed
	}
	if err != nil {
		return Issued{}, err
	}
	if r.key != in.Key || (in.Renewal && r.session != in.Session.ID) {
		return Issued{}, ErrRedeemed
	}
	cert, err := one(ctx, t, scanCertificate, certificateBySerial, r.serial)
	if errors.Is(err, ErrNotFound) {
		return Issued{}, ErrRedeemed // long ago: the inventory no longer has it
	}
	if err != nil {
		return Issued{}, err
	}
	s, err := one(ctx, t, scanSession, sessionByID, r.session)
	if err != nil {
		return Issued{}, err
	}
	if !s.Live(t.now) {
		return Issued{}, ErrSessionEnded
	}
	if !t.now.Before(cert.NotAfter) {
		return Issued{}, ErrRedeemed
	}
	if err := t.refuseLocked(ctx, in, s); err != nil {
		return Issued{}, err
	}
	return Issued{Certificate: cert, Session: s, Repeated: true, At: t.now}, nil
}

type redemption struct {
	key     KeyHash
	session auth.SessionID
	serial  auth.Serial
}

func scanRedemption(scan scanFunc) (redemption, error) {
	var r redemption
	err := scan(&r.key, &r.session, &r.serial)
	return r, err
}

// refuseLocked looks for a lock that covers the session. A lock compares with
// the session's beginning, so that renewals do not step over it; and at the
// beginning with the date of the token, so that one from before a logout does
// not begin a session after it.
func (t *tx) refuseLocked(ctx context.Context, in Issuance, s Session) error {
	locks, err := all(ctx, t, scanLock, selectLocks, millis(t.now))
	if err != nil {
		return err
	}
	subject := LockSubject{
		User: s.User, Device: s.Device, Session: s.ID, Provider: s.Provider,
		Groups: in.Groups, GroupsKnown: in.GroupsKnown, ProviderSID: s.ProviderSID, IssuedAt: s.Created,
	}
	if !in.Renewal && !in.TokenIssuedAt.IsZero() && in.TokenIssuedAt.Before(s.Created) {
		subject.IssuedAt = in.TokenIssuedAt
	}
	for _, l := range locks {
		if l.Covers(subject, t.now) {
			return &LockedError{Lock: l}
		}
	}
	return nil
}

func (t *tx) putCertificate(ctx context.Context, c Certificate) error {
	if c.Serial == "" || len(c.Chain) == 0 {
		return errors.New("a certificate without a serial or a chain cannot enter the inventory")
	}
	var session any // NULL for a gateway's own
	if c.Session != "" {
		session = string(c.Session)
	}
	var chain []byte
	for _, der := range c.Chain {
		chain = append(chain, der...)
	}
	return t.exec(ctx, insertCertificate, c.Serial, c.Kind, session, c.Holder, c.Fingerprint(),
		millis(c.IssuedAt), millis(c.NotBefore), millis(c.NotAfter), chain)
}

// RecordGatewayCertificate puts a gateway's own certificate into the inventory.
func (s *Store) RecordGatewayCertificate(ctx context.Context, c Certificate) error {
	c.Kind, c.Session = CertificateGateway, ""
	return s.inTx(ctx, unordered, func(tx *tx) error { return tx.putCertificate(ctx, c) })
}

// Certificate gets one entry of the inventory, or ErrNotFound.
func (s *Store) Certificate(ctx context.Context, serial auth.Serial) (Certificate, error) {
	return one(ctx, s.read, scanCertificate, certificateBySerial, serial)
}

// CertificatesOfUser lists up to limit certificates of a person, newest first.
func (s *Store) CertificatesOfUser(ctx context.Context, id auth.UserID, limit int) ([]Certificate, error) {
	return all(ctx, s.read.listing(), scanCertificate, certificatesOfUser, id, limit)
}

// CertificatesOf lists the certificates of a session, oldest first.
func (s *Store) CertificatesOf(ctx context.Context, id auth.SessionID) ([]Certificate, error) {
	return all(ctx, s.read, scanCertificate, certificatesOfSession, id)
}

func scanCertificate(scan scanFunc) (Certificate, error) {
	var c Certificate
	var issued, before, after int64
	var chain []byte
	if err := scan(&c.Serial, &c.Kind, &c.Session, &c.Holder, &issued, &before, &after, &chain); err != nil {
		return c, err
	}
	c.IssuedAt, c.NotBefore, c.NotAfter = fromMillis(issued), fromMillis(before), fromMillis(after)
	certs, err := x509.ParseCertificates(chain)
	if err != nil {
		return c, fmt.Errorf("certificate %s: %w", c.Serial, err)
	}
	for _, cert := range certs {
		c.Chain = append(c.Chain, cert.Raw)
	}
	return c, nil
}
