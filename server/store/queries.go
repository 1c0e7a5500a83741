package store

// Every statement stands here and in queries_shared.go and queries_audit.go,
// written for SQLite and PostgreSQL alike: numbered parameters, ON CONFLICT,
// RETURNING, no function but lower, substr, coalesce and aggregates. A parameter that
// PostgreSQL would take for a small number is cast. Times are milliseconds.
const (
	selectVersion = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`

	insertMeta  = `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`
	selectMeta  = `SELECT value FROM meta WHERE name = $1`
	countChange = `INSERT INTO meta (name, value) VALUES ($1, '1')
		ON CONFLICT (name) DO UPDATE SET value = CAST(CAST(meta.value AS BIGINT) + 1 AS TEXT)`

	// upsertUser keeps what a provider leaves out of refreshed tokens.
	upsertUser = `INSERT INTO users (id, issuer, subject, provider, display_name, email, first_seen_at, last_seen_at,
			group_list, groups_known, email_trusted, acr, amr_list, last_login)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (id) DO UPDATE SET provider = excluded.provider, last_seen_at = excluded.last_seen_at,
			display_name = CASE WHEN excluded.display_name = '' THEN users.display_name ELSE excluded.display_name END,
			email = CASE WHEN excluded.email = '' THEN users.email ELSE excluded.email END,
			email_trusted = CASE WHEN excluded.email = '' THEN users.email_trusted ELSE excluded.email_trusted END,
			last_login = CASE WHEN excluded.last_login = '' THEN users.last_login ELSE excluded.last_login END,
			group_list = excluded.group_list, groups_known = excluded.groups_known,
			acr = excluded.acr, amr_list = excluded.amr_list`
	selectUsers = `SELECT id, issuer, subject, provider, display_name, email, first_seen_at, last_seen_at,
			group_list, groups_known, email_trusted, acr, amr_list, last_login
		FROM users`
	userByID     = selectUsers + ` WHERE id = $1`
	usersPage    = selectUsers + ` WHERE id > $1 ORDER BY id LIMIT $2`
	usersByEmail = selectUsers + ` WHERE lower(email) = lower($1) ORDER BY id LIMIT $2`

	insertSession = `INSERT INTO sessions (id, user_id, device_id, provider, login_kind, key_hash, nonce, client,
			auth_time, created_at, deadline, token_issued_at, provider_sid, ended_at, end_reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0, '')`
	selectSessions = `SELECT s.id, s.user_id, s.device_id, s.provider, s.login_kind, s.key_hash, s.nonce, s.client,
			s.auth_time, s.created_at, s.deadline, s.token_issued_at, s.ended_at, s.end_reason, s.provider_sid,
			u.issuer, u.subject
		FROM sessions s JOIN users u ON u.id = s.user_id`
	sessionByID    = selectSessions + ` WHERE s.id = $1`
	liveSessions   = selectSessions + ` WHERE s.ended_at = 0 AND s.deadline > $1 AND s.id > $2 ORDER BY s.id LIMIT $3`
	endedSessions  = `SELECT id FROM sessions WHERE ended_at <> 0 AND deadline > $1`
	sessionsOfUser = selectSessions + ` WHERE s.user_id = $1 ORDER BY s.created_at DESC, s.id LIMIT $2`
	renewSession   = `UPDATE sessions SET token_issued_at = $2, auth_time = $3, nonce = $4, provider_sid = $5 WHERE id = $1`
	endSession     = `UPDATE sessions SET ended_at = $2, end_reason = $3 WHERE id = $1 AND ended_at = 0`
	// endCovered ends what a lock covers; without a cut-off, $4 is 0.
	endCovered = `UPDATE sessions SET ended_at = $5, end_reason = $6
		WHERE ended_at = 0 AND deadline > $5 AND (CAST($4 AS BIGINT) = 0 OR created_at <= $4) AND (
			($1 = 'user' AND user_id = $2) OR ($1 = 'device' AND device_id = $2) OR
			($1 IN ('session', 'certificate') AND id = $3) OR
			($1 = 'login' AND provider_sid <> '' AND provider || '/' || provider_sid = $2))
		RETURNING id`
	// endUnnamed ends what a logout may mean.
	endUnnamed = `UPDATE sessions SET ended_at = $3, end_reason = $4
		WHERE ended_at = 0 AND deadline > $3 AND user_id = $1 AND provider = $2 AND provider_sid = '' RETURNING id`
	endOldSession = `UPDATE sessions SET ended_at = $1, end_reason = 'expired' WHERE ended_at = 0 AND deadline <= $1`

	insertCertificate = `INSERT INTO certificates (serial, kind, session_id, holder, fingerprint, issued_at,
			not_before, not_after, chain)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	selectCertificates = `SELECT serial, kind, coalesce(session_id, ''), holder, issued_at, not_before, not_after, chain
		FROM certificates`
	certificateBySerial = selectCertificates + ` WHERE serial = $1`
	certificatesOfUser  = selectCertificates + ` WHERE session_id IN (SELECT id FROM sessions WHERE user_id = $1)
		ORDER BY issued_at DESC, serial LIMIT $2`
	certificatesOfSession = selectCertificates + ` WHERE session_id = $1 ORDER BY issued_at, serial`

	claimToken = `INSERT INTO redemptions (token, key_hash, session_id, serial, redeemed_at, expires_at)
		VALUES ($1, $2, '', '', $3, $4) ON CONFLICT (token) DO NOTHING`
	fillRedemption   = `UPDATE redemptions SET session_id = $2, serial = $3 WHERE token = $1`
	selectRedemption = `SELECT key_hash, session_id, serial FROM redemptions WHERE token = $1`

	insertChallenge = `INSERT INTO challenges (hash, serial, created_at, expires_at) VALUES ($1, $2, $3, $4)`
	trimChallenges  = `DELETE FROM challenges WHERE serial = $1 AND hash NOT IN
		(SELECT hash FROM challenges WHERE serial = $1 ORDER BY created_at DESC, hash LIMIT $2)`
	takeChallenge = `DELETE FROM challenges WHERE hash = $1 RETURNING serial, expires_at`

	insertGrant = `INSERT INTO device_grants (id_hash, provider, csr, device_id, client, sealed_code, sealed_refresh,
			redemption, failure, poll_interval, next_poll_at, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, '', '', $8, $9, $10, $11)`
	selectGrant = `SELECT id_hash, provider, csr, device_id, client, sealed_code, sealed_refresh, redemption, failure,
			poll_interval, created_at, expires_at
		FROM device_grants WHERE id_hash = $1`
	countGrants = `SELECT count(*) FROM device_grants WHERE expires_at > $1`
	claimPoll   = `UPDATE device_grants SET next_poll_at = $2 + poll_interval WHERE id_hash = $1 AND next_poll_at <= $2
			AND redemption = '' AND failure = ''`
	slowGrant     = `UPDATE device_grants SET poll_interval = $2, next_poll_at = $3 WHERE id_hash = $1`
	failGrant     = `UPDATE device_grants SET failure = $2, sealed_code = $3 WHERE id_hash = $1 AND redemption = ''`
	completeGrant = `UPDATE device_grants SET redemption = $2, sealed_refresh = $3, sealed_code = $4
			WHERE id_hash = $1 AND redemption = '' AND failure = ''`

	insertLock = `INSERT INTO locks (id, kind, target, session_id, message, created_by, created_at, issued_before,
			expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	selectLocks = `SELECT id, kind, target, session_id, message, created_by, created_at, issued_before, expires_at
		FROM locks WHERE (expires_at = 0 OR expires_at > $1)`
	allLocks     = selectLocks + ` ORDER BY created_at, id`
	deleteLock   = `DELETE FROM locks WHERE id = $1`
	insertPolicy = `INSERT INTO policy_versions (number, digest, source, author, accepted_at, document, comment)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`
	selectPolicies = `SELECT number, digest, source, author, accepted_at, document, comment FROM policy_versions`
	policyByDigest = selectPolicies + ` WHERE digest = $1 ORDER BY number DESC LIMIT 1`
	policyHistory  = `SELECT number, digest, source, author, accepted_at, substr(document, 1, 0), comment FROM policy_versions
		WHERE number < $1 ORDER BY number DESC LIMIT $2`
	policyByNumber = selectPolicies + ` WHERE number = $1`
	newestPolicy   = selectPolicies + ` ORDER BY number DESC LIMIT 1`

	// The clean-up. The order matters: what refers to a row goes before it.
	dropChallenges  = `DELETE FROM challenges WHERE expires_at <= $1`
	dropGrants      = `DELETE FROM device_grants WHERE expires_at <= $1`
	dropRedemptions = `DELETE FROM redemptions WHERE expires_at <= $1`
	dropLocks       = `DELETE FROM locks WHERE expires_at <> 0 AND expires_at <= $1`
	dropCerts       = `DELETE FROM certificates WHERE not_after <= $1 AND
		(session_id IS NULL OR session_id IN (SELECT id FROM sessions WHERE ended_at <> 0 AND ended_at <= $1))`
	dropSessions = `DELETE FROM sessions WHERE ended_at <> 0 AND ended_at <= $1 AND
		NOT EXISTS (SELECT 1 FROM certificates c WHERE c.session_id = sessions.id)`
)
