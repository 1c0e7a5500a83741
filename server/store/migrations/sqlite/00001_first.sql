-- Times are integers, milliseconds since 1970 UTC; 0 means never. Hashes and
-- identifiers are text. Migrations only go forward: a mistake is mended by the
-- next one.

-- +goose Up

-- What this database is: trust_domain, policy_source, and the change counter
-- that other gateways poll.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    issuer        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    provider      TEXT NOT NULL,
    display_name  TEXT NOT NULL,
    email         TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL,
    UNIQUE (issuer, subject)
) STRICT;

-- A session begins with a login and outlives its certificates.
CREATE TABLE sessions (
    id              TEXT PRIMARY KEY,
    user_id         TEXT NOT NULL REFERENCES users (id),
    device_id       TEXT NOT NULL,
    provider        TEXT NOT NULL,
    login_kind      TEXT NOT NULL,
    key_hash        TEXT NOT NULL,
    nonce           TEXT NOT NULL,
    client          TEXT NOT NULL,
    auth_time       INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    deadline        INTEGER NOT NULL,
    token_issued_at INTEGER NOT NULL,
    ended_at        INTEGER NOT NULL,
    end_reason      TEXT NOT NULL,
    lock_count      INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_device ON sessions (device_id);
CREATE INDEX sessions_deadline ON sessions (deadline);

-- The inventory: every certificate, before it leaves. A gateway's own
-- certificate has no session.
CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    session_id  TEXT REFERENCES sessions (id),
    holder      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    issued_at   INTEGER NOT NULL,
    not_before  INTEGER NOT NULL,
    not_after   INTEGER NOT NULL,
    chain       BLOB NOT NULL
) STRICT;
CREATE INDEX certificates_session ON certificates (session_id);
CREATE INDEX certificates_not_after ON certificates (not_after);

-- A token is redeemed once. The serial has no foreign key: a redemption may
-- have to outlive the certificate that it paid for.
CREATE TABLE redemptions (
    token       TEXT PRIMARY KEY,
    key_hash    TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    serial      TEXT NOT NULL,
    redeemed_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX redemptions_expires ON redemptions (expires_at);

CREATE TABLE challenges (
    hash       TEXT PRIMARY KEY,
    serial     TEXT NOT NULL REFERENCES certificates (serial) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX challenges_serial ON challenges (serial, created_at);

-- Device logins that the gateway polls. What is secret in them is sealed with a
-- key that only the polling client holds.
CREATE TABLE device_grants (
    id_hash         TEXT PRIMARY KEY,
    provider        TEXT NOT NULL,
    csr             BLOB NOT NULL,
    device_id       TEXT NOT NULL,
    client          TEXT NOT NULL,
    sealed_code     BLOB NOT NULL,
    sealed_refresh  BLOB NOT NULL,
    redemption      TEXT NOT NULL,
    failure         TEXT NOT NULL,
    poll_interval   INTEGER NOT NULL,
    next_poll_at    INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX device_grants_expires ON device_grants (expires_at);

-- issued_before is the cut-off: only what was issued by then is locked; 0 locks
-- everything. session_id is set for a certificate, whose lock covers the
-- renewals of its session.
CREATE TABLE locks (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL,
    target        TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    message       TEXT NOT NULL,
    created_by    TEXT NOT NULL,
    created_at    INTEGER NOT NULL,
    issued_before INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX locks_target ON locks (kind, target);

-- Policies in the order in which they came into force; one that comes back has
-- a row for each time.
CREATE TABLE policy_versions (
    number      INTEGER PRIMARY KEY,
    digest      TEXT NOT NULL,
    source      TEXT NOT NULL,
    author      TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    document    BLOB NOT NULL
) STRICT;
CREATE INDEX policy_versions_digest ON policy_versions (digest);
