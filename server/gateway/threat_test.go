package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// TestThreatCheckMissingOnOneChannel: a check missing on one channel (Teleport 10.3.11; chisel 44310b6). Somebody without an allow
// asks for the same services in every way that there is.
func TestThreatCheckMissingOnOneChannel(t *testing.T) {
	svc := newService(t, nil)
	port := svc.ln.Addr().(*net.TCPAddr).Port
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  wiki:
    address: 127.0.0.1:%[1]d
    hostnames: [wiki.corp.example]
    port: 80
  dns:
    address: 127.0.0.1:%[1]d
    protocol: udp
    hostnames: [dns.corp.example]
    port: 53
  lab:
    network: 10.20.0.0/16
    ports: [1-65535]
rules:
  - name: engineers
    subjects: {groups: [engineering]}
    allow: ["*"]
`, port))
	tun := w.desktop("bob", "sales").mustConnect()
	targets := []wire.Target{
		{Service: "wiki"}, {Service: "dns"}, {Service: "lab"}, {Service: "WIKI"},
		{Host: "wiki.corp.example", Port: 80}, {Host: "WIKI.corp.example.", Port: 80}, {Host: "wiki.corp.example", Port: uint16(port)},
		{Host: "dns.corp.example", Port: 53}, {Host: "127.0.0.1", Port: uint16(port)}, {Host: "::ffff:127.0.0.1", Port: uint16(port)},
		{Host: "localhost", Port: uint16(port)}, {Host: "10.20.1.2", Port: 22}, {Host: "::ffff:10.20.1.2", Port: 22}, {Host: "012.20.1.2", Port: 22},
	}
	for _, wait := range []bool{true, false} {
		for _, kind := range []wire.Kind{wire.KindTCP, wire.KindUDP} {
			for _, target := range targets {
				target.Kind = kind
				st, err := tun.Open(t.Context(), target, tunnel.OpenOptions{Wait: wait})
				if err == nil {
					st.SetDeadline(time.Now().Add(patience))
					_, err = st.Read(make([]byte, 1))
					st.Close()
				}
				var r *wire.Refusal
				if !errors.As(err, &r) || (r.Code != wire.CodeDenied && r.Code != wire.CodeNoSuchService) {
					t.Fatalf("%s, wait %v: %v", target, wait, err)
				}
				w.audit.wait(t, "of "+target.String(), func(rec audit.Record) bool {
					return rec.Event == audit.EventStreamDenied && rec.Reference == r.Reference && rec.Target == target.String() && rec.Actor.Subject == "bob"
				})
			}
		}
	}
	if n := len(w.audit.all(audit.EventStreamOpen)); n != 0 || len(svc.conns) != 0 {
		t.Errorf("%d openings, %d connections at the service", n, len(svc.conns))
	}
}

// TestThreatIdentityFromAMessage: identity from a message (OpenZiti GHSA-7868). What Hello says about the session is a hint, and a
// wrong one is refused; what it says about anything else changes nothing.
func TestThreatIdentityFromAMessage(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	ada, bob := w.desktop("ada", "engineering"), w.desktop("bob", "sales")
	_, err := bob.connect(tunnel.ClientConfig{Hello: wire.Hello{Session: string(ada.id.Session)}})
	term := wantTermination(t, err, wire.TerminateIdentity)
	if r := w.audit.all(audit.EventSessionRefused); len(r) != 1 || r[0].Actor.Subject != "bob" || r[0].Reference != term.Reference {
		t.Errorf("records: %+v", r)
	}
	tun := bob.mustConnectWith(tunnel.ClientConfig{Hello: wire.Hello{Client: "ada", OS: "linux",
		Posture: map[string]string{"user": "ada", "groups": "engineering", "session": string(ada.id.Session)}}})
	_, err = openStream(tun, tcp("wiki"))
	wantRefusal(t, err, wire.CodeDenied)
	if info := w.registry.List(); len(info) != 1 || info[0].Identity.Subject != "bob" {
		t.Errorf("sessions: %+v", info)
	}
}

// TestThreatRenewalWidensRights: renewal widens rights (OpenBao CVE-2026-39388). Only a later certificate of the same person,
// session and key is taken on a live connection.
func TestThreatRenewalWidensRights(t *testing.T) {
	w := newWorld(t, wikiPolicy("127.0.0.1:1"))
	bob := w.desktop("bob", "sales")
	inUse := bob.chain
	issuing := bob.chain[len(bob.chain)-1]
	tun := bob.mustConnect()
	forged := map[string][][]byte{
		"another person's":     w.desktop("ada", "engineering").chain,
		"nothing":              nil,
		"no certificate":       {[]byte("not a certificate")},
		"the authority's only": {issuing},
	}
	otherSession := bob.id
	otherSession.Session = auth.NewSessionID()
	forged["another session's"] = (&desktop{w: w, key: bob.key, id: otherSession}).certify(2 * time.Hour)
	otherKey := w.desktop("bob", "sales")
	otherKey.id = bob.id
	forged["another key's"] = otherKey.certify(2 * time.Hour)
	stranger := newWorld(t, wikiPolicy("127.0.0.1:1")).desktop("bob", "engineering")
	stranger.key, stranger.id = bob.key, bob.id
	forged["another authority's"] = stranger.certify(2 * time.Hour)
	shorter := &desktop{w: w, key: bob.key, id: bob.id}
	forged["one that ends earlier"] = shorter.certify(time.Minute)
	for name, chain := range forged {
		if answer, err := tun.Renew(t.Context(), chain); err == nil && answer.Refusal == "" {
			t.Errorf("a renewal with %s certificate was taken: %+v", name, answer)
		}
	}
	if tun.Err() == nil {
		if info := w.registry.List()[0]; info.Identity.Subject != "bob" || len(info.Identity.Groups) != 1 || info.Identity.Groups[0] != "sales" {
			t.Errorf("session: %+v", info)
		}
	}
	if n := len(w.audit.all(audit.EventSessionRenewed)); n != 0 {
		t.Errorf("%d renewals recorded", n)
	}
	if answer, err := tun.Renew(t.Context(), inUse); err != nil || answer.Refusal != "" {
		t.Errorf("the certificate in use, presented again: %+v, %v", answer, err)
	}
}

// TestThreatRenewalFlood: certificates presented without end cost neither the processor nor the log much, and honest ones are taken
// again a moment later.
func TestThreatRenewalFlood(t *testing.T) {
	var log bytes.Buffer
	w := newWorld(t, wikiPolicy("127.0.0.1:1"), func(cfg *gateway.Config, _ *session.Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	ada := w.desktop("ada", "engineering")
	tun := ada.mustConnect()
	for range 500 {
		if answer, err := tun.Renew(t.Context(), [][]byte{[]byte("not a certificate")}); err == nil && answer.Refusal == "" {
			t.Fatal("taken")
		}
	}
	next := ada.certify(2 * time.Hour)
	w.wait("the honest renewal", func() bool {
		answer, err := tun.Renew(t.Context(), next)
		return err == nil && answer.Refusal == ""
	})
	tun.Close()
	w.stop()
	if n := strings.Count(log.String(), "renewed certificate refused"); n == 0 || n > 60 {
		t.Errorf("%d lines in the log", n)
	}
}

// TestThreatStaleClaims: stale claims (Pomerium CVE-2021-41230, OpenVPN CVE-2024-28882). A renewal that loses a group cuts the live
// stream that the group allowed.
func TestThreatStaleClaims(t *testing.T) {
	for name, change := range map[string]func(*auth.Identity){
		"group removed":  func(id *auth.Identity) { id.Groups = []string{"sales"} },
		"groups unknown": func(id *auth.Identity) { id.Groups, id.GroupsKnown = nil, false },
	} {
		t.Run(name, func(t *testing.T) {
			svc := newService(t, nil)
			w := newWorld(t, wikiPolicy(svc.addr()))
			ada := w.desktop("ada", "engineering")
			tun := ada.mustConnect()
			st := mustOpen(t, tun, tcp("wiki"))
			at := svc.accept(t)
			change(&ada.id)
			began := time.Now()
			if _, err := tun.Renew(t.Context(), ada.certify(2*time.Hour)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(st); err == nil {
				t.Error("the stream ended cleanly")
			}
			if _, err := io.ReadAll(at); err == nil {
				t.Error("the service saw a clean end")
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("it took %v", took)
			}
			_, err := openStream(tun, tcp("wiki"))
			wantRefusal(t, err, wire.CodeDenied)
			if r := w.audit.wait(t, "closing", closing("wiki")); r.Condition != "revoked" {
				t.Errorf("closing: %+v", r)
			}
		})
	}
}

// TestThreatCrossUserMixUp: two people open, use and cancel streams as fast as they can, and neither ever sees a byte of the other.
func TestThreatCrossUserMixUp(t *testing.T) {
	serve := func(owner byte) func(*net.TCPConn) {
		return func(conn *net.TCPConn) {
			defer conn.Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := conn.Read(buf)
				for _, b := range buf[:n] {
					if b != owner {
						t.Errorf("%c's service got a byte %q", owner, b)
						return
					}
				}
				if err != nil {
					return
				}
				if _, err := conn.Write(buf[:n]); err != nil {
					return
				}
			}
		}
	}
	adas, bobs := newService(t, serve('a')), newService(t, serve('b'))
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  adas: {address: "%s"}
  bobs: {address: "%s"}
rules:
  - {name: ada, subjects: {groups: [a]}, allow: [adas]}
  - {name: bob, subjects: {groups: [b]}, allow: [bobs]}
`, adas.addr(), bobs.addr()))
	var all sync.WaitGroup
	var done atomic.Int64
	for _, who := range []string{"a", "b"} {
		tun := w.desktop(who, who).mustConnect()
		target := tcp(map[string]string{"a": "adas", "b": "bobs"}[who])
		for worker := range 6 {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(worker), uint64(who[0])))
				for range 40 {
					if cancelStorm(t, tun, target, who[0], rng) {
						done.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	if done.Load() == 0 {
		t.Error("no stream got as far as to compare")
	}
	for _, r := range w.audit.all(audit.EventStreamOpen) {
		if r.Target != map[string]string{"a": "adas", "b": "bobs"}[r.Actor.Subject] {
			t.Errorf("%s opened %s", r.Actor.Subject, r.Target)
		}
	}
}

// cancelStorm opens a stream, sends and reads, and aborts somewhere in between; it reports whether it came to read.
func cancelStorm(t *testing.T, tun *tunnel.Session, target wire.Target, owner byte, rng *rand.Rand) (read bool) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if rng.IntN(4) == 0 {
		time.AfterFunc(time.Duration(rng.IntN(1000))*time.Microsecond, cancel)
	}
	st, err := tun.Open(ctx, target, tunnel.OpenOptions{Wait: rng.IntN(2) == 0})
	if err != nil {
		return false
	}
	defer st.Close()
	st.SetDeadline(time.Now().Add(patience))
	size := 1 + rng.IntN(64<<10)
	if _, err := st.Write(bytes.Repeat([]byte{owner}, size)); err != nil {
		return false
	}
	if rng.IntN(3) == 0 {
		st.Abort(errors.New("changed my mind"))
		return false
	}
	got := make([]byte, 1+rng.IntN(size))
	n, _ := io.ReadFull(st, got)
	if i := bytes.IndexFunc(got[:n], func(r rune) bool { return r != rune(owner) }); i >= 0 {
		t.Errorf("%c got a byte %q", owner, got[i])
	}
	if rng.IntN(2) == 0 {
		st.Abort(errors.New("enough"))
	}
	return n > 0
}

