package store

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// An AuditFilter selects audit rows; the zero value selects all.
type AuditFilter struct {
	Since     time.Time // inclusive; zero: from the first
	Until     time.Time // exclusive; zero: to the last
	User      auth.UserID
	Session   auth.SessionID
	Device    auth.DeviceID
	Gateway   auth.GatewayID
	Service   string
	Event     string
	Reference string
	// Before goes on behind a page before.
	Before AuditCursor
}

// AuditRows lists up to limit audit rows, the newest first.
func (s *Store) AuditRows(ctx context.Context, f AuditFilter, limit int) ([]AuditRow, error) {
	query, args := f.query(limit)
	return all(ctx, s.read.patient(), scanAuditRow, query, args...)
}

// query puts the statement together from its fixed parts.
func (f AuditFilter) query(limit int) (string, []any) {
	until, before, id := int64(math.MaxInt64), int64(math.MaxInt64), int64(math.MaxInt64)
	if !f.Until.IsZero() {
		until = millis(f.Until)
	}
	if f.Before != (AuditCursor{}) {
		before, id = millis(f.Before.Time), f.Before.ID
	}
	query, args := selectAuditRows, []any{millis(f.Since), until, before, id}
	for _, c := range []struct{ value, where string }{
		{string(f.User), whereAuditUser}, {string(f.Session), whereAuditSession}, {string(f.Device), whereAuditDevice},
		{string(f.Gateway), whereAuditGateway}, {f.Service, whereAuditService}, {f.Event, whereAuditEvent},
		{f.Reference, whereAuditReference},
	} {
		if c.value != "" {
			args = append(args, c.value)
			query += fmt.Sprintf(c.where, len(args))
		}
	}
	args = append(args, limit)
	return query + fmt.Sprintf(orderAuditRows, len(args)), args
}

func scanAuditRow(scan scanFunc) (AuditRow, error) {
	var r AuditRow
	var seq, at int64
	err := scan(&r.ID, &r.Gateway, &r.Log, &seq, &at, &r.Event, &r.Reference, &r.User, &r.Provider, &r.Name, &r.Email,
		&r.Session, &r.Device, &r.Serial, &r.Remote, &r.Service, &r.Kind, &r.Target, &r.Address, &r.Rule, &r.Policy,
		&r.Code, &r.Condition, &r.Reason, &r.Stream, &r.Link, &r.Sent, &r.Received, &r.DurationMS, &r.Repeated,
		&r.SubjectDigest, &r.Detail)
	r.Seq, r.Time = uint64(seq), fromMillis(at)
	return r, err
}

// An AuditStream is a stream that was decided: opened, refused by policy, or
// allowed and not connected.
type AuditStream struct {
	ID        int64
	Time      time.Time
	Event     string
	Reference string
	User      auth.UserID
	Provider  string
	Name      string
	Email     string
	Session   auth.SessionID
	Device    auth.DeviceID
	Remote    string
	Service   string
	Kind      string
	Target    string
	Address   string
	Rule      string
	Policy    string
	Code      string
	Condition string
	Repeated  int64
	// Subject is what was known of the person then, as JSON; empty where nobody
	// told it.
	Subject string
}

// StreamsSince lists up to limit streams that were decided at since or later, in
// the order in which they were indexed, beginning behind the id after.
func (s *Store) StreamsSince(ctx context.Context, since time.Time, after int64, limit int) ([]AuditStream, error) {
	if after == 0 && !since.IsZero() { // not through all that is older
		first, err := one(ctx, s.read.patient(), readNumber, firstStream, millis(since))
		if err != nil {
			return nil, err
		}
		after = first - 1
	}
	return all(ctx, s.read.patient(), scanAuditStream, selectStreams, after, millis(since), limit)
}

// CountStreams counts the streams that StreamsSince lists.
func (s *Store) CountStreams(ctx context.Context, since time.Time) (int64, error) {
	return one(ctx, s.read.patient(), readNumber, countStreams, millis(since))
}

func scanAuditStream(scan scanFunc) (AuditStream, error) {
	var r AuditStream
	var at int64
	err := scan(&r.ID, &at, &r.Event, &r.Reference, &r.User, &r.Provider, &r.Name, &r.Email, &r.Session, &r.Device,
		&r.Remote, &r.Service, &r.Kind, &r.Target, &r.Address, &r.Rule, &r.Policy, &r.Code, &r.Condition, &r.Repeated, &r.Subject)
	r.Time = fromMillis(at)
	return r, err
}
