CONSTRAINT audit_actors audit_actors_digest_key UNIQUE (digest)

CONSTRAINT audit_actors audit_actors_pkey PRIMARY KEY (id)

CONSTRAINT audit_checkpoints audit_checkpoints_pkey PRIMARY KEY (gateway, log)

CONSTRAINT audit_links audit_links_pkey PRIMARY KEY (link)

CONSTRAINT audit_links audit_links_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES audit_subjects(id)

CONSTRAINT audit_logs audit_logs_gateway_log_key UNIQUE (gateway, log)

CONSTRAINT audit_logs audit_logs_pkey PRIMARY KEY (id)

CONSTRAINT audit_positions audit_positions_pkey PRIMARY KEY (gateway)

CONSTRAINT audit_rows audit_rows_actor_id_fkey FOREIGN KEY (actor_id) REFERENCES audit_actors(id)

CONSTRAINT audit_rows audit_rows_log_id_fkey FOREIGN KEY (log_id) REFERENCES audit_logs(id)

CONSTRAINT audit_rows audit_rows_log_id_seq_key UNIQUE (log_id, seq)

CONSTRAINT audit_rows audit_rows_pkey PRIMARY KEY (id)

CONSTRAINT audit_rows audit_rows_subject_id_fkey FOREIGN KEY (subject_id) REFERENCES audit_subjects(id)

CONSTRAINT audit_subjects audit_subjects_digest_key UNIQUE (digest)

CONSTRAINT audit_subjects audit_subjects_pkey PRIMARY KEY (id)

CONSTRAINT certificates certificates_pkey PRIMARY KEY (serial)

CONSTRAINT certificates certificates_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions(id)

CONSTRAINT challenges challenges_pkey PRIMARY KEY (hash)

CONSTRAINT challenges challenges_serial_fkey FOREIGN KEY (serial) REFERENCES certificates(serial) ON DELETE CASCADE

CONSTRAINT device_grants device_grants_pkey PRIMARY KEY (id_hash)

CONSTRAINT gateways gateways_pkey PRIMARY KEY (id)

CONSTRAINT live live_pkey PRIMARY KEY (gateway, id)

CONSTRAINT locks locks_pkey PRIMARY KEY (id)

CONSTRAINT logouts logouts_pkey PRIMARY KEY (token)

CONSTRAINT meta meta_pkey PRIMARY KEY (name)

CONSTRAINT policy_versions policy_versions_pkey PRIMARY KEY (number)

CONSTRAINT redemptions redemptions_pkey PRIMARY KEY (token)

CONSTRAINT requests requests_pkey PRIMARY KEY (id)

CONSTRAINT sessions sessions_pkey PRIMARY KEY (id)

CONSTRAINT sessions sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES users(id)

CONSTRAINT users users_issuer_subject_key UNIQUE (issuer, subject)

CONSTRAINT users users_pkey PRIMARY KEY (id)

INDEX CREATE INDEX audit_actors_device ON public.audit_actors USING btree (device_id)

INDEX CREATE INDEX audit_actors_session ON public.audit_actors USING btree (session_id)

INDEX CREATE INDEX audit_actors_user ON public.audit_actors USING btree (user_id)

INDEX CREATE INDEX audit_links_at ON public.audit_links USING btree (at)

INDEX CREATE INDEX audit_links_subject ON public.audit_links USING btree (subject_id)

INDEX CREATE INDEX audit_rows_actor ON public.audit_rows USING btree (actor_id, at)

INDEX CREATE INDEX audit_rows_at ON public.audit_rows USING btree (at, id)

INDEX CREATE INDEX audit_rows_event ON public.audit_rows USING btree (event, at, id)

INDEX CREATE INDEX audit_rows_reference ON public.audit_rows USING btree (reference) WHERE (reference <> ''::text)

INDEX CREATE INDEX audit_rows_service ON public.audit_rows USING btree (service, at, id)

INDEX CREATE INDEX audit_rows_subject ON public.audit_rows USING btree (subject_id)

INDEX CREATE INDEX certificates_not_after ON public.certificates USING btree (not_after)

INDEX CREATE INDEX certificates_session ON public.certificates USING btree (session_id)

INDEX CREATE INDEX challenges_serial ON public.challenges USING btree (serial, created_at)

INDEX CREATE INDEX device_grants_expires ON public.device_grants USING btree (expires_at)

INDEX CREATE INDEX locks_target ON public.locks USING btree (kind, target)

INDEX CREATE INDEX logouts_expires ON public.logouts USING btree (expires_at)

INDEX CREATE INDEX policy_versions_digest ON public.policy_versions USING btree (digest)

