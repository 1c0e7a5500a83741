package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// advisoryClass keeps our advisory locks apart from those that others take in
// the same database: "culv".
const advisoryClass = 0x63756c76

// notifyChannel is where PostgreSQL tells that the change counter moved.
const notifyChannel = "culvert_changes"

var postgresDialect = dialect{
	goose:             goose.DialectPostgres,
	migrations:        "migrations/postgres",
	countVersionTable: "SELECT count(*) FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = 'goose_db_version'",
	now:               "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)",
	forUpdate:         " FOR UPDATE",
	orderShared:       fmt.Sprintf("SELECT pg_advisory_xact_lock_shared(%d, $1)", advisoryClass),
	orderExclusive:    fmt.Sprintf("SELECT pg_advisory_xact_lock(%d, $1)", advisoryClass),
	notify:            "SELECT pg_notify('" + notifyChannel + "', '')",
	locker:            migrationLock{},
	retries:           connections + 1,
}

// The bounds of the server's side. They are wider than what a caller here waits
// (see patience), but for a transaction that does nothing: a gateway that hangs
// in one must not keep a lock on somebody from coming into force elsewhere.
const (
	connections    = 8
	connectTimeout = 5 * time.Second
	serverLimits   = "SET statement_timeout = 65000; SET lock_timeout = 6000; SET idle_in_transaction_session_timeout = 4000"
)

// openPostgres makes the pool. It connects when it is first used.
func (s *Store) openPostgres(u *url.URL) error {
	config, err := postgresConfig(u)
	if err != nil {
		return err
	}
	// Not with the start of the connection: a pooler in between would refuse them.
	db := stdlib.OpenDB(*config, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, serverLimits)
		return err
	}))
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.write = db
	s.read = pool{DB: db, patience: patience, retries: s.dialect.retries, lists: make(chan struct{}, connections/2)}
	s.postgres = config
	return nil
}

// postgresConfig reads the URL, with defaults that are safe: a server elsewhere
// must prove who it is, and of several hosts the one that takes writes is meant.
func postgresConfig(u *url.URL) (*pgx.ConnConfig, error) {
	full := *u
	q := full.Query()
	if !q.Has("sslmode") && !localHosts(u.Host) && !localHosts(q.Get("host")) {
		q.Set("sslmode", "verify-full")
	}
	if !q.Has("target_session_attrs") {
		q.Set("target_session_attrs", "read-write")
	}
	full.RawQuery = q.Encode()
	config, err := pgx.ParseConfig(full.String())
	if err != nil {
		return nil, fmt.Errorf("the settings in its URL cannot be used: %s", withoutSecrets(err, &full))
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > connectTimeout {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "culvert-gateway"
	}
	return config, nil
}

// withoutSecrets gives the cause of an error about the URL, not the URL.
func withoutSecrets(err error, u *url.URL) string {
	if cause := errors.Unwrap(err); cause != nil {
		err = cause
	}
	text := err.Error()
	secrets := []string{}
	if u.User != nil {
		password, _ := u.User.Password()
		secrets = append(secrets, password, url.QueryEscape(password), url.PathEscape(password))
	}
	for _, name := range []string{"password", "sslpassword"} {
		secrets = append(secrets, u.Query()[name]...)
	}
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "xxxxx")
		}
	}
	return text
}

// localHosts reports whether every one of a list of hosts is this machine: a
// loopback address or the folder of a socket. No host at all is none.
func localHosts(list string) bool {
	if list == "" {
		return false
	}
	for host := range strings.SplitSeq(list, ",") {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && !strings.HasPrefix(host, "/") && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

// migrationLock lets one process migrate while the others wait for it. The
// connection keeps the lock, so that it ends with the process.
type migrationLock struct{}

const orderMigration = 0

func (migrationLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	// A migration may take its time, and so may waiting for one.
	if _, err := conn.ExecContext(ctx, "SET statement_timeout = 0; SET lock_timeout = 0"); err != nil {
		return err
	}
	_, err := conn.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_lock(%d, %d)", advisoryClass, orderMigration))
	return err
}

func (migrationLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, fmt.Sprintf("SELECT pg_advisory_unlock(%d, %d); %s", advisoryClass, orderMigration, serverLimits))
	return err
}

// The codes of PostgreSQL that decide what happens next (appendix A of its
// manual).
const (
	codeSerialization = "40001"
	codeDeadlock      = "40P01"
	codeAdminShutdown = "57P01"
	codeCrashShutdown = "57P02"
	codeIdleSession   = "57P05"
)

// mayRepeat reports a transaction that the database gave up in favour of
// another.
func mayRepeat(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == codeSerialization || e.Code == codeDeadlock)
}

// connectionLost reports that the connection died, which says nothing about the
// next one.
func connectionLost(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code == codeAdminShutdown || e.Code == codeCrashShutdown || e.Code == codeIdleSession
	}
	var noConnection *pgconn.ConnectError
	var broken *net.OpError
	switch {
	case errors.As(err, &noConnection), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &broken):
		return !broken.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}
