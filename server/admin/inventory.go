package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/store"
)

// maxCertificates bounds the certificates of one person that a list looks at.
const maxCertificates = 10_000

// maxReference bounds the records that one reference gives.
const maxReference = 100

func (a *API) audit(ctx context.Context, _ *call, q adminapi.AuditQuery) (*adminapi.Page[adminapi.AuditRecord], error) {
	user, err := a.optionalUser(ctx, q.User)
	if err != nil {
		return nil, err
	}
	before, err := store.ParseAuditCursor(q.Cursor)
	if err != nil {
		return nil, badCursor().because(err)
	}
	limit := limitOf(q.List)
	rows, err := a.Index.AuditRows(ctx, store.AuditFilter{
		Since: q.Since, Until: q.Until, User: user, Session: auth.SessionID(q.Session), Device: auth.DeviceID(q.Device),
		Gateway: auth.GatewayID(q.Gateway), Service: q.Service, Event: q.Event, Before: before,
	}, limit+1)
	if err != nil {
		return nil, err
	}
	people := a.names()
	entry := func(r store.AuditRow) adminapi.AuditRecord { return people.recordOf(ctx, r) }
	return pageOf(rows, limit, entry, func(r store.AuditRow) string { return r.Cursor().String() }), nil
}

func (a *API) auditReference(ctx context.Context, c *call) (*adminapi.AuditReference, error) {
	reference := strings.ToLower(c.params["reference"])
	rows, err := a.Index.AuditRows(ctx, store.AuditFilter{Reference: reference}, maxReference)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, refuse(adminapi.CodeNotFound, "no audit record has the reference %q", plaintext.Clip(reference, 64)).
			remedy("the index follows the files within seconds; the gateways' own logs may have the reference, too")
	}
	reply, people := &adminapi.AuditReference{}, a.names()
	for _, r := range rows {
		reply.Records = append(reply.Records, people.recordOf(ctx, r))
	}
	return reply, nil
}

// recordOf is a record of the index. Some are about a person of whom no more than the id was known then, such as a refused login.
func (n *names) recordOf(ctx context.Context, r store.AuditRow) adminapi.AuditRecord {
	reply := adminapi.AuditRecord{
		Gateway: string(r.Gateway), Log: r.Log, Seq: r.Seq, Time: r.Time, Event: r.Event, Reference: r.Reference,
		Session: string(r.Session), Device: string(r.Device), Serial: string(r.Serial), Remote: r.Remote,
		Service: r.Service, Kind: r.Kind, Target: r.Target, Address: r.Address, Rule: r.Rule, Policy: r.Policy, Code: r.Code,
		Condition: r.Condition, Reason: r.Reason, Detail: r.Detail, Stream: r.Stream, Link: r.Link,
		Sent: r.Sent, Received: r.Received, DurationMS: r.DurationMS, Repeated: r.Repeated,
	}
	switch {
	case r.User != "" && r.Name == "" && r.Email == "":
		who := n.of(ctx, auth.UserID(r.User))
		reply.User = &who
	case r.User != "" || r.Name != "":
		reply.User = &adminapi.Person{ID: string(r.User), Provider: r.Provider, Name: r.Name, Email: r.Email}
	}
	return reply
}

func (a *API) devices(ctx context.Context, _ *call, q adminapi.DeviceQuery) (*adminapi.Page[adminapi.DeviceEntry], error) {
	f := store.DeviceFilter{}
	if q.Cursor != "" {
		device, user, ok := strings.Cut(q.Cursor, ".")
		if !ok {
			return nil, badCursor()
		}
		f.After, f.AfterUser = auth.DeviceID(device), auth.UserID(user)
	}
	var err error
	if f.User, err = a.optionalUser(ctx, q.User); err != nil {
		return nil, err
	}
	limit := limitOf(q.List)
	rows, err := a.Inventory.Devices(ctx, f, limit+1)
	if err != nil {
		return nil, err
	}
	return pageOf(rows, limit, deviceEntryOf, func(d store.Device) string { return string(d.ID) + "." + string(d.User) }), nil
}

func deviceEntryOf(d store.Device) adminapi.DeviceEntry {
	return adminapi.DeviceEntry{
		ID: string(d.ID), User: adminapi.Person{ID: string(d.User), Provider: d.Provider, Name: d.Name, Email: d.Email},
		FirstSeen: d.FirstSeen, LastSeen: d.LastSeen, Client: d.Client, Sessions: d.Sessions,
	}
}

func (a *API) certificates(ctx context.Context, _ *call, q adminapi.CertificateQuery) (*adminapi.Page[adminapi.Certificate], error) {
	rows, err := a.certificatesFor(ctx, q)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, q.List, certificateOf, func(c store.Certificate) place {
		if q.User != "" {
			return newest(c.IssuedAt, string(c.Serial))
		}
		return oldest(c.IssuedAt, string(c.Serial))
	})
}

func (a *API) certificatesFor(ctx context.Context, q adminapi.CertificateQuery) ([]store.Certificate, error) {
	set := 0
	for _, s := range []string{q.Session, q.User, q.Serial} {
		if s != "" {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, refuse(adminapi.CodeBadRequest, "name a session, a user or a serial number, and only one of them")
	case q.Session != "":
		return a.Inventory.CertificatesOf(ctx, auth.SessionID(q.Session))
	case q.User != "":
		user, err := a.userID(ctx, q.User)
		if err != nil {
			return nil, err
		}
		return a.Inventory.CertificatesOfUser(ctx, user, maxCertificates)
	}
	serial, err := auth.ParseSerial(strings.ToLower(q.Serial))
	if err != nil {
		return nil, refuse(adminapi.CodeBadRequest, "%s", plaintext.Clip(err.Error(), 128))
	}
	cert, err := a.Inventory.Certificate(ctx, serial)
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(adminapi.CodeNotFound, "there is no certificate %s in the inventory", serial)
	}
	return []store.Certificate{cert}, err
}

func certificateOf(c store.Certificate) adminapi.Certificate {
	return adminapi.Certificate{
		Serial: string(c.Serial), Kind: string(c.Kind), Session: string(c.Session), Holder: c.Holder, IssuedAt: c.IssuedAt,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fingerprint: c.Fingerprint(),
	}
}

func (a *API) gateways(ctx context.Context, _ *call, q adminapi.List) (*adminapi.Page[adminapi.Gateway], error) {
	list, err := a.Inventory.Gateways(ctx)
	if err != nil {
		return nil, err
	}
	now, err := a.Locks.Now(ctx)
	if err != nil {
		return nil, err
	}
	entry := func(g store.Gateway) adminapi.Gateway {
		return adminapi.Gateway{
			ID: string(g.ID), Address: g.Address, Version: g.Version, Policy: g.PolicyDigest, Started: g.Started,
			LastSeen: g.LastSeen, Alive: now.Sub(g.LastSeen) < store.GatewayAlive, Sessions: g.Sessions, Streams: g.Streams,
		}
	}
	return pageFrom(list, q, entry, func(g store.Gateway) place { return place{id: string(g.ID)} })
}
