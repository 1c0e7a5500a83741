package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// trueRenewal is a gateway that issues by the true time, while the desktop's clock may say anything. It has its limits.
func trueRenewal(b *bench) {
	b.creds.server = time.Now
	b.creds.renew = func(old *Login) (*Login, error) {
		if b.creds.renewals > 100 {
			return nil, errors.New("too many renewals")
		}
		l := fakeLogin(old.Identity.Subject, old.Session(), time.Now(), time.Hour, 0)
		l.Deadline, l.Skew = old.Deadline, time.Until(b.now())*-1
		return l, nil
	}
}

// A clock that is set while the client is connected changes neither when renewals are due nor how many there are.
func TestFaultClockSetWhileConnected(t *testing.T) {
	for name, by := range map[string]time.Duration{"forward": 3 * time.Hour, "back": -3 * time.Hour, "days": 72 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				trueRenewal(b)
				b.up()
				time.Sleep(5 * time.Minute)
				b.jump(by)
				time.Sleep(20 * time.Minute)
				s := b.want(status.Connected)
				if n := b.creds.count(); n > 1 {
					t.Errorf("%d renewals in 20 minutes after the clock was set", n)
				}
				if len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnClockSkew {
					t.Errorf("warnings = %v", s.Warnings)
				}
				before := b.creds.count()
				time.Sleep(50 * time.Minute)
				synctest.Wait()
				if n := b.creds.count() - before; n < 1 || n > 2 {
					t.Errorf("%d renewals in the next 50 minutes", n)
				}
			})
		})
	}
}

// A gateway that welcomes a certificate and calls it expired a moment later is not asked again and again, and neither is the provider.
func TestFaultExpiredRightAfterTheWelcome(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		trueRenewal(b)
		if err := b.c.Up(context.Background()); err != nil {
			t.Fatal(err)
		}
		for range 6000 { // a minute
			if s := b.gateway.last(); s != nil && s.alive() {
				s.end(&wire.Termination{Code: wire.TerminateExpired})
			}
			time.Sleep(10 * time.Millisecond)
		}
		if made, renewed := b.gateway.made(), b.creds.count(); made > 5 || renewed > 3 {
			t.Errorf("%d connections and %d renewals in a minute", made, renewed)
		}
		b.want(status.Expired)
	})
}

// A gateway that answers every stream with "expired" does not make the client ask the provider for each.
func TestFaultEveryStreamIsCalledExpired(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		trueRenewal(b)
		b.up()
		refuse := func() {
			b.gateway.last().set(func() {
				b.gateway.last().refusals = []error{
					&wire.Refusal{Code: wire.CodeExpired}, &wire.Refusal{Code: wire.CodeExpired}, &wire.Refusal{Code: wire.CodeExpired},
				}
			})
		}
		for range 20 {
			refuse()
			if _, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true}); err == nil {
				t.Fatal("opened")
			}
		}
		if n := b.creds.count(); n > 3 {
			t.Errorf("%d renewals", n)
		}
	})
}

// Streams that a new login leaves on the old session are not forgotten: the status says when they end.
func TestFaultStreamsLeftBehindByANewLogin(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		stream, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true})
		if err != nil {
			t.Fatal(err)
		}
		b.creds.store(fakeLogin("ada", "session-2", b.now(), time.Hour, 12*time.Hour))
		b.c.Reload()
		time.Sleep(time.Second)
		if s := b.want(status.Connected); len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnLeftBehind {
			t.Errorf("warnings = %v", s.Warnings)
		}
		_ = stream.Close()
		time.Sleep(time.Second)
		if s := b.want(status.Connected); len(s.Warnings) != 0 {
			t.Errorf("warnings after its end = %v", s.Warnings)
		}
	})
}
