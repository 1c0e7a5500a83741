package client

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

var wiki = wire.ServiceTarget(wire.KindTCP, "wiki")

func TestUpConnects(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.want(status.Connected)
		if s.User.Name != "ada" || s.Gateway.ID != "gw-1" || s.Gateway.RTT != 3*time.Millisecond || s.Session.Deadline.IsZero() {
			t.Errorf("status = %+v", s)
		}
		if list := b.c.Services(); len(list) != 1 || list[0].Name != "wiki" {
			t.Errorf("services = %v", list)
		}
		b.c.Down()
		if s := b.c.Status(); s.State != status.Stopped {
			t.Errorf("after down: %s", s.State)
		}
	})
}

func TestUpWithoutLogin(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.store(nil)
		if err := b.c.Up(t.Context()); !errors.Is(err, ErrNotLoggedIn) {
			t.Fatalf("up: %v, want ErrNotLoggedIn", err)
		}
	})
}

func TestFirstAttemptFails(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.gateway.setDown(syscall.ECONNREFUSED)
		if err := b.c.Up(context.Background()); err != nil {
			t.Fatal(err)
		}
		err := b.c.Ready(t.Context())
		var notConnected *status.Error
		if !errors.As(err, &notConnected) || notConnected.Status.State != status.Connecting ||
			notConnected.Status.Reason != "connection refused" {
			t.Fatalf("ready: %v", err)
		}
		b.gateway.setDown(nil)
		b.within(5*time.Second, "connected after the gateway came", b.connected)
	})
}

// threats.md, "Faults": gateway killed; the client is back within 5 s of its
// return, however long it was away.
func TestReconnectsWithinFiveSeconds(t *testing.T) {
	for _, away := range []time.Duration{time.Second, time.Minute, 3 * time.Hour} {
		t.Run(away.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.creds.renew = renewFor(b, time.Hour)
				b.up()
				b.gateway.setDown(syscall.ECONNREFUSED)
				b.gateway.last().end(errors.New("connection lost: reset"))
				lost := time.Now()
				s := b.want(status.Reconnecting)
				if s.Since.Before(lost) || s.Reason == "" {
					t.Errorf("status = %+v", s)
				}
				time.Sleep(away)
				if s := b.want(status.Reconnecting); s.Reason != "connection refused" || s.Since.After(lost.Add(time.Second)) {
					t.Errorf("since %v (lost %v), reason %q", s.Since, lost, s.Reason)
				}
				b.gateway.setDown(nil)
				b.within(5*time.Second, "connected again", b.connected)
			})
		})
	}
}

func TestBackoffDoesNotHammer(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		b.gateway.setDown(syscall.ECONNREFUSED)
		b.gateway.last().end(errors.New("lost"))
		time.Sleep(10 * time.Minute)
		if n := b.gateway.tried(); n < 100 || n > 600 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
}

// A gateway that accepts and drops at once must not be hammered either.
func TestShortLivedConnectionsBackOff(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		stop := time.Now().Add(time.Minute)
		for time.Now().Before(stop) {
			if s := b.gateway.last(); s.alive() {
				s.end(errors.New("dropped"))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := b.gateway.made(); n > 80 {
			t.Errorf("%d connections in a minute", n)
		}
	})
}

// renewFor renews each time for ttl.
func renewFor(b *bench, ttl time.Duration) func(*Login) (*Login, error) {
	return func(old *Login) (*Login, error) {
		l := fakeLogin(old.Identity.Subject, old.Session(), b.now(), ttl, 0)
		l.Deadline = old.Deadline
		return l, nil
	}
}

func TestRenewsAtTwoThirdsOnTheLivingSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		time.Sleep(36 * time.Minute)
		synctest.Wait()
		if n := b.creds.count(); n != 0 {
			t.Fatalf("%d renewals after 36 of 60 minutes", n)
		}
		time.Sleep(8 * time.Minute)
		synctest.Wait()
		if n := b.creds.count(); n != 1 {
			t.Fatalf("%d renewals after 44 of 60 minutes", n)
		}
		if n := b.gateway.last().renewals(); n != 1 {
			t.Errorf("presented %d times", n)
		}
		time.Sleep(9 * time.Hour)
		b.want(status.Connected)
		if b.gateway.made() != 1 {
			t.Errorf("%d connections; the session should have lived on", b.gateway.made())
		}
	})
}

