package tunnel

// One test for each row of the table "What is asked of the multiplexer" in docs/protocol.md: what yamux v0.1.2 does by itself is
// in the comment, what this package makes of it is what the test holds.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// yamux ends a half-closed stream after StreamCloseTimeout, while data still arrives, and Read then returns a clean EOF.
func TestYamuxHalfCloseLastsAsLongAsTheDownload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, 20*time.Millisecond, 0, pairOptions{})
		near, far := openPair(t, client, server, echoTarget)
		if err := near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(far); len(b) != 0 || err != nil {
			t.Fatalf("%q, %v", b, err)
		}
		go func() {
			for i := range 60 { // an hour, a piece a minute
				fmt.Fprintf(far, "piece %d\n", i)
				time.Sleep(time.Minute)
			}
			far.CloseWrite()
		}()
		got, err := io.ReadAll(near)
		if err != nil || strings.Count(string(got), "piece") != 60 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		near.Close()
		far.Close()
		client.Close()
		server.Close()
	})
}

// yamux knows one end only: an EOF is an EOF, whoever made it.
func TestYamuxEndWithoutEndRecordIsAnAbort(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	st := p.open(3, s)
	p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, []byte("half")...)...)
	p.send(frame{kind: frameWindow, flags: flagFIN, id: 3})
	got, err := io.ReadAll(st)
	var abort *AbortError
	if string(got) != "half" || !errors.As(err, &abort) || abort.Code != wire.AbortTruncated {
		t.Fatalf("%q, %v", got, err)
	}
	if m := p.untilMessage(wire.TypeAbort).(*wire.Abort); m.StreamID != 3 || m.Code != wire.AbortTruncated {
		t.Errorf("%+v", m)
	}
	p.until("the reset", func(f frame, _ []byte) bool { return f.id == 3 && f.has(flagRST) })
}

// A session that ends in the middle of a stream is no clean end either.
func TestYamuxSessionEndIsNoStreamEnd(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	if _, err := far.Write([]byte("some")); err != nil {
		t.Fatal(err)
	}
	var buf [4]byte
	if _, err := io.ReadFull(near, buf[:]); err != nil {
		t.Fatal(err)
	}
	go server.CloseWith(wire.Termination{Code: wire.TerminateLocked, Reason: "locked by an administrator"})
	_, err := near.Read(buf[:])
	var why *wire.Termination
	if !errors.As(err, &why) || why.Code != wire.TerminateLocked {
		t.Fatalf("read: %v", err)
	}
	<-client.Done()
	if err := client.Err(); !errors.As(err, &why) {
		t.Errorf("session: %v", err)
	}
	<-server.Done()
	if _, err := far.Write(buf[:]); !errors.Is(err, ErrClosed) {
		t.Errorf("write on the side that closed: %v", err)
	}
}

// yamux has no reset of one stream.
func TestYamuxAbortReachesThePeerWithItsReason(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cause error
		code  wire.AbortCode
		is    error
	}{
		{"its own", &AbortError{Code: wire.AbortRevoked, Reason: "policy v8"}, wire.AbortRevoked, syscall.ECONNRESET},
		{"reset", syscall.ECONNRESET, wire.AbortReset, syscall.ECONNRESET},
		{"cancelled", fmt.Errorf("gone: %w", context.Canceled), wire.AbortCancelled, syscall.ECONNRESET},
		{"time-out", os.ErrDeadlineExceeded, wire.AbortTimeout, os.ErrDeadlineExceeded},
		{"session", &wire.Termination{Code: wire.TerminateLocked, Reason: "locked"}, wire.AbortTerminated, syscall.ECONNRESET},
		{"none", nil, wire.AbortReset, syscall.ECONNRESET},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client, server := pair(t, pairOptions{})
			near, far := openPair(t, client, server, echoTarget)
			told := make(chan error, 1)
			far.OnAbort(func(err error) { told <- err })
			near.Abort(tc.cause)
			near.Abort(errors.New("a second cause"))
			_, err := far.Read(make([]byte, 1))
			var abort *AbortError
			if !errors.As(err, &abort) || abort.Code != tc.code || !errors.Is(err, tc.is) {
				t.Errorf("read: %v", err)
			}
			if err := <-told; !errors.As(err, &abort) {
				t.Errorf("hook: %v", err)
			}
			if _, err := far.Write([]byte("x")); !errors.As(err, &abort) {
				t.Errorf("write: %v", err)
			}
			if _, err := near.Read(make([]byte, 1)); tc.cause != nil && !errors.Is(err, tc.cause) {
				t.Errorf("read at the side that aborted: %v", err)
			}
			waitFor(t, "the answer", func() bool { return client.Stats().Streams+server.Stats().Streams == 0 })
		})
	}
}

