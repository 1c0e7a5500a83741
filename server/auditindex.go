package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// AuditIndex is the store as the index of audit logs.
func AuditIndex(db *store.Store) audit.Sink { return auditIndex{db} }

type auditIndex struct{ db *store.Store }

func (x auditIndex) IndexBatch(ctx context.Context, gateway, position string, records []audit.IndexedRecord) error {
	rows := make([]store.AuditRow, 0, len(records))
	for i := range records {
		row, err := auditRow(&records[i])
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	return x.db.IndexBatch(ctx, auth.GatewayID(gateway), position, rows)
}

func (x auditIndex) IndexPosition(ctx context.Context, gateway string) (string, error) {
	return x.db.IndexPosition(ctx, auth.GatewayID(gateway))
}

// auditRow is a record as the index has it. Its gateway is set by the store.
func auditRow(in *audit.IndexedRecord) (store.AuditRow, error) {
	r := &in.Record
	row := store.AuditRow{
		Log: in.Log, Seq: r.Seq, Time: r.Time, Event: string(r.Event), Reference: r.Reference,
		Service: r.Service, Kind: string(r.Kind), Target: r.Target, Address: r.Address, Rule: r.Rule, Policy: r.Policy,
		Code: string(r.Code), Condition: r.Condition, Reason: r.Reason, Stream: r.Stream, Link: r.Link, Detail: cmp.Or(r.Detail, adminDetail(r.Admin)),
	}
	if a := r.Actor; a != nil {
		row.User, row.Provider, row.Name, row.Email = a.User, a.Provider, a.Name, a.Email
		row.Session, row.Device, row.Serial, row.Remote = a.Session, a.Device, a.Serial, a.Remote
	}
	if t := r.Transfer; t != nil {
		row.Sent, row.Received, row.DurationMS = int64(t.Sent), int64(t.Received), t.DurationMS
	}
	if r.Repeated != nil {
		row.Repeated = int64(r.Repeated.Count)
	}
	if r.Subject == nil {
		return row, nil
	}
	facts, err := json.Marshal(r.Subject)
	if err != nil {
		return row, fmt.Errorf("encode what was known of a person: %w", err)
	}
	row.Subject = string(facts)
	return row, nil
}

// adminDetail is what an administrator did, in a line.
func adminDetail(a *audit.AdminFacts) string {
	if a == nil {
		return ""
	}
	parts := []string{a.Object, a.Comment}
	if a.Object == "" {
		parts[0] = strings.TrimSpace(a.Method + " " + a.Path)
	}
	if a.Comment == "" {
		parts = parts[:1]
	}
	return strings.Join(parts, ": ")
}
