package store

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/pgtest"
)

// wantAway runs one operation of each kind and checks that each says soon that the
// database is away.
func wantAway(t *testing.T, s *Store, within time.Duration) {
	t.Helper()
	ctx := context.Background()
	for name, ask := range map[string]func() error{
		"ping":     func() error { return s.Ping(ctx) },
		"clock":    func() error { _, err := s.Now(ctx); return err },
		"changes":  func() error { _, err := s.Changes(ctx); return err },
		"locks":    func() error { _, err := s.Locks(ctx); return err },
		"issuance": func() error { _, err := s.Issue(ctx, Issuance{Token: "away"}); return err },
		"lock":     func() error { _, err := s.AddLock(ctx, Lock{ID: "away", Kind: LockUser, Target: "u"}); return err },
		"beat":     func() error { return s.Beat(ctx, Gateway{ID: "a"}) },
	} {
		began := time.Now()
		if err := ask(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(began); took > within {
			t.Errorf("%s took %s", name, took)
		}
	}
}

func wantBack(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.Locks(t.Context()); err != nil {
		t.Errorf("the database is back: %v", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("the database is back: %v", err)
	}
}

// Database down: errors that say so, no issuance, and back by itself.
func TestFaultDatabaseLostAndBack(t *testing.T) {
	server := pgtest.Start(t)
	s := database{location: server.Database(t)}.open(t, nil)
	in := login(t, s, "token", "key")
	for name, end := range map[string]func() error{"stopped": server.Stop, "killed": server.Kill} {
		mustIssue(t, s, login(t, s, name, "key"))
		if err := end(); err != nil {
			t.Fatal(err)
		}
		wantAway(t, s, 10*time.Second)
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		wantBack(t, s)
	}
	if out := mustIssue(t, s, in); out.Repeated {
		t.Error("it was issued while the database was away")
	}
}

// Database failing over: a connection that died is not an error, if nothing was
// under way on it.
func TestFaultDatabaseConnectionsCut(t *testing.T) {
	server := pgtest.Start(t)
	s := database{location: server.Database(t)}.open(t, nil)
	for range 5 {
		// As many connections as the pool holds, all of them idle.
		var wg sync.WaitGroup
		for range 3 * connections {
			wg.Go(func() { _ = s.Ping(context.Background()) })
		}
		wg.Wait()
		server.CutConnections(t)
		wantBack(t, s)
	}
}

// Database failing over in the middle of an issuance: nothing is recorded, and the
// same request makes the certificate.
func TestFaultDatabaseLostInTheMiddle(t *testing.T) {
	server := pgtest.Start(t)
	s := database{location: server.Database(t)}.open(t, nil)
	in := login(t, s, "token", "key")
	sign := in.Sign
	var lost Certificate
	in.Sign = func(at time.Time, session Session) (Certificate, error) {
		server.CutConnections(t)
		var err error
		lost, err = sign(at, session)
		return lost, err
	}
	if _, err := s.Issue(t.Context(), in); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("issued over a connection that was cut: %v", err)
	}
	in.Sign = sign
	out := mustIssue(t, s, in)
	if out.Repeated || out.Certificate.Serial == lost.Serial {
		t.Errorf("%+v", out)
	}
	if _, err := s.Certificate(t.Context(), lost.Serial); !errors.Is(err, ErrNotFound) {
		t.Errorf("a certificate that nobody got: %v", err)
	}
}

// A database that hangs, with connections open or new, is away within seconds.
func TestFaultDatabaseHangs(t *testing.T) {
	location, err := url.Parse(postgres.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	gate := newGate(t, location.Host)
	location.Host = gate.addr()
	s := database{location: location.String()}.open(t, nil)
	s.read.patience = 500 * time.Millisecond
	wantBack(t, s)
	gate.shut()
	wantAway(t, s, 10*time.Second)
	gate.open()
	wantBack(t, s)
}

// A gateway that hangs in a transaction does not keep others waiting for long.
func TestFaultGatewayHangsInATransaction(t *testing.T) {
	db := newDatabase(t, "postgres")
	gateways := two(t, db)
	in := login(t, gateways[0], "token", "key")
	sign := in.Sign
	in.Sign = func(at time.Time, session Session) (Certificate, error) {
		// The lock waits for this issuance, which never ends by itself.
		if _, err := gateways[1].AddLock(context.Background(), Lock{ID: "l", Kind: LockUser, Target: string(in.User.ID)}); err != nil {
			t.Errorf("the lock: %v", err)
		}
		return sign(at, session)
	}
	if _, err := gateways[0].Issue(t.Context(), in); !errors.Is(err, ErrUnavailable) {
		t.Errorf("the issuance that hung: %v", err)
	}
	if locks, err := gateways[0].Locks(t.Context()); err != nil || len(locks) != 1 {
		t.Errorf("%+v, %v", locks, err)
	}
}

// Two transactions that wait for each other are both done in the end.
func TestDeadlocksAreRepeated(t *testing.T) {
	s := newDatabase(t, "postgres").open(t, nil)
	for _, id := range []string{"a", "b"} {
		if _, err := s.PutRequest(t.Context(), Request{ID: id, User: "u", Service: "s", For: time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	var both, wg sync.WaitGroup
	both.Add(2)
	touch := func(order ...string) {
		first := true
		err := s.inTx(context.Background(), unordered, func(tx *tx) error {
			for i, id := range order {
				if i == 1 && first {
					first = false
					both.Done()
					both.Wait() // each holds one and wants the other's
				}
				if err := tx.exec(context.Background(), "UPDATE requests SET note = note || 'x' WHERE id = $1", id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	wg.Go(func() { touch("a", "b") })
	wg.Go(func() { touch("b", "a") })
	wg.Wait()
	if notes := mustRead(t, s, "SELECT note FROM requests ORDER BY id"); notes[0] != "xx" || notes[1] != "xx" {
		t.Errorf("%q", notes)
	}
}

// A gate passes bytes on while it is open.
type gate struct {
	t      *testing.T
	listen net.Listener
	to     string
	wg     sync.WaitGroup

	mu    sync.Mutex
	wait  chan struct{} // closed while the gate is open
	conns []net.Conn
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{t: t, listen: l, to: to, wait: make(chan struct{})}
	close(g.wait)
	g.wg.Go(g.serve)
	t.Cleanup(g.close)
	return g
}

func (g *gate) addr() string { return g.listen.Addr().String() }

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wait = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.wait)
}

func (g *gate) close() {
	_ = g.listen.Close()
	g.mu.Lock()
	for _, c := range g.conns {
		_ = c.Close()
	}
	g.mu.Unlock()
	g.wg.Wait()
}

func (g *gate) serve() {
	for {
		in, err := g.listen.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", g.to)
		if err != nil {
			_ = in.Close()
			continue
		}
		g.mu.Lock()
		g.conns = append(g.conns, in, out)
		g.mu.Unlock()
		g.wg.Go(func() { g.pass(in, out) })
		g.wg.Go(func() { g.pass(out, in) })
	}
}

func (g *gate) pass(to io.WriteCloser, from io.Reader) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		g.mu.Lock()
		wait := g.wait
		g.mu.Unlock()
		<-wait
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}
