package server

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
)

// Gateways that decide by other policies for five minutes are an alarm; for less they
// are a change under way.
func TestGatewaysThatDecideDifferently(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	gateway := func(id auth.GatewayID, digest *string) *presence {
		return &presence{
			store: db, registry: session.New(session.Config{}), self: store.Gateway{ID: id, Started: now}, log: testenv.Logger(t), now: clock,
			digest: func() string { return *digest }, told: make(map[uint64]session.Info),
		}
	}
	one, other := "sha256:1", "sha256:2"
	a, b := gateway("gw1", &one), gateway("gw2", &other)
	tell := func() {
		t.Helper()
		for _, p := range []*presence{a, b} {
			if err := p.tell(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for elapsed := time.Duration(0); elapsed < differHold; elapsed += presenceFull {
		tell()
		if a.differ.Load() || b.differ.Load() {
			t.Fatalf("an alarm after %s", elapsed)
		}
		now = now.Add(presenceFull)
	}
	tell()
	now = now.Add(presenceFull)
	tell()
	if !a.differ.Load() || !b.differ.Load() {
		t.Error("no alarm although they have differed for so long")
	}
	other = one
	now = now.Add(presenceFull)
	tell()
	now = now.Add(presenceFull)
	tell()
	if a.differ.Load() || b.differ.Load() {
		t.Error("the alarm goes on although they agree")
	}
	// One that is gone disagrees with nobody.
	other = "sha256:3"
	now = now.Add(store.GatewayAlive + time.Second)
	for range int(differHold/presenceFull) + 2 {
		if err := a.tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		now = now.Add(presenceFull)
	}
	if a.differ.Load() {
		t.Error("an alarm because of a gateway that is gone")
	}
}

// A gateway that is stopped is off the others' list at once.
func TestStoppedGatewayLeaves(t *testing.T) {
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	p := &presence{
		store: db, registry: session.New(session.Config{}), self: store.Gateway{ID: "gw1", Started: time.Now()}, log: testenv.Logger(t), now: time.Now,
		digest: func() string { return "sha256:1" }, told: make(map[uint64]session.Info),
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { p.run(ctx); close(ended) }()
	count := func() int {
		list, err := db.Gateways(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	eventually(t, "the gateway is on the list", func() bool { return count() == 1 })
	stop()
	<-ended
	if n := count(); n != 0 {
		t.Errorf("%d gateways on the list", n)
	}
}

// Two gateways with one id are an alarm; one that starts again is none.
func TestTwoGatewaysWithOneID(t *testing.T) {
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	start := func(address string) string {
		var log bytes.Buffer
		p := &presence{
			store: db, registry: session.New(session.Config{}), self: store.Gateway{ID: "gw1", Address: address, Started: time.Now()},
			log: slog.New(slog.NewTextHandler(&log, nil)), now: time.Now, digest: func() string { return "sha256:1" }, told: make(map[uint64]session.Info),
		}
		if err := p.tell(t.Context()); err != nil {
			t.Fatal(err)
		}
		return log.String()
	}
	if said := start("10.0.0.1:443 (a)") + start("10.0.0.1:443 (a)"); said != "" {
		t.Errorf("a start and a restart: %s", said)
	}
	if said := start("10.0.0.2:443 (b)"); !strings.Contains(said, "two must not have the same id") || !strings.Contains(said, "10.0.0.1:443 (a)") {
		t.Errorf("a second one: %q", said)
	}
}
