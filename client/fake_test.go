package client

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLogin returns a login whose certificate lives from now for ttl. Only the
// fields that the state machine looks at are real.
func fakeLogin(subject string, session auth.SessionID, now time.Time, ttl, sessionTTL time.Duration) *Login {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	leaf := &x509.Certificate{SerialNumber: serial, NotBefore: now, NotAfter: now.Add(ttl)}
	return &Login{
		URL: "https://gw.example", Tunnel: "gw.example:443", TrustDomain: "corp.example", Leaf: leaf,
		Certificate: tls.Certificate{Certificate: [][]byte{serial.Bytes()}},
		Identity:    auth.Identity{Issuer: "https://idp.example", Subject: subject, Name: subject, Session: session},
		Deadline:    now.Add(sessionTTL),
	}
}

// fakeCreds is a profile and a provider in one.
type fakeCreds struct {
	mu       sync.Mutex
	login    *Login
	renew    func(old *Login) (*Login, error)
	renewals int
	stepUp   func(ctx context.Context, old *Login, w wanted) (*Login, error)
	prompts  []wanted
	server   func() time.Time
	locked   error // what Load fails with; Peek does not
}

func (f *fakeCreds) Load(context.Context) (*Login, error) {
	f.mu.Lock()
	err := f.locked
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Peek()
}

func (f *fakeCreds) lock(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.locked = err
}

func (f *fakeCreds) Peek() (*Login, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.login == nil {
		return nil, ErrNotLoggedIn
	}
	return f.login, nil
}

func (f *fakeCreds) store(l *Login) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.login = l
}

func (f *fakeCreds) Renew(_ context.Context, old *Login) (*Login, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.login != nil && f.login.Serial() != old.Serial() {
		return f.login, nil
	}
	f.renewals++
	if f.renew == nil {
		return nil, errors.New("no renewal in this test")
	}
	login, err := f.renew(old)
	if err == nil {
		f.login = login
	}
	return login, err
}

func (f *fakeCreds) StepUp(ctx context.Context, old *Login, w wanted) (*Login, error) {
	f.mu.Lock()
	current, stepUp := f.login, f.stepUp
	f.mu.Unlock()
	if w.fits(current) {
		return current, nil
	}
	f.mu.Lock()
	f.prompts = append(f.prompts, w)
	f.mu.Unlock()
	login, err := stepUp(ctx, old, w)
	if err == nil {
		f.store(login)
	}
	return login, err
}

func (f *fakeCreds) prompted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.prompts)
}

func (f *fakeCreds) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.renewals
}

func (f *fakeCreds) ServerTime(context.Context, *Login) (time.Time, error) {
	if f.server == nil {
		return time.Time{}, errors.New("no server time in this test")
	}
	return f.server(), nil
}

// fakeGateway makes sessions.
type fakeGateway struct {
	mu       sync.Mutex
	down     error         // what attempts fail with
	clock    time.Duration // ahead of the client's
	sessions []*fakeSession
	attempts int
	admit    func(*Login) error
	mute     bool // sessions do not answer what they are told of the device
}

func (g *fakeGateway) connect(_ context.Context, login *Login, ev events) (session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attempts++
	if g.down != nil {
		return nil, g.down
	}
	if g.admit != nil {
		if err := g.admit(login); err != nil {
			return nil, err
		}
	}
	s := &fakeSession{ev: ev, hello: ev.device(), done: make(chan struct{}), welcome: wire.Welcome{Gateway: "gw-1", ServerTime: time.Now().Add(g.clock)},
		login: login, answers: true, mute: g.mute}
	g.sessions = append(g.sessions, s)
	ev.onServices(wikiOnly)
	return s, nil
}

// roundTripTime is to a fake gateway and back.
const roundTripTime = 3 * time.Millisecond

var wikiOnly = wire.Services{Services: []wire.Service{{Name: "wiki", Kind: wire.KindTCP, Allowed: true}}}

func (g *fakeGateway) setDown(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.down = err
}

func (g *fakeGateway) last() *fakeSession {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sessions) == 0 {
		return nil
	}
	return g.sessions[len(g.sessions)-1]
}

func (g *fakeGateway) tried() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.attempts
}

func (g *fakeGateway) made() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}

type fakeSession struct {
	ev      events
	welcome wire.Welcome
	login   *Login
	done    chan struct{}

	mu       sync.Mutex
	err      error
	streams  int
	opened   uint64
	answers  bool // to pings
	renewed  [][][]byte
	declined []string            // refusals of a fresh login
	hello    map[string]string   // what Hello said of the device
	told     []map[string]string // and later messages
	mute     bool
	refusals []error // of Open, one after the other
}

func (s *fakeSession) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
	default:
		s.err = err
		close(s.done)
	}
}

func (s *fakeSession) Open(context.Context, wire.Target, OpenOptions) (Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return nil, s.err
	default:
	}
	if len(s.refusals) > 0 {
		err := s.refusals[0]
		s.refusals = s.refusals[1:]
		return nil, err
	}
	s.streams++
	s.opened++
	near, _ := net.Pipe()
	return &fakeStream{near, s}, nil
}

