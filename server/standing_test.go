package server

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A lock, from wherever it comes into the database, ends live sessions within a second.
func TestLockCutsLiveSession(t *testing.T) {
	i := everything(t, nil)
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := mustLogin(t, r, "ada")
	session, stream := e.open(t, ctx, r)
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
	mustLogin(t, r, "ada").open(t, ctx, r)
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
	session, _ := mustLogin(t, r, "ada").open(t, ctx, r)
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
// minutes, and then nobody new is admitted.
func TestFaultDatabaseAway(t *testing.T) {
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	v := &standing{store: db, hold: 5 * time.Minute, registry: session.New(session.Config{}), log: testenv.Logger(t), now: func() time.Time { return now }}
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
	if err := v.current(); err != nil {
		t.Errorf("new streams within the hold: %v", err)
	}
	now = now.Add(v.hold + time.Second)
	if err := v.current(); err == nil {
		t.Error("new streams are opened after the hold")
	}
	if _, err := v.admit(t.Context(), free); err == nil || errors.As(err, new(*wire.Termination)) {
		t.Errorf("after the hold: %v, want an error that is no verdict", err)
	}
}

// A session that was ended stays so while the database is away, although its certificate is good.
func TestThreatEndedSessionWhileTheDatabaseIsAway(t *testing.T) {
	db, v := newStanding(t)
	gone, stays := peer("ada"), peer("bob")
	begin(t, db, gone)
	begin(t, db, stays)
	if err := v.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.EndSession(t.Context(), gone.Identity.Session, "logged out"); err != nil {
		t.Fatal(err)
	}
	if err := v.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var end *wire.Termination
	if _, err := v.admit(t.Context(), gone); !errors.As(err, &end) || end.Code != wire.TerminateExpired {
		t.Errorf("the session that was ended: %v", err)
	}
	if _, err := v.admit(t.Context(), stays); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

// A lock on what began before some moment covers a session that began then, however often its certificate was renewed since.
func TestThreatCutOffCoversRenewedCertificates(t *testing.T) {
	db, v := newStanding(t)
	thief := peer("ada")
	began := begin(t, db, thief)
	thief.Identity.IssuedAt = began.Add(time.Hour) // renewed
	live, err := v.registry.Add(t.Context(), session.Spec{Identity: thief.Identity, Serial: thief.Serial, NotAfter: began.Add(2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Remove()
	lock := store.Lock{ID: "l", Kind: store.LockUser, Target: string(thief.Identity.UserID()), IssuedBefore: began.Add(time.Minute)}
	if _, err := db.AddLock(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	if err := v.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	var end *wire.Termination
	if err := context.Cause(live.Context()); !errors.As(err, &end) || end.Code != wire.TerminateLocked {
		t.Errorf("the live session: %v", err)
	}
	if _, err := v.admit(t.Context(), thief); !errors.As(err, &end) || end.Code != wire.TerminateLocked {
		t.Errorf("a new connection: %v", err)
	}
}

// A certificate from before names of providers were dealt out anew does not count as one of whoever has the name now.
func TestThreatProviderNameOfAnotherIssuer(t *testing.T) {
	db, v := newStanding(t)
	ada := peer("ada")
	begin(t, db, ada)
	v.issuers = map[string]string{"corp": ada.Identity.Issuer}
	if _, err := v.admit(t.Context(), ada); err != nil {
		t.Errorf("the same issuer: %v", err)
	}
	v.issuers = map[string]string{"corp": "https://other.example.com/", "partner": ada.Identity.Issuer}
	var end *wire.Termination
	if _, err := v.admit(t.Context(), ada); !errors.As(err, &end) || end.Code != wire.TerminateExpired {
		t.Errorf("the name is another issuer's: %v", err)
	}
}

func newStanding(t *testing.T) (*store.Store, *standing) {
	t.Helper()
	i := newInstallation(t, nil)
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, &standing{store: db, hold: 5 * time.Minute, registry: session.New(session.Config{}), log: testenv.Logger(t), now: time.Now}
}

// begin records the peer's session and returns when it began.
func begin(t *testing.T, db *store.Store, p mtls.Peer) time.Time {
	t.Helper()
	id, now := p.Identity, time.Now()
	issued, err := db.Issue(t.Context(), store.Issuance{
		Token: "token of " + id.Subject, TokenExpires: now.Add(time.Hour), TokenIssuedAt: now, Key: "key", GroupsKnown: true,
		User:    store.User{ID: id.UserID(), Issuer: id.Issuer, Subject: id.Subject, Provider: id.Provider},
		Session: store.Session{ID: id.Session, Provider: id.Provider, AuthTime: now, Deadline: now.Add(12 * time.Hour)},
		Sign: func(at time.Time, _ store.Session) (store.Certificate, error) {
			return store.Certificate{Serial: "serial of " + auth.Serial(id.Subject), Kind: store.CertificateClient, IssuedAt: at, Chain: [][]byte{{1}}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return issued.Session.Created
}

func peer(name string) mtls.Peer {
	return mtls.Peer{Serial: "1", Identity: auth.Identity{Issuer: "https://idp.example.com/", Subject: name, Provider: "corp", Session: "s-" + auth.SessionID(name)}}
}

// A policy that takes minutes to load, or whose record waits for a disk that hangs, keeps no lock from coming into force.
func TestFaultLocksWhileAFollowerHangs(t *testing.T) {
	db, v := newStanding(t)
	v.kicked, v.looked = make(chan struct{}, 1), make(chan struct{}, 1)
	follows := make(chan struct{}, 1)
	v.follow = []follower{{what: "policy", follow: func(ctx context.Context) error {
		signal(follows)
		<-ctx.Done()
		return ctx.Err()
	}}}
	ada := peer("ada")
	live, err := v.registry.Add(t.Context(), session.Spec{Identity: ada.Identity, Serial: ada.Serial, NotAfter: begin(t, db, ada).Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Remove()
	ctx, cancel := context.WithCancel(t.Context())
	var jobs sync.WaitGroup
	defer jobs.Wait()
	defer cancel()
	jobs.Go(func() { v.run(ctx) })
	jobs.Go(func() { v.runFollowers(ctx) })
	<-follows
	began := time.Now()
	answer := adminLocks{db, v}
	if _, err := answer.AddLock(ctx, store.Lock{ID: "l", Kind: store.LockUser, Target: string(ada.Identity.UserID())}); err != nil {
		t.Fatal(err)
	}
	<-live.Context().Done()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the cut took %s, want at most 1s", took)
	}
	if v.stale() {
		t.Error("the view is stale, so that strict rules deny")
	}
}