// yamux's writer ignores that its reader has gone, and its frames need window: an abort needs none, and works after an end.
func TestYamuxAbortNeedsNoWindow(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	if err := near.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	blocked := make(chan error, 1)
	go func() {
		_, err := far.Write(make([]byte, 4<<20)) // far more than the window; near reads nothing
		blocked <- err
	}()
	waitFor(t, "a full window", func() bool { return near.buffered() > initialWindow/2 })
	near.Abort(context.Canceled)
	var abort *AbortError
	if err := <-blocked; !errors.As(err, &abort) || abort.Code != wire.AbortCancelled {
		t.Fatalf("write: %v", err)
	}
}

// Stock yamux kept 16 goroutines and 91 MiB after 16 aborted downloads.
func TestYamuxAbortedDownloadsLeaveNothing(t *testing.T) {
	client, server := pair(t, pairOptions{})
	var writers sync.WaitGroup
	acceptEach(t, server, func(st *Stream) {
		writers.Add(1)
		defer writers.Done()
		buf := make([]byte, 64<<10)
		for {
			if _, err := st.Write(buf); err != nil {
				return
			}
		}
	})
	round := func() {
		for range 16 {
			st, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(st, make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
			st.Abort(context.Canceled)
		}
		waitFor(t, "all resets", func() bool { return client.Stats().Streams+server.Stats().Streams == 0 })
		writers.Wait()
	}
	round()
	goroutines, heap := runtime.NumGoroutine(), heapInUse()
	round()
	waitFor(t, "the goroutines", func() bool { return runtime.NumGoroutine() <= goroutines })
	if more := heapInUse() - heap; more > 2<<20 {
		t.Errorf("%d KiB more heap", more>>10)
	}
}

// A peer that does not answer an RST within 5 s loses the session.
func TestYamuxUnansweredAbortEndsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := simPair(time.Millisecond, 0)
		p, s := rawClientOver(t, ServerConfig{}, a, b)
		st := p.open(3, s)
		start := time.Now()
		go func() { // answers pings, so that only the abort is missing
			for {
				f, _, ok := p.next()
				if !ok {
					return
				}
				if f.kind == framePing {
					p.send(frame{kind: framePing, flags: flagACK, length: f.length})
				}
			}
		}()
		st.Abort(nil)
		<-s.Done()
		if took := time.Since(start); took < abortTimeout || took > abortTimeout+3*time.Second || !errors.Is(s.Err(), ErrProtocol) {
			t.Errorf("after %s: %v", took, s.Err())
		}
		s.Close()
	})
}

// yamux discards what comes for a stream that is over, for ever, with a line of log each.
func TestYamuxBytesIntoDeadStreamsEndTheSession(t *testing.T) {
	t.Run("after the reset was answered", func(t *testing.T) {
		p, s := rawClient(t, ServerConfig{})
		p.open(3, s).Abort(nil)
		p.until("the reset", func(f frame, _ []byte) bool { return f.id == 3 && f.has(flagRST) })
		p.send(frame{kind: frameWindow, flags: flagRST, id: 3})
		p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, []byte("more")...)...)
		p.ended()
		<-s.Done()
		if !errors.Is(s.Err(), ErrProtocol) {
			t.Error(s.Err())
		}
	})
	t.Run("more than its window before it", func(t *testing.T) {
		p, s := rawClient(t, ServerConfig{})
		p.open(3, s).Abort(nil)
		go func() {
			for range 5 {
				p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, make([]byte, wire.MaxPayload)...)...)
			}
		}()
		p.ended()
		<-s.Done()
		if !errors.Is(s.Err(), ErrProtocol) || s.Stats().Discarded == 0 {
			t.Error(s.Err(), s.Stats().Discarded)
		}
	})
	t.Run("within it they are only counted", func(t *testing.T) {
		p, s := rawClient(t, ServerConfig{})
		st := p.open(3, s)
		st.Abort(nil)
		p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, make([]byte, wire.MaxPayload)...)...)
		p.send(frame{kind: frameWindow, flags: flagRST, id: 3})
		waitFor(t, "the answer", func() bool { return s.Stats().Streams == 0 })
		if s.Err() != nil || s.Stats().Discarded < wire.MaxPayload {
			t.Error(s.Err(), s.Stats().Discarded)
		}
	})
}