func (s *fakeSession) Renew(_ context.Context, chain [][]byte) (wire.Renewed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.renewed = append(s.renewed, chain)
	return wire.Renewed{}, nil
}

func (s *fakeSession) SendStepUp(m wire.StepUp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.declined = append(s.declined, m.Refusal)
	return nil
}

// SendPosture answers as gateways do: by a new list of services, which the caller may not wait for.
func (s *fakeSession) SendPosture(facts map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, facts)
	if !s.mute {
		go func() {
			time.Sleep(roundTripTime)
			s.ev.onServices(wikiOnly)
		}()
	}
	return nil
}

// postures are what was told after Hello.
func (s *fakeSession) postures() []map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told)
}

func (s *fakeSession) renewals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.renewed)
}

func (s *fakeSession) Ping(ctx context.Context) (time.Duration, error) {
	s.mu.Lock()
	answers := s.answers
	s.mu.Unlock()
	if answers {
		return 3 * time.Millisecond, nil
	}
	select {
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-s.done:
		return 0, s.Err()
	}
}

func (s *fakeSession) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeSession) Welcome() wire.Welcome    { return s.welcome }
func (s *fakeSession) TLS() tls.ConnectionState { return tls.ConnectionState{} }
func (s *fakeSession) Done() <-chan struct{}    { return s.done }

func (s *fakeSession) Counters() counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return counters{streams: s.streams, opened: s.opened, sent: 10, received: 20}
}

func (s *fakeSession) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *fakeSession) Close(wire.Termination) { s.end(errors.New("closed here")) }

func (s *fakeSession) alive() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

type fakeStream struct {
	net.Conn
	s *fakeSession
}

func (f *fakeStream) CloseWrite() error { return nil }
func (f *fakeStream) Abort(error)       { _ = f.Close() }

func (f *fakeStream) Close() error {
	f.s.set(func() { f.s.streams-- })
	return f.Conn.Close()
}

// bench is a client with a fake gateway and fake credentials, in a bubble.
type bench struct {
	t       *testing.T
	c       *Client
	creds   *fakeCreds
	gateway *fakeGateway

	mu       sync.Mutex
	offset   time.Duration // of the wall clock
	facts    map[string]string
	takes    time.Duration // a reading of the device
	readings int
}

// posture stands for the device.
func (b *bench) posture(ctx context.Context) map[string]string {
	b.mu.Lock()
	b.readings++
	facts, takes := maps.Clone(b.facts), b.takes
	b.mu.Unlock()
	timer := time.NewTimer(takes)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return facts
}

// is changes the device: keys and values in turn, of which an empty value takes the fact away.
func (b *bench) is(facts ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := 0; i < len(facts); i += 2 {
		if b.facts[facts[i]] = facts[i+1]; facts[i+1] == "" {
			delete(b.facts, facts[i])
		}
	}
}

func (b *bench) read() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readings
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.offset)
}

func (b *bench) jump(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.offset += d
}

const testSession = auth.SessionID("session-1")

// inBubble runs f with a client that is not started yet. The certificate lives
// for an hour, the session for twelve.
func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	log := testenv.Logger(t)
	synctest.Test(t, func(t *testing.T) {
		// The device takes a moment to read, so that it is always after Hello, which takes none here.
		b := &bench{t: t, creds: &fakeCreds{}, gateway: &fakeGateway{}, takes: time.Millisecond}
		b.creds.login = fakeLogin("ada", testSession, b.now(), time.Hour, 12*time.Hour)
		b.facts = Config{Version: "1.4.0"}.atOnce().facts
		cfg := Config{Logger: log, Now: b.now, Version: "1.4.0", Posture: b.posture}.withDefaults()
		b.c = newClient(cfg, b.creds, b.gateway.connect)
		b.c.profile = "default"
		defer b.c.Down()
		f(t, b)
	})
}

// up starts the client and waits until it is connected.
func (b *bench) up() {
	b.t.Helper()
	if err := b.c.Up(context.Background()); err != nil {
		b.t.Fatalf("up: %v", err)
	}
	if err := b.c.Ready(b.t.Context()); err != nil {
		b.t.Fatalf("ready: %v", err)
	}
	synctest.Wait() // every loop waits for something
}

func (b *bench) want(state status.State) status.Status {
	b.t.Helper()
	synctest.Wait()
	s := b.c.Status()
	if s.State != state {
		b.t.Fatalf("state = %s (%s), want %s", s.State, s.Reason, state)
	}
	return s
}

// within lets time pass until cond holds.
func (b *bench) within(d time.Duration, what string, cond func() bool) {
	b.t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if cond() {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("not within %s: %s; state %s", d, what, b.c.Status().Headline())
		}
	}
}

func (b *bench) connected() bool { return b.c.Status().Works() }