// Timers stop in sleep: the wall clock decides.
func TestRenewsAfterSleep(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		b.jump(50 * time.Minute)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if n := b.creds.count(); n != 1 {
			t.Fatalf("%d renewals 3 s after a sleep of 50 minutes", n)
		}
		b.want(status.Connected)
	})
}

func TestSleepProbesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		old := b.gateway.last()
		old.set(func() { old.answers = false })
		b.jump(5 * time.Minute)
		b.within(tick+probeTimeout+time.Second, "a new connection", func() bool { return b.gateway.made() == 2 && b.connected() })
		if old.alive() {
			t.Error("the dead session was kept")
		}
	})
}

func TestRefusedRefreshEndsRenewal(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = func(*Login) (*Login, error) {
			return nil, &renewalRefused{Reason: "invalid_grant"}
		}
		b.up()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if n := b.creds.count(); n != 1 {
			t.Errorf("%d renewals tried; a refusal is final", n)
		}
		if s := b.want(status.Connected); len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnRefused {
			t.Errorf("warnings = %v", s.Warnings)
		}
		// The gateway cuts at the certificate's end.
		time.Sleep(11 * time.Minute)
		b.gateway.last().end(&wire.Termination{Code: wire.TerminateExpired, Reason: "certificate expired"})
		if s := b.want(status.Expired); s.Reason != "invalid_grant" || s.Headline() != "expired: run `culvert login` (invalid_grant)" {
			t.Errorf("status = %q", s.Headline())
		}
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err == nil {
			t.Error("a stream was opened without a session")
		}
	})
}

func TestUnavailableProviderIsTriedUntilTheDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = func(*Login) (*Login, error) { return nil, errors.New("503") }
		b.up()
		time.Sleep(50 * time.Minute)
		if s := b.want(status.Connected); len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnNotRenewed {
			t.Errorf("warnings = %v", s.Warnings)
		}
		time.Sleep(11 * time.Minute)
		b.gateway.last().end(&wire.Termination{Code: wire.TerminateExpired})
		b.want(status.Reconnecting)
		time.Sleep(3 * time.Hour)
		b.want(status.Reconnecting)
		b.creds.mu.Lock()
		b.creds.renew = renewFor(b, time.Hour)
		b.creds.mu.Unlock()
		b.within(time.Minute, "connected after the provider's return", b.connected)
		if s := b.want(status.Connected); len(s.Warnings) != 0 {
			t.Errorf("warnings = %v", s.Warnings)
		}
	})
}

func TestSessionDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		time.Sleep(11*time.Hour + 45*time.Minute)
		s := b.want(status.Connected)
		if len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnSessionEnds {
			t.Errorf("warnings = %v", s.Warnings)
		}
		time.Sleep(20 * time.Minute)
		b.gateway.last().end(&wire.Termination{Code: wire.TerminateExpired, Reason: "the session is over"})
		b.want(status.Expired)
		// A login in another process is noticed without being told.
		b.creds.store(fakeLogin("ada", "session-2", b.now(), time.Hour, 12*time.Hour))
		b.within(5*time.Second, "connected after a login", b.connected)
	})
}

func TestDrainMovesBesideTheOldSession(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		stream, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		old := b.gateway.last()
		old.ev.onDraining(wire.Draining{Reason: "upgrade"})
		b.within(2*time.Second, "a second session", func() bool { return b.gateway.made() == 2 && b.connected() })
		if s := b.c.Status(); !old.alive() || s.Traffic.Draining != 1 || s.Traffic.Streams != 1 {
			t.Errorf("old session alive: %v, traffic %+v", old.alive(), s.Traffic)
		}
		time.Sleep(time.Hour)
		if !old.alive() {
			t.Error("the old session was closed with a stream open")
		}
		_ = stream.Close()
		b.within(2*time.Second, "the old session's end", func() bool { return !old.alive() })
		if s := b.c.Status(); s.Traffic.Streams != 0 || s.Traffic.Opened == 0 {
			t.Errorf("traffic %+v", s.Traffic)
		}
	})
}

