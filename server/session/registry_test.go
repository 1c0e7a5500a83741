package session_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func person(subject string, groups ...string) auth.Identity {
	return auth.Identity{
		Issuer: "https://idp.example.com/", Subject: subject, Provider: "corp", Name: subject,
		Groups: groups, GroupsKnown: true, AuthTime: start, Login: auth.LoginBrowser,
		Session: auth.NewSessionID(), Device: auth.DeviceIDFromKey([]byte(subject)), IssuedAt: start,
	}
}

func spec(id auth.Identity, serial auth.Serial) session.Spec {
	return session.Spec{Identity: id, Serial: serial, NotAfter: start.Add(time.Hour), Deadline: start.Add(12 * time.Hour)}
}

func add(t testing.TB, r *session.Registry, s session.Spec) *session.Session {
	t.Helper()
	sess, err := r.Add(context.Background(), s)
	if err != nil {
		t.Fatalf("add: %v", err)
	}
	t.Cleanup(sess.Remove)
	return sess
}

func open(t testing.TB, s *session.Session, recheck func() error) *session.Stream {
	t.Helper()
	st, err := s.OpenStream(session.StreamSpec{Target: wire.ServiceTarget(wire.KindTCP, "wiki"), Recheck: recheck})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(st.Close)
	return st
}

func TestListAndCounts(t *testing.T) {
	r := session.New(session.Config{Now: func() time.Time { return start }})
	ada, bob := person("ada", "engineering"), person("bob")
	s1 := add(t, r, spec(ada, "01"))
	s2 := add(t, r, spec(bob, "02"))
	st := open(t, s1, nil)
	st.Note(session.Facts{Service: "wiki", Rule: "engineers"})
	st.Decided()

	list := r.List()
	if len(list) != 2 || list[0].Identity.Subject != "ada" || list[1].User != bob.UserID() {
		t.Fatalf("list: %+v", list)
	}
	if got := list[0].Streams; len(got) != 1 || got[0].Facts.Rule != "engineers" || !got[0].Decided || got[0].Target.Service != "wiki" {
		t.Errorf("streams: %+v", got)
	}
	if sessions, streams := r.Counts(); sessions != 2 || streams != 1 {
		t.Errorf("counts: %d, %d", sessions, streams)
	}
	st.Close()
	st.Close()
	s1.Remove()
	s1.Remove()
	s2.Remove()
	if sessions, streams := r.Counts(); sessions != 0 || streams != 0 {
		t.Errorf("counts at the end: %d, %d", sessions, streams)
	}
	if _, err := s1.OpenStream(session.StreamSpec{}); err == nil {
		t.Error("a stream opened on a connection that is gone")
	}
}

func TestCutSelects(t *testing.T) {
	ada, bob := person("ada", "engineering"), person("bob")
	bob.GroupsKnown = false
	locked := wire.Termination{Code: wire.TerminateLocked, Reason: "stolen laptop"}
	tests := []struct {
		name   string
		filter session.Filter
		ada    bool
		bob    bool
	}{
		{"the zero filter selects nobody", session.Filter{}, false, false},
		{"narrowing alone selects nobody", session.Filter{Provider: "corp", IssuedBefore: start.Add(time.Hour)}, false, false},
		{"all", session.Filter{All: true}, true, true},
		{"user", session.Filter{User: ada.UserID()}, true, false},
		{"session", session.Filter{Session: bob.Session}, false, true},
		{"device", session.Filter{Device: ada.Device}, true, false},
		{"group", session.Filter{Group: "sales"}, false, true},
		{"group of another provider", session.Filter{Group: "sales", Provider: "partner"}, false, false},
		{"certificate in use", session.Filter{Serial: "0a2"}, true, false},
		{"certificate before the renewal", session.Filter{Serial: "0a1"}, true, false},
		{"issued by then", session.Filter{All: true, IssuedBefore: start.Add(time.Minute)}, true, true},
		{"issued before", session.Filter{All: true, IssuedBefore: start.Add(time.Minute - 1)}, false, true},
		{"a group, and the provider did not say", session.Filter{Group: "research"}, false, true},
		{"user and another's session", session.Filter{User: ada.UserID(), Session: bob.Session}, false, false},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			r := session.New(session.Config{})
			s1, s2 := add(t, r, spec(ada, "0a1")), add(t, r, spec(bob, "0b1"))
			renewed := ada
			renewed.IssuedAt = start.Add(time.Minute)
			if err := s1.Renew(session.Renewal{Identity: renewed, Serial: "0a2", NotAfter: start.Add(2 * time.Hour)}); err != nil {
				t.Fatal(err)
			}
			st := open(t, s1, nil)
			want := 0
			for _, cut := range []bool{tc.ada, tc.bob} {
				if cut {
					want++
				}
			}
			if n := r.Cut(tc.filter, locked); n != want {
				t.Errorf("cut %d sessions, want %d", n, want)
			}
			if got := s1.Context().Err() != nil; got != tc.ada {
				t.Errorf("ada's session cut: %v", got)
			}
			if got := s2.Context().Err() != nil; got != tc.bob {
				t.Errorf("bob's session cut: %v", got)
			}
			var term *wire.Termination
			if tc.ada && (!errors.As(context.Cause(st.Context()), &term) || term.Reason != "stolen laptop") {
				t.Errorf("the stream's cause: %v", context.Cause(st.Context()))
			}
			if r.Cut(tc.filter, locked) != 0 {
				t.Error("cut twice")
			}
		})
	}
}

