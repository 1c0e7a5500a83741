package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// TestEndingsThroughTheGateway runs the table of a plain TCP connection's endings from an application on the desktop to a service
// behind the gateway.
func TestEndingsThroughTheGateway(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	tun := w.desktop("ada", "engineering").mustConnect()
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		client, front := relaytest.Pair(t)
		st := mustOpen(t, tun, tcp("wiki"))
		st.SetDeadline(time.Time{})
		over := make(chan struct{})
		go func() {
			defer close(over)
			relay.Copy(context.Background(), relay.TCP(front), st, relay.Options{})
		}()
		t.Cleanup(func() { st.Abort(errors.New("test over")); <-over })
		return client, svc.accept(t)
	})
}

func TestStreamIsRecordedFromEndToEnd(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	ada := w.desktop("ada", "engineering")
	tun := ada.mustConnectWith(tunnel.ClientConfig{Hello: wire.Hello{Client: "culvert/test"}})
	st, err := tun.Open(t.Context(), wire.HostTarget(wire.KindTCP, "wiki.corp.example", 80), tunnel.OpenOptions{Wait: true, TraceID: "trace1"})
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(st, "hello")
	st.CloseWrite()
	if got, err := io.ReadAll(st); err != nil || string(got) != "hello" {
		t.Fatalf("echo: %q, %v", got, err)
	}
	closed := w.audit.wait(t, "closing", closing("wiki.corp.example:80"))
	opened := w.audit.all(audit.EventStreamOpen)[0]
	for _, r := range []audit.Record{opened, closed} {
		a := r.Actor
		if r.Stream == "" || r.Stream != opened.Stream || r.Service != "wiki" || r.Rule != "engineers" || r.Trace != "trace1" ||
			r.Policy != w.policy.Load().Version() || r.Address != svc.addr() || a.Subject != "ada" || a.Session != ada.id.Session || a.Device != ada.id.Device || len(a.Serial) != 32 {
			t.Errorf("record: %+v by %+v", r, a)
		}
	}
	if closed.Transfer == nil || closed.Transfer.Sent != 5 || closed.Transfer.Received != 5 || closed.Condition != "client_ended" {
		t.Errorf("closing: %+v, %+v", closed, closed.Transfer)
	}
	tun.Close()
	end := w.audit.wait(t, "session's end", func(r audit.Record) bool { return r.Event == audit.EventSessionClose })
	if begin := w.audit.all(audit.EventSessionOpen)[0]; begin.Stream != end.Stream || begin.Client != "culvert/test" || end.Transfer.Sent != 5 {
		t.Errorf("session records: %+v, %+v", begin, end)
	}
}

