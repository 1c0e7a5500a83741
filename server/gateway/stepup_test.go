package gateway_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// freshPolicy asks for a login within 15 minutes for the wiki, and within one for the vault.
func freshPolicy(addr string) string {
	return fmt.Sprintf(`version: 1
services:
  wiki: {address: "%[1]s"}
  vault: {address: "%[1]s", hidden: true}
  news: {address: "%[1]s"}
rules:
  - {name: wiki, subjects: {groups: [engineering]}, allow: [wiki], reauth_within: 15m}
  - {name: vault, subjects: {groups: [engineering]}, allow: [vault], reauth_within: 1m}
  - {name: news, subjects: {groups: [engineering]}, allow: [news]}
`, addr)
}

// stale is a desktop whose login was an hour ago.
func (w *world) stale(subject string) *desktop {
	d := w.desktop(subject, "engineering")
	d.id.AuthTime = d.id.AuthTime.Add(-time.Hour)
	d.certify(time.Hour)
	return d
}

// stepper is a client that can ask for a login.
func (d *desktop) stepper() (tun *tunnel.Session, asked chan wire.StepUp) {
	asked = make(chan wire.StepUp, 100)
	tun = d.mustConnectWith(tunnel.ClientConfig{
		Hello: wire.Hello{StepUp: true}, OnStepUp: func(m wire.StepUp) { asked <- m },
	})
	return tun, asked
}

// waitForWaits waits until n streams wait for a login, or did.
func (w *world) waitForWaits(n int) {
	w.t.Helper()
	reg := prometheus.NewRegistry()
	if err := reg.Register(w.metrics); err != nil {
		w.t.Fatal(err)
	}
	w.wait("all to wait", func() bool {
		families, err := reg.Gather()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "culvert_step_up_waits_total" {
				return int(f.Metric[0].GetCounter().GetValue()) >= n
			}
		}
		return false
	})
}

// logInAnew presents a certificate of a fresh login.
func (d *desktop) logInAnew(tun *tunnel.Session) {
	d.w.t.Helper()
	d.id.AuthTime = time.Now().Truncate(time.Second)
	if _, err := tun.Renew(d.w.t.Context(), d.certify(time.Hour+time.Minute)); err != nil {
		d.w.t.Fatalf("renewal after the login: %v", err)
	}
}