func TestCaps(t *testing.T) {
	limits := session.Limits{Sessions: 5, SessionsPerUser: 3, ConnectionsPerSession: 2, Streams: 6, StreamsPerUser: 4, StreamsPerSession: 3, UndecidedPerSession: 2}
	r := session.New(session.Config{Limits: limits})
	ada := person("ada")
	s := add(t, r, spec(ada, "01"))

	t.Run("undecided", func(t *testing.T) {
		first := open(t, s, nil)
		second := open(t, s, nil)
		wantLimit(t, s)
		first.Decided()
		third := open(t, s, nil)
		for _, st := range []*session.Stream{first, second, third} {
			st.Close()
		}
	})
	t.Run("streams of a session and of a user", func(t *testing.T) {
		for range 3 {
			open(t, s, nil).Decided()
		}
		wantLimit(t, s)
		other := add(t, r, spec(ada, "01"))
		open(t, other, nil).Decided()
		wantLimit(t, other)
	})
	t.Run("streams of the gateway", func(t *testing.T) {
		bob, eve := add(t, r, spec(person("bob"), "02")), add(t, r, spec(person("eve"), "03"))
		for range 3 {
			open(t, bob, nil).Decided()
			open(t, eve, nil).Decided()
		}
		wantLimit(t, eve)
	})
	if _, streams := r.Counts(); streams != 0 {
		t.Errorf("%d streams are still counted", streams)
	}
	t.Run("sessions", func(t *testing.T) {
		again := ada
		for range 2 {
			again.Session = auth.NewSessionID()
			add(t, r, spec(again, "04"))
		}
		again.Session = auth.NewSessionID()
		wantTooMany(t, r, spec(again, "04"))
		add(t, r, spec(person("bob"), "02"))
		add(t, r, spec(person("eve"), "03"))
		wantTooMany(t, r, spec(person("mallory"), "05"))
	})
}

// Whoever opens streams to addresses that do not answer has a part of the gateway's dials, on however many connections.
func TestThreatDialsOfOneUser(t *testing.T) {
	r := session.New(session.Config{Limits: session.Limits{UndecidedPerUser: 3}})
	ada := person("ada")
	first := add(t, r, spec(ada, "01"))
	ada.Session = auth.NewSessionID()
	second := add(t, r, spec(ada, "02"))
	waiting := open(t, first, nil)
	for range 2 {
		open(t, second, nil)
	}
	wantLimit(t, first)
	wantLimit(t, second)
	open(t, add(t, r, spec(person("bob"), "03")), nil)
	waiting.Decided()
	open(t, second, nil).Close()
	open(t, first, nil)
	if all := session.DefaultLimits().UndecidedPerUser; all > 512 {
		t.Errorf("%d undecided streams of one user are more than half of the gateway's 1,024 dials", all)
	}
}

func TestConnectionsOfOneSessionGiveWay(t *testing.T) {
	now := start
	r := session.New(session.Config{Limits: session.Limits{ConnectionsPerSession: 2}, Now: func() time.Time { now = now.Add(time.Second); return now }})
	ada := person("ada")
	busy, idle := add(t, r, spec(ada, "01")), add(t, r, spec(ada, "01"))
	open(t, busy, nil)
	third := add(t, r, spec(ada, "01"))
	var term *wire.Termination
	if !errors.As(context.Cause(idle.Context()), &term) || term.Code != wire.TerminateReplaced {
		t.Errorf("the idle connection: %v", context.Cause(idle.Context()))
	}
	if busy.Context().Err() != nil {
		t.Error("the connection with a stream was cut")
	}
	open(t, third, nil)
	wantTooMany(t, r, spec(ada, "01"))
}

func wantLimit(t *testing.T, s *session.Session) {
	t.Helper()
	var refusal *wire.Refusal
	if _, err := s.OpenStream(session.StreamSpec{}); !errors.As(err, &refusal) || refusal.Code != wire.CodeLimit {
		t.Errorf("open beyond the cap: %v", err)
	}
}