func TestOpenRetriesAfterDraining(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		b.gateway.last().refusals = []error{&wire.Refusal{Code: wire.CodeDraining}}
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true}); err != nil {
			t.Fatal(err)
		}
		if b.gateway.made() != 2 {
			t.Errorf("%d sessions", b.gateway.made())
		}
	})
}

func TestOpenPassesRefusalsOn(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		want := &wire.Refusal{Code: wire.CodeDenied, Reason: "no", Reference: "r-1"}
		b.gateway.last().refusals = []error{want}
		_, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true})
		var got *wire.Refusal
		if !errors.As(err, &got) || got != want {
			t.Fatalf("error = %v", err)
		}
	})
}

func TestOpenRenewsAndRetriesOnExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		b.gateway.last().refusals = []error{&wire.Refusal{Code: wire.CodeExpired}}
		// By our clock the certificate is fresh: the gateway's word counts.
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true}); err != nil {
			t.Fatal(err)
		}
		if b.creds.count() != 1 {
			t.Errorf("%d renewals", b.creds.count())
		}
	})
}

func TestOpenWaitsForAReconnection(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		b.gateway.setDown(syscall.ECONNREFUSED)
		b.gateway.last().end(errors.New("lost"))
		synctest.Wait()
		time.AfterFunc(2*time.Second, func() { b.gateway.setDown(nil) })
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOpenGivesUpWithTheReason(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		b.gateway.setDown(syscall.ECONNREFUSED)
		b.gateway.last().end(errors.New("lost"))
		synctest.Wait()
		begun := time.Now()
		_, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		var notConnected *status.Error
		if !errors.As(err, &notConnected) || notConnected.Status.Reason != "connection refused" || time.Since(begun) != openWait {
			t.Fatalf("after %s: %v", time.Since(begun), err)
		}
	})
}

// threats.md, "Login": a disabled user's live session is cut with its reason,
// and the client says so.
func TestThreatLockIsShown(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		b.gateway.mu.Lock()
		b.gateway.admit = func(*Login) error {
			return &wire.Termination{Code: wire.TerminateLocked, Reason: "user locked: left the company", Reference: "r-7"}
		}
		b.gateway.mu.Unlock()
		b.gateway.last().end(&wire.Termination{Code: wire.TerminateLocked, Reason: "user locked: left the company", Reference: "r-7"})
		s := b.want(status.Locked)
		if s.Headline() != "locked: user locked: left the company (reference r-7)" {
			t.Errorf("headline = %q", s.Headline())
		}
		time.Sleep(time.Hour)
		b.want(status.Locked)
		if n := b.gateway.tried(); n > 15 {
			t.Errorf("%d attempts in an hour of being locked", n)
		}
		b.gateway.mu.Lock()
		b.gateway.admit = nil
		b.gateway.mu.Unlock()
		b.within(restRetry+time.Second, "connected after the unlock", b.connected)
	})
}

// A lock that was lifted is found as soon as somebody wants a stream, and one that holds is not asked about for each of them.
func TestLiftedLockIsFoundOnDemand(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.up()
		locked := &wire.Termination{Code: wire.TerminateLocked, Reason: "user locked: ask the help desk"}
		b.gateway.mu.Lock()
		b.gateway.admit = func(*Login) error { return locked }
		b.gateway.mu.Unlock()
		b.gateway.last().end(locked)
		b.want(status.Locked)
		for range 60 {
			_, err := b.c.Open(t.Context(), wiki, OpenOptions{})
			var refused *status.Error
			if !errors.As(err, &refused) || refused.Status.State != status.Locked {
				t.Fatalf("while locked: %v", err)
			}
			time.Sleep(time.Second)
		}
		if n := b.gateway.tried(); n > 15 {
			t.Errorf("%d attempts in a minute of being locked", n)
		}
		time.Sleep(restDemand)
		b.gateway.mu.Lock()
		b.gateway.admit = nil
		b.gateway.mu.Unlock()
		begun := time.Now()
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err != nil || time.Since(begun) > time.Second {
			t.Errorf("after the lock was lifted: %v, in %v", err, time.Since(begun))
		}
	})
}

