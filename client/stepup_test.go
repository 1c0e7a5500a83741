package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// freshLogin is a login of the same session by a person who signs in now.
func (b *bench) freshLogin(old *Login, acr string) *Login {
	login := fakeLogin(old.Identity.Subject, old.Session(), b.now(), time.Hour, 12*time.Hour)
	login.Deadline, login.Identity.AuthTime, login.Identity.ACR, login.Identity.IssuedAt = old.Deadline, b.now(), acr, b.now()
	return login
}

func (s *fakeSession) refusalsSent() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.declined)
}

func asked(b *bench, service string, maxAge time.Duration) wire.StepUp {
	return wire.StepUp{Service: service, MaxAge: maxAge, Until: b.now().Add(2 * time.Minute)}
}

// One authorization answers every stream and every connection that waits.
func TestStepUpAsksOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		old := b.gateway.last()
		old.set(func() { old.streams = 1 })
		old.ev.onDraining(wire.Draining{Reason: "upgrade"}) // it stays, beside a new one
		b.within(10*time.Second, "a second connection", func() bool { return b.gateway.made() == 2 && b.connected() })
		now := b.gateway.last()
		signedIn := make(chan struct{})
		b.creds.stepUp = func(ctx context.Context, old *Login, w wanted) (*Login, error) {
			w.shown("https://idp.example/auth")
			<-signedIn
			return b.freshLogin(old, ""), nil
		}
		old.ev.onStepUp(asked(b, "db", time.Hour))
		now.ev.onStepUp(asked(b, "db", 15*time.Minute))
		b.within(time.Second, "a prompt", func() bool { return b.creds.prompted() == 1 })
		now.ev.onStepUp(asked(b, "payroll", 5*time.Minute))
		s := b.want(status.Connected)
		if i := slices.IndexFunc(s.Warnings, func(w status.Warning) bool { return w.Code == status.WarnStepUp }); i < 0 ||
			!strings.Contains(s.Warnings[i].Remedy, "https://idp.example/auth") {
			t.Errorf("warnings %+v", s.Warnings)
		}
		close(signedIn)
		b.within(time.Second, "the certificate on both connections", func() bool { return old.renewals() == 1 && now.renewals() == 1 })
		b.within(time.Second, "the end of the warning", func() bool { return len(b.c.Status().Warnings) == 0 })
		if n := b.creds.prompted(); n != 1 || len(old.refusalsSent())+len(now.refusalsSent()) != 0 {
			t.Errorf("%d prompts, refusals %q %q", n, old.refusalsSent(), now.refusalsSent())
		}
	})
}

// What another process got meanwhile, or what was got for another connection, asks nobody.
func TestStepUpTakesTheStoredLogin(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.gateway.last()
		b.creds.store(b.freshLogin(b.creds.login, "mfa"))
		s.ev.onStepUp(wire.StepUp{Service: "db", MaxAge: time.Minute, ACR: []string{"phr", "mfa"}})
		b.within(time.Second, "the certificate", func() bool { return s.renewals() == 1 })
		if n := b.creds.prompted(); n != 0 {
			t.Errorf("%d prompts", n)
		}
		// The gateway knows it already, and asks nevertheless: it wants a newer one.
		b.creds.stepUp = func(_ context.Context, old *Login, w wanted) (*Login, error) { return b.freshLogin(old, "mfa"), nil }
		s.ev.onStepUp(asked(b, "db", time.Minute))
		b.within(time.Second, "a second certificate", func() bool { return s.renewals() == 2 })
		if n := b.creds.prompted(); n != 1 {
			t.Errorf("%d prompts", n)
		}
	})
}

func TestStepUpDeclined(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.gateway.last()
		b.creds.stepUp = func(context.Context, *Login, wanted) (*Login, error) {
			return nil, errors.New("the sign-in was cancelled")
		}
		s.ev.onStepUp(asked(b, "db", time.Minute))
		b.within(time.Second, "the refusal", func() bool { return len(s.refusalsSent()) == 1 })
		if got := s.refusalsSent(); got[0] != "the sign-in was cancelled" || s.renewals() != 0 {
			t.Errorf("refusals %q, %d renewals", got, s.renewals())
		}
		b.want(status.Connected)
		// The next stream asks again.
		s.ev.onStepUp(asked(b, "db", time.Minute))
		b.within(time.Second, "the next refusal", func() bool { return len(s.refusalsSent()) == 2 })
	})
}

