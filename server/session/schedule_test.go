package session_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// running is a register whose clock and sweeps are the bubble's, with one session that outlives the test.
func running(t *testing.T) (*session.Registry, *session.Session) {
	t.Helper()
	r := session.New(session.Config{RecheckEvery: 1000 * time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { r.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	sp := spec(person("ada"), "01")
	sp.NotAfter, sp.Deadline = time.Now().Add(1000*time.Hour), time.Time{}
	return r, add(t, r, sp)
}

// TestScheduledDecisions: a stream is decided again at its own time, to the second, and at no other.
func TestScheduledDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := running(t)
		began := time.Now()
		var asked []time.Duration
		over := errors.New("the rule has expired")
		var st *session.Stream
		st = open(t, s, func() error {
			asked = append(asked, time.Since(began))
			if len(asked) == 1 {
				st.Schedule(began.Add(3*time.Minute), time.Time{})
				return nil
			}
			return over
		})
		other := open(t, s, func() error { return errors.New("nobody's time has come") })
		st.Schedule(began.Add(time.Minute), time.Time{})
		other.Schedule(began.Add(100*time.Minute), time.Time{})
		other.Schedule(time.Time{}, time.Time{})
		<-st.Context().Done()
		if took := time.Since(began); took < 3*time.Minute || took > 3*time.Minute+2*time.Second || len(asked) != 2 {
			t.Errorf("decided again after %v, cut after %v", asked, took)
		}
		if context.Cause(st.Context()) != over {
			t.Errorf("cut with %v", context.Cause(st.Context()))
		}
		time.Sleep(2 * time.Hour)
		if other.Context().Err() != nil {
			t.Error("a stream was decided again although nothing was scheduled")
		}
	})
}

// TestScheduledWarning: once for each end, and again when the end is another one.
func TestScheduledWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := running(t)
		began := time.Now()
		warned := make(chan time.Duration, 10)
		st, err := s.OpenStream(session.StreamSpec{Warn: func(end time.Time) { warned <- end.Sub(began) }})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		end := began.Add(time.Hour)
		schedule := func() { st.Schedule(end, end.Add(-5*time.Minute)) }
		pass := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		schedule()
		pass(54 * time.Minute)
		if len(warned) != 0 {
			t.Errorf("warned of %v too early", <-warned)
		}
		pass(2 * time.Minute)
		schedule() // as every new decision does
		pass(2 * time.Minute)
		if n, of := len(warned), <-warned; n != 1 || of != time.Hour {
			t.Errorf("warned %d times, of %v", n, of)
		}
		end = began.Add(2 * time.Hour)
		schedule()
		pass(2 * time.Hour)
		if n, of := len(warned), <-warned; n != 1 || of != 2*time.Hour {
			t.Errorf("warned %d times, of %v", n, of)
		}
	})
}

// TestServicesAreLeftBeforeAnythingElse: whatever cuts leaves the services of all streams, and cancels contexts only then.
func TestServicesAreLeftBeforeAnythingElse(t *testing.T) {
	denied := errors.New("denied")
	term := wire.Termination{Code: wire.TerminateLocked}
	for name, cut := range map[string]func(*session.Registry, *atomic.Bool){
		"redecided": func(r *session.Registry, deny *atomic.Bool) { deny.Store(true); r.Redecide() },
		"locked":    func(r *session.Registry, _ *atomic.Bool) { r.Cut(session.Filter{All: true}, term) },
	} {
		t.Run(name, func(t *testing.T) {
			r := session.New(session.Config{})
			var deny atomic.Bool
			var left, early atomic.Int64
			var cancelled sync.WaitGroup
			const sessions, streams = 20, 5
			for i := range sessions {
				s := add(t, r, spec(person(string(rune('a'+i))), "01"))
				for range streams {
					var once sync.Once
					st, err := s.OpenStream(session.StreamSpec{
						Recheck: func() error {
							if deny.Load() {
								return denied
							}
							return nil
						},
						Leave: func(error) { once.Do(func() { left.Add(1) }) },
					})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(st.Close)
					cancelled.Add(1)
					context.AfterFunc(st.Context(), func() {
						defer cancelled.Done()
						if left.Load() != sessions*streams {
							early.Add(1)
						}
					})
				}
			}
			cut(r, &deny)
			cancelled.Wait()
			if early.Load() != 0 {
				t.Errorf("%d contexts were cancelled before every service was left", early.Load())
			}
		})
	}
}

// TestRenewAfterAFreshLogin: the time of the login may grow and not shrink, and near the deadline, where every certificate expires at
// the same time, a newer one is taken all the same.
func TestRenewAfterAFreshLogin(t *testing.T) {
	ada := person("ada")
	for _, tc := range []struct {
		name                    string
		login, issued, lifetime time.Duration // later than those in use
		taken                   bool
	}{
		{"a fresh login", time.Hour, time.Hour, time.Hour, true},
		{"a fresh login at the deadline", time.Hour, time.Hour, 0, true},
		{"a renewal at the deadline", 0, time.Hour, 0, true},
		{"the same again", 0, 0, 0, false},
		{"an older login", -time.Second, time.Hour, time.Hour, false},
		{"a fresh login that ends earlier", time.Hour, time.Hour, -time.Second, false},
		{"an older one that ends at the same time", 0, -time.Hour, 0, false},
	} {
		s := add(t, session.New(session.Config{}), spec(ada, "01"))
		next := session.Renewal{Identity: ada, Serial: "02", NotAfter: start.Add(time.Hour + tc.lifetime)}
		next.Identity.AuthTime = ada.AuthTime.Add(tc.login)
		next.Identity.IssuedAt = ada.IssuedAt.Add(tc.issued)
		if err := s.CheckRenewal(next); (err == nil) != tc.taken {
			t.Errorf("%s: check: %v", tc.name, err)
		}
		if err := s.Renew(next); (err == nil) != tc.taken {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}
