package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// cutOf reads an open stream to its end, which must be a cut by the policy.
func cutOf(t *testing.T, st *tunnel.Stream) *tunnel.AbortError {
	t.Helper()
	_, err := io.ReadAll(st)
	var abort *tunnel.AbortError
	if !errors.As(err, &abort) || abort.Code != wire.AbortRevoked || abort.Reason == "" {
		t.Fatalf("the stream ended with %v", err)
	}
	return abort
}

// TestPostureIsDecidedAndDecidedAgain: what Hello says of the device opens a stream, what the client says later cuts it and opens the
// next one, and both are in the record.
func TestPostureIsDecidedAndDecidedAgain(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  wiki: {address: "%[1]s"}
  linux: {address: "%[1]s"}
rules:
  - {name: encrypted, subjects: {users: ["*"]}, allow: [wiki], when: device.disk_encrypted}
  - {name: linux, subjects: {users: ["*"]}, allow: [linux], when: device.os == "linux" && device.arch == "arm64"}
`, svc.addr()))
	announced := make(chan wire.Services, 16)
	tun := w.desktop("ada").mustConnectWith(tunnel.ClientConfig{
		Hello:      wire.Hello{OS: "linux", Arch: "arm64", Posture: map[string]string{"disk_encrypted": "true", "shoe_size": "42"}},
		OnServices: func(s wire.Services) { announced <- s },
	})
	<-announced
	st, other := mustOpen(t, tun, tcp("wiki")), mustOpen(t, tun, tcp("linux"))
	if err := tun.SendPosture(map[string]string{"disk_encrypted": "false"}); err != nil {
		t.Fatal(err)
	}
	cutOf(t, st)
	if err := talk(other); err != nil {
		t.Errorf("a stream that asks for something else: %v", err)
	}
	if s := <-announced; s.Services[0].Allowed || !s.Services[1].Allowed {
		t.Errorf("services: %+v", s)
	}
	_, err := openStream(tun, tcp("wiki"))
	wantRefusal(t, err, wire.CodeDenied)
	tun.SendPosture(map[string]string{"disk_encrypted": "true", "os": "plan9"})
	cutOf(t, other)
	mustOpen(t, tun, tcp("wiki")).Close()
	opened := w.audit.all(audit.EventSessionOpen)[0]
	if p := opened.Subject.Posture; len(p) != 3 || p["os"] != "linux" || p["disk_encrypted"] != "true" {
		t.Errorf("opening: %v", p)
	}
	told := w.audit.all(audit.EventSessionPosture)
	if len(told) != 2 || told[0].Subject.Posture["disk_encrypted"] != "false" || told[1].Subject.Posture["os"] != "plan9" || told[1].Stream != opened.Stream {
		t.Errorf("postures: %+v", told)
	}
}

// TestThreatMissingPostureAtTheGateway: missing posture field (OpenZiti GHSA-354c). A condition about something that the client does not say, or
// says in another way, allows nothing.
func TestThreatMissingPostureAtTheGateway(t *testing.T) {
	w := newWorld(t, `version: 1
services: {wiki: {address: "127.0.0.1:1"}}
rules:
  - {name: encrypted, subjects: {users: ["*"]}, allow: [wiki], when: device.disk_encrypted || device.firewall == false}
`)
	for _, posture := range []map[string]string{nil, {"disk_encrypted": ""}, {"disk_encrypted": "1"}, {"DISK_ENCRYPTED": "true"}, {"device.disk_encrypted": "true"}} {
		tun := w.desktop("ada").mustConnectWith(tunnel.ClientConfig{Hello: wire.Hello{Posture: posture}})
		_, err := openStream(tun, tcp("wiki"))
		r := wantRefusal(t, err, wire.CodeDenied)
		w.audit.wait(t, "of the refusal", func(rec audit.Record) bool {
			return rec.Reference == r.Reference && rec.Condition == "condition_unknown"
		})
		tun.Close()
	}
}

// TestThreatPostureFlood: postures without end cost neither the log nor decisions much, and the last one counts.
func TestThreatPostureFlood(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, fmt.Sprintf(`version: 1
services: {wiki: {address: "%s"}}
rules:
  - {name: encrypted, subjects: {users: ["*"]}, allow: [wiki], when: device.disk_encrypted}
`, svc.addr()))
	tun := w.desktop("ada").mustConnectWith(tunnel.ClientConfig{Hello: wire.Hello{Posture: map[string]string{"disk_encrypted": "true"}}})
	st := mustOpen(t, tun, tcp("wiki"))
	for i := range 2000 {
		if err := tun.SendPosture(map[string]string{"disk_encrypted": "true", "os": fmt.Sprint(i)}); err != nil {
			break // the control stream's own bound
		}
	}
	w.wait("the last one", func() bool {
		return tun.SendPosture(map[string]string{"disk_encrypted": "false"}) == nil || tun.Err() != nil
	})
	if tun.Err() == nil {
		cutOf(t, st)
	}
	if n := len(w.audit.all(audit.EventSessionPosture)); n > 30 {
		t.Errorf("%d records", n)
	}
}

// TestTimeDecidesAgain: a rule that ends, and a deny that begins, cut what is open at their second, and what begins opens.
func TestTimeDecidesAgain(t *testing.T) {
	svc := newService(t, echo)
	clock := new(clock)
	noon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  wiki: {address: "%[1]s"}
  news: {address: "%[1]s"}
  late: {address: "%[1]s"}
rules:
  - {name: wiki, subjects: {users: ["*"]}, allow: [wiki], expires: %[2]s}
  - {name: news, subjects: {users: ["*"]}, allow: [news]}
  - {name: no news, subjects: {users: ["*"]}, deny: [news], not_before: %[2]s, reason: Enough.}
  - {name: late, subjects: {users: ["*"]}, allow: [late], not_before: %[2]s}
`, svc.addr(), noon.Format(time.RFC3339)), clock.drives)
	ada := w.desktop("ada")
	ada.certify(12 * time.Hour)
	tun := ada.mustConnect()
	wiki, news := mustOpen(t, tun, tcp("wiki")), mustOpen(t, tun, tcp("news"))
	_, err := openStream(tun, tcp("late"))
	wantRefusal(t, err, wire.CodeDenied)
	clock.advance(time.Until(noon) - time.Minute)
	if err := errors.Join(talk(wiki), talk(news)); err != nil {
		t.Error(err)
	}
	began := time.Now()
	clock.advance(time.Minute)
	cutOf(t, wiki)
	if abort := cutOf(t, news); !strings.Contains(abort.Reason, "Enough") {
		t.Errorf("news: %v", abort)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	mustOpen(t, tun, tcp("late")).Close()
}