func wantTooMany(t *testing.T, r *session.Registry, s session.Spec) {
	t.Helper()
	var term *wire.Termination
	if _, err := r.Add(t.Context(), s); !errors.As(err, &term) || term.Code != wire.TerminateLimit {
		t.Errorf("add beyond the cap: %v", err)
	}
}

func TestOpenRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := session.New(session.Config{Limits: session.Limits{OpensPerSession: 10, OpensPerUser: 15}})
		ada := person("ada")
		s1, s2 := add(t, r, spec(ada, "01")), add(t, r, spec(ada, "01"))
		opened := func(s *session.Session) (n int) {
			for range 100 {
				if st, err := s.OpenStream(session.StreamSpec{}); err == nil {
					st.Close()
					n++
				}
			}
			return n
		}
		if n := opened(s1); n != 20 {
			t.Errorf("%d of the burst on one connection, want 20", n)
		}
		if n := opened(s2); n != 10 {
			t.Errorf("%d left of the user's burst, want 10", n)
		}
		time.Sleep(time.Second)
		if n := opened(s1); n != 10 {
			t.Errorf("%d in the next second, want 10", n)
		}
	})
}

func TestRenew(t *testing.T) {
	r := session.New(session.Config{})
	ada := person("ada", "engineering")
	s := add(t, r, spec(ada, "01"))
	lost := errors.New("not in engineering any more")
	st := open(t, s, func() error {
		if len(s.Identity().Groups) == 0 {
			return lost
		}
		return nil
	})
	later := start.Add(2 * time.Hour)
	for name, change := range map[string]func(*session.Renewal){
		"user":      func(n *session.Renewal) { n.Identity.Subject = "eve" },
		"session":   func(n *session.Renewal) { n.Identity.Session = auth.NewSessionID() },
		"device":    func(n *session.Renewal) { n.Identity.Device = "other" },
		"auth time": func(n *session.Renewal) { n.Identity.AuthTime = start.Add(-time.Second) },
		"login":     func(n *session.Renewal) { n.Identity.Login = auth.LoginDevice },
		"provider":  func(n *session.Renewal) { n.Identity.Provider = "partner" },
		"expiry":    func(n *session.Renewal) { n.NotAfter = start.Add(time.Hour) },
	} {
		n := session.Renewal{Identity: ada, Serial: "02", NotAfter: later}
		change(&n)
		if err := s.Renew(n); !errors.Is(err, session.ErrOtherIdentity) && !errors.Is(err, session.ErrNotLater) {
			t.Errorf("renewal with another %s: %v", name, err)
		}
	}
	if s.Serial() != "01" || st.Context().Err() != nil {
		t.Error("a refused renewal changed something")
	}
	ada.Groups = nil
	if err := s.Renew(session.Renewal{Identity: ada, Serial: "02", NotAfter: later}); err != nil {
		t.Fatal(err)
	}
	if context.Cause(st.Context()) != lost || s.Context().Err() != nil {
		t.Errorf("after losing the group: stream %v, session %v", context.Cause(st.Context()), s.Context().Err())
	}
	s.End(&wire.Termination{Code: wire.TerminateLocked})
	if err := s.Renew(session.Renewal{Identity: ada, Serial: "03", NotAfter: later.Add(time.Hour)}); err == nil {
		t.Error("a session that was cut was renewed")
	}
}

func TestExpiryByWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := session.New(session.Config{WarnBefore: 5 * time.Minute})
		go r.Run(ctx)
		began := time.Now()
		ada := person("ada")
		var warned []time.Duration
		s := add(t, r, session.Spec{
			Identity: ada, Serial: "01", NotAfter: began.Add(time.Hour), Deadline: began.Add(90 * time.Minute),
			Warn: func(time.Time) { warned = append(warned, time.Since(began)) },
		})
		time.Sleep(56 * time.Minute)
		if err := s.Renew(session.Renewal{Identity: ada, Serial: "02", NotAfter: began.Add(2 * time.Hour)}); err != nil {
			t.Fatal(err)
		}
		<-s.Context().Done()
		ended := time.Since(began)
		var term *wire.Termination
		if !errors.As(context.Cause(s.Context()), &term) || term.Code != wire.TerminateExpired {
			t.Errorf("cause: %v", context.Cause(s.Context()))
		}
		if ended < 90*time.Minute || ended > 90*time.Minute+time.Second {
			t.Errorf("ended after %v, want at the deadline", ended)
		}
		if len(warned) != 2 || warned[0].Round(time.Minute) != 55*time.Minute || warned[1].Round(time.Minute) != 85*time.Minute {
			t.Errorf("warned after %v", warned)
		}
	})
}