// An RST for a stream that has just ended cleanly is answered too: the one who aborted waits for it.
func TestYamuxAbortCrossesTheEnd(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	st := p.open(3, s)
	p.end(3)
	if _, err := io.ReadAll(st); err != nil {
		t.Fatal(err)
	}
	st.CloseWrite()
	p.until("the end", func(f frame, _ []byte) bool { return f.id == 3 && f.has(flagFIN) })
	p.send(frame{kind: frameWindow, flags: flagRST, id: 3})
	p.until("the answer", func(f frame, _ []byte) bool { return f.id == 3 && f.has(flagRST) })
	if s.Err() != nil {
		t.Error(s.Err())
	}
}

// yamux's ConnectionWriteTimeout leaves its windows wrong; its keep-alive waits 30 s and then for a write.
func TestYamuxSilentPeerIsGoneAfterTenSeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, link := simSessions(t, 20*time.Millisecond, 0, pairOptions{})
		near, far := openPair(t, client, server, echoTarget)
		time.Sleep(time.Hour) // pings keep an idle session alive
		if client.Err() != nil || server.Err() != nil {
			t.Fatal(client.Err(), server.Err())
		}
		link.in.stop()
		link.out.stop()
		start := time.Now()
		blocked := make(chan error, 2)
		go func() { // blocked in the socket when the end comes
			_, err := near.Write(make([]byte, 8<<20))
			blocked <- err
		}()
		go func() {
			_, err := far.Read(make([]byte, 1))
			blocked <- err
		}()
		for range 2 {
			if err := <-blocked; !errors.Is(err, ErrDead) {
				t.Error(err)
			}
		}
		if took := time.Since(start); took > deadAfter+2*tick {
			t.Errorf("noticed after %s", took)
		}
		client.Close()
		server.Close()
	})
}

// A peer that lives and takes nothing: tls.Conn.Close would wait for the write that is blocked; the socket goes first.
func TestYamuxPeerThatTakesNothingIsGoneAfterAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := simPair(time.Millisecond, 0)
		p, s := rawClientOver(t, ServerConfig{}, a, b)
		st := p.open(3, s)
		p.send(frame{kind: frameWindow, id: 3, length: 1 << 24})
		b.out.mu.Lock()
		b.out.rate, b.out.free = 1, time.Now() // the window of TCP is closed
		b.out.mu.Unlock()
		var pinging sync.WaitGroup
		defer pinging.Wait()
		pinging.Go(func() {
			for s.Err() == nil {
				p.send(frame{kind: framePing, flags: flagACK})
				time.Sleep(time.Second)
			}
		})
		start := time.Now()
		_, err := st.Write(make([]byte, 8<<20))
		if took := time.Since(start); !errors.Is(err, ErrDead) || took > writeStall+5*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		s.Close()
		p.raw.Close()
	})
}

// A deadline of yamux cuts a record in the middle. Here a record leaves whole or not at all, and the stream goes on.
func TestYamuxWriteDeadlineCutsNoRecord(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	near.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := near.Write(data)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n >= len(data) {
		t.Fatalf("%d, %v", n, err)
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v is no time-out", err)
	}
	near.SetWriteDeadline(time.Time{})
	go func() {
		near.Write(data[n:])
		near.CloseWrite()
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// A peer that cuts a record by its end is a failure, also when the rest would never be asked for.
func TestYamuxCutRecordIsAnAbort(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	st := p.open(3, s)
	p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, []byte("whole")...)[:6]...)
	p.send(frame{kind: frameWindow, flags: flagFIN, id: 3})
	got, err := io.ReadAll(st)
	var abort *AbortError
	if string(got) != "wh" || !errors.As(err, &abort) {
		t.Fatalf("%q, %v", got, err)
	}
}

// yamux closes the whole session when a stream is not accepted for 75 s, and OpenStream has no context.
func TestYamuxUndecidedStreamsHurtNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{})
		var waiting sync.WaitGroup
		var refused, cancelled atomic.Int32
		for i := range wire.MaxUndecided + 10 { // nobody accepts
			waiting.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
				defer cancel()
				_, err := client.Open(ctx, wire.ServiceTarget(wire.KindTCP, fmt.Sprint("s", i)), OpenOptions{Wait: true})
				if errors.Is(err, context.DeadlineExceeded) {
					cancelled.Add(1)
				} else {
					refused.Add(1)
				}
			})
		}
		waiting.Wait()
		if cancelled.Load() != wire.MaxUndecided+10 {
			t.Errorf("%d cancelled, %d otherwise", cancelled.Load(), refused.Load())
		}
		time.Sleep(time.Second)
		if client.Err() != nil || server.Err() != nil || client.Stats().Streams != 0 || server.Stats().Streams != 0 {
			t.Fatal(client.Err(), server.Err(), client.Stats().Streams, server.Stats().Streams)
		}
		near, _ := openPair(t, client, server, echoTarget) // what was given up is not handed out
		near.Abort(nil)
		client.Close()
		server.Close()
	})
}