// TestThreatUnknownStreamKind: identity from a message (OpenZiti GHSA-7868), the other half. Requests that no client of ours sends: a
// stream kind that does not exist, an identity in the request, a message where a request belongs. None reaches anything.
func TestThreatUnknownStreamKind(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	for name, request := range map[string]map[int]any{
		"unknown kind": {1: map[int]any{1: "exec", 2: "wiki"}},
		"no kind":      {1: map[int]any{2: "wiki"}},
		"no target":    {},
		"two targets":  {1: map[int]any{1: "tcp", 2: "wiki", 3: "127.0.0.1", 4: 80}},
		"identity":     {1: map[int]any{1: "tcp", 2: "wiki", 9: "ada"}, 7: "ada", 8: []string{"engineering"}},
	} {
		body, err := cbor.Marshal(request)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			c, err := w.desktop("bob", "sales").rawConnect()
			if err != nil {
				t.Fatal(err)
			}
			defer c.mux.Close()
			st, err := c.send(wire.TypeOpenRequest, body)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readMessage(st)
			if reply, ok := m.(*wire.OpenReply); err == nil && (!ok || reply.Code == wire.CodeOK) {
				t.Errorf("answered by %+v", m)
			}
		})
	}
	c, err := w.desktop("bob", "sales").rawConnect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.mux.Close()
	st, err := c.send(wire.TypeHello, []byte{0xa1, 1, 0x81, 1})
	if err == nil {
		_, err = readMessage(st)
	}
	if err == nil {
		t.Error("a second hello was answered")
	}
	if len(svc.conns) != 0 || len(w.audit.all(audit.EventStreamOpen)) != 0 {
		t.Error("the service was reached")
	}
}