INDEX CREATE INDEX redemptions_expires ON public.redemptions USING btree (expires_at)

INDEX CREATE INDEX requests_state ON public.requests USING btree (state, created_at)

INDEX CREATE INDEX requests_user ON public.requests USING btree (user_id, state)

INDEX CREATE INDEX sessions_deadline ON public.sessions USING btree (deadline)

INDEX CREATE INDEX sessions_device ON public.sessions USING btree (device_id)

INDEX CREATE INDEX sessions_provider_sid ON public.sessions USING btree (provider, provider_sid)

INDEX CREATE INDEX sessions_user ON public.sessions USING btree (user_id)

INDEX CREATE INDEX users_email ON public.users USING btree (lower(email))

INDEX CREATE UNIQUE INDEX audit_actors_digest_key ON public.audit_actors USING btree (digest)

INDEX CREATE UNIQUE INDEX audit_actors_pkey ON public.audit_actors USING btree (id)

INDEX CREATE UNIQUE INDEX audit_checkpoints_pkey ON public.audit_checkpoints USING btree (gateway, log)

INDEX CREATE UNIQUE INDEX audit_links_pkey ON public.audit_links USING btree (link)

INDEX CREATE UNIQUE INDEX audit_logs_gateway_log_key ON public.audit_logs USING btree (gateway, log)

INDEX CREATE UNIQUE INDEX audit_logs_pkey ON public.audit_logs USING btree (id)

INDEX CREATE UNIQUE INDEX audit_positions_pkey ON public.audit_positions USING btree (gateway)

INDEX CREATE UNIQUE INDEX audit_rows_log_id_seq_key ON public.audit_rows USING btree (log_id, seq)

INDEX CREATE UNIQUE INDEX audit_rows_pkey ON public.audit_rows USING btree (id)

INDEX CREATE UNIQUE INDEX audit_subjects_digest_key ON public.audit_subjects USING btree (digest)

INDEX CREATE UNIQUE INDEX audit_subjects_pkey ON public.audit_subjects USING btree (id)

INDEX CREATE UNIQUE INDEX certificates_pkey ON public.certificates USING btree (serial)

INDEX CREATE UNIQUE INDEX challenges_pkey ON public.challenges USING btree (hash)

INDEX CREATE UNIQUE INDEX device_grants_pkey ON public.device_grants USING btree (id_hash)

INDEX CREATE UNIQUE INDEX gateways_pkey ON public.gateways USING btree (id)

INDEX CREATE UNIQUE INDEX live_pkey ON public.live USING btree (gateway, id)

INDEX CREATE UNIQUE INDEX locks_pkey ON public.locks USING btree (id)

INDEX CREATE UNIQUE INDEX logouts_pkey ON public.logouts USING btree (token)

INDEX CREATE UNIQUE INDEX meta_pkey ON public.meta USING btree (name)

INDEX CREATE UNIQUE INDEX policy_versions_pkey ON public.policy_versions USING btree (number)

INDEX CREATE UNIQUE INDEX redemptions_pkey ON public.redemptions USING btree (token)

INDEX CREATE UNIQUE INDEX requests_pkey ON public.requests USING btree (id)

INDEX CREATE UNIQUE INDEX sessions_pkey ON public.sessions USING btree (id)

INDEX CREATE UNIQUE INDEX users_issuer_subject_key ON public.users USING btree (issuer, subject)

INDEX CREATE UNIQUE INDEX users_pkey ON public.users USING btree (id)

TABLE audit_actors
    id bigint NOT NULL IDENTITY
    digest text NOT NULL
    user_id text NOT NULL
    provider text NOT NULL
    name text NOT NULL
    email text NOT NULL
    session_id text NOT NULL
    device_id text NOT NULL
    serial text NOT NULL
    remote text NOT NULL
    created_at bigint NOT NULL

TABLE audit_checkpoints
    gateway text NOT NULL
    log text NOT NULL
    size bigint NOT NULL
    note text NOT NULL
    at bigint NOT NULL

TABLE audit_links
    link text NOT NULL
    subject_id bigint NOT NULL
    at bigint NOT NULL

TABLE audit_logs
    id bigint NOT NULL IDENTITY
    gateway text NOT NULL
    log text NOT NULL

TABLE audit_positions
    gateway text NOT NULL
    position text NOT NULL
    updated_at bigint NOT NULL