func TestRefusalsExplainThemselves(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  payroll: {address: "payroll.internal:443"}
  down: {address: "%s"}
  lost: {address: "lost.internal:80"}
rules:
  - name: everybody
    subjects: {users: ["*"]}
    allow: [down, lost]
  - name: not payroll
    subjects: {groups: [engineering]}
    deny: [payroll]
    reason: Payroll is for finance. Ask finance-help.
`, closed.Addr()))
	tun := w.desktop("ada", "engineering").mustConnect()
	for _, tc := range []struct {
		target wire.Target
		code   wire.Code
		reason string
		event  audit.Event
	}{
		{tcp("payroll"), wire.CodeDenied, "Ask finance-help", audit.EventStreamDenied},
		{tcp("nonsense"), wire.CodeNoSuchService, "nonsense", audit.EventStreamDenied},
		{wire.HostTarget(wire.KindTCP, "payroll.internal", 444), wire.CodeNoSuchService, "payroll.internal", audit.EventStreamDenied},
		{tcp("down"), wire.CodeRefused, "", audit.EventStreamClose},
		{tcp("lost"), wire.CodeUnreachable, "lost.internal", audit.EventStreamFailed},
	} {
		t.Run(tc.target.String(), func(t *testing.T) {
			_, err := openStream(tun, tc.target)
			r := wantRefusal(t, err, tc.code)
			if !strings.Contains(r.Reason, tc.reason) || r.Reference == "" {
				t.Errorf("refusal: %+v", r)
			}
			rec := w.audit.wait(t, "of the refusal", func(rec audit.Record) bool { return rec.Reference == r.Reference })
			if rec.Event != tc.event || rec.Code != tc.code || rec.Target != tc.target.String() || rec.Actor.Subject != "ada" {
				t.Errorf("record: %+v", rec)
			}
		})
	}
	w.wait("the streams to be gone", func() bool { _, streams := w.registry.Counts(); return streams == 0 })
}

func TestEarlyDataReachesOnlyWhatIsAllowed(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	for subject, group := range map[string]string{"ada": "engineering", "bob": "sales"} {
		tun := w.desktop(subject, group).mustConnect()
		st, err := tun.Open(t.Context(), tcp("wiki"), tunnel.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		st.SetDeadline(time.Now().Add(patience))
		io.WriteString(st, "early")
		st.CloseWrite()
		got, err := io.ReadAll(st)
		if subject == "bob" {
			wantRefusal(t, err, wire.CodeDenied)
		} else if err != nil || string(got) != "early" {
			t.Errorf("%s: %q, %v", subject, got, err)
		}
	}
	if n := len(w.audit.all(audit.EventStreamOpen)); n != 1 {
		t.Errorf("%d openings, want ada's only", n)
	}
}

func TestPolicyChangeCutsWhatLostItsAllow(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	announced := make(chan wire.Services, 16)
	ada, root := w.desktop("ada", "engineering"), w.desktop("root", "engineering", "admins")
	tun := ada.mustConnectWith(tunnel.ClientConfig{OnServices: func(s wire.Services) { announced <- s }})
	if s := <-announced; len(s.Services) != 1 || !s.Services[0].Allowed {
		t.Fatalf("services: %+v", s)
	}
	lost, kept := mustOpen(t, tun, tcp("wiki")), mustOpen(t, root.mustConnect(), tcp("wiki"))
	lostAt, keptAt := svc.accept(t), svc.accept(t)
	io.WriteString(lost, "x")
	io.WriteString(kept, "y")
	io.ReadFull(lostAt, make([]byte, 1))
	io.ReadFull(keptAt, make([]byte, 1))

	began := time.Now()
	if n := w.changePolicy(strings.Replace(wikiPolicy(svc.addr()), "[engineering]", "[admins]", 1)); n != 1 {
		t.Errorf("%d streams cut, want one", n)
	}
	_, err := io.ReadAll(lost)
	var abort *tunnel.AbortError
	if !errors.As(err, &abort) || abort.Code != wire.AbortRevoked || abort.Reason == "" {
		t.Errorf("the client saw %v", err)
	}
	if _, err := io.ReadAll(lostAt); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	r := w.audit.wait(t, "closing", closing("wiki"))
	if r.Condition != "revoked" || r.Actor.Subject != "ada" || r.Reason == "" || !strings.Contains(abort.Reason, "(reference "+r.Reference+")") {
		t.Errorf("closing record: %+v", r)
	}
	if len(r.Reference) != len(audit.NewReference()) || r.Reference == r.Stream {
		t.Errorf("reference %q: nobody reads that out on the telephone", r.Reference)
	}
	io.WriteString(kept, "still here")
	if _, err := io.ReadFull(keptAt, make([]byte, 10)); err != nil {
		t.Errorf("the stream that is still allowed: %v", err)
	}
	if s := <-announced; len(s.Services) != 1 || s.Services[0].Allowed || s.Services[0].Reason == "" {
		t.Errorf("services after the change: %+v", s)
	}
}

// TestCutDoesNotWaitForTheClient: the service is left within the second although nothing moves on the client's network.
func TestCutDoesNotWaitForTheClient(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	raw, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	deaf := &deafConn{Conn: raw, stalled: make(chan struct{}), closed: make(chan struct{})}
	tun, err := w.desktop("ada", "engineering").connectOver(deaf, tunnel.ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	mustOpen(t, tun, tcp("wiki"))
	at := svc.accept(t)
	close(deaf.stalled)
	failed := make(chan error, 1)
	go func() {
		_, err := io.Copy(struct{ io.Writer }{at}, endless{})
		failed <- err
	}()
	last, looks := int64(0), 0
	w.wait("the stream to stall", func() bool { // the same figure many times
		_, now := w.registry.Bytes()
		if looks++; now != last {
			last, looks = now, 0
		}
		return last > 0 && looks > 20
	})
	began := time.Now()
	w.changePolicy(strings.Replace(wikiPolicy(svc.addr()), "[engineering]", "[admins]", 1))
	if err := <-failed; err == nil {
		t.Error("the service could go on")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_ = w.gateway.Shutdown(ctx)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the shutdown waited %v for a client that hears nothing", took)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestPolicyChangeOfTheServicesAddress(t *testing.T) {
	old, new := newService(t, echo), newService(t, echo)
	w := newWorld(t, wikiPolicy(old.addr()))
	tun := w.desktop("ada", "engineering").mustConnect()
	st := mustOpen(t, tun, tcp("wiki"))
	w.changePolicy(wikiPolicy(new.addr()))
	if _, err := io.ReadAll(st); err == nil {
		t.Error("the stream to the old address ended cleanly")
	}
	mustOpen(t, tun, tcp("wiki")).Close()
	w.audit.wait(t, "opening at the new address", func(r audit.Record) bool {
		return r.Event == audit.EventStreamOpen && r.Address == new.addr()
	})
}

func TestRenewalExtendsTheLiveSession(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	ada := w.desktop("ada", "engineering")
	ada.certify(3 * time.Second)
	tun := ada.mustConnect()
	st := mustOpen(t, tun, tcp("wiki"))
	answer, err := tun.Renew(t.Context(), ada.certify(time.Hour))
	if err != nil || answer.Refusal != "" || time.Until(answer.NotAfter) < 50*time.Minute {
		t.Fatalf("renewal: %+v, %v", answer, err)
	}
	info := w.registry.List()[0]
	if time.Until(info.NotAfter) < 50*time.Minute || len(info.Streams) != 1 {
		t.Errorf("session after the renewal: %+v", info)
	}
	io.WriteString(st, "on")
	if _, err := io.ReadFull(st, make([]byte, 2)); err != nil {
		t.Errorf("the stream after the renewal: %v", err)
	}
	if r := w.audit.all(audit.EventSessionRenewed); len(r) != 1 || r[0].Actor.Serial != info.Serial {
		t.Errorf("records: %+v", r)
	}
}

func TestExpiryWarnsAndEnds(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	warned := make(chan wire.Renewed, 4)
	ada := w.desktop("ada", "engineering")
	ada.certify(2 * time.Second)
	tun := ada.mustConnectWith(tunnel.ClientConfig{OnRenewed: func(r wire.Renewed) { warned <- r }})
	mustOpen(t, tun, tcp("wiki"))
	at := svc.accept(t)
	select {
	case <-warned:
	case <-time.After(patience):
		t.Fatal("no warning")
	}
	<-tun.Done()
	if term := wantTermination(t, tun.Err(), wire.TerminateExpired); !strings.Contains(term.Reason, "expired") {
		t.Errorf("termination: %v", term)
	}
	if _, err := io.ReadAll(at); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	if r := w.audit.wait(t, "closing", closing("wiki")); r.Condition != "expired" {
		t.Errorf("closing record: %+v", r)
	}
}

func TestShutdownDrains(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	draining := make(chan wire.Draining, 1)
	ada := w.desktop("ada", "engineering")
	tun := ada.mustConnectWith(tunnel.ClientConfig{OnDraining: func(d wire.Draining) { draining <- d }})
	st := mustOpen(t, tun, tcp("wiki"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.gateway.Shutdown(ctx) }()
	if d := <-draining; d.Reason == "" || d.Deadline.IsZero() {
		t.Errorf("draining: %+v", d)
	}
	if _, err := openStream(tun, tcp("wiki")); err == nil {
		t.Error("a stream opened while draining")
	}
	_, err := ada.connect(tunnel.ClientConfig{})
	wantTermination(t, err, wire.TerminateShutdown)
	io.WriteString(st, "finish")
	st.CloseWrite()
	if got, err := io.ReadAll(st); err != nil || string(got) != "finish" {
		t.Errorf("the open stream: %q, %v", got, err)
	}
	st.Close()
	if err := <-done; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	<-tun.Done()
	wantTermination(t, tun.Err(), wire.TerminateShutdown)
}

func TestShutdownCutsAtTheDeadline(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	tun := w.desktop("ada", "engineering").mustConnect()
	mustOpen(t, tun, tcp("wiki"))
	at := svc.accept(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.gateway.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := io.ReadAll(at); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	if sessions, streams := w.registry.Counts(); sessions != 0 || streams != 0 {
		t.Errorf("left: %d sessions, %d streams", sessions, streams)
	}
}

func TestAuditFailureRefusesNewStreamsOnly(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	ada := w.desktop("ada", "engineering")
	tun := ada.mustConnect()
	st := mustOpen(t, tun, tcp("wiki"))
	w.audit.setFailing(audit.ErrNoSpace)
	_, err := openStream(tun, tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeUnavailable); !strings.Contains(r.Reason, "audit") {
		t.Errorf("refusal: %+v", r)
	}
	if _, err := openStream(tun, tcp("payroll")); err == nil {
		t.Error("a denial became an allow")
	}
	io.WriteString(st, "on")
	if _, err := io.ReadFull(st, make([]byte, 2)); err != nil {
		t.Errorf("the open stream: %v", err)
	}
	other, err := ada.connect(tunnel.ClientConfig{})
	if err == nil {
		<-other.Done()
		err = other.Err()
		other.Close()
	}
	wantTermination(t, err, wire.TerminateUnavailable)
	w.audit.setFailing(nil)
	mustOpen(t, tun, tcp("wiki")).Close()
}

func TestUDPKeepsBoundaries(t *testing.T) {
	at, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := at.ReadFromUDP(buf)
			if err != nil {
				return
			}
			at.WriteToUDP(buf[:n], from)
		}
	}()
	w := newWorld(t, fmt.Sprintf(`version: 1
services:
  dns: {address: "%s", protocol: udp}
rules:
  - name: everybody
    subjects: {users: ["*"]}
    allow: [dns]
`, at.LocalAddr()))
	tun := w.desktop("ada").mustConnect()
	st := mustOpen(t, tun, wire.ServiceTarget(wire.KindUDP, "dns"))
	buf := make([]byte, 65535)
	for _, size := range []int{1, 512, 0, 9000} {
		if _, err := st.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if n, err := st.Read(buf); err != nil || n != size {
			t.Fatalf("read %d, %v; want %d", n, err, size)
		}
	}
	st.Abort(errors.New("enough"))
	r := w.audit.wait(t, "closing", closing("dns/udp"))
	if r.Transfer.Sent != 9513 || r.Transfer.Received != 9513 || r.Kind != wire.KindUDP {
		t.Errorf("closing: %+v, %+v", r, r.Transfer)
	}
	_, err = openStream(tun, wire.ServiceTarget(wire.KindTCP, "dns"))
	wantRefusal(t, err, wire.CodeNoSuchService)
}

func TestLocks(t *testing.T) {
	svc := newService(t, nil)
	w := newWorld(t, wikiPolicy(svc.addr()))
	ada := w.desktop("ada", "engineering")
	tun := ada.mustConnect()
	mustOpen(t, tun, tcp("wiki"))
	at := svc.accept(t)
	locked := wire.Termination{Code: wire.TerminateLocked, Reason: "your laptop was reported stolen"}
	w.setAdmit(func(context.Context, mtls.Peer) (time.Time, error) { return time.Time{}, &locked })
	w.registry.Cut(session.Filter{User: ada.id.UserID()}, locked)
	<-tun.Done()
	term := wantTermination(t, tun.Err(), wire.TerminateLocked)
	if term.Reason != locked.Reason || term.Reference == "" {
		t.Errorf("termination: %v", term)
	}
	w.audit.wait(t, "session's end", func(r audit.Record) bool {
		return r.Event == audit.EventSessionClose && r.Reference == term.Reference
	})
	if _, err := io.ReadAll(at); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	_, err := ada.connect(tunnel.ClientConfig{})
	term = wantTermination(t, err, wire.TerminateLocked)
	if r := w.audit.all(audit.EventSessionRefused); len(r) != 1 || r[0].Reference != term.Reference || r[0].Reason != locked.Reason {
		t.Errorf("records: %+v, termination %v", r, term)
	}
	w.setAdmit(func(context.Context, mtls.Peer) (time.Time, error) {
		return time.Time{}, errors.New("secret path of the database")
	})
	_, err = ada.connect(tunnel.ClientConfig{})
	if term := wantTermination(t, err, wire.TerminateUnavailable); strings.Contains(term.Reason, "secret") {
		t.Errorf("an internal error went out: %v", term)
	}
	w.waitEmpty()
}

func TestSessionDeadline(t *testing.T) {
	w := newWorld(t, wikiPolicy("127.0.0.1:1"))
	deadline := time.Now().Add(time.Second)
	w.setAdmit(func(context.Context, mtls.Peer) (time.Time, error) { return deadline, nil })
	tun := w.desktop("ada", "engineering").mustConnect()
	if got := tun.Welcome(); got.Deadline.UnixMilli() != deadline.UnixMilli() || got.Gateway != "gw1" || got.ServerTime.IsZero() || len(got.Roots) == 0 {
		t.Errorf("welcome: %+v", got)
	}
	<-tun.Done()
	if term := wantTermination(t, tun.Err(), wire.TerminateExpired); !strings.Contains(term.Reason, "session ended") {
		t.Errorf("termination: %v", term)
	}
}

func TestUndecidedStreamsAreCapped(t *testing.T) {
	few := func(_ *gateway.Config, s *session.Config) { s.Limits.UndecidedPerSession = 4 }
	w := newWorld(t, wikiPolicy("slow.internal:80"), few, allUndecided)
	release := make(chan struct{})
	w.slow = release
	tun := w.desktop("ada", "engineering").mustConnect()
	results := make(chan error, 5)
	for range cap(results) {
		go func() {
			_, err := openStream(tun, tcp("wiki"))
			results <- err
		}()
	}
	wantRefusal(t, <-results, wire.CodeLimit)
	close(release)
	for range cap(results) - 1 {
		wantRefusal(t, <-results, wire.CodeUnreachable)
	}
}

// TestSessionCaps: the register's caps as a client meets them.
func TestSessionCaps(t *testing.T) {
	svc := newService(t, echo)
	caps := func(g *gateway.Config, s *session.Config) {
		s.Limits = session.Limits{SessionsPerUser: 2, StreamsPerUser: 3, StreamsPerSession: 2}
		g.Tunnel.MaxStreams = 100
	}
	w := newWorld(t, wikiPolicy(svc.addr()), caps)
	ada := w.desktop("ada", "engineering")
	first, second := ada.mustConnect(), ada.mustConnect()
	_, err := ada.connect(tunnel.ClientConfig{})
	wantTermination(t, err, wire.TerminateLimit)
	mustOpen(t, first, tcp("wiki"))
	mustOpen(t, first, tcp("wiki"))
	_, err = openStream(first, tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeLimit); r.Reference == "" || r.Remedy == "" {
		t.Errorf("refusal: %+v", r)
	}
	last := mustOpen(t, second, tcp("wiki"))
	_, err = openStream(second, tcp("wiki"))
	wantRefusal(t, err, wire.CodeLimit)
	last.Abort(errors.New("make room"))
	w.wait("the place to be free", func() bool { _, streams := w.registry.Counts(); return streams == 2 })
	mustOpen(t, second, tcp("wiki"))
}

// TestWithTheRealLog runs a stream with the audit log that a gateway has.
func TestWithTheRealLog(t *testing.T) {
	svc := newService(t, echo)
	dir := t.TempDir()
	log, err := audit.Open(audit.Config{Dir: filepath.Join(dir, "audit")})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, wikiPolicy(svc.addr()), func(g *gateway.Config, _ *session.Config) { g.Audit = log })
	tun := w.desktop("ada", "engineering").mustConnect()
	const streams = 16
	var all sync.WaitGroup
	for range streams {
		all.Go(func() {
			st, err := openStream(tun, tcp("wiki"))
			if err != nil {
				t.Error(err)
				return
			}
			st.CloseWrite()
			io.Copy(io.Discard, st)
		})
	}
	all.Wait()
	_, err = openStream(tun, tcp("payroll"))
	first := wantRefusal(t, err, wire.CodeNoSuchService)
	_, err = openStream(tun, tcp("payroll"))
	if again := wantRefusal(t, err, wire.CodeNoSuchService); again.Reference != first.Reference || again.Reference == "" {
		t.Errorf("references %q and %q: repetitions are counted under one", first.Reference, again.Reference)
	}
	tun.Close()
	w.waitEmpty()
	w.stop()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	files, _ := filepath.Glob(filepath.Join(dir, "audit", "*"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		text.Write(data)
	}
	for event, want := range map[audit.Event]int{
		audit.EventSessionOpen: 1, audit.EventStreamOpen: streams, audit.EventStreamClose: streams, audit.EventSessionClose: 1,
		audit.EventStreamDenied: 2, // the first, and at the end how often it was repeated
	} {
		if n := strings.Count(text.String(), fmt.Sprintf("%q", event)); n != want {
			t.Errorf("%d records of %s, want %d", n, event, want)
		}
	}
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	if _, err := gateway.New(gateway.Config{}); err == nil {
		t.Error("a gateway without anything was made")
	}
}

// The database away for longer than the locks are held: what is open goes on, nothing new is opened, and the refusal says why.
func TestFaultLocksUnknown(t *testing.T) {
	svc := newService(t, echo)
	var unknown atomic.Bool
	w := newWorld(t, wikiPolicy(svc.addr()), func(cfg *gateway.Config, _ *session.Config) {
		cfg.Current = func() error {
			if unknown.Load() {
				return errors.New("the database is away")
			}
			return nil
		}
	})
	tun := w.desktop("ada", "engineering").mustConnect()
	open := mustOpen(t, tun, tcp("wiki"))
	unknown.Store(true)
	_, err := openStream(tun, tcp("wiki"))
	if r := wantRefusal(t, err, wire.CodeUnavailable); r.Reference == "" {
		t.Errorf("no reference: %+v", r)
	}
	_, err = openStream(tun, tcp("nothing"))
	wantRefusal(t, err, wire.CodeNoSuchService)
	if _, err := io.WriteString(open, "12345"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 5)); err != nil {
		t.Errorf("the open stream: %v", err)
	}
	unknown.Store(false)
	mustOpen(t, tun, tcp("wiki"))
}

// A bug that somebody finds a way to ends their connection and nobody else's.
func TestThreatPanicEndsOnlyItsConnection(t *testing.T) {
	svc := newService(t, echo)
	var broken atomic.Bool
	w := newWorld(t, wikiPolicy(svc.addr()), func(cfg *gateway.Config, _ *session.Config) {
		cfg.Current = func() error {
			if broken.CompareAndSwap(true, false) {
				panic("a bug")
			}
			return nil
		}
	})
	victim, mallory := w.desktop("ada", "engineering").mustConnect(), w.desktop("mallory", "engineering").mustConnect()
	open := mustOpen(t, victim, tcp("wiki"))
	broken.Store(true)
	if _, err := openStream(mallory, tcp("wiki")); err == nil {
		t.Error("the stream opened")
	}
	<-mallory.Done()
	wantTermination(t, mallory.Err(), wire.TerminateUnavailable)
	if _, err := io.WriteString(open, "12345"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(open, make([]byte, 5)); err != nil {
		t.Errorf("another's stream: %v", err)
	}
	want := "# HELP culvert_tunnel_panics_total Panics that ended one tunnel connection; each is a bug to report.\n" +
		"# TYPE culvert_tunnel_panics_total counter\nculvert_tunnel_panics_total 1\n"
	if err := testutil.CollectAndCompare(w.metrics, strings.NewReader(want), "culvert_tunnel_panics_total"); err != nil {
		t.Error(err)
	}
}

func TestMetricsRegister(t *testing.T) {
	svc := newService(t, echo)
	w := newWorld(t, wikiPolicy(svc.addr()))
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(w.metrics); err != nil {
		t.Fatal(err)
	}
	tun := w.desktop("ada", "engineering").mustConnect()
	st := mustOpen(t, tun, tcp("wiki"))
	io.WriteString(st, "12345")
	io.ReadFull(st, make([]byte, 5))
	w.wait("both directions to be counted", func() bool { in, out := w.registry.Bytes(); return in == 5 && out == 5 })
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"culvert_sessions": 1, "culvert_streams": 1, "culvert_stream_bytes_total": 10, "culvert_stream_decisions_total": 1,
		"culvert_dial_seconds": 1, "culvert_decision_seconds": 1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}
