package client

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// inSession says how often, and what last, the newest session was told after Hello.
func (b *bench) inSession() (n int, last map[string]string) {
	synctest.Wait()
	told := b.gateway.last().postures()
	if len(told) > 0 {
		last = told[len(told)-1]
	}
	return len(told), last
}

// A reading that takes long delays no connection; the first stream waits for what the gateway is to hear.
func TestDeviceIsReadInTheBackground(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("disk_encrypted", "true")
		b.takes = 700 * time.Millisecond
		begun := time.Now()
		b.up()
		if took := time.Since(begun); took != 0 {
			t.Errorf("connected after %s", took)
		}
		atOnce := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "client_version": "1.4.0"}
		if diff := cmp.Diff(atOnce, b.gateway.last().hello); diff != "" {
			t.Error(diff)
		}
		stream, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		if took := time.Since(begun); took != b.takes+roundTripTime {
			t.Errorf("a stream opened after %s", took)
		}
		n, told := b.inSession()
		if n != 1 || told["disk_encrypted"] != "true" || told["os"] != runtime.GOOS {
			t.Errorf("told %d times, %v", n, told)
		}
		if got := b.c.Status().Device["disk_encrypted"]; got != "true" {
			t.Errorf("status says %q", got)
		}
		begun = time.Now()
		second, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil || time.Since(begun) != 0 {
			t.Errorf("the second stream after %s, %v", time.Since(begun), err)
		}
		second.Close()
	})
}

// A device that has nothing to add, and a gateway that does not answer, hold no stream for long.
func TestStreamsDoNotWaitForTheDeviceForEver(t *testing.T) {
	for name, c := range map[string]struct {
		mute  bool
		takes time.Duration
		want  time.Duration
	}{
		"nothing to add":                    {false, time.Millisecond, time.Millisecond},
		"nothing to add, and slow":          {false, time.Second, time.Second},
		"a gateway that does not answer":    {true, time.Millisecond, settleWait},
		"a device that cannot be read ever": {false, time.Hour, settleWait},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				if b.takes, b.gateway.mute = c.takes, c.mute; c.mute {
					b.is("firewall", "true")
				}
				b.up()
				begun := time.Now()
				stream, err := b.c.Open(t.Context(), wiki, OpenOptions{})
				if err != nil {
					t.Fatal(err)
				}
				stream.Close()
				if took := time.Since(begun); took != c.want {
					t.Errorf("a stream opened after %s, want %s", took, c.want)
				}
				if n, _ := b.inSession(); n > 1 || !c.mute && n != 0 {
					t.Errorf("told %d times", n)
				}
			})
		})
	}
}

// Read every five minutes, told only when something changed.
func TestDeviceIsToldWhenItChanges(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("firewall", "true")
		b.up()
		time.Sleep(time.Second)
		if n, told := b.inSession(); n != 1 || told["firewall"] != "true" || b.read() != 1 {
			t.Fatalf("told %d times, %v, read %d times", n, told, b.read())
		}
		time.Sleep(10 * time.Minute)
		if n, _ := b.inSession(); n != 1 || b.read() != 3 {
			t.Errorf("without a change: told %d times, read %d times", n, b.read())
		}
		b.is("firewall", "false")
		time.Sleep(deviceEvery + time.Second)
		if n, told := b.inSession(); n != 2 || told["firewall"] != "false" {
			t.Errorf("after a change: told %d times, %v", n, told)
		}
	})
}

// A new session hears everything in Hello, and one that only old streams are left on hears of changes.
func TestEveryLaneIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("screen_lock", "true")
		b.up()
		stream, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		old := b.gateway.last()
		old.ev.onDraining(wire.Draining{Reason: "restart"})
		b.within(10*time.Second, "on another connection", func() bool { return b.gateway.last() != old && b.connected() })
		if n, _ := b.inSession(); n != 0 || b.gateway.last().hello["screen_lock"] != "true" {
			t.Errorf("Hello said %v, then told %d times", b.gateway.last().hello, n)
		}
		begun := time.Now()
		second, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil || time.Since(begun) != 0 {
			t.Fatalf("a stream after %s, %v", time.Since(begun), err)
		}
		defer second.Close()
		b.is("screen_lock", "false")
		time.Sleep(deviceEvery + time.Second)
		synctest.Wait()
		for i, s := range []*fakeSession{old, b.gateway.last()} {
			told := s.postures()
			if len(told) == 0 || told[len(told)-1]["screen_lock"] != "false" {
				t.Errorf("connection %d was told %v", i, told)
			}
		}
	})
}