// A stream that nobody decides ends by itself.
func TestYamuxUndecidedStreamEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{})
		start := time.Now()
		_, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
		var abort *AbortError
		if took := time.Since(start); !errors.As(err, &abort) || abort.Code != wire.AbortTimeout || took > requestTimeout+decisionTimeout+2*time.Second {
			t.Errorf("after %s: %v", took, err)
		}
		client.Close()
		server.Close()
	})
}

// yamux has no cap on memory: 1 to 2 windows per stalled stream, and the peak is kept.
func TestYamuxStalledStreamsStayWithinTheBudget(t *testing.T) {
	const streams = 256
	client, server := pair(t, pairOptions{})
	var wg sync.WaitGroup
	fars := make(chan *Stream, streams)
	acceptEach(t, server, func(st *Stream) {
		fars <- st
		st.Write(make([]byte, 16<<20)) // until it is aborted
	})
	before := heapInUse()
	var nears []*Stream
	for range streams {
		st, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
		if err != nil {
			t.Fatal(err)
		}
		nears = append(nears, st)
	}
	waitFor(t, "full windows", func() bool {
		for _, st := range nears {
			if st.buffered() < initialWindow-2*wire.MaxPayload {
				return false
			}
		}
		return true
	})
	used := heapInUse() - before - streams*16<<20 // what the writers hold is the test's
	if limit := int64(2*max(clientBudget, streams*initialWindow) + streams*192<<10); used > limit {
		t.Errorf("%d MiB for %d stalled streams, limit %d", used>>20, streams, limit>>20)
	} else {
		t.Logf("%d MiB for %d stalled streams", used>>20, streams)
	}
	for _, st := range nears {
		wg.Go(func() { st.Abort(nil) })
	}
	wg.Wait()
}

// The window of 256 KiB carries 24 Mbit/s at 50 ms. Here it grows until the path is full, and only as far as the budget goes.
func TestYamuxWindowGrowsWithThePath(t *testing.T) {
	const rtt, rate = 50 * time.Millisecond, 25e6 // 200 Mbit/s
	for _, tc := range []struct {
		name   string
		limits Limits
		least  float64
		most   int64
	}{
		{"default", Limits{}, 0.9, defaultWindow},
		{"budget of 1 MiB", Limits{Budget: 1 << 20}, 0.2, 1 << 20},
		{"window of 256 KiB", Limits{MaxWindow: 1}, 0.1, initialWindow},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				client, server, _ := simSessions(t, rtt, rate, pairOptions{client: ClientConfig{Limits: tc.limits}})
				near, far := openPair(t, client, server, echoTarget)
				start := time.Now()
				const size = 100 << 20
				go func() {
					far.Write(make([]byte, size))
					far.CloseWrite()
				}()
				n, err := near.WriteTo(io.Discard)
				share := float64(n) / time.Since(start).Seconds() / rate
				t.Logf("%.2f of the path, window %d KiB, round trip %s", share, near.window.Load()>>10, client.Stats().RTT)
				if n != size || err != nil || share < tc.least || near.window.Load() > tc.most {
					t.Errorf("%d bytes, %v", n, err)
				}
				client.Close()
				server.Close()
			})
		})
	}
}

// In yamux, a keystroke stands behind whatever is being written. Here it overtakes, and little is in front of it.
func TestYamuxKeystrokeBesideBulk(t *testing.T) {
	const rtt, rate = 50 * time.Millisecond, 25e6
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, rtt, rate, pairOptions{})
		bulkNear, bulkFar := openPair(t, client, server, echoTarget)
		keyNear, keyFar := openPair(t, client, server, echoTarget)
		var work sync.WaitGroup
		work.Go(func() {
			for _, err := bulkFar.Write(make([]byte, 1<<20)); err == nil; {
				_, err = bulkFar.Write(make([]byte, 1<<20))
			}
		})
		work.Go(func() { io.Copy(io.Discard, bulkNear) })
		work.Go(func() { io.Copy(keyFar, keyFar) })
		time.Sleep(3 * time.Second)
		var took []time.Duration
		for range 101 {
			time.Sleep(37 * time.Millisecond)
			start := time.Now()
			keyNear.Write([]byte("k"))
			if _, err := keyNear.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		t.Logf("p50 %s, p99 %s, alone %s", took[50], took[99], rtt)
		if took[50] > rtt*12/10 {
			t.Errorf("p50 %s", took[50])
		}
		client.Close()
		server.Close()
		work.Wait()
	})
}

