-- What more than one gateway shares, and what an administrator asks for.

-- +goose Up

-- What the provider said of a person at the latest issuance. Lists are JSON.
ALTER TABLE users ADD COLUMN group_list TEXT NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN groups_known INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN email_trusted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE users ADD COLUMN acr TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN amr_list TEXT NOT NULL DEFAULT '[]';
ALTER TABLE users ADD COLUMN last_login TEXT NOT NULL DEFAULT '';
CREATE INDEX users_email ON users (lower(email));

-- The provider's own session, which a back-channel logout names. Locks and
-- issuances are ordered by the database's own locks instead of this counter.
ALTER TABLE sessions ADD COLUMN provider_sid TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions DROP COLUMN lock_count;
CREATE INDEX sessions_provider_sid ON sessions (provider, provider_sid);

-- Logout tokens are accepted once.
CREATE TABLE logouts (
    token      TEXT PRIMARY KEY,
    seen_at    INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX logouts_expires ON logouts (expires_at);

ALTER TABLE policy_versions ADD COLUMN comment TEXT NOT NULL DEFAULT '';

-- Requests for a service for some time, and what became of them. lasts is in
-- milliseconds; until_at is the end of an approved one.
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
CREATE INDEX requests_user ON requests (user_id, state);
CREATE INDEX requests_state ON requests (state, created_at);

-- The gateways that share this database, and their live connections.
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

-- The index of the audit logs, which are files. What repeats in millions of
-- rows stands once: the log, the actor, and the facts of a subject that policy
-- asks for.
CREATE TABLE audit_logs (
    id      INTEGER PRIMARY KEY,
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    UNIQUE (gateway, log)
) STRICT;

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
CREATE INDEX audit_actors_user ON audit_actors (user_id);
CREATE INDEX audit_actors_session ON audit_actors (session_id);
CREATE INDEX audit_actors_device ON audit_actors (device_id);

CREATE TABLE audit_subjects (
    id         INTEGER PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    facts      TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- The subject that a connection was last known as, for the streams on it.
CREATE TABLE audit_links (
    link       TEXT PRIMARY KEY,
    subject_id INTEGER NOT NULL REFERENCES audit_subjects (id),
    at         INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_links_at ON audit_links (at);
CREATE INDEX audit_links_subject ON audit_links (subject_id);

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
CREATE INDEX audit_rows_at ON audit_rows (at, id);
CREATE INDEX audit_rows_actor ON audit_rows (actor_id, at);
CREATE INDEX audit_rows_subject ON audit_rows (subject_id);
CREATE INDEX audit_rows_service ON audit_rows (service, at, id);
CREATE INDEX audit_rows_event ON audit_rows (event, at, id);
CREATE INDEX audit_rows_reference ON audit_rows (reference) WHERE reference <> '';

-- How far each gateway's files are indexed, and the last signed checkpoint of
-- each log.
CREATE TABLE audit_positions (
    gateway    TEXT PRIMARY KEY,
    position   TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE TABLE audit_checkpoints (
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    size    INTEGER NOT NULL,
    note    TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (gateway, log)
) STRICT;
