package admin

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

// maxLive bounds the connections that a list is made of; they are in memory for it.
const maxLive = 200_000

// maxSessions bounds the sessions of one person that a list looks at.
const maxSessions = 1000

func (a *API) sessions(ctx context.Context, _ *call, q adminapi.SessionQuery) (*adminapi.Page[adminapi.Session], error) {
	user, err := a.optionalUser(ctx, q.User)
	if err != nil {
		return nil, err
	}
	live, err := a.Sessions.LiveAll(ctx, store.LiveFilter{
		Gateway: auth.GatewayID(q.Gateway), User: user, Device: auth.DeviceID(q.Device),
	}, maxLive)
	if err != nil {
		return nil, err
	}
	connected := bySession(live)
	if q.Detached {
		return a.detached(ctx, q, user, connected)
	}
	people := a.names()
	entry := func(s adminapi.Session) adminapi.Session {
		// The name is of the certificate; the provider is in the inventory.
		s.User.Provider = people.of(ctx, auth.UserID(s.User.ID)).Provider
		return s
	}
	return pageFrom(connected, q.List, entry, sessionPlace)
}

func sessionPlace(s adminapi.Session) place {
	if s.Created.IsZero() && len(s.Connections) > 0 {
		return newest(s.Connections[0].Since, s.ID)
	}
	return newest(s.Created, s.ID)
}

// bySession gathers the connections of each session; the session that connected last comes first.
func bySession(live []store.Live) []adminapi.Session {
	index := make(map[auth.SessionID]int)
	var list []adminapi.Session
	for _, l := range live {
		i, known := index[l.Session]
		if !known {
			i = len(list)
			index[l.Session] = i
			list = append(list, adminapi.Session{
				ID: string(l.Session), User: adminapi.Person{ID: string(l.User), Name: l.Name, Email: l.Email},
				Device: string(l.Device), Deadline: l.Deadline,
			})
		}
		list[i].Connections = append(list[i].Connections, connectionOf(l))
	}
	slices.SortFunc(list, func(x, y adminapi.Session) int { return sessionPlace(x).compare(sessionPlace(y)) })
	return list
}

func connectionOf(l store.Live) adminapi.Connection {
	return adminapi.Connection{
		Gateway: string(l.Gateway), ID: l.ID, Serial: string(l.Serial), Remote: l.Remote, Client: l.Client, Since: l.Since,
		NotAfter: l.NotAfter, Streams: l.Streams, BytesIn: l.BytesIn, BytesOut: l.BytesOut, Updated: l.Updated,
	}
}

// detached lists the sessions that may be renewed, those that are not connected too, by id: those of one person, or
// everybody's in pages of the store.
func (a *API) detached(ctx context.Context, q adminapi.SessionQuery, user auth.UserID, connected []adminapi.Session) (*adminapi.Page[adminapi.Session], error) {
	if q.Gateway != "" {
		return nil, refuse(adminapi.CodeBadRequest, "a session that is not connected is at no gateway: leave one of the two out")
	}
	limit := limitOf(q.List)
	rows, err := a.renewable(ctx, q, user, limit+1)
	if err != nil {
		return nil, err
	}
	open := make(map[string][]adminapi.Connection)
	for _, s := range connected {
		open[s.ID] = s.Connections
	}
	people := a.names()
	entry := func(s store.Session) adminapi.Session {
		reply := sessionOf(s, people.of(ctx, s.User))
		reply.Connections = append(reply.Connections, open[reply.ID]...)
		return reply
	}
	return pageOf(rows, limit, entry, func(s store.Session) string { return string(s.ID) }), nil
}