// TestGrantWarnsAndEnds: an approved request opens what can be requested, its end is announced, and it ends with its streams.
func TestGrantWarnsAndEnds(t *testing.T) {
	svc := newService(t, echo)
	clock := new(clock)
	grants := policy.NewGrants()
	w := newWorld(t, wikiPolicy(svc.addr()), clock.drives)
	w.grants = grants
	w.changePolicy(fmt.Sprintf(`version: 1
services:
  db: {address: "%s", requestable: {max: 4h, approvers: {groups: [it]}}}
rules: []
`, svc.addr()))
	announced := make(chan wire.Services, 16)
	ada := w.desktop("ada")
	ada.certify(12 * time.Hour)
	tun := ada.mustConnectWith(tunnel.ClientConfig{OnServices: func(s wire.Services) { announced <- s }})
	_, err := openStream(tun, tcp("db"))
	wantRefusal(t, err, wire.CodeDenied)
	if s := <-announced; s.Services[0].Allowed {
		t.Errorf("services: %+v", s)
	}
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	grants.Replace([]policy.Grant{{ID: "k7qw-3m9p", User: ada.id.UserID(), Service: "db", Until: end}})
	w.gateway.Redecide("a request was approved")
	if s := <-announced; !s.Services[0].Allowed || s.Services[0].Reason != "" {
		t.Errorf("services: %+v", s)
	}
	st := mustOpen(t, tun, tcp("db"))
	clock.advance(time.Until(end) - 4*time.Minute)
	for s := range announced {
		if s.Services[0].Allowed && strings.Contains(s.Services[0].Reason, end.UTC().Format("15:04")) {
			break
		}
	}
	if err := talk(st); err != nil {
		t.Error(err)
	}
	clock.advance(4 * time.Minute)
	cutOf(t, st)
	r := w.audit.wait(t, "closing", closing("db"))
	if r.Rule != "request k7qw-3m9p" || r.Condition != "revoked" {
		t.Errorf("closing: %+v", r)
	}
	_, err = openStream(tun, tcp("db"))
	wantRefusal(t, err, wire.CodeDenied)
}