// TestThreatStreamFlood: 100,000 opens by a client that heeds no limit. The caps of session and user hold, memory stays flat, and
// other people do not notice.
func TestThreatStreamFlood(t *testing.T) {
	svc := newService(t, echo)
	limits := session.Limits{StreamsPerSession: 32, StreamsPerUser: 48, OpensPerSession: 10_000, OpensPerUser: 10_000}
	w := newWorld(t, wikiPolicy(svc.addr()), unlimited, func(_ *gateway.Config, s *session.Config) { s.Limits = limits })
	eve := w.desktop("eve", "engineering")
	ada := w.desktop("ada", "engineering").mustConnect()
	request, err := wire.Marshal(&wire.OpenRequest{Target: tcp("wiki")})
	if err != nil {
		t.Fatal(err)
	}
	opens := 100_000
	if testing.Short() {
		opens = 10_000
	}
	before := heap()
	for sent, conns := 0, 0; sent < opens; conns++ {
		c, err := eve.rawConnect()
		if err != nil {
			t.Fatalf("connection %d: %v", conns, err)
		}
		n := c.flood(request, opens-sent)
		if sent += n; n == 0 {
			t.Fatal("a connection took nothing at all")
		}
		if _, streams := w.registry.Counts(); streams > 48 {
			t.Fatalf("%d streams are open", streams)
		}
		if conns%16 == 0 {
			mustOpen(t, ada, tcp("wiki")).Close()
		}
		c.mux.Close()
	}
	w.wait("the flood to be over", func() bool { sessions, streams := w.registry.Counts(); return sessions == 1 && streams == 0 })
	if grown := int64(heap()) - int64(before); grown > 32<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	mustOpen(t, ada, tcp("wiki")).Close()
}

