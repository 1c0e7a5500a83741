package server

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// put applies a document as an administrator would.
func (r *running) put(document string, expected int64) (store.PolicyVersion, error) {
	r.t.Helper()
	set, err := policy.Load("the new policy", []byte(document), r.rules.opts)
	if err != nil {
		return store.PolicyVersion{}, err
	}
	return r.rules.apply(r.t.Context(), set, store.PolicyVersion{Author: "corp:root-admin@corp.example", Document: []byte(document)}, expected)
}

func managed(cfg *Config) { cfg.Policy.Source = sourceManaged }

func TestManagedPolicyComesFromTheDatabase(t *testing.T) {
	i := everything(t, managed)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := i.serve(Options{})
	e := mustLogin(t, first, "ada")
	_, stream := e.open(t, ctx, first)
	if n := first.rules.current.Load().version.Number; n != 1 {
		t.Errorf("the file is version %d of a new database, want 1", n)
	}
	// A new version cuts what it takes away, at once.
	began := time.Now()
	version, err := first.put(echoPolicy(echoService(t), "sales"), 1)
	if err != nil || version.Number != 2 {
		t.Fatalf("version %d, %v", version.Number, err)
	}
	if _, err := io.ReadAll(stream); err == nil {
		t.Error("the stream ended cleanly, want a cut")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the cut took %s, want at most 1s", took)
	}
	// Who works on an old version learns so, and changes nothing.
	var conflict *store.ConflictError
	if _, err := first.put(echoPolicy("127.0.0.1:9", "sales"), 1); !errors.As(err, &conflict) || conflict.Current != 2 {
		t.Errorf("an old version as the base: %v, want a conflict with 2", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	// After a restart the database counts, and the file does not.
	writeFile(t, i.cfg.Policy.File, "not a policy")
	second := i.serve(Options{})
	if now := second.rules.current.Load().version; now.Number != 2 || now.Author != "corp:root-admin@corp.example" {
		t.Errorf("in force is version %d by %q, want 2", now.Number, now.Author)
	}
	if err := second.Reload(ctx); err != nil {
		t.Errorf("a reload asks the file: %v", err)
	}
}

func TestPolicySourceIsTheStores(t *testing.T) {
	i := everything(t, managed)
	if err := i.serve(Options{}).stop(); err != nil {
		t.Fatal(err)
	}
	i.cfg.Policy.Source = sourceFile
	if srv, err := New(t.Context(), *i.cfg, Options{}); err == nil || !strings.Contains(err.Error(), "policy.source") {
		t.Errorf("another source than the store's: %v, %v; want a refusal that names policy.source", srv, err)
	}
}

// An approved request opens the service, and its end closes what was opened.
func TestGrantOpensAndEnds(t *testing.T) {
	i := everything(t, nil)
	address := echoService(t)
	writeFile(t, i.cfg.Policy.File, `version: 1
services:
  echo: {address: "`+address+`", requestable: {max: 1h, approvers: {groups: [admins]}}}
`)
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e := mustLogin(t, r, "ada")
	session, err := e.up(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	target := wire.ServiceTarget(wire.KindTCP, "echo")
	var refusal *wire.Refusal
	if _, err := session.Open(ctx, target, tunnel.OpenOptions{Wait: true}); !errors.As(err, &refusal) || refusal.Code != wire.CodeDenied || !strings.Contains(refusal.Remedy, "culvert request") {
		t.Fatalf("before the request: %v, want a denial that says how to ask", err)
	}
	request := store.Request{ID: "k7qw-3m9p", User: userOf(t, e), Provider: "corp", Service: "echo", Reason: "on call", For: time.Hour}
	if _, err := r.store.PutRequest(ctx, request); err != nil {
		t.Fatal(err)
	}
	if _, err := r.store.DecideRequest(ctx, request.ID, true, "corp:root-admin@corp.example", "somebody else", "", time.Hour); err != nil {
		t.Fatal(err)
	}
	var stream *tunnel.Stream
	eventually(t, "the approved request opens the service", func() bool {
		stream, err = session.Open(ctx, target, tunnel.OpenOptions{Wait: true})
		return err == nil
	})
	if err := echo(ctx, stream); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := r.store.EndRequest(ctx, request.ID, "corp:root-admin@corp.example"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(stream); err == nil {
		t.Error("the stream ended cleanly, want a cut")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("the cut took %s, want at most 1s", took)
	}
}

func userOf(t *testing.T, e *employee) auth.UserID {
	t.Helper()
	id, err := auth.FromCertificate(e.leaf(t), "corp.example")
	if err != nil {
		t.Fatal(err)
	}
	return id.UserID()
}