// A fact that is not there once may not have been read in time: streams are not cut for that.
func TestMissingFactIsBelievedTheSecondTime(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("firewall", "true", "screen_lock", "true")
		b.up()
		time.Sleep(time.Minute)
		b.is("firewall", "", "screen_lock", "false")
		time.Sleep(4*time.Minute + time.Second)
		n, told := b.inSession()
		if n != 2 || told["firewall"] != "true" || told["screen_lock"] != "false" {
			t.Errorf("after one reading without the fact: told %d times, %v", n, told)
		}
		b.is("firewall", "true")
		time.Sleep(deviceSoon + time.Second)
		if n, _ := b.inSession(); n != 2 || b.read() != 3 {
			t.Errorf("after it was there again: told %d times, read %d times", n, b.read())
		}
		b.is("firewall", "")
		time.Sleep(deviceEvery + deviceSoon + time.Second)
		if n, told = b.inSession(); n != 3 || told["firewall"] != "" || told["screen_lock"] != "false" {
			t.Errorf("after two: told %d times, %v", n, told)
		}
		if _, ok := b.c.Status().Device["firewall"]; ok {
			t.Error("status still says it")
		}
	})
}

// Somebody who is refused, sets it right and tries again does not wait for five minutes.
func TestDeviceIsReadAfterARefusal(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("screen_lock", "false")
		b.up()
		time.Sleep(time.Minute)
		b.gateway.last().set(func() { b.gateway.last().refusals = []error{&wire.Refusal{Code: wire.CodeDenied, Reason: "screen"}} })
		b.is("screen_lock", "true")
		if _, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true}); err == nil {
			t.Fatal("the fake gateway let it in")
		}
		time.Sleep(b.takes)
		if n, told := b.inSession(); n != 2 || told["screen_lock"] != "true" {
			t.Errorf("told %d times, %v", n, told)
		}
		for range 90 { // a program that tries again and again
			b.gateway.last().set(func() { b.gateway.last().refusals = []error{&wire.Refusal{Code: wire.CodeDenied, Reason: "screen"}} })
			if _, err := b.c.Open(t.Context(), wiki, OpenOptions{Wait: true}); err == nil {
				t.Fatal("the fake gateway let it in")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if b.read() != 2 {
			t.Errorf("read %d times", b.read())
		}
	})
}

func TestDeviceIsReadAfterASleep(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.creds.renew = renewFor(b, time.Hour)
		b.is("firewall", "true")
		b.up()
		time.Sleep(time.Minute)
		b.is("firewall", "false")
		b.jump(20 * time.Minute)
		time.Sleep(2 * tick)
		if n, told := b.inSession(); n != 2 || told["firewall"] != "false" {
			t.Errorf("told %d times, %v", n, told)
		}
	})
}

// A client that ends while its device is being read ends at once.
func TestDownWhileTheDeviceIsRead(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.takes = time.Hour
		b.up()
		begun := time.Now()
		b.c.Down()
		if took := time.Since(begun); took != 0 || b.c.Status().State != status.Stopped {
			t.Errorf("down after %s", took)
		}
	})
}

// A session that ends while it is told does no harm.
func TestLaneEndsWhileAStreamWaitsForTheDevice(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.is("firewall", "true")
		b.takes = 500 * time.Millisecond
		b.up()
		time.AfterFunc(100*time.Millisecond, func() { b.gateway.last().end(errors.New("connection lost")) })
		stream, err := b.c.Open(t.Context(), wiki, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stream.Close()
		if b.gateway.made() < 2 {
			t.Error("the stream is on the connection that was lost")
		}
	})
}
