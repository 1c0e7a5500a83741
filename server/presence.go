package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

const (
	// presenceEvery is how often a gateway tells the others what it has.
	presenceEvery = 2 * time.Second
	// presenceFull is how often it says that it lives, and tells the counts of
	// connections that are open still.
	presenceFull = 10 * time.Second
	// differHold is how long the gateways' policies may differ before an alarm
	// sounds: a repository's change does not reach all of them at once.
	differHold = 5 * time.Minute
)

// presence tells the other gateways, through the database, that this one lives
// and who is connected to it, and looks whether they decide by the same policy.
type presence struct {
	store    *store.Store
	registry *session.Registry
	self     store.Gateway // what does not change
	digest   func() string // of the policy in force
	differ   atomic.Bool   // the gateways' policies do, for a while
	managed  bool          // one source: a difference is a gateway that is catching up
	log      *slog.Logger
	now      func() time.Time

	cleared bool                    // what a process before has told is gone
	said    string                  // the policy's digest in the last word
	told    map[uint64]session.Info // as the database has them
	full    time.Time
	differs time.Time // since when
	warned  throttle
}

func (s *Server) newPresence() *presence {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	return &presence{
		store: s.store, registry: s.registry, log: s.log.With("component", "presence"), now: s.now, managed: s.rules.source == sourceManaged,
		self:   store.Gateway{ID: s.authority.GatewayID(), Version: buildinfo.Version(), Address: fmt.Sprintf("%s (%s)", s.Addr(), host), Started: s.now()},
		digest: func() string { return s.rules.set().Version() },
		told:   make(map[uint64]session.Info),
	}
}

// run tells until ctx ends, and then takes this gateway and its connections off
// the lists: one that was stopped is not one that fell silent.
func (p *presence) run(ctx context.Context) {
	for {
		if err := p.tell(ctx); err != nil && ctx.Err() == nil && p.warned.ok() {
			p.log.Warn("the other gateways cannot be told who is connected; trying again", "error", err)
		}
		if !sleep(ctx, presenceEvery) {
			break
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	if err := p.store.Leave(last, p.self.ID); err != nil {
		p.log.Debug("the other gateways cannot be told that this one stops; they notice by themselves", "error", err)
	}
}

func (p *presence) tell(ctx context.Context) error {
	now := p.now()
	everything := now.Sub(p.full) >= presenceFull
	if err := p.live(ctx, everything); err != nil {
		return err
	}
	changed, current := p.changed(everything)
	var gone []uint64
	for id := range p.told {
		if _, still := current[id]; !still {
			gone = append(gone, id)
		}
	}
	if err := errors.Join(p.store.PutLive(ctx, p.self.ID, changed), p.store.DropLive(ctx, p.self.ID, gone)); err != nil {
		return err
	}
	p.told = current
	if !everything {
		return nil
	}
	p.full = now
	return p.compare(ctx, now)
}

// live says that this gateway lives, now and then and when it decides by another
// policy.
func (p *presence) live(ctx context.Context, due bool) error {
	if !p.cleared {
		if err := p.namesake(ctx); err != nil {
			return err
		}
		if err := p.store.ClearLive(ctx, p.self.ID); err != nil {
			return err
		}
		p.cleared = true
	}
	self := p.self
	self.PolicyDigest = p.digest()
	if !due && self.PolicyDigest == p.said {
		return nil
	}
	self.Sessions, self.Streams = p.registry.Counts()
	if err := p.store.Beat(ctx, self); err != nil {
		return err
	}
	p.said = self.PolicyDigest
	return nil
}

// namesake sounds an alarm when another machine was this gateway a moment ago: two with one id overwrite what the other tells, and the
// audit index has the records of one of them. It may also be one that died and came back elsewhere, so it is no reason not to start.
func (p *presence) namesake(ctx context.Context) error {
	gateways, err := p.store.Gateways(ctx)
	if err != nil {
		return err
	}
	clock, err := p.store.Now(ctx)
	if err != nil {
		return err
	}
	for _, g := range gateways {
		if ago := clock.Sub(g.LastSeen); g.ID == p.self.ID && g.Address != p.self.Address && ago < store.GatewayAlive {
			p.log.Error("another gateway with this one's id was there a moment ago; two must not have the same id: give one of them another (ca csr --gateway-id)",
				"id", g.ID, "other", g.Address, "this", p.self.Address, "seen", ago.Round(time.Second))
		}
	}
	return nil
}

// changed returns the connections that the database does not have as they are, and
// all of them as it will have them.
func (p *presence) changed(everything bool) (changed []store.Live, current map[uint64]session.Info) {
	current = make(map[uint64]session.Info)
	for _, info := range p.registry.List() {
		was, known := p.told[info.ID]
		if !known || was.Serial != info.Serial || everything && counts(was) != counts(info) {
			changed = append(changed, p.row(info))
			was = info
		}
		current[info.ID] = was
	}
	return changed, current
}

// counts are what changes in a connection all the time.
func counts(i session.Info) [3]int64 {
	return [3]int64{int64(len(i.Streams)), i.BytesIn, i.BytesOut}
}

func (p *presence) row(i session.Info) store.Live {
	email := ""
	if i.Identity.EmailTrusted {
		email = i.Identity.Email
	}
	return store.Live{
		Gateway: p.self.ID, ID: i.ID, User: i.User, Name: i.Identity.Name, Email: email, Session: i.Identity.Session, Device: i.Identity.Device,
		Serial: i.Serial, Remote: i.Remote.String(), Client: i.Client, Since: i.Since, NotAfter: i.NotAfter, Deadline: i.Deadline,
		Streams: len(i.Streams), BytesIn: i.BytesIn, BytesOut: i.BytesOut,
	}
}

// compare sounds an alarm when another gateway has decided by another policy for
// a while.
func (p *presence) compare(ctx context.Context, now time.Time) error {
	gateways, err := p.store.Gateways(ctx)
	if err != nil {
		return err
	}
	clock, err := p.store.Now(ctx)
	if err != nil {
		return err
	}
	other := auth.GatewayID("")
	for _, g := range gateways {
		if g.ID != p.self.ID && g.PolicyDigest != p.digest() && clock.Sub(g.LastSeen) < store.GatewayAlive {
			other = g.ID
		}
	}
	if other == "" {
		p.differs = time.Time{}
		p.differ.Store(false)
		return nil
	}
	if p.differs.IsZero() {
		p.differs = now
	}
	if now.Sub(p.differs) < differHold {
		return nil
	}
	p.differ.Store(true)
	if p.warned.ok() {
		p.log.Error("another gateway decides by another policy", "gateway", other, "since", p.differs, "managed", p.managed)
	}
	return nil
}
