// Package store persists what a gateway must not forget: sessions, every
// certificate that was issued, redeemed tokens, challenges, device logins, users
// seen, locks, accepted policies, requests; what gateways tell each other; and an
// index of the audit log. Its migrations are embedded and only go forward.
//
// It does not decide who may enrol, signs nothing and knows no HTTP; those are
// server/enroll and auth/ca. It is not the audit log, which is a file of its own.
//
// The database is SQLite, or PostgreSQL where more than one gateway shares it.
// What differs between them stands in one place, the type dialect; every
// statement is written for both. Times are those of the database's clock, which
// all gateways share. Every operation ends within seconds: when the database is
// away, hangs or fails over, with [ErrUnavailable], and the next one finds it
// when it is back.
//
// Secrets in the database: none in the clear. Tokens are kept as hashes, a
// device login's code and refresh token are sealed with a key that only the
// polling client has. Whoever can write to it can mark a redeemed token
// as fresh or drop a lock, so it is trusted like the gateway's configuration.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/jackc/pgx/v5"
)

// Errors that callers branch on.
var (
	// ErrUnavailable wraps every failure of the database itself.
	ErrUnavailable = errors.New("the database does not answer")
	// ErrNotFound reports a record that is not there.
	ErrNotFound = errors.New("not in the database")
	// ErrRedeemed reports a token that was redeemed for another key.
	ErrRedeemed = errors.New("the token was already redeemed")
	// ErrSessionEnded reports a session that is over: past its deadline,
	// logged out or ended by an administrator.
	ErrSessionEnded = errors.New("the session has ended")
	// ErrWrongKey reports a renewal for another key than the session's.
	ErrWrongKey = errors.New("the key is not the session's")
	// ErrTokenOld reports a token that is older than the last accepted.
	ErrTokenOld = errors.New("the token is older than the last one accepted")
)

// A LockedError reports that a lock stands against an issuance.
type LockedError struct{ Lock Lock }

func (e *LockedError) Error() string {
	return fmt.Sprintf("locked by a lock on this %s: %s", e.Lock.Kind, e.Lock.Message)
}

// Options say what the database must be. TrustDomain and Logger are required.
type Options struct {
	// TrustDomain is recorded in a new database and compared in an old one.
	TrustDomain auth.TrustDomain
	// PolicySource, file or managed, likewise. Empty is neither recorded nor
	// compared.
	PolicySource string
	Logger       *slog.Logger
	// Retention keeps ended sessions and expired certificates for so long
	// after their end; 0 means 90 days.
	Retention time.Duration
	// AuditRetention keeps the rows of the audit index for so long; 0 means 90
	// days. The files of the audit log have a retention of their own.
	AuditRetention time.Duration
	// Clock replaces the database's clock in tests. Optional.
	Clock func() time.Time
}

const defaultRetention = 90 * 24 * time.Hour

// Store is an open database. It is safe for concurrent use.
type Store struct {
	// write has one connection on SQLite, so that writers queue here, in
	// order, instead of spinning on the file's lock. Both are one pool on
	// PostgreSQL.
	write   *sql.DB
	read    pool
	dialect dialect
	// postgres is how to connect, nil on SQLite.
	postgres  *pgx.ConnConfig
	log       *slog.Logger
	retention time.Duration
	// auditRetention is that of the audit index.
	auditRetention time.Duration
	clock          func() time.Time
}

// Open opens the database, and on SQLite creates it when there is none. The text
// is sqlite:///absolute/path, sqlite:relative/path or a PostgreSQL URL
// (postgres://user:password@host/database?sslmode=verify-full, which is how a
// server elsewhere is verified unless the URL says otherwise); no error shows
// its password. It brings an older schema up to date. It refuses, and changes
// nothing in, a database that is corrupt, written by a newer version, of another
// trust domain or with another policy source.
func Open(ctx context.Context, text string, o Options) (*Store, error) {
	if o.TrustDomain == "" || o.Logger == nil {
		return nil, errors.New("open the database: the trust domain and a logger are required")
	}
	where, err := parseLocation(text)
	if err != nil {
		return nil, err
	}
	s := &Store{
		dialect: sqliteDialect, log: o.Logger, clock: o.Clock,
		retention:      cmp.Or(o.Retention, defaultRetention),
		auditRetention: cmp.Or(o.AuditRetention, defaultRetention),
	}
	if err := s.open(ctx, where, o); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open the database %s: %w", where, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, where location, o Options) error {
	var err error
	if where.url != nil {
		s.dialect = postgresDialect
		err = s.openPostgres(where.url)
	} else {
		err = s.openSQLite(ctx, where.path)
	}
	if err != nil {
		return err
	}
	return s.prepare(ctx, o)
}

// prepare migrates, and records or compares what the database is.
func (s *Store) prepare(ctx context.Context, o Options) error {
	if err := s.compareMeta(ctx, o); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	err := s.inTx(ctx, unordered, func(tx *tx) error {
		if err := tx.exec(ctx, insertMeta, metaTrustDomain, string(o.TrustDomain)); err != nil {
			return err
		}
		if o.PolicySource == "" {
			return nil
		}
		return tx.exec(ctx, insertMeta, metaPolicySource, o.PolicySource)
	})
	if err != nil {
		return err
	}
	// Another process may have made the database at the same time.
	return s.compareMeta(ctx, o)
}

const (
	metaTrustDomain  = "trust_domain"
	metaPolicySource = "policy_source"
	metaChanges      = "changes"
)

// compareMeta refuses a database that belongs to another installation, before
// anything is written to it.
func (s *Store) compareMeta(ctx context.Context, o Options) error {
	version, err := s.schemaVersion(ctx)
	if err != nil || version == 0 {
		return err
	}
	td, err := s.meta(ctx, metaTrustDomain)
	if err != nil {
		return err
	}
	if td != "" && td != string(o.TrustDomain) {
		return fmt.Errorf("it belongs to the trust domain %q, and the configuration says %q: use that gateway's database, or give this one a database of its own", td, o.TrustDomain)
	}
	source, err := s.meta(ctx, metaPolicySource)
	if err != nil {
		return err
	}
	if source != "" && o.PolicySource != "" && source != o.PolicySource {
		return fmt.Errorf("its policy comes from the source %q, and the configuration says %q: set policy.source back to %q", source, o.PolicySource, source)
	}
	return nil
}

// meta reads one entry; an absent one is empty.
func (s *Store) meta(ctx context.Context, name string) (string, error) {
	value, err := one(ctx, s.read, readText, selectMeta, name)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return value, err
}

// Close waits for running statements and closes the database.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read.DB, s.write} {
		if db != nil {
			errs = append(errs, db.Close()) // of the one pool of PostgreSQL, a second time does nothing
		}
	}
	return errors.Join(errs...)
}

// Ping reports whether the database can be written to right now.
func (s *Store) Ping(ctx context.Context) error {
	return s.inTx(ctx, unordered, func(*tx) error { return nil })
}

// Now is the database's clock, which orders issuance and locks across gateways.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	if s.clock != nil {
		return s.clock().UTC().Truncate(time.Millisecond), nil
	}
	return s.dialect.clock(ctx, s.read)
}

// unavailable marks a failure of the database; nil stays nil.
func unavailable(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

// millis stores a time; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// fromMillis is its inverse.
func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
