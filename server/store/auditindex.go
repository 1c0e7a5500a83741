package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// An AuditRow is one audit record as the index knows it. The files are the
// record; the index can be dropped and made anew from them.
type AuditRow struct {
	ID        int64 // set by the store; grows with each record indexed
	Gateway   auth.GatewayID
	Log       string
	Seq       uint64
	Time      time.Time
	Event     string
	Reference string

	User     auth.UserID
	Provider string
	Name     string
	Email    string
	Session  auth.SessionID
	Device   auth.DeviceID
	Serial   auth.Serial
	Remote   string

	Service   string
	Kind      string
	Target    string
	Address   string
	Rule      string
	Policy    string
	Code      string
	Condition string
	Reason    string
	// Stream is the record's own id, and Link that of the connection's opening
	// record.
	Stream     string
	Link       string
	Sent       int64
	Received   int64
	DurationMS int64
	// Repeated is how many further equal records this one stands for.
	Repeated int64
	// Subject is what policy may ask about the person, as JSON, in the records
	// of a connection that tell it. Streams on that connection are given the
	// latest by their Link. SubjectDigest names it; set by the store.
	Subject       string
	SubjectDigest string
	Detail        string
}

// Cursor is where a list that ended with this row goes on.
func (r AuditRow) Cursor() AuditCursor { return AuditCursor{Time: r.Time, ID: r.ID} }

// An AuditCursor is a place in the list of audit rows. The zero value is its
// beginning, which is the newest.
type AuditCursor struct {
	Time time.Time
	ID   int64
}

// String writes the cursor, "" for the zero value.
func (c AuditCursor) String() string {
	if c == (AuditCursor{}) {
		return ""
	}
	return fmt.Sprintf("%d-%d", millis(c.Time), c.ID)
}

// ParseAuditCursor reads what String wrote.
func ParseAuditCursor(s string) (AuditCursor, error) {
	if s == "" {
		return AuditCursor{}, nil
	}
	var at, id int64
	if _, err := fmt.Sscanf(s, "%d-%d", &at, &id); err != nil || at <= 0 || id <= 0 || fmt.Sprintf("%d-%d", at, id) != s {
		return AuditCursor{}, errors.New("not a place in the list of audit records")
	}
	return AuditCursor{Time: fromMillis(at), ID: id}, nil
}

// auditChunk bounds the rows of one statement, below the parameters that
// SQLite (32,766) and PostgreSQL (65,535) take.
const auditChunk = 256

// IndexBatch adds records of one gateway to the index and notes how far its files
// are indexed, all or nothing. Records that are there already are left as they
// are, so that a batch may be repeated.
func (s *Store) IndexBatch(ctx context.Context, gateway auth.GatewayID, position string, rows []AuditRow) error {
	return s.inTxWithin(ctx, longPatience, unordered, func(tx *tx) error {
		x := newIndexer(tx)
		b := newBulk(tx, insertAuditRows, oncePerRecord, auditRowColumns, auditChunk)
		for _, r := range rows {
			r.Gateway = gateway
			if err := x.add(ctx, b, r); err != nil {
				return err
			}
		}
		if err := b.flush(ctx); err != nil {
			return err
		}
		return tx.exec(ctx, upsertAuditPosition, gateway, position, millis(tx.now))
	})
}

// IndexPosition is how far the gateway's files are indexed, as IndexBatch was
// told; empty when nothing is.
func (s *Store) IndexPosition(ctx context.Context, gateway auth.GatewayID) (string, error) {
	position, err := one(ctx, s.read, readText, selectAuditPosition, gateway)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return position, err
}

// indexer finds the numbers of what the rows of one transaction share.
type indexer struct {
	tx       *tx
	logs     map[string]int64
	actors   map[string]int64
	subjects map[string]int64
	links    map[string]any // nil for a link without a subject
}

func newIndexer(t *tx) *indexer {
	return &indexer{tx: t, logs: map[string]int64{}, actors: map[string]int64{}, subjects: map[string]int64{}, links: map[string]any{}}
}

func (x *indexer) add(ctx context.Context, b *bulk, r AuditRow) error {
	log, err := x.number(ctx, x.logs, r.Log, selectAuditLog, []any{r.Gateway, r.Log}, insertAuditLog, r.Gateway, r.Log)
	if err != nil {
		return err
	}
	actor, err := x.actor(ctx, r)
	if err != nil {
		return err
	}
	subject, err := x.subject(ctx, r)
	if err != nil {
		return err
	}
	return b.add(ctx, log, int64(r.Seq), millis(r.Time), r.Event, r.Reference, actor, subject, r.Service, r.Kind, r.Target,
		r.Address, r.Rule, r.Policy, r.Code, r.Condition, r.Reason, r.Detail, r.Stream, r.Link,
		r.Sent, r.Received, r.DurationMS, r.Repeated)
}

func (x *indexer) actor(ctx context.Context, r AuditRow) (int64, error) {
	digest := digestOf(string(r.User), r.Provider, r.Name, r.Email, string(r.Session), string(r.Device), string(r.Serial), r.Remote)
	return x.number(ctx, x.actors, digest, selectActor, []any{digest},
		insertActor, digest, r.User, r.Provider, r.Name, r.Email, r.Session, r.Device, r.Serial, r.Remote, millis(x.tx.now))
}

// subject is the number of the record's subject, or nil where nobody told one.
func (x *indexer) subject(ctx context.Context, r AuditRow) (any, error) {
	// The opening record of a connection is what its streams link to.
	link := r.Link
	if link == "" {
		link = r.Stream
	}
	if r.Subject == "" {
		return x.linked(ctx, r.Link)
	}
	digest := digestOf(r.Subject)
	id, err := x.number(ctx, x.subjects, digest, selectSubject, []any{digest}, insertSubject, digest, r.Subject, millis(x.tx.now))
	if err != nil || link == "" || x.links[link] == id {
		return id, err
	}
	x.links[link] = id
	return id, x.tx.exec(ctx, upsertAuditLink, link, id, millis(x.tx.now))
}

func (x *indexer) linked(ctx context.Context, link string) (any, error) {
	if link == "" {
		return nil, nil
	}
	if id, known := x.links[link]; known {
		return id, nil
	}
	id, err := one(ctx, x.tx, readNumber, selectAuditLink, link)
	switch {
	case errors.Is(err, ErrNotFound):
		x.links[link] = nil
	case err != nil:
		return nil, err
	default:
		x.links[link] = id
	}
	return x.links[link], nil
}

// number finds the row with that key, and makes it where there is none.
func (x *indexer) number(ctx context.Context, known map[string]int64, key, find string, args []any, insert string, values ...any) (int64, error) {
	if id, ok := known[key]; ok {
		return id, nil
	}
	id, err := one(ctx, x.tx, readNumber, find, args...)
	if errors.Is(err, ErrNotFound) {
		if err := x.tx.exec(ctx, insert, values...); err != nil {
			return 0, err
		}
		id, err = one(ctx, x.tx, readNumber, find, args...)
	}
	if err == nil {
		known[key] = id
	}
	return id, err
}

// digestOf is a hash of the parts that tells ("ab", "c") from ("a", "bc").
func digestOf(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