// An idle connection that gave way does not push out the next one, but comes back
// when it is needed.
func TestReplacedComesBackOnDemand(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		b.gateway.last().end(&wire.Termination{Code: wire.TerminateReplaced})
		b.want(status.Terminated)
		time.Sleep(time.Minute)
		if n := b.gateway.made(); n != 1 {
			t.Fatalf("%d connections without a demand", n)
		}
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err != nil {
			t.Fatal(err)
		}
		b.want(status.Connected)
	})
}

// A locked keyring is said, is not asked all the time, and is asked again when a
// stream is wanted.
func TestLockedKeyring(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.lock(keyring.ErrUnavailable)
		if err := b.c.Up(context.Background()); err != nil {
			t.Fatal(err)
		}
		if s := b.want(status.Terminated); s.Reason != keyring.ErrUnavailable.Error() || s.Remedy == "" {
			t.Errorf("status = %q, remedy %q", s.Headline(), s.Remedy)
		}
		b.creds.lock(nil)
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOtherProtocolVersion(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.gateway.setDown(&wire.Termination{Code: wire.TerminateVersion, Reason: "the gateway speaks protocol version 2, the client speaks 1"})
		if err := b.c.Up(context.Background()); err != nil {
			t.Fatal(err)
		}
		err := b.c.Ready(t.Context())
		var final *status.Error
		if !errors.As(err, &final) || final.Status.State != status.Terminated || final.Status.Remedy == "" {
			t.Fatalf("ready: %v", err)
		}
	})
}

func TestLogoutWhileRunning(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		session := b.gateway.last()
		b.creds.store(nil)
		b.c.Reload()
		b.want(status.NotLoggedIn)
		if session.alive() {
			t.Error("the session outlived the logout")
		}
	})
}

func TestNewLoginOfAnotherPersonCutsTheOld(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{}); err != nil {
			t.Fatal(err)
		}
		old := b.gateway.last()
		b.creds.store(fakeLogin("bob", "session-9", b.now(), time.Hour, 12*time.Hour))
		b.c.Reload()
		b.within(time.Second, "connected as bob", func() bool { return b.connected() && b.c.Status().User.Name == "bob" })
		if old.alive() {
			t.Error("ada's session lives on under bob's login")
		}
	})
}

func TestClockSkewIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.gateway.clock = 9*time.Minute + 5*time.Second
		b.up()
		s := b.want(status.Connected)
		if len(s.Warnings) != 1 || s.Warnings[0].Text != "your clock is 9 min slow, compared with the gateway's" {
			t.Errorf("warnings = %v", s.Warnings)
		}
	})
}

// A clock that runs three hours fast makes a good login look over.
func TestFastClockDoesNotExpire(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.creds.server = func() time.Time { return time.Now() }
		b.gateway.clock = 0
		b.jump(13 * time.Hour)
		b.up()
		s := b.want(status.Connected)
		if len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnClockSkew {
			t.Errorf("warnings = %v", s.Warnings)
		}
	})
}

// Renewed certificates that are refused again must not be renewed in a loop.
func TestThreatNoRenewalStorm(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.gateway.setDown(&wire.Termination{Code: wire.TerminateExpired})
		if err := b.c.Up(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		b.want(status.Expired)
		if n := b.creds.count(); n > 3 {
			t.Errorf("%d renewals", n)
		}
	})
}

func TestWatchSeesEveryState(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		seen := make(chan status.State, 64)
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			defer close(seen)
			for s := range b.c.Watch(ctx) {
				seen <- s.State
			}
		}()
		synctest.Wait()
		b.up()
		b.gateway.setDown(syscall.ECONNREFUSED)
		b.gateway.last().end(errors.New("lost"))
		b.want(status.Reconnecting)
		cancel()
		var states []status.State
		for s := range seen {
			if len(states) == 0 || states[len(states)-1] != s {
				states = append(states, s)
			}
		}
		if states[0] != status.Stopped || states[len(states)-1] != status.Reconnecting {
			t.Errorf("states = %v", states)
		}
	})
}