// TestFaultStrictRulesDenyOnAStaleView: while the database does not answer, strict rules allow nothing, new or open; others go on.
func TestFaultStrictRulesDenyOnAStaleView(t *testing.T) {
	svc := newService(t, echo)
	var stale atomic.Bool
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  vault: {address: "%[1]s"}
  wiki: {address: "%[1]s"}
rules:
  - {name: vault, subjects: {users: ["*"]}, allow: [vault], strict: true}
  - {name: wiki, subjects: {users: ["*"]}, allow: [wiki]}
`, svc.addr()), func(cfg *gateway.Config, _ *session.Config) { cfg.Stale = stale.Load })
	tun := w.desktop("ada").mustConnect()
	vault, wiki := mustOpen(t, tun, tcp("vault")), mustOpen(t, tun, tcp("wiki"))
	stale.Store(true)
	cutOf(t, vault)
	if err := talk(wiki); err != nil {
		t.Error(err)
	}
	_, err := openStream(tun, tcp("vault"))
	r := wantRefusal(t, err, wire.CodeDenied)
	w.audit.wait(t, "of the refusal", func(rec audit.Record) bool { return rec.Reference == r.Reference && rec.Condition == "store_stale" })
	mustOpen(t, tun, tcp("wiki")).Close()
	stale.Store(false)
	mustOpen(t, tun, tcp("vault")).Close()
}

// TestClientAddressIsPartOfTheQuestion: a condition on where the person connects from.
func TestClientAddressIsPartOfTheQuestion(t *testing.T) {
	svc := newService(t, echo)
	for network, allowed := range map[string]bool{"127.0.0.": true, "10.": false} {
		w := newWorld(t, fmt.Sprintf(`version: 1
services: {wiki: {address: "%s"}}
rules:
  - {name: office, subjects: {users: ["*"]}, allow: [wiki], when: request.client.startsWith("%s")}
`, svc.addr(), network))
		_, err := openStream(w.desktop("ada").mustConnect(), tcp("wiki"))
		if (err == nil) != allowed {
			t.Errorf("%s: %v", network, err)
		}
	}
}

// elsewhere dials one address for another, so that a service of a test can stand for a host of a private network.
type elsewhere struct {
	*dialer.Dialer
	to string
}

// movedConn says that it leads to another address than it does.
type movedConn struct {
	net.Conn
	at netip.AddrPort
}

func (c movedConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.at) }

func (e elsewhere) DialChecked(ctx context.Context, t dialer.Target, check dialer.CheckFunc) (net.Conn, error) {
	addrs, err := e.Resolve(ctx, t.Host)
	if err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		at := netip.AddrPortFrom(addr, t.Port)
		if err = check(at); err == nil {
			conn, err := net.Dial("tcp", e.to)
			return movedConn{conn, at}, err
		}
	}
	return nil, err
}

// zonePolicy has a lab with a zone, out of which contractors are kept from one host.
const zonePolicy = `version: 1
services:
  lab: {network: 10.20.0.0/16, ports: [80], zones: [lab.corp.example]}
  printer: {network: 10.20.9.9/32, ports: [80]}
rules:
  - {name: lab, subjects: {users: ["*"]}, allow: [lab]}
  - {name: no printer, subjects: {groups: [contractors]}, deny: [printer], reason: Printers are for staff.}
`

// TestZoneIsResolvedAtTheGateway: a name of a zone opens what it resolves to, and is cut when the policy denies that address later.
func TestZoneIsResolvedAtTheGateway(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, zonePolicy, func(cfg *gateway.Config, _ *session.Config) {
		cfg.Dialer = elsewhere{cfg.Dialer.(*dialer.Dialer), svc.addr()}
	})
	w.name("build7.lab.corp.example", "10.20.0.7")
	tun := w.desktop("ada", "staff").mustConnect()
	st := mustOpen(t, tun, wire.HostTarget(wire.KindTCP, "Build7.LAB.corp.example.", 80))
	if err := talk(st); err != nil {
		t.Error(err)
	}
	if r := w.audit.all(audit.EventStreamOpen)[0]; r.Service != "lab" || r.Address != "10.20.0.7:80" || r.Rule != "lab" {
		t.Errorf("opening: %+v", r)
	}
	w.changePolicy(strings.Replace(zonePolicy, "contractors", "staff", 1))
	if err := talk(st); err != nil {
		t.Error(err)
	}
	w.changePolicy(strings.NewReplacer("contractors", "staff", "10.20.9.9/32", "10.20.0.0/24").Replace(zonePolicy))
	if abort := cutOf(t, st); !strings.Contains(abort.Reason, "Printers are for staff") {
		t.Errorf("cut: %v", abort)
	}
}

// TestThreatZoneLeadsOut: rebinding at the gateway (Vault CVE-2026-5052) and SSRF through it (Teleport GHSA-hw4x), by a name in a zone.
// Whoever may write the zone's names reaches nothing outside the network by them, nothing special, and nothing that is denied.
func TestThreatZoneLeadsOut(t *testing.T) {
	inside := newService(t, nil)
	port := inside.ln.Addr().(*net.TCPAddr).Port
	text := strings.Replace(zonePolicy, "rules:", `  everything: {network: 0.0.0.0/0, ports: [80]}
rules:
  - {name: wide, subjects: {users: ["*"]}, allow: [everything]}`, 1)
	w := newWorld(t, strings.ReplaceAll(text, "[80]", fmt.Sprintf("[%d]", port)))
	tun := w.desktop("bob", "contractors").mustConnect()
	for name, addrs := range map[string][]string{
		"loopback":  {"127.0.0.1"},
		"mapped":    {"::ffff:127.0.0.1"},
		"metadata":  {"169.254.169.254"},
		"nat64":     {"64:ff9b::a14:7"},
		"outside":   {"10.30.0.7"},
		"public":    {"192.0.2.7"},
		"denied":    {"10.20.9.9"},
		"all wrong": {"10.30.0.7", "127.0.0.1", "10.20.9.9"},
	} {
		host := strings.ReplaceAll(name, " ", "-") + ".lab.corp.example"
		w.name(host, addrs...)
		_, err := openStream(tun, wire.HostTarget(wire.KindTCP, host, uint16(port)))
		r := wantRefusal(t, err, wire.CodeDenied)
		w.audit.wait(t, "of "+name, func(rec audit.Record) bool { return rec.Reference == r.Reference && rec.Service == "lab" })
	}
	for _, target := range []wire.Target{
		wire.HostTarget(wire.KindTCP, "build7.lab.corp.example", 1), wire.HostTarget(wire.KindUDP, "build7.lab.corp.example", uint16(port)),
		wire.HostTarget(wire.KindTCP, "lab.corp.example.evil.example", uint16(port)), wire.HostTarget(wire.KindTCP, "evillab.corp.example", uint16(port)),
	} {
		if r := refusalOf(t, tun, target, true); r.Code != wire.CodeNoSuchService {
			t.Errorf("%s: %+v", target, r)
		}
	}
	if len(inside.conns) != 0 || len(w.audit.all(audit.EventStreamOpen)) != 0 {
		t.Error("something was reached")
	}
}

// TestHiddenServiceIsUnknown: to whom it is not allowed it does not exist, by name, host and address, when it is taken away, and in the
// list of services; the record has the truth.
func TestHiddenServiceIsUnknown(t *testing.T) {
	svc := newService(t, echo)
	text := func(group string) string {
		return fmt.Sprintf(`version: 1
services:
  merger: {address: "%s", hostnames: [merger.corp.example], port: 80, hidden: true}
rules:
  - {name: the board, subjects: {groups: [%s]}, allow: [merger]}
`, svc.addr(), group)
	}
	w := newWorld(t, text("board"))
	announced := make(chan wire.Services, 4)
	bob := w.desktop("bob", "sales").mustConnectWith(tunnel.ClientConfig{OnServices: func(s wire.Services) { announced <- s }})
	if s := <-announced; len(s.Services) != 0 {
		t.Errorf("services: %+v", s)
	}
	for target, nothing := range map[wire.Target]wire.Target{
		tcp("merger"): tcp("murder"),
		wire.HostTarget(wire.KindTCP, "merger.corp.example", 80): wire.HostTarget(wire.KindTCP, "murder.corp.example", 80),
	} {
		no, unknown := refusalOf(t, bob, target, true), refusalOf(t, bob, nothing, true)
		unknown.Reason, unknown.Reference = strings.ReplaceAll(unknown.Reason, "murder", "merger"), no.Reference
		if *no != *unknown || no.Service != "" {
			t.Errorf("refusals: %+v and %+v", no, unknown)
		}
		rec := w.audit.wait(t, "of the refusal", func(rec audit.Record) bool { return rec.Reference == no.Reference })
		if rec.Service != "merger" || rec.Condition != "no_rule_allows" || rec.Code != wire.CodeDenied || !strings.Contains(rec.Reason, "board") {
			t.Errorf("record: %+v", rec)
		}
	}
	st := mustOpen(t, w.desktop("eve", "board").mustConnect(), tcp("merger"))
	w.changePolicy(text("nobody"))
	if abort := cutOf(t, st); strings.Contains(abort.Reason, "nobody") || strings.Contains(abort.Reason, "rule") {
		t.Errorf("the cut tells of the service: %v", abort)
	}
	if rec := w.audit.wait(t, "closing", closing("merger")); rec.Condition != "revoked" || !strings.Contains(rec.Reason, "no_rule_allows") {
		t.Errorf("closing: %+v", rec)
	}
}

// TestThreatRenewalRacesALock: a renewal that races a lock loses in both orders, and in the gap between them. The lock is of a group that
// only the renewed certificate has.
func TestThreatRenewalRacesALock(t *testing.T) {
	locked := wire.Termination{Code: wire.TerminateLocked, Reason: "contractors are locked"}
	for name, when := range map[string]audit.Event{
		"before the check":                 "",
		"between the check and the change": audit.EventSessionRenewed,
		"after the change":                 "after",
	} {
		t.Run(name, func(t *testing.T) {
			svc := newService(t, nil)
			var isLocked atomic.Bool
			hooked := &hookedAudit{memoryAudit: newMemoryAudit()}
			w := newWorld(t, wikiPolicy(svc.addr()), func(cfg *gateway.Config, _ *session.Config) { cfg.Audit = hooked })
			w.audit = hooked.memoryAudit
			w.setAdmit(func(_ context.Context, p mtls.Peer) (time.Time, error) {
				if isLocked.Load() && len(p.Identity.Groups) == 2 {
					return time.Time{}, &locked
				}
				return time.Time{}, nil
			})
			lock := func() {
				isLocked.Store(true)
				w.registry.Cut(session.Filter{Group: "contractors"}, locked)
			}
			ada := w.desktop("ada", "engineering")
			tun := ada.mustConnect()
			st := mustOpen(t, tun, tcp("wiki"))
			at := svc.accept(t)
			ada.id.Groups = []string{"contractors", "engineering"}
			next := ada.certify(2 * time.Hour)
			switch when {
			case "":
				lock()
			case audit.EventSessionRenewed:
				hooked.before(when, lock)
			}
			_, err := tun.Renew(t.Context(), next)
			if when == "after" {
				if err != nil {
					t.Fatal(err)
				}
				lock()
			}
			if when == "" { // refused: the old claims, which the lock does not cover, go on
				if err == nil || !strings.Contains(err.Error(), locked.Reason) {
					t.Errorf("renewal: %v", err)
				}
				if info := w.registry.List(); len(info) != 1 || len(info[0].Identity.Groups) != 1 {
					t.Errorf("sessions: %+v", info)
				}
				return
			}
			<-tun.Done()
			wantTermination(t, tun.Err(), wire.TerminateLocked)
			if _, err := io.ReadAll(at); err == nil {
				t.Error("the service saw a clean end")
			}
			<-st.Done()
			if r := w.audit.wait(t, "closing", closing("wiki")); r.Condition != string(wire.TerminateLocked) {
				t.Errorf("closing: %+v", r)
			}
		})
	}
}

// hookedAudit does something before it takes the next record of an event.
type hookedAudit struct {
	*memoryAudit
	event atomic.Pointer[audit.Event]
	do    func()
}

func (h *hookedAudit) before(event audit.Event, do func()) {
	h.do = do
	h.event.Store(&event)
}

func (h *hookedAudit) Append(ctx context.Context, r audit.Record) (audit.Receipt, error) {
	if e := h.event.Load(); e != nil && *e == r.Event && h.event.CompareAndSwap(e, nil) {
		h.do()
	}
	return h.memoryAudit.Append(ctx, r)
}