TABLE audit_rows
    id bigint NOT NULL IDENTITY
    log_id bigint NOT NULL
    seq bigint NOT NULL
    at bigint NOT NULL
    event text NOT NULL
    reference text NOT NULL
    actor_id bigint NOT NULL
    subject_id bigint
    service text NOT NULL
    kind text NOT NULL
    target text NOT NULL
    address text NOT NULL
    rule text NOT NULL
    policy text NOT NULL
    code text NOT NULL
    condition text NOT NULL
    reason text NOT NULL
    detail text NOT NULL
    stream text NOT NULL
    link text NOT NULL
    sent bigint NOT NULL
    received bigint NOT NULL
    duration_ms bigint NOT NULL
    repeated bigint NOT NULL

TABLE audit_subjects
    id bigint NOT NULL IDENTITY
    digest text NOT NULL
    facts text NOT NULL
    created_at bigint NOT NULL

TABLE certificates
    serial text NOT NULL
    kind text NOT NULL
    session_id text
    holder text NOT NULL
    fingerprint text NOT NULL
    issued_at bigint NOT NULL
    not_before bigint NOT NULL
    not_after bigint NOT NULL
    chain bytea NOT NULL

TABLE challenges
    hash text NOT NULL
    serial text NOT NULL
    created_at bigint NOT NULL
    expires_at bigint NOT NULL

TABLE device_grants
    id_hash text NOT NULL
    provider text NOT NULL
    csr bytea NOT NULL
    device_id text NOT NULL
    client text NOT NULL
    sealed_code bytea NOT NULL
    sealed_refresh bytea NOT NULL
    redemption text NOT NULL
    failure text NOT NULL
    poll_interval bigint NOT NULL
    next_poll_at bigint NOT NULL
    created_at bigint NOT NULL
    expires_at bigint NOT NULL

TABLE gateways
    id text NOT NULL
    address text NOT NULL
    version text NOT NULL
    policy_digest text NOT NULL
    started_at bigint NOT NULL
    sessions bigint NOT NULL
    streams bigint NOT NULL
    last_seen_at bigint NOT NULL

TABLE live
    gateway text NOT NULL
    id bigint NOT NULL
    user_id text NOT NULL
    name text NOT NULL
    email text NOT NULL
    session_id text NOT NULL
    device_id text NOT NULL
    serial text NOT NULL
    remote text NOT NULL
    client text NOT NULL
    since_at bigint NOT NULL
    not_after bigint NOT NULL
    deadline bigint NOT NULL
    streams bigint NOT NULL
    bytes_in bigint NOT NULL
    bytes_out bigint NOT NULL
    updated_at bigint NOT NULL

TABLE locks
    id text NOT NULL
    kind text NOT NULL
    target text NOT NULL
    session_id text NOT NULL
    message text NOT NULL
    created_by text NOT NULL
    created_at bigint NOT NULL
    issued_before bigint NOT NULL
    expires_at bigint NOT NULL

TABLE logouts
    token text NOT NULL
    seen_at bigint NOT NULL
    expires_at bigint NOT NULL

TABLE meta
    name text NOT NULL
    value text NOT NULL

TABLE policy_versions
    number bigint NOT NULL
    digest text NOT NULL
    source text NOT NULL
    author text NOT NULL
    accepted_at bigint NOT NULL
    document bytea NOT NULL
    comment text NOT NULL

TABLE redemptions
    token text NOT NULL
    key_hash text NOT NULL
    session_id text NOT NULL
    serial text NOT NULL
    redeemed_at bigint NOT NULL
    expires_at bigint NOT NULL

TABLE requests
    id text NOT NULL
    user_id text NOT NULL
    provider text NOT NULL
    name text NOT NULL
    email text NOT NULL
    service text NOT NULL
    reason text NOT NULL
    lasts bigint NOT NULL
    created_at bigint NOT NULL
    state text NOT NULL
    decided_by text NOT NULL
    decided_at bigint NOT NULL
    note text NOT NULL
    until_at bigint NOT NULL

TABLE sessions
    id text NOT NULL
    user_id text NOT NULL
    device_id text NOT NULL
    provider text NOT NULL
    login_kind text NOT NULL
    key_hash text NOT NULL
    nonce text NOT NULL
    client text NOT NULL
    auth_time bigint NOT NULL
    created_at bigint NOT NULL
    deadline bigint NOT NULL
    token_issued_at bigint NOT NULL
    ended_at bigint NOT NULL
    end_reason text NOT NULL
    provider_sid text NOT NULL

TABLE users
    id text NOT NULL
    issuer text NOT NULL
    subject text NOT NULL
    provider text NOT NULL
    display_name text NOT NULL
    email text NOT NULL
    first_seen_at bigint NOT NULL
    last_seen_at bigint NOT NULL
    group_list text NOT NULL
    groups_known boolean NOT NULL
    email_trusted boolean NOT NULL
    acr text NOT NULL
    amr_list text NOT NULL
    last_login text NOT NULL
