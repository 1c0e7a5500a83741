package store

// The statements of what gateways share: requests, the gateways themselves,
// their live connections, devices, logouts. The rules of queries.go hold.
const (
	insertLogout = `INSERT INTO logouts (token, seen_at, expires_at) VALUES ($1, $2, $3) ON CONFLICT (token) DO NOTHING`
	dropLogouts  = `DELETE FROM logouts WHERE expires_at <= $1`

	insertRequest = `INSERT INTO requests (id, user_id, provider, name, email, service, reason, lasts, created_at,
			state, decided_by, decided_at, note, until_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', '', 0, '', 0)`
	countPending   = `SELECT count(*) FROM requests WHERE user_id = $1 AND state = 'pending'`
	selectRequests = `SELECT id, user_id, provider, name, email, service, reason, lasts, created_at,
			state, decided_by, decided_at, note, until_at
		FROM requests`
	requestByID = selectRequests + ` WHERE id = $1`
	// requestsPage counts an approval whose time is over ($2) as ended.
	requestsPage = selectRequests + ` WHERE ($3 = '' OR user_id = $3) AND
		($1 = '' OR $1 = CASE WHEN state = 'approved' AND until_at <= $2 THEN 'ended' ELSE state END)
		ORDER BY created_at DESC, id LIMIT $4`
	activeGrants   = selectRequests + ` WHERE state = 'approved' AND until_at > $1 ORDER BY until_at, id`
	decideRequest  = `UPDATE requests SET state = $2, decided_by = $3, decided_at = $4, note = $5, until_at = $6 WHERE id = $1`
	endOldRequests = `UPDATE requests SET state = 'ended' WHERE state = 'approved' AND until_at <= $1`
	dropRequests   = `DELETE FROM requests WHERE state <> 'pending' AND state <> 'approved' AND created_at <= $1 AND
		decided_at <= $1 AND until_at <= $1`

	upsertGateway = `INSERT INTO gateways (id, address, version, policy_digest, started_at, sessions, streams, last_seen_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO UPDATE SET address = excluded.address, version = excluded.version,
			policy_digest = excluded.policy_digest, started_at = excluded.started_at, sessions = excluded.sessions,
			streams = excluded.streams, last_seen_at = excluded.last_seen_at`
	selectGateways = `SELECT id, address, version, policy_digest, started_at, sessions, streams, last_seen_at
		FROM gateways ORDER BY id`
	dropGateways  = `DELETE FROM gateways WHERE last_seen_at <= $1`
	deleteGateway = `DELETE FROM gateways WHERE id = $1`

	// upsertLive is followed by rows of values and by replaceLive.
	upsertLive = `INSERT INTO live (gateway, id, user_id, name, email, session_id, device_id, serial, remote, client,
			since_at, not_after, deadline, streams, bytes_in, bytes_out, updated_at) VALUES `
	replaceLive = ` ON CONFLICT (gateway, id) DO UPDATE SET user_id = excluded.user_id, name = excluded.name,
			email = excluded.email, session_id = excluded.session_id, device_id = excluded.device_id,
			serial = excluded.serial, remote = excluded.remote, client = excluded.client, since_at = excluded.since_at,
			not_after = excluded.not_after, deadline = excluded.deadline, streams = excluded.streams,
			bytes_in = excluded.bytes_in, bytes_out = excluded.bytes_out, updated_at = excluded.updated_at`
	liveColumns = 17
	deleteLive  = `DELETE FROM live WHERE gateway = $1 AND id = $2`
	clearLive   = `DELETE FROM live WHERE gateway = $1`
	selectLive  = `SELECT l.gateway, l.id, l.user_id, l.name, l.email, l.session_id, l.device_id, l.serial, l.remote,
			l.client, l.since_at, l.not_after, l.deadline, l.streams, l.bytes_in, l.bytes_out, l.updated_at
		FROM live l JOIN gateways g ON g.id = l.gateway
		WHERE g.last_seen_at > $1 AND ($2 = '' OR l.gateway = $2) AND ($3 = '' OR l.user_id = $3) AND
			($4 = '' OR l.session_id = $4) AND ($5 = '' OR l.device_id = $5)
		ORDER BY l.since_at, l.gateway, l.id LIMIT $6`
	dropLive = `DELETE FROM live WHERE gateway NOT IN (SELECT id FROM gateways WHERE last_seen_at > $1)`

	// A device was last seen when its newest certificate was issued.
	selectDevices = `SELECT s.device_id, s.user_id, u.provider, u.display_name, u.email, min(s.created_at),
			max((SELECT coalesce(max(c.issued_at), s.created_at) FROM certificates c WHERE c.session_id = s.id)),
			(SELECT n.client FROM sessions n WHERE n.device_id = s.device_id AND n.user_id = s.user_id
				ORDER BY n.created_at DESC, n.id LIMIT 1),
			sum(CASE WHEN s.ended_at = 0 AND s.deadline > $1 THEN 1 ELSE 0 END)
		FROM sessions s JOIN users u ON u.id = s.user_id
		WHERE ($2 = '' OR s.user_id = $2) AND ($3 = '' OR s.device_id = $3) AND (s.device_id, s.user_id) > ($4, $5)
		GROUP BY s.device_id, s.user_id, u.provider, u.display_name, u.email
		ORDER BY s.device_id, s.user_id LIMIT $6`
)