// A login of the wrong kind is presented, and the gateway is told that it will not do.
func TestStepUpOfTheWrongKind(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.gateway.last()
		b.creds.stepUp = func(_ context.Context, old *Login, w wanted) (*Login, error) { return b.freshLogin(old, "pwd"), nil }
		s.ev.onStepUp(wire.StepUp{Service: "db", ACR: []string{"mfa"}, Until: b.now().Add(2 * time.Minute)})
		b.within(time.Second, "the refusal", func() bool { return len(s.refusalsSent()) == 1 })
		if s.renewals() != 1 || b.creds.prompted() != 1 {
			t.Errorf("%d renewals, %d prompts", s.renewals(), b.creds.prompted())
		}
	})
}

// The wait ends with the streams, and goes on with new ones.
func TestStepUpEndsWhenNobodyWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.gateway.last()
		ended := make(chan error, 1)
		b.creds.stepUp = func(ctx context.Context, _ *Login, _ wanted) (*Login, error) {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, context.Cause(ctx)
		}
		begun := time.Now()
		s.ev.onStepUp(asked(b, "db", time.Minute))
		time.Sleep(90 * time.Second)
		s.ev.onStepUp(asked(b, "db", time.Minute))
		if err := <-ended; !errors.Is(err, errNobodyWaits) {
			t.Errorf("ended with %v", err)
		}
		if took := time.Since(begun); took < 3*time.Minute+29*time.Second || took > 3*time.Minute+40*time.Second {
			t.Errorf("it took %s", took)
		}
		if b.creds.prompted() != 1 {
			t.Errorf("%d prompts", b.creds.prompted())
		}
		b.within(time.Second, "the end of the warning", func() bool { return len(b.c.Status().Warnings) == 0 })
		// With the connection, too.
		s.ev.onStepUp(wire.StepUp{Service: "db", MaxAge: time.Minute})
		b.within(time.Second, "a second prompt", func() bool { return b.creds.prompted() == 2 })
		s.end(errors.New("lost"))
		if err := <-ended; !errors.Is(err, errNobodyWaits) {
			t.Errorf("ended with %v", err)
		}
	})
}

// A client that is stopped while somebody signs in stops.
func TestStepUpEndsWithTheClient(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		s := b.gateway.last()
		b.creds.stepUp = func(ctx context.Context, _ *Login, _ wanted) (*Login, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		s.ev.onStepUp(asked(b, "db", time.Minute))
		b.within(time.Second, "a prompt", func() bool { return b.creds.prompted() == 1 })
		b.c.Down()
		if got := s.refusalsSent(); len(got) != 0 {
			t.Errorf("refusals %q", got)
		}
	})
}

// What is renewed before the fresh login and arrives after it does not take its place.
func TestStepUpIsNotOvertaken(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		old := b.c.currentLogin()
		renewed := b.freshLogin(old, "")
		renewed.Identity.AuthTime = old.Identity.AuthTime
		time.Sleep(time.Second)
		stepped := b.freshLogin(old, "mfa")
		b.c.setLogin(stepped)
		b.c.setLogin(renewed)
		if now := b.c.currentLogin(); now != stepped {
			t.Errorf("auth_time %s, want %s", now.Identity.AuthTime, stepped.Identity.AuthTime)
		}
	})
}

// TestThreatPageAfterPage: a program that tries again and again, or a gateway that asks again and again, does not open page after page
// in the browser.
func TestThreatPageAfterPage(t *testing.T) {
	now := time.Date(2026, 12, 24, 10, 0, 0, 0, time.UTC)
	ago := func(d time.Duration, unanswered bool) certstore.Declined {
		return certstore.Declined{At: now.Add(-d), Reason: "no", Unanswered: unanswered}
	}
	for name, tc := range map[string]struct {
		no             certstore.Declined
		since          time.Duration // before now
		refused, quiet bool
	}{
		"never asked before":                  {certstore.Declined{}, 0, false, false},
		"declined while it waited":            {ago(20*time.Second, false), 30 * time.Second, true, false},
		"declined a moment before":            {ago(5*time.Second, false), 0, true, false},
		"declined a while ago":                {ago(11*time.Second, false), 0, false, false},
		"nobody came while it waited":         {ago(time.Second, true), 2 * time.Minute, true, true},
		"nobody came a moment ago":            {ago(time.Second, true), 0, false, true},
		"nobody came an hour ago":             {ago(time.Hour, true), 0, false, false},
		"declined tomorrow, by another clock": {ago(-24*time.Hour, false), 0, false, false},
	} {
		if refused, quiet := judge(tc.no, now.Add(-tc.since), now); refused != tc.refused || quiet != tc.quiet {
			t.Errorf("%s: refused %v, quiet %v", name, refused, quiet)
		}
	}
}
