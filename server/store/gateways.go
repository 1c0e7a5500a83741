package store

import (
	"context"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Gateway is one that shares this database, as it last said of itself.
type Gateway struct {
	ID           auth.GatewayID
	Address      string
	Version      string
	PolicyDigest string
	Started      time.Time
	Sessions     int
	Streams      int
	LastSeen     time.Time // set by the store
}

// GatewayAlive is how long after its last beat a gateway counts as there.
const GatewayAlive = 30 * time.Second

// Beat records that the gateway is there.
func (s *Store) Beat(ctx context.Context, g Gateway) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		return tx.exec(ctx, upsertGateway, g.ID, g.Address, g.Version, g.PolicyDigest, millis(g.Started),
			g.Sessions, g.Streams, millis(tx.now))
	})
}

// Gateways lists the gateways that have been seen, by id.
func (s *Store) Gateways(ctx context.Context) ([]Gateway, error) {
	return all(ctx, s.read, scanGateway, selectGateways)
}

func scanGateway(scan scanFunc) (Gateway, error) {
	var g Gateway
	var started, seen int64
	err := scan(&g.ID, &g.Address, &g.Version, &g.PolicyDigest, &started, &g.Sessions, &g.Streams, &seen)
	g.Started, g.LastSeen = fromMillis(started), fromMillis(seen)
	return g, err
}

// A Live is an open connection of a gateway.
type Live struct {
	Gateway auth.GatewayID
	ID      uint64 // as the gateway counts
	User    auth.UserID
	Name    string
	Email   string
	Session auth.SessionID
	Device  auth.DeviceID
	Serial  auth.Serial
	Remote  string
	Client  string
	// Since is when it began, NotAfter its certificate's end, Deadline its
	// session's.
	Since    time.Time
	NotAfter time.Time
	Deadline time.Time
	Streams  int
	BytesIn  int64
	BytesOut int64
	Updated  time.Time // set by the store
}

// liveChunk bounds the rows of one statement.
const liveChunk = 256

// PutLive records connections of the gateway, each in the place of what was
// known of it.
func (s *Store) PutLive(ctx context.Context, gateway auth.GatewayID, list []Live) error {
	if len(list) == 0 {
		return nil
	}
	return s.inTx(ctx, unordered, func(tx *tx) error {
		b := newBulk(tx, upsertLive, replaceLive, liveColumns, liveChunk)
		for _, l := range list {
			if err := b.add(ctx, gateway, int64(l.ID), l.User, l.Name, l.Email, l.Session, l.Device, l.Serial, l.Remote,
				l.Client, millis(l.Since), millis(l.NotAfter), millis(l.Deadline), l.Streams, l.BytesIn, l.BytesOut,
				millis(tx.now)); err != nil {
				return err
			}
		}
		return b.flush(ctx)
	})
}

// DropLive removes connections that are closed.
func (s *Store) DropLive(ctx context.Context, gateway auth.GatewayID, ids []uint64) error {
	if len(ids) == 0 {
		return nil
	}
	return s.inTx(ctx, unordered, func(tx *tx) error {
		for _, id := range ids {
			if err := tx.exec(ctx, deleteLive, gateway, int64(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ClearLive removes all connections of the gateway: those of a process before.
func (s *Store) ClearLive(ctx context.Context, gateway auth.GatewayID) error {
	return s.inTx(ctx, unordered, func(tx *tx) error { return tx.exec(ctx, clearLive, gateway) })
}

// Leave takes a gateway that stops, and its connections, off the lists. It is back with its next beat.
func (s *Store) Leave(ctx context.Context, gateway auth.GatewayID) error {
	return s.inTx(ctx, unordered, func(tx *tx) error {
		if err := tx.exec(ctx, clearLive, gateway); err != nil {
			return err
		}
		return tx.exec(ctx, deleteGateway, gateway)
	})
}

// LiveFilter selects connections; the zero value selects all.
type LiveFilter struct {
	Gateway auth.GatewayID
	User    auth.UserID
	Session auth.SessionID
	Device  auth.DeviceID
}

// LiveAll lists up to limit connections of all gateways that are there, the
// oldest first.
func (s *Store) LiveAll(ctx context.Context, f LiveFilter, limit int) ([]Live, error) {
	now, err := s.Now(ctx)
	if err != nil {
		return nil, err
	}
	return all(ctx, s.read.listing(), scanLive, selectLive, millis(now.Add(-GatewayAlive)), f.Gateway, f.User, f.Session, f.Device, limit)
}

func scanLive(scan scanFunc) (Live, error) {
	var l Live
	var id, since, notAfter, deadline, updated int64
	err := scan(&l.Gateway, &id, &l.User, &l.Name, &l.Email, &l.Session, &l.Device, &l.Serial, &l.Remote, &l.Client,
		&since, &notAfter, &deadline, &l.Streams, &l.BytesIn, &l.BytesOut, &updated)
	l.ID = uint64(id)
	l.Since, l.NotAfter, l.Deadline, l.Updated = fromMillis(since), fromMillis(notAfter), fromMillis(deadline), fromMillis(updated)
	return l, err
}