// TestStepUpIsAskedOnceForManyStreams: each stream waits with what it sent early, and goes on after one login.
func TestStepUpIsAskedOnceForManyStreams(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, freshPolicy(svc.addr()))
	ada := w.stale("ada")
	tun, asked := ada.stepper()
	var streams sync.WaitGroup
	for i := range 10 {
		streams.Go(func() {
			text := fmt.Sprintf("early %d", i)
			st, err := tun.Open(t.Context(), tcp("wiki"), tunnel.OpenOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			st.SetDeadline(time.Now().Add(patience))
			io.WriteString(st, text)
			st.CloseWrite()
			if got, err := io.ReadAll(st); err != nil || string(got) != text {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	ask := <-asked
	if ask.Service != "wiki" || ask.MaxAge != 15*time.Minute || ask.Reason == "" || time.Until(ask.Until) < time.Minute {
		t.Errorf("asked for %+v", ask)
	}
	w.waitForWaits(10)
	mustOpen(t, tun, tcp("news")).Close()
	if n := len(w.audit.all(audit.EventStreamOpen)); n > 1 {
		t.Errorf("%d openings before the login", n)
	}
	ada.logInAnew(tun)
	streams.Wait()
	if len(asked) != 0 {
		t.Errorf("asked again: %+v", <-asked)
	}
	w.audit.wait(t, "the renewal", func(r audit.Record) bool {
		return r.Event == audit.EventSessionRenewed && r.Subject != nil && r.Subject.AuthTime.Equal(ada.id.AuthTime)
	})
}

// TestStepUpAsksForTheFreshestLogin: a stream that needs a fresher login than was asked for makes one more message.
func TestStepUpAsksForTheFreshestLogin(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, freshPolicy(svc.addr()))
	ada := w.stale("ada")
	tun, asked := ada.stepper()
	opened := make(chan error, 3)
	open := func(service string) {
		go func() {
			_, err := openStream(tun, tcp(service))
			opened <- err
		}()
	}
	open("wiki")
	if m := <-asked; m.MaxAge != 15*time.Minute {
		t.Errorf("asked for %+v", m)
	}
	open("vault")
	if m := <-asked; m.MaxAge != time.Minute || m.Service != "vault" {
		t.Errorf("asked for %+v", m)
	}
	open("wiki")
	w.waitForWaits(3)
	ada.logInAnew(tun)
	for range 3 {
		if err := <-opened; err != nil {
			t.Error(err)
		}
	}
	if len(asked) != 0 {
		t.Errorf("asked again: %+v", <-asked)
	}
}

// TestStepUpRefusals: who cannot, and who will not.
func TestStepUpRefusals(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, freshPolicy(svc.addr()))
	_, err := openStream(w.stale("bob").mustConnect(), tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeStepUpRequired); r.Service != "wiki" || r.Reference == "" || r.Remedy == "" {
		t.Errorf("refusal: %+v", r)
	}
	tun, asked := w.stale("ada").stepper()
	opened := make(chan error, 5)
	for range cap(opened) {
		go func() {
			_, err := openStream(tun, tcp("wiki"))
			opened <- err
		}()
	}
	<-asked
	w.waitForWaits(cap(opened))
	if err := tun.SendStepUp(wire.StepUp{Refusal: "the person closed the window"}); err != nil {
		t.Fatal(err)
	}
	for range cap(opened) {
		r := wantRefusal(t, <-opened, wire.CodeStepUpRequired)
		if !strings.Contains(r.Reason, "closed the window") {
			t.Errorf("refusal: %+v", r)
		}
		w.audit.wait(t, "of the refusal", func(rec audit.Record) bool {
			return rec.Reference == r.Reference && rec.Code == wire.CodeStepUpRequired && rec.Condition == "reauth_needed" && rec.Rule == "wiki"
		})
	}
	go openStream(tun, tcp("wiki"))
	if m := <-asked; m.Service != "wiki" {
		t.Errorf("the next stream is no new question: %+v", m)
	}
	if len(svc.conns) != 0 {
		t.Error("the service was reached")
	}
}

// TestThreatStepUpOnAnotherChannel: a check missing on one channel (Teleport 10.3.11; chisel 44310b6), for services that ask for a fresh
// login. An old one opens them in no spelling, a renewal without a login does not count as one, and the wait ends in no opening.
func TestThreatStepUpOnAnotherChannel(t *testing.T) {
	svc := newService(t, nil)
	port := svc.ln.Addr().(*net.TCPAddr).Port
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  wiki: {address: "127.0.0.1:%d", hostnames: [wiki.corp.example], port: 80}
  dns: {address: "127.0.0.1:%[1]d", protocol: udp, hostnames: [dns.corp.example], port: 53}
  lab: {network: 127.0.0.1/32, ports: [1-65535]}
rules:
  - {name: all, subjects: {users: ["*"]}, allow: ["*"], reauth_within: 15m}
`, port))
	targets := []wire.Target{
		tcp("wiki"), wire.ServiceTarget(wire.KindUDP, "dns"), wire.HostTarget(wire.KindTCP, "wiki.corp.example", 80),
		wire.HostTarget(wire.KindTCP, "WIKI.corp.example.", 80), wire.HostTarget(wire.KindUDP, "dns.corp.example", 53),
		wire.HostTarget(wire.KindTCP, "127.0.0.1", uint16(port)), wire.HostTarget(wire.KindTCP, "::ffff:127.0.0.1", uint16(port)),
	}
	plain := w.stale("bob").mustConnect()
	for _, target := range targets {
		for _, wait := range []bool{true, false} {
			if r := refusalOf(t, plain, target, wait); r.Code != wire.CodeStepUpRequired {
				t.Errorf("%s: %+v", target, r)
			}
		}
	}
	ada := w.stale("ada")
	tun, asked := ada.stepper()
	opened := make(chan error, len(targets))
	for _, target := range targets {
		go func() {
			_, err := openStream(tun, target)
			opened <- err
		}()
	}
	<-asked
	w.waitForWaits(len(targets))
	if _, err := tun.Renew(t.Context(), ada.certify(2*time.Hour)); err != nil { // of the same login
		t.Fatal(err)
	}
	w.registry.Redecide()
	tun.SendStepUp(wire.StepUp{Refusal: "no"})
	for range targets {
		wantRefusal(t, <-opened, wire.CodeStepUpRequired)
	}
	if len(svc.conns) != 0 || len(w.audit.all(audit.EventStreamOpen)) != 0 {
		t.Error("the service was reached")
	}
}

// TestStepUpCountsAtTheOpeningOnly: what is open goes on when the login grows old.
func TestStepUpCountsAtTheOpeningOnly(t *testing.T) {
	svc := newService(t, echo)
	clock := new(clock)
	w := newWorld(t, freshPolicy(svc.addr()), clock.drives)
	tun := w.desktop("ada", "engineering").mustConnect()
	st := mustOpen(t, tun, tcp("wiki"))
	clock.advance(30 * time.Minute)
	if n := w.gateway.Redecide("a test"); n != 0 {
		t.Errorf("%d streams cut", n)
	}
	if err := talk(st); err != nil {
		t.Error(err)
	}
	_, err := openStream(tun, tcp("wiki"))
	wantRefusal(t, err, wire.CodeStepUpRequired)
}

// TestStepUpWaitEndsWithWhatChanges: a policy that does not ask any more lets a waiting stream in, one that denies refuses it, and so
// do a lock and a drain.
func TestStepUpWaitEndsWithWhatChanges(t *testing.T) {
	svc := newService(t, echo)
	for name, tc := range map[string]struct {
		change func(w *world)
		code   wire.Code
	}{
		"the policy asks no more": {func(w *world) {
			w.changePolicy(strings.ReplaceAll(freshPolicy(svc.addr()), ", reauth_within: 15m", ""))
		}, wire.CodeOK},
		"the policy denies": {func(w *world) {
			w.changePolicy(strings.ReplaceAll(freshPolicy(svc.addr()), "[engineering]", "[admins]"))
		}, wire.CodeDenied},
		"locked": {func(w *world) {
			w.registry.Cut(session.Filter{Group: "engineering"}, wire.Termination{Code: wire.TerminateLocked, Reason: "locked"})
		}, ""},
		"drained": {func(w *world) { go w.gateway.Shutdown(context.Background()) }, wire.CodeDraining},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, freshPolicy(svc.addr()))
			tun, asked := w.stale("ada").stepper()
			opened := make(chan error, 1)
			go func() {
				_, err := openStream(tun, tcp("wiki"))
				opened <- err
			}()
			<-asked
			tc.change(w)
			switch err := <-opened; tc.code {
			case wire.CodeOK:
				if err != nil {
					t.Error(err)
				}
			case "":
				if err == nil {
					t.Error("opened")
				}
			default:
				wantRefusal(t, err, tc.code)
			}
		})
	}
}

// TestStepUpWaitIsBounded: nobody waits for ever, and who gives up does not wait at all.
func TestStepUpWaitIsBounded(t *testing.T) {
	const wait = 300 * time.Millisecond
	w := newWorld(t, freshPolicy("127.0.0.1:1"), func(cfg *gateway.Config, _ *session.Config) { cfg.StepUpWait = wait })
	tun, asked := w.stale("ada").stepper()
	began := time.Now()
	_, err := openStream(tun, tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeStepUpRequired); !strings.Contains(r.Reason, wait.String()) {
		t.Errorf("refusal: %+v", r)
	}
	if took := time.Since(began); took < wait {
		t.Errorf("it took %v", took)
	}
	if m := <-asked; m.Until.Sub(began) > wait+patience {
		t.Errorf("asked for %+v", m)
	}
}

func TestStepUpEndsWithTheClient(t *testing.T) {
	w := newWorld(t, freshPolicy("127.0.0.1:1"))
	tun, asked := w.stale("ada").stepper()
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() {
		_, err := tun.Open(ctx, tcp("wiki"), tunnel.OpenOptions{Wait: true})
		opened <- err
	}()
	<-asked
	cancel()
	if err := <-opened; err == nil {
		t.Error("opened")
	}
	w.wait("the wait to end", func() bool { _, n := w.registry.Counts(); return n == 0 })
	w.audit.wait(t, "of the end", func(r audit.Record) bool {
		return r.Event == audit.EventStreamDenied && strings.Contains(r.Reason, "gave up")
	})
}

// TestThreatStreamOutlivesWhatOpenedIt: a stream that an approved request opened does not go on, when that ends, by a rule that would have asked
// for a fresh login before it opened (a login that is too old is good for what was opened by something else).
func TestThreatStreamOutlivesWhatOpenedIt(t *testing.T) {
	svc := newService(t, echo)
	clock := new(clock)
	w := newWorld(t, wikiPolicy(svc.addr()), clock.drives)
	w.grants = policy.NewGrants()
	w.changePolicy(fmt.Sprintf(`version: 1
services:
  db: {address: "%s", requestable: {max: 4h, approvers: {groups: [it]}}}
rules:
  - {name: dba, subjects: {groups: [engineering]}, allow: [db], reauth_within: 15m}
`, svc.addr()))
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	bob := w.desktop("bob", "engineering")
	bob.certify(12 * time.Hour)
	fresh := mustOpen(t, bob.mustConnect(), tcp("db")) // by the rule
	ada := w.stale("ada")
	ada.certify(12 * time.Hour)
	w.grants.Replace([]policy.Grant{{ID: "k7qw-3m9p", User: ada.id.UserID(), Service: "db", Until: until}})
	tun := ada.mustConnect()
	st := mustOpen(t, tun, tcp("db"))
	clock.advance(time.Until(until) + time.Second)
	cutOf(t, st)
	if err := talk(fresh); err != nil {
		t.Errorf("a stream that was opened with a fresh login ended as that grew old: %v", err)
	}
	_, err := openStream(tun, tcp("db"))
	wantRefusal(t, err, wire.CodeStepUpRequired)
}
