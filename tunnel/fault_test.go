package tunnel

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// soon is how long a test waits in real time for what should happen at once.
const soon = 10 * time.Second

// returns fails the test when f does not return soon.
func returns(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(soon):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s hangs\n%s", what, buf[:runtime.Stack(buf, true)])
	}
}

// A stream whose reset came behind a control message that never gets whole ends with its session.
func TestFaultSessionEndsBetweenAResetAndItsReason(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	st := p.open(3, s)
	p.send(frame{kind: frameData, id: 1}, record(wire.TypeAbort, make([]byte, 100)...)[:10]...)
	p.send(frame{kind: frameWindow, flags: flagRST, id: 3})
	p.until("the answer", func(f frame, _ []byte) bool { return f.id == 3 && f.has(flagRST) })
	p.raw.Close()
	returns(t, "Read", func() {
		if _, err := st.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("Read: %v, want the failure", err)
		}
	})
}

var udpTarget = wire.ServiceTarget(wire.KindUDP, "dns")

// Datagrams before the reply stay within the early data, and never go beyond the peer's window.
func TestFaultDatagramsBeforeTheReply(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, err := client.Open(context.Background(), udpTarget, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	datagram := make([]byte, 40<<10)
	near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	sent := 0
	for ; err == nil; sent++ {
		_, err = near.Write(datagram)
	}
	if early := (sent - 1) * len(datagram); early > wire.MaxEarlyData {
		t.Errorf("%d bytes left before the reply, %d may", early, wire.MaxEarlyData)
	}
	n, err := server.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = n.Accept("dns"); err != nil {
		t.Fatal(err)
	}
	<-near.Decided()
	near.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	for err = nil; err == nil; { // the other side reads nothing
		_, err = near.Write(datagram[:8<<10])
	}
	if _, err := client.Ping(t.Context()); err != nil || server.Err() != nil {
		t.Errorf("the session did not outlive a full window: %v, %v", err, server.Err())
	}
}

// A slow line is no dead one: what is aborted on it, and signs of life, stand in the queue behind the bulk.
func TestFaultSlowLine(t *testing.T) {
	for name, upload := range map[string]bool{"upload": true, "download": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				client, server, _ := simSessions(t, 100*time.Millisecond, 16<<10, pairOptions{})
				near, far := openPair(t, client, server, echoTarget)
				if !upload {
					near, far = far, near
				}
				var work sync.WaitGroup
				work.Go(func() {
					for _, err := near.Write(make([]byte, 64<<10)); err == nil; {
						_, err = near.Write(make([]byte, 64<<10))
					}
				})
				work.Go(func() { io.Copy(io.Discard, far) })
				one, other := openPair(t, client, server, echoTarget)
				second, _ := openPair(t, client, server, echoTarget)
				time.Sleep(20 * time.Second)
				one.Abort(nil)
				if _, err := other.Read(make([]byte, 1)); err == nil {
					t.Error("the abort did not arrive")
				}
				second.Abort(nil)
				time.Sleep(2 * time.Minute)
				if client.Err() != nil || server.Err() != nil {
					t.Errorf("the session ended: %v; %v", client.Err(), server.Err())
				}
				if d := client.Stats().Discarded + server.Stats().Discarded; d > 0 {
					t.Errorf("%d bytes discarded", d)
				}
				client.Close()
				server.Close()
				work.Wait()
			})
		})
	}
}

// A renewal that nobody waits for any more does not stand in the way of the next.
func TestFaultRenewalGivenUp(t *testing.T) {
	begin, finish := make(chan struct{}), make(chan struct{})
	client, server := pair(t, pairOptions{server: ServerConfig{OnRenewed: func(chain [][]byte) (wire.Renewed, error) {
		if chain[0][0] == 1 {
			close(begin)
			<-finish
			return wire.Renewed{}, errors.New("not this one")
		}
		return wire.Renewed{}, nil
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begin; cancel() }()
	if _, err := client.Renew(ctx, [][]byte{{1}}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { close(finish) })
	if _, err := client.Renew(t.Context(), [][]byte{{2}}); err != nil {
		t.Errorf("the next renewal: %v", err)
	}
	if server.Err() != nil {
		t.Error(server.Err())
	}
}

// A flow of datagrams that waits holds no buffer.
func TestFaultIdleDatagramStreamsHoldNoBuffer(t *testing.T) {
	client, server := pair(t, pairOptions{})
	const streams = 100
	var got sync.WaitGroup
	before := heapInUse()
	for range streams {
		near, far := openPair(t, client, server, udpTarget)
		got.Add(1)
		go far.WriteTo(writerFunc(func(p []byte) (int, error) { got.Done(); return len(p), nil }))
		if _, err := near.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
	}
	got.Wait()
	if used := (heapInUse() - before) / streams; used > 24<<10 {
		t.Errorf("%d KiB for each", used>>10)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// Close ends a Write that waits for the peer, as net.Conn demands, and what was cut short does not look whole.
func TestFaultCloseEndsABlockedWrite(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	wrote := make(chan error, 1)
	go func() {
		_, err := near.Write(make([]byte, 4<<20)) // far does not read
		wrote <- err
	}()
	waitFor(t, "a full window", func() bool { return near.waiting.Load() != 0 })
	near.Close()
	returns(t, "Write", func() {
		if err := <-wrote; err == nil {
			t.Error("the write succeeded")
		}
	})
	if n, err := io.Copy(io.Discard, far); err == nil {
		t.Errorf("the peer read %d bytes and a clean end", n)
	}
}

// Many streams with small writes at once are no attack.
func TestFaultManySmallWritesAtOnce(t *testing.T) {
	client, server := pair(t, pairOptions{})
	acceptEach(t, server, func(st *Stream) { io.Copy(st, st); st.CloseWrite() })
	var work sync.WaitGroup
	for range 200 {
		work.Go(func() {
			st, err := client.Open(t.Context(), echoTarget, OpenOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			const each = 400 << 10
			work.Go(func() {
				for n := 0; n < each; n += smallFrame {
					if _, err := st.Write(make([]byte, min(smallFrame, each-n))); err != nil {
						t.Error(err)
						return
					}
				}
				st.CloseWrite()
			})
			if n, err := io.Copy(io.Discard, st); err != nil || n != each {
				t.Errorf("%d bytes came back: %v", n, err)
			}
		})
	}
	work.Wait()
	if client.Err() != nil || server.Err() != nil {
		t.Error(client.Err(), server.Err())
	}
}

// A stream that is opened while its session ends does not hang.
func TestFaultOpenWhileTheSessionEnds(t *testing.T) {
	for round := range 30 {
		client, server := pair(t, pairOptions{})
		acceptEach(t, server, func(st *Stream) { io.Copy(st, st); st.CloseWrite() })
		var work sync.WaitGroup
		opened, ending := make(chan struct{}), make(chan struct{})
		for range 8 {
			work.Go(func() {
				for {
					st, err := client.Open(context.Background(), echoTarget, OpenOptions{})
					if err != nil {
						return
					}
					if _, err := st.Write([]byte("x")); err == nil {
						st.Read(make([]byte, 1))
					} else {
						st.Read(make([]byte, 1)) // must end, too
					}
					st.Close()
					select {
					case opened <- struct{}{}:
					case <-ending:
					}
				}
			})
		}
		returns(t, "the first streams", func() {
			for range round {
				<-opened
			}
		})
		close(ending)
		server.sock.Close()
		returns(t, "a stream", work.Wait)
		client.Close()
		server.Close()
	}
}
