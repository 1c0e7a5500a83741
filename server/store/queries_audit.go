package store

// The statements of the audit index. The rules of queries.go hold.
const (
	insertAuditLog = `INSERT INTO audit_logs (gateway, log) VALUES ($1, $2) ON CONFLICT (gateway, log) DO NOTHING`
	selectAuditLog = `SELECT id FROM audit_logs WHERE gateway = $1 AND log = $2`
	insertActor    = `INSERT INTO audit_actors (digest, user_id, provider, name, email, session_id, device_id, serial, remote, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (digest) DO NOTHING`
	selectActor     = `SELECT id FROM audit_actors WHERE digest = $1`
	insertSubject   = `INSERT INTO audit_subjects (digest, facts, created_at) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING`
	selectSubject   = `SELECT id FROM audit_subjects WHERE digest = $1`
	upsertAuditLink = `INSERT INTO audit_links (link, subject_id, at) VALUES ($1, $2, $3)
		ON CONFLICT (link) DO UPDATE SET subject_id = excluded.subject_id, at = excluded.at`
	selectAuditLink = `SELECT subject_id FROM audit_links WHERE link = $1`

	// insertAuditRows is followed by rows of values and by oncePerRecord.
	insertAuditRows = `INSERT INTO audit_rows (log_id, seq, at, event, reference, actor_id, subject_id, service, kind, target,
			address, rule, policy, code, condition, reason, detail, stream, link, sent, received, duration_ms, repeated) VALUES `
	oncePerRecord   = ` ON CONFLICT (log_id, seq) DO NOTHING`
	auditRowColumns = 23

	upsertAuditPosition = `INSERT INTO audit_positions (gateway, position, updated_at) VALUES ($1, $2, $3)
		ON CONFLICT (gateway) DO UPDATE SET position = excluded.position, updated_at = excluded.updated_at`
	selectAuditPosition = `SELECT position FROM audit_positions WHERE gateway = $1`
	deleteAuditPosition = `DELETE FROM audit_positions WHERE gateway = $1`

	selectAuditRows = `SELECT r.id, l.gateway, l.log, r.seq, r.at, r.event, r.reference, a.user_id, a.provider, a.name, a.email,
			a.session_id, a.device_id, a.serial, a.remote, r.service, r.kind, r.target, r.address, r.rule, r.policy,
			r.code, r.condition, r.reason, r.stream, r.link, r.sent, r.received, r.duration_ms, r.repeated,
			coalesce(s.digest, ''), r.detail
		FROM audit_rows r JOIN audit_logs l ON l.id = r.log_id JOIN audit_actors a ON a.id = r.actor_id
			LEFT JOIN audit_subjects s ON s.id = r.subject_id
		WHERE r.at >= $1 AND r.at < $2 AND (r.at, r.id) < ($3, $4)`
	// One of these per filter that is set, with the number of its parameter.
	whereAuditUser      = ` AND r.actor_id IN (SELECT id FROM audit_actors WHERE user_id = $%d)`
	whereAuditSession   = ` AND r.actor_id IN (SELECT id FROM audit_actors WHERE session_id = $%d)`
	whereAuditDevice    = ` AND r.actor_id IN (SELECT id FROM audit_actors WHERE device_id = $%d)`
	whereAuditGateway   = ` AND r.log_id IN (SELECT id FROM audit_logs WHERE gateway = $%d)`
	whereAuditService   = ` AND r.service = $%d`
	whereAuditEvent     = ` AND r.event = $%d`
	whereAuditReference = ` AND r.reference = $%d AND r.reference <> ''`
	orderAuditRows      = ` ORDER BY r.at DESC, r.id DESC LIMIT $%d`

	// A stream is decided once: its record says that it was opened, refused, or
	// allowed without reaching the service. They are read page by page in the order
	// of their numbers: as expressions, time and event do not tempt the planner to
	// another index, with which each page would sort all of them.
	streamEvents  = ` IN ('stream.open', 'stream.denied', 'stream.failed')`
	selectStreams = `SELECT r.id, r.at, r.event, r.reference, a.user_id, a.provider, a.name, a.email, a.session_id, a.device_id,
			a.remote, r.service, r.kind, r.target, r.address, r.rule, r.policy, r.code, r.condition, r.repeated, coalesce(s.facts, '')
		FROM audit_rows r JOIN audit_actors a ON a.id = r.actor_id LEFT JOIN audit_subjects s ON s.id = r.subject_id
		WHERE r.id > $1 AND r.at + 0 >= $2 AND r.event || '' ` + streamEvents + ` ORDER BY r.id LIMIT $3`
	firstStream  = `SELECT coalesce(min(id + 0), 0) FROM audit_rows WHERE at >= $1`
	countStreams = `SELECT count(*) FROM audit_rows WHERE at >= $1 AND event` + streamEvents

	// The clean-up, in bites that hold the database for a moment each.
	dropAuditRows     = `DELETE FROM audit_rows WHERE id IN (SELECT id FROM audit_rows WHERE at <= $1 ORDER BY at, id LIMIT $2)`
	dropAuditRowsOf   = `DELETE FROM audit_rows WHERE id IN (SELECT id FROM audit_rows WHERE log_id = $1 LIMIT $2)`
	selectAuditLogsOf = `SELECT id FROM audit_logs WHERE gateway = $1`
	dropAuditLinks    = `DELETE FROM audit_links WHERE at <= $1`
	dropAuditActors   = `DELETE FROM audit_actors WHERE created_at <= $1 AND NOT EXISTS (SELECT 1 FROM audit_rows r WHERE r.actor_id = audit_actors.id)`
	dropAuditSubjects = `DELETE FROM audit_subjects WHERE created_at <= $1 AND
		NOT EXISTS (SELECT 1 FROM audit_rows r WHERE r.subject_id = audit_subjects.id) AND
		NOT EXISTS (SELECT 1 FROM audit_links k WHERE k.subject_id = audit_subjects.id)`

	// A checkpoint never goes back.
	upsertCheckpoint = `INSERT INTO audit_checkpoints (gateway, log, size, note, at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (gateway, log) DO UPDATE SET size = excluded.size, note = excluded.note, at = excluded.at
			WHERE excluded.size > audit_checkpoints.size OR
				(excluded.size = audit_checkpoints.size AND excluded.note = audit_checkpoints.note)`
	checkpointsOf = `SELECT gateway, log, size, note, at FROM audit_checkpoints WHERE gateway = $1 ORDER BY at DESC, log DESC LIMIT $2`
)
