CREATE TABLE audit_actors (
    id         INTEGER PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    user_id    TEXT NOT NULL,
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    session_id TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    serial     TEXT NOT NULL,
    remote     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_checkpoints (
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    size    INTEGER NOT NULL,
    note    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (gateway, log)
) STRICT;

CREATE TABLE audit_links (
    link       TEXT PRIMARY KEY,
    subject_id INTEGER NOT NULL REFERENCES audit_subjects (id),
    at         INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_logs (
    id      INTEGER PRIMARY KEY,
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    UNIQUE (gateway, log)
) STRICT;

CREATE TABLE audit_positions (
    gateway    TEXT PRIMARY KEY,
    position   TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_rows (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    log_id      INTEGER NOT NULL REFERENCES audit_logs (id),
    seq         INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    event       TEXT NOT NULL,
    reference   TEXT NOT NULL,
    actor_id    INTEGER NOT NULL REFERENCES audit_actors (id),
    subject_id  INTEGER REFERENCES audit_subjects (id),
    service     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    target      TEXT NOT NULL,
    address     TEXT NOT NULL,
    rule        TEXT NOT NULL,
    policy      TEXT NOT NULL,
    code        TEXT NOT NULL,
    condition   TEXT NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    stream      TEXT NOT NULL,
    link        TEXT NOT NULL,
    sent        INTEGER NOT NULL,
    received    INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    repeated    INTEGER NOT NULL,
    UNIQUE (log_id, seq)
) STRICT;

CREATE TABLE audit_subjects (
    id         INTEGER PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    facts      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

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

CREATE TABLE gateways (
    id            TEXT PRIMARY KEY,
    address       TEXT NOT NULL,
    version       TEXT NOT NULL,
    policy_digest TEXT NOT NULL,
    started_at    INTEGER NOT NULL,
    sessions      INTEGER NOT NULL,
    streams       INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE live (
    gateway    TEXT NOT NULL,
    id         INTEGER NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    session_id TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    serial     TEXT NOT NULL,
    remote     TEXT NOT NULL,
    client     TEXT NOT NULL,
    since_at   INTEGER NOT NULL,
    not_after  INTEGER NOT NULL,
    deadline   INTEGER NOT NULL,
    streams    INTEGER NOT NULL,
    bytes_in   INTEGER NOT NULL,
    bytes_out  INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (gateway, id)
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

CREATE TABLE logouts (
    token      TEXT PRIMARY KEY,
    seen_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
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
, comment TEXT NOT NULL DEFAULT '') STRICT;

CREATE TABLE redemptions (
    token       TEXT PRIMARY KEY,
    key_hash    TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    serial      TEXT NOT NULL,
    redeemed_at INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE requests (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL,
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    service    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    lasts      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state      TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_at INTEGER NOT NULL,
    note       TEXT NOT NULL,
    until_at   INTEGER NOT NULL
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
    provider_sid TEXT NOT NULL DEFAULT '') STRICT;

CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    issuer        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    provider      TEXT NOT NULL,
    display_name  TEXT NOT NULL,
    email         TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    last_seen_at  INTEGER NOT NULL, group_list TEXT NOT NULL DEFAULT '[]', groups_known INTEGER NOT NULL DEFAULT 0, email_trusted INTEGER NOT NULL DEFAULT 0, acr TEXT NOT NULL DEFAULT '', amr_list TEXT NOT NULL DEFAULT '[]', last_login TEXT NOT NULL DEFAULT '',
    UNIQUE (issuer, subject)
) STRICT;

CREATE INDEX audit_actors_device ON audit_actors (device_id);

CREATE INDEX audit_actors_session ON audit_actors (session_id);

CREATE INDEX audit_actors_user ON audit_actors (user_id);

CREATE INDEX audit_links_at ON audit_links (at);

CREATE INDEX audit_links_subject ON audit_links (subject_id);

CREATE INDEX audit_rows_actor ON audit_rows (actor_id, at);

CREATE INDEX audit_rows_at ON audit_rows (at, id);

CREATE INDEX audit_rows_event ON audit_rows (event, at, id);

CREATE INDEX audit_rows_reference ON audit_rows (reference) WHERE reference <> '';

CREATE INDEX audit_rows_service ON audit_rows (service, at, id);

CREATE INDEX audit_rows_subject ON audit_rows (subject_id);

CREATE INDEX certificates_not_after ON certificates (not_after);

CREATE INDEX certificates_session ON certificates (session_id);

CREATE INDEX challenges_serial ON challenges (serial, created_at);

CREATE INDEX device_grants_expires ON device_grants (expires_at);

CREATE INDEX locks_target ON locks (kind, target);

CREATE INDEX logouts_expires ON logouts (expires_at);

CREATE INDEX policy_versions_digest ON policy_versions (digest);

CREATE INDEX redemptions_expires ON redemptions (expires_at);

CREATE INDEX requests_state ON requests (state, created_at);

CREATE INDEX requests_user ON requests (user_id, state);

CREATE INDEX sessions_deadline ON sessions (deadline);

CREATE INDEX sessions_device ON sessions (device_id);

CREATE INDEX sessions_provider_sid ON sessions (provider, provider_sid);

CREATE INDEX sessions_user ON sessions (user_id);

CREATE INDEX users_email ON users (lower(email));