// flood opens streams until the gateway has had enough, and returns how many.
func (c *rawClient) flood(request []byte, most int) int {
	for n := range most {
		st, err := c.mux.OpenStream()
		if err != nil {
			return n
		}
		if _, err := st.Write(request); err != nil {
			return n
		}
	}
	return most
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestThreatSSRFThroughTheGateway: SSRF through the gateway (Teleport GHSA-hw4x). With a rule that allows every address, loopback,
// link-local, metadata, and names that lead there are refused all the same, in every spelling.
func TestThreatSSRFThroughTheGateway(t *testing.T) {
	inside := newService(t, nil)
	port := uint16(inside.ln.Addr().(*net.TCPAddr).Port)
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  everything4: {network: 0.0.0.0/0, ports: [1-65535]}
  everything6: {network: "::/0", ports: [1-65535]}
  rebound: {address: "rebound.internal:%[1]d"}
  metadata: {address: "metadata.internal:80"}
  mapped: {address: "mapped.internal:%[1]d"}
rules:
  - name: any
    subjects: {users: ["*"]}
    allow: ["*"]
`, port))
	w.name("rebound.internal", "127.0.0.1")
	w.name("metadata.internal", "169.254.169.254", "fd00:ec2::254")
	w.name("mapped.internal", "::ffff:127.0.0.1")
	tun := w.desktop("eve").mustConnect()
	var targets []wire.Target
	for _, host := range []string{
		"127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
		"169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "2130706433", "0177.0.0.1", "127.1", "0x7f000001", "localhost", "localhost.",
	} {
		targets = append(targets, wire.HostTarget(wire.KindTCP, host, port))
	}
	targets = append(targets, tcp("rebound"), tcp("metadata"), tcp("mapped"))
	for _, target := range targets {
		_, err := openStream(tun, target)
		var r *wire.Refusal
		if !errors.As(err, &r) || (r.Code != wire.CodeDenied && r.Code != wire.CodeNoSuchService) || r.Reference == "" {
			t.Errorf("%s: %v", target, err)
		}
	}
	if len(inside.conns) != 0 || len(w.audit.all(audit.EventStreamOpen)) != 0 {
		t.Error("something inside was reached")
	}
}

// TestThreatRebinding: rebinding at the gateway (Vault CVE-2026-5052). A name that resolves to a denied address is refused after the
// resolution, and a list of addresses is dialed only where it is allowed.
func TestThreatRebinding(t *testing.T) {
	w := newWorld(t, `version: 1
services:
  wiki: {address: "wiki.internal:80"}
  lab: {network: 10.20.0.0/16, ports: [80]}
rules:
  - {name: wiki, subjects: {users: ["*"]}, allow: [wiki]}
  - {name: no lab, subjects: {groups: [contractors]}, deny: [lab], reason: Contractors stay out of the lab.}
`)
	w.name("wiki.internal", "10.20.0.7")
	tun := w.desktop("bob", "contractors").mustConnect()
	_, err := openStream(tun, tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeDenied); !strings.Contains(r.Reason, "Contractors stay out") {
		t.Errorf("refusal: %+v", r)
	}
	if n := len(w.audit.all(audit.EventStreamOpen)); n != 0 {
		t.Errorf("%d openings", n)
	}
}
