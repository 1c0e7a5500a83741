-- The same as the SQLite schema of version 2, from which this one starts: what
-- migrations/sqlite says of each table holds here. Times are integers,
-- milliseconds since 1970 UTC; 0 means never. Migrations only go forward.

-- +goose Up

-- What this database is: trust_domain, policy_source, and the change counter
-- that other gateways poll.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- From group_list on: what the provider said of a person at the latest
-- issuance. Lists are JSON.
CREATE TABLE users (
    id            TEXT PRIMARY KEY,
    issuer        TEXT NOT NULL,
    subject       TEXT NOT NULL,
    provider      TEXT NOT NULL,
    display_name  TEXT NOT NULL,
    email         TEXT NOT NULL,
    first_seen_at BIGINT NOT NULL,
    last_seen_at  BIGINT NOT NULL,
    group_list    TEXT NOT NULL,
    groups_known  BOOLEAN NOT NULL,
    email_trusted BOOLEAN NOT NULL,
    acr           TEXT NOT NULL,
    amr_list      TEXT NOT NULL,
    last_login    TEXT NOT NULL,
    UNIQUE (issuer, subject)
);
CREATE INDEX users_email ON users (lower(email));

-- A session begins with a login and outlives its certificates. provider_sid is
-- the provider's own session, which a back-channel logout names.
CREATE TABLE sessions (
    id              TEXT PRIMARY KEY,
    user_id         TEXT NOT NULL REFERENCES users (id),
    device_id       TEXT NOT NULL,
    provider        TEXT NOT NULL,
    login_kind      TEXT NOT NULL,
    key_hash        TEXT NOT NULL,
    nonce           TEXT NOT NULL,
    client          TEXT NOT NULL,
    auth_time       BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    deadline        BIGINT NOT NULL,
    token_issued_at BIGINT NOT NULL,
    ended_at        BIGINT NOT NULL,
    end_reason      TEXT NOT NULL,
    provider_sid    TEXT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_device ON sessions (device_id);
CREATE INDEX sessions_deadline ON sessions (deadline);
CREATE INDEX sessions_provider_sid ON sessions (provider, provider_sid);

-- The inventory: every certificate, before it leaves. A gateway's own
-- certificate has no session.
CREATE TABLE certificates (
    serial      TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    session_id  TEXT REFERENCES sessions (id),
    holder      TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    issued_at   BIGINT NOT NULL,
    not_before  BIGINT NOT NULL,
    not_after   BIGINT NOT NULL,
    chain       BYTEA NOT NULL
);
CREATE INDEX certificates_session ON certificates (session_id);
CREATE INDEX certificates_not_after ON certificates (not_after);

-- A token is redeemed once. The serial has no foreign key: a redemption may
-- have to outlive the certificate that it paid for.
CREATE TABLE redemptions (
    token       TEXT PRIMARY KEY,
    key_hash    TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    serial      TEXT NOT NULL,
    redeemed_at BIGINT NOT NULL,
    expires_at  BIGINT NOT NULL
);
CREATE INDEX redemptions_expires ON redemptions (expires_at);

CREATE TABLE challenges (
    hash       TEXT PRIMARY KEY,
    serial     TEXT NOT NULL REFERENCES certificates (serial) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX challenges_serial ON challenges (serial, created_at);

-- Device logins that the gateway polls. What is secret in them is sealed with a
-- key that only the polling client holds.
CREATE TABLE device_grants (
    id_hash         TEXT PRIMARY KEY,
    provider        TEXT NOT NULL,
    csr             BYTEA NOT NULL,
    device_id       TEXT NOT NULL,
    client          TEXT NOT NULL,
    sealed_code     BYTEA NOT NULL,
    sealed_refresh  BYTEA NOT NULL,
    redemption      TEXT NOT NULL,
    failure         TEXT NOT NULL,
    poll_interval   BIGINT NOT NULL,
    next_poll_at    BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    expires_at      BIGINT NOT NULL
);
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
    created_at    BIGINT NOT NULL,
    issued_before BIGINT NOT NULL,
    expires_at    BIGINT NOT NULL
);
CREATE INDEX locks_target ON locks (kind, target);

-- Policies in the order in which they came into force; one that comes back has
-- a row for each time.
CREATE TABLE policy_versions (
    number      BIGINT PRIMARY KEY,
    digest      TEXT NOT NULL,
    source      TEXT NOT NULL,
    author      TEXT NOT NULL,
    accepted_at BIGINT NOT NULL,
    document    BYTEA NOT NULL,
    comment     TEXT NOT NULL
);
CREATE INDEX policy_versions_digest ON policy_versions (digest);

-- Logout tokens are accepted once.
CREATE TABLE logouts (
    token      TEXT PRIMARY KEY,
    seen_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX logouts_expires ON logouts (expires_at);

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
    lasts      BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    state      TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_at BIGINT NOT NULL,
    note       TEXT NOT NULL,
    until_at   BIGINT NOT NULL
);
CREATE INDEX requests_user ON requests (user_id, state);
CREATE INDEX requests_state ON requests (state, created_at);

-- The gateways that share this database, and their live connections.
CREATE TABLE gateways (
    id            TEXT PRIMARY KEY,
    address       TEXT NOT NULL,
    version       TEXT NOT NULL,
    policy_digest TEXT NOT NULL,
    started_at    BIGINT NOT NULL,
    sessions      BIGINT NOT NULL,
    streams       BIGINT NOT NULL,
    last_seen_at  BIGINT NOT NULL
);

CREATE TABLE live (
    gateway    TEXT NOT NULL,
    id         BIGINT NOT NULL,
    user_id    TEXT NOT NULL,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    session_id TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    serial     TEXT NOT NULL,
    remote     TEXT NOT NULL,
    client     TEXT NOT NULL,
    since_at   BIGINT NOT NULL,
    not_after  BIGINT NOT NULL,
    deadline   BIGINT NOT NULL,
    streams    BIGINT NOT NULL,
    bytes_in   BIGINT NOT NULL,
    bytes_out  BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (gateway, id)
);

-- The index of the audit logs, which are files. What repeats in millions of
-- rows stands once: the log, the actor, and the facts of a subject that policy
-- asks for.
CREATE TABLE audit_logs (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    UNIQUE (gateway, log)
);

CREATE TABLE audit_actors (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    user_id    TEXT NOT NULL,
    provider   TEXT NOT NULL,
    name       TEXT NOT NULL,
    email      TEXT NOT NULL,
    session_id TEXT NOT NULL,
    device_id  TEXT NOT NULL,
    serial     TEXT NOT NULL,
    remote     TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX audit_actors_user ON audit_actors (user_id);
CREATE INDEX audit_actors_session ON audit_actors (session_id);
CREATE INDEX audit_actors_device ON audit_actors (device_id);

CREATE TABLE audit_subjects (
    id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest     TEXT NOT NULL UNIQUE,
    facts      TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The subject that a connection was last known as, for the streams on it.
CREATE TABLE audit_links (
    link       TEXT PRIMARY KEY,
    subject_id BIGINT NOT NULL REFERENCES audit_subjects (id),
    at         BIGINT NOT NULL
);
CREATE INDEX audit_links_at ON audit_links (at);
CREATE INDEX audit_links_subject ON audit_links (subject_id);

CREATE TABLE audit_rows (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id      BIGINT NOT NULL REFERENCES audit_logs (id),
    seq         BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    event       TEXT NOT NULL,
    reference   TEXT NOT NULL,
    actor_id    BIGINT NOT NULL REFERENCES audit_actors (id),
    subject_id  BIGINT REFERENCES audit_subjects (id),
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
    sent        BIGINT NOT NULL,
    received    BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    repeated    BIGINT NOT NULL,
    UNIQUE (log_id, seq)
);
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
    updated_at BIGINT NOT NULL
);

CREATE TABLE audit_checkpoints (
    gateway TEXT NOT NULL,
    log     TEXT NOT NULL,
    size    BIGINT NOT NULL,
    note    TEXT NOT NULL,
    at      BIGINT NOT NULL,
    PRIMARY KEY (gateway, log)
);
