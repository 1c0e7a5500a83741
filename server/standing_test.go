package server

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A lock, from wherever it comes into the database, ends live sessions within a second.
func TestLockCutsLiveSession(t *testing.T) {
	i := everything(t, nil)
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := mustLogin(t, r, "ada")
	session, err := e.up(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	stream, err := session.Open(ctx, wire.Target{Kind: "tcp", Service: "echo"}, tunnel.OpenOptions{Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(e.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	lock := store.Lock{ID: "l1", Kind: store.LockCertificate, Target: string(auth.SerialOf(leaf)), Message: "laptop was stolen", Author: "root-admin"}
	if _, err := r.store.AddLock(ctx, lock); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(stream); err == nil {
		t.Error("the stream ended cleanly")
	}
	<-session.Done()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the cut took %s, want at most 1s", took)
	}
	var end *wire.Termination
	if !errors.As(session.Err(), &end) || end.Code != wire.TerminateLocked || end.Reason != "laptop was stolen" {
		t.Errorf("the client learned %v", session.Err())
	}
	if _, err := e.up(ctx, r); !errors.As(err, &end) || end.Code != wire.TerminateLocked {
		t.Errorf("a new tunnel: %v", err)
	}
}

func TestDrainCutsStreamsAtTheDeadline(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.DrainTimeout = 300 * time.Millisecond })
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := mustLogin(t, r, "ada").up(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	stream, err := session.Open(ctx, wire.Target{Kind: "tcp", Service: "echo"}, tunnel.OpenOptions{Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, stream); err != nil {
		t.Fatal(err)
	}
	var drain *DrainError
	if err := r.stop(); !errors.As(err, &drain) || drain.Step != StepStreams {
		t.Errorf("Serve returned %v, want the step that ran out", err)
	}
	if text := auditText(t, i); !strings.Contains(text, `"stream.close"`) || !strings.Contains(text, `"gateway.stop"`) || !strings.Contains(text, `"log.closed"`) {
		t.Errorf("the audit log is not closed:\n%s", text)
	}
}

func TestHurryUpEndsTheDrain(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.DrainTimeout = time.Hour })
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := mustLogin(t, r, "ada").up(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if _, err := session.Open(ctx, wire.Target{Kind: "tcp", Service: "echo"}, tunnel.OpenOptions{Wait: true}); err != nil {
		t.Fatal(err)
	}
	r.cancel()
	eventually(t, "the client is told", func() bool { _, told := session.Draining(); return told })
	if r.Readiness(ctx).Ready {
		t.Error("ready while it drains")
	}
	r.HurryUp()
	var drain *DrainError
	if err := r.stop(); !errors.As(err, &drain) {
		t.Errorf("Serve returned %v", err)
	}
}

// While the database is away, the last view of the locks counts for five
// minutes, and then nobody new is admitted (design §3.17).
func TestFaultDatabaseAway(t *testing.T) {
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	v := &standing{store: db, registry: session.New(session.Config{}), log: testenv.Logger(t), now: func() time.Time { return now }}
	locked, free := peer("ada"), peer("bob")
	if _, err := db.AddLock(t.Context(), store.Lock{ID: "l", Kind: store.LockUser, Target: string(locked.Identity.UserID())}); err != nil {
		t.Fatal(err)
	}
	if err := v.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var end *wire.Termination
	if _, err := v.admit(t.Context(), free); !errors.As(err, &end) || end.Code != wire.TerminateExpired {
		t.Errorf("a session that the database does not know: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.admit(t.Context(), free); err != nil {
		t.Errorf("within the hold: %v", err)
	}
	if _, err := v.admit(t.Context(), locked); !errors.As(err, &end) || end.Code != wire.TerminateLocked {
		t.Errorf("a lock from the view: %v", err)
	}
	now = now.Add(standingHold + time.Second)
	if _, err := v.admit(t.Context(), free); err == nil || errors.As(err, new(*wire.Termination)) {
		t.Errorf("after the hold: %v, want an error that is no verdict", err)
	}
}

func peer(name string) mtls.Peer {
	return mtls.Peer{Serial: "1", Identity: auth.Identity{Issuer: "https://idp.example.com/", Subject: name, Provider: "corp", Session: "s-" + auth.SessionID(name)}}
}