// TestClockJump: a clock that jumps over the end, as after a sleep, ends the session at once, although no timer ran meanwhile.
func TestClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var jump atomic.Int64
		r := session.New(session.Config{Now: func() time.Time { return start.Add(time.Duration(jump.Load())) }})
		go r.Run(ctx)
		s := add(t, r, spec(person("ada"), "01"))
		time.Sleep(10 * time.Second)
		if s.Context().Err() != nil {
			t.Fatal("ended early")
		}
		jump.Store(int64(2 * time.Hour))
		began := time.Now()
		<-s.Context().Done()
		if time.Since(began) > time.Second {
			t.Errorf("ended %v after the jump", time.Since(began))
		}
	})
}

func TestRecheckByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := session.New(session.Config{Now: time.Now})
		go r.Run(ctx)
		s := add(t, r, session.Spec{Identity: person("ada"), Serial: "01", NotAfter: time.Now().Add(time.Hour)})
		began := time.Now()
		st := open(t, s, func() error {
			if time.Since(began) >= 10*time.Minute {
				return errors.New("the rule's time is over")
			}
			return nil
		})
		<-st.Context().Done()
		if got := time.Since(began); got > 10*time.Minute+31*time.Second {
			t.Errorf("cut %v after the rule's end", got-10*time.Minute)
		}
	})
}

// TestNoStreamSlipsThroughAChange opens streams while the policy changes: whatever was decided by the old policy must be cut or
// decided again, in every interleaving.
func TestNoStreamSlipsThroughAChange(t *testing.T) {
	denied := errors.New("denied")
	for range 200 {
		r := session.New(session.Config{})
		s, err := r.Add(t.Context(), spec(person("ada"), "01"))
		if err != nil {
			t.Fatal(err)
		}
		var policyDenies atomic.Bool
		var group sync.WaitGroup
		streams := make([]*session.Stream, 8)
		for i := range streams {
			group.Go(func() {
				var allowed atomic.Bool
				decide := func() error {
					allowed.Store(!policyDenies.Load())
					if !allowed.Load() {
						return denied
					}
					return nil
				}
				st := open(t, s, func() error {
					if allowed.Load() && policyDenies.Load() {
						return denied
					}
					return nil
				})
				if err := st.Settle(decide); err != nil {
					st.Cut(err)
				}
				streams[i] = st
			})
		}
		group.Go(func() {
			policyDenies.Store(true)
			r.Redecide()
		})
		group.Wait()
		for i, st := range streams {
			if context.Cause(st.Context()) != denied {
				t.Fatalf("stream %d lives on after its allow was taken away", i)
			}
		}
		s.Remove()
	}
}

func TestRedecideTenThousandStreams(t *testing.T) {
	r, denied := populate(t, 1000, 10)
	began := time.Now()
	denied.Store(true)
	if n := r.Redecide(); n != 10_000 {
		t.Errorf("cut %d streams", n)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("cutting 10,000 streams took %v", took)
	}
}

func populate(t testing.TB, sessions, streams int) (*session.Registry, *atomic.Bool) {
	r := session.New(session.Config{})
	denied := new(atomic.Bool)
	errDenied := errors.New("denied")
	for i := range sessions {
		s := add(t, r, spec(person(fmt.Sprint("user", i)), "01"))
		for range streams {
			st, err := s.OpenStream(session.StreamSpec{Meter: new(relay.Meter), Recheck: func() error {
				if denied.Load() {
					return errDenied
				}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			st.Decided()
			t.Cleanup(st.Close)
		}
	}
	return r, denied
}

func BenchmarkOpenClose(b *testing.B) {
	r := session.New(session.Config{Limits: session.Limits{OpensPerSession: 1e9, OpensPerUser: 1e9}})
	s := add(b, r, spec(person("ada"), "01"))
	b.ReportAllocs()
	for range b.N {
		st, err := s.OpenStream(session.StreamSpec{Target: wire.ServiceTarget(wire.KindTCP, "wiki")})
		if err != nil {
			b.Fatal(err)
		}
		st.Close()
	}
}

func BenchmarkAddAmong10000(b *testing.B) {
	r := session.New(session.Config{Limits: session.Limits{Sessions: 20_000}})
	for i := range 10_000 {
		add(b, r, spec(person(fmt.Sprint("user", i)), "01"))
	}
	one := spec(person("ada"), "01")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s, err := r.Add(context.Background(), one)
		if err != nil {
			b.Fatal(err)
		}
		s.Remove()
	}
}

func BenchmarkRedecide10000(b *testing.B) {
	r, _ := populate(b, 1000, 10)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r.Redecide()
	}
}

func BenchmarkList10000(b *testing.B) {
	r, _ := populate(b, 1000, 10)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		r.List()
	}
}