// renewable returns up to limit sessions that match, by id.
func (a *API) renewable(ctx context.Context, q adminapi.SessionQuery, user auth.UserID, limit int) ([]store.Session, error) {
	matches := func(s store.Session) bool { return q.Device == "" || s.Device == auth.DeviceID(q.Device) }
	var rows []store.Session
	if user != "" {
		now, err := a.Locks.Now(ctx)
		if err != nil {
			return nil, err
		}
		all, err := a.Sessions.SessionsOf(ctx, user, maxSessions)
		if err != nil {
			return nil, err
		}
		for _, s := range all {
			if s.Live(now) && matches(s) && string(s.ID) > q.Cursor {
				rows = append(rows, s)
			}
		}
		slices.SortFunc(rows, func(x, y store.Session) int { return place{id: string(x.ID)}.compare(place{id: string(y.ID)}) })
		return rows[:min(limit, len(rows))], nil
	}
	for after := auth.SessionID(q.Cursor); len(rows) < limit; {
		page, err := a.Sessions.LiveSessions(ctx, after, adminapi.MaxLimit)
		if err != nil {
			return nil, err
		}
		for _, s := range page {
			after = s.ID
			if matches(s) && len(rows) < limit {
				rows = append(rows, s)
			}
		}
		if len(page) < adminapi.MaxLimit {
			break
		}
	}
	return rows, nil
}

func sessionOf(s store.Session, user adminapi.Person) adminapi.Session {
	return adminapi.Session{
		ID: string(s.ID), User: user, Device: string(s.Device), Login: string(s.Login), Client: s.Client, AuthTime: s.AuthTime,
		Created: s.Created, Deadline: s.Deadline, Ended: s.Ended, EndReason: s.EndReason, Connections: []adminapi.Connection{},
	}
}

// theSession gets the session that the path names.
func (a *API) theSession(ctx context.Context, c *call) (store.Session, error) {
	id, err := auth.ParseSessionID(c.params["id"])
	if err != nil {
		return store.Session{}, refuse(adminapi.CodeBadRequest, "%q is no session's id", plaintext.Clip(c.params["id"], 64))
	}
	s, err := a.Sessions.Session(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return s, refuse(adminapi.CodeNotFound, "there is no session %s", id)
	}
	return s, err
}

func (a *API) session(ctx context.Context, c *call) (*adminapi.SessionDetail, error) {
	s, err := a.theSession(ctx, c)
	if err != nil {
		return nil, err
	}
	live, err := a.Sessions.LiveAll(ctx, store.LiveFilter{Session: s.ID}, maxSessions)
	if err != nil {
		return nil, err
	}
	certificates, err := a.Inventory.CertificatesOf(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	reply := &adminapi.SessionDetail{Session: sessionOf(s, a.names().of(ctx, s.User)), Certificates: []adminapi.Certificate{}}
	local := a.Sessions.Local(s.ID)
	for _, l := range live {
		connection := connectionOf(l)
		if string(l.Gateway) == a.Gateway {
			connection.Open = streamsOf(local, l.ID)
		}
		reply.Connections = append(reply.Connections, connection)
	}
	for _, cert := range certificates {
		reply.Certificates = append(reply.Certificates, certificateOf(cert))
	}
	return reply, nil
}

func streamsOf(local []session.Info, id uint64) []adminapi.Stream {
	var list []adminapi.Stream
	for _, info := range local {
		if info.ID != id {
			continue
		}
		for _, st := range info.Streams {
			list = append(list, adminapi.Stream{
				Target: st.Target.String(), Service: st.Facts.Service, Rule: st.Facts.Rule, Address: addressText(st.Facts.Address),
				Decided: st.Decided, Since: st.Since, LastActive: st.LastActive, BytesIn: st.BytesIn, BytesOut: st.BytesOut,
			})
		}
	}
	return list
}

func addressText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func (a *API) sessionEnd(ctx context.Context, c *call, m adminapi.SessionEnd) (*adminapi.SessionEnded, error) {
	if err := checkText("reason", m.Reason, true); err != nil {
		return nil, err
	}
	s, err := a.theSession(ctx, c)
	if err != nil {
		return nil, err
	}
	if !s.Ended.IsZero() {
		return nil, refuse(adminapi.CodeDecided, "the session has ended: %s", plaintext.Clip(s.EndReason, 128))
	}
	r := audit.Record{Event: audit.EventSessionEnded, Reason: m.Reason, Admin: c.facts("session " + string(s.ID) + " of user " + a.names().recorded(ctx, s.User))}
	ref, err := a.change(ctx, c, r, func(ctx context.Context) error {
		if err := a.Sessions.EndSession(ctx, s.ID, m.Reason); err != nil {
			return err
		}
		s, err = a.Sessions.Session(ctx, s.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminapi.SessionEnded{Session: sessionOf(s, a.names().of(ctx, s.User)), Reference: ref}, nil
}