// yamux keeps a stream's receive buffer at its peak; here it is given back once it is empty and quiet.
func TestYamuxDrainedStreamGivesItsBufferBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{})
		near, far := openPair(t, client, server, echoTarget)
		go far.Write(make([]byte, 200<<10))
		time.Sleep(time.Second)
		before := heapInUse()
		if _, err := io.ReadFull(near, make([]byte, 200<<10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * tick)
		if gave := before - heapInUse(); gave < 150<<10 {
			t.Errorf("%d KiB given back", gave>>10)
		}
		client.Close()
		server.Close()
	})
}

// Too many stalled streams of a process: those that stand longest are aborted, with that reason.
func TestYamuxStallLimitAbortsTheLongestStalled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := NewStallLimit(2)
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{server: ServerConfig{Stalls: limit}})
		var nears []*Stream
		for range 3 {
			near, far := openPair(t, client, server, echoTarget)
			nears = append(nears, near)
			go far.Write(make([]byte, 1<<20))
			time.Sleep(2 * time.Second)
		}
		time.Sleep(time.Minute)
		var abort *AbortError
		if err := nears[0].Err(); !errors.As(err, &abort) || abort.Code != wire.AbortLimit {
			t.Errorf("the first one: %v", err)
		}
		if nears[1].Err() != nil || nears[2].Err() != nil {
			t.Error(nears[1].Err(), nears[2].Err())
		}
		client.Close()
		server.Close()
		if limit.n != 0 {
			t.Errorf("%d stalled streams remain counted", limit.n)
		}
	})
}

// yamux writes a line to stderr for each odd frame.
func TestYamuxLogIsLimited(t *testing.T) {
	var lines atomic.Int64
	log := slog.New(slog.NewTextHandler(countingWriter{&lines}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l := newLimitedLog(log)
	for range 100_000 {
		l.Printf("[WARN] yamux: Discarding data for stream: %d", 7)
	}
	if n := lines.Load(); n > 20 {
		t.Errorf("%d lines", n)
	}
}

type countingWriter struct{ n *atomic.Int64 }

func (w countingWriter) Write(p []byte) (int, error) {
	w.n.Add(1)
	return len(p), nil
}

// A reset discards what was received; it is never a clean end.
func TestYamuxResetIsAlwaysAFailure(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	far.Write([]byte("received and never read"))
	far.CloseWrite()
	waitFor(t, "the data", func() bool { return near.buffered() > 0 })
	far.Abort(nil)
	<-near.Done()
	b, err := io.ReadAll(near)
	var abort *AbortError
	if !errors.As(err, &abort) {
		t.Fatalf("%q, %v", b, err)
	}
}

// yamux sends header and body as two TLS records in two system calls.
func TestYamuxOneTLSRecordWhereItCounts(t *testing.T) {
	a, b := tcpPair(t)
	up := &recordCounter{Conn: a}
	client, server := pair(t, pairOptions{raw: func(testing.TB) (net.Conn, net.Conn) { return up, b }})
	waitFor(t, "the probes", func() bool { return client.Stats().RTT > 0 && server.Stats().RTT > 0 })
	step := func(what string, want int64, f func()) {
		t.Helper()
		before := up.records.Load()
		f()
		if got := up.records.Load() - before; got != want {
			t.Errorf("%s: %d TLS records, want %d", what, got, want)
		}
	}
	var near, far *Stream
	step("SYN and request", 1, func() { near, far = openPair(t, client, server, echoTarget) })
	step("a byte", 1, func() {
		near.Write([]byte("x"))
		io.ReadFull(far, make([]byte, 1))
	})
	step("a full record", 4, func() {
		near.Write(make([]byte, wire.MaxPayload))
		io.ReadFull(far, make([]byte, wire.MaxPayload))
	})
	step("end and FIN", 1, func() {
		near.CloseWrite()
		io.ReadAll(far)
	})
}

// recordCounter counts the TLS records that are written.
type recordCounter struct {
	net.Conn
	records atomic.Int64
	rest    []byte
}

func (c *recordCounter) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	for len(c.rest) >= 5 {
		n := 5 + int(c.rest[3])<<8 + int(c.rest[4])
		if len(c.rest) < n {
			break
		}
		c.rest = c.rest[n:]
		c.records.Add(1)
	}
	return c.Conn.Write(p)
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("no %s within 10 s", what)
		}
		runtime.Gosched()
	}
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
