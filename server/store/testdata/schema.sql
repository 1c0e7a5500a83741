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

CREATE TABLE challenges (
    hash       TEXT PRIMARY KEY,
    serial     TEXT NOT NULL REFERENCES certificates (serial) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

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

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE policy_versions (
    number      INTEGER PRIMARY KEY,
    digest      TEXT NOT NULL,
    source      TEXT NOT NULL,
    author      TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    document    BLOB NOT NULL
) STRICT;

CREATE TABLE redemptions (
    token       TEXT PRIMARY KEY,
    key_hash    TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    serial      TEXT NOT NULL,
    redeemed_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;

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

CREATE INDEX certificates_not_after ON certificates (not_after);

CREATE INDEX certificates_session ON certificates (session_id);

CREATE INDEX challenges_serial ON challenges (serial, created_at);

CREATE INDEX device_grants_expires ON device_grants (expires_at);

CREATE INDEX locks_target ON locks (kind, target);

CREATE INDEX policy_versions_digest ON policy_versions (digest);

CREATE INDEX redemptions_expires ON redemptions (expires_at);

CREATE INDEX sessions_deadline ON sessions (deadline);

CREATE INDEX sessions_device ON sessions (device_id);

CREATE INDEX sessions_user ON sessions (user_id);

