package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/relay"
)

// udpPair is a connected pair of udp sockets.
func udpPair(t testing.TB) (a, b *net.UDPConn) {
	t.Helper()
	loop := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	first, err := net.ListenUDP("udp", loop)
	if err != nil {
		t.Fatal(err)
	}
	peer := first.LocalAddr().(*net.UDPAddr)
	b, err = net.DialUDP("udp", nil, peer)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	a, err = net.DialUDP("udp", peer, b.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestCopyPacketsKeepsBoundaries(t *testing.T) {
	client, a := udpPair(t)
	b, service := udpPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan relay.Result, 1)
	go func() { done <- relay.CopyPackets(ctx, a, b, relay.Options{}) }()

	buf := make([]byte, 65535)
	sizes := []int{1, 1200, 0, 9000, 65507, 2}
	for _, size := range sizes {
		if _, err := client.Write(buf[:size]); err != nil {
			t.Fatal(err)
		}
		service.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := service.Read(buf); err != nil || n != size {
			t.Fatalf("service read %d, %v; want %d", n, err, size)
		}
	}
	service.Write([]byte("answer"))
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Fatalf("client read %q, %v", buf[:n], err)
	}
	cut := errors.New("cut")
	cancel(cut)
	if res := <-done; res.Cause != cut || res.AtoB != 75711-1 || res.BtoA != 6 {
		t.Errorf("got %+v", res)
	}
}

// TestCopyPacketsOutlivesARefusal: a service that is down for a moment answers with ICMP, and the flow goes on.
func TestCopyPacketsOutlivesARefusal(t *testing.T) {
	client, a := udpPair(t)
	b, service := udpPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan relay.Result, 1)
	go func() { done <- relay.CopyPackets(ctx, a, b, relay.Options{}) }()
	local, peer := service.LocalAddr().(*net.UDPAddr), b.LocalAddr().(*net.UDPAddr)
	service.Close()
	for range 3 {
		client.Write([]byte("into the void"))
	}
	service, err := net.DialUDP("udp", local, peer)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	buf := make([]byte, 64)
	service.SetReadDeadline(time.Now().Add(10 * time.Second))
	for string(buf[:5]) != "again" {
		client.Write([]byte("again"))
		if _, err := service.Read(buf); err != nil {
			t.Fatalf("the flow did not survive: %v", err)
		}
	}
	cancel()
	if res := <-done; !errors.Is(res.Cause, context.Canceled) {
		t.Errorf("got %+v", res)
	}
}

func TestCopyPacketsIdle(t *testing.T) {
	for _, tc := range []struct {
		port uint16
		want time.Duration
	}{{53, 30 * time.Second}, {5000, 2 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			client, a := net.Pipe()
			b, service := net.Pipe()
			began := time.Now()
			done := make(chan relay.Result, 1)
			go func() {
				done <- relay.CopyPackets(t.Context(), a, b, relay.Options{IdleTimeout: relay.PacketIdle(tc.port)})
			}()
			time.Sleep(20 * time.Second)
			client.Write([]byte("q"))
			io.ReadFull(service, make([]byte, 1))
			res := <-done
			if got := time.Since(began) - 20*time.Second; res.Cause != relay.ErrIdle || got != tc.want {
				t.Errorf("port %d: ended %v after the last datagram with %v", tc.port, got, res.Cause)
			}
		})
	}
}

// TestCopyPacketsHalfEnd: one side that has no more to say still gets its answers.
func TestCopyPacketsHalfEnd(t *testing.T) {
	b, service := udpPair(t)
	a := &oneQuestion{answers: make(chan string, 1)}
	done := make(chan relay.Result, 1)
	go func() {
		done <- relay.CopyPackets(t.Context(), a, b, relay.Options{IdleTimeout: 200 * time.Millisecond})
	}()
	buf := make([]byte, 64)
	service.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := service.Read(buf); err != nil {
		t.Fatal(err)
	}
	service.Write([]byte("answer"))
	if got := <-a.answers; got != "answer" {
		t.Errorf("got %q", got)
	}
	if res := <-done; res.Cause != relay.ErrIdle || !errors.Is(res.Cause, os.ErrDeadlineExceeded) {
		t.Errorf("got %+v", res)
	}
}

func TestCopyPacketsWaitsForAnswersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, service := net.Pipe()
		a := &oneQuestion{answers: make(chan string, 1)}
		began := time.Now()
		done := make(chan relay.Result, 1)
		go func() { done <- relay.CopyPackets(t.Context(), a, b, relay.Options{}) }()
		service.Read(make([]byte, 64))
		time.Sleep(4 * time.Second)
		service.Write([]byte("answer"))
		<-a.answers
		if res := <-done; res.Cause != relay.ErrIdle || time.Since(began) != 9*time.Second {
			t.Errorf("after %v: %+v", time.Since(began), res)
		}
	})
}

type oneQuestion struct {
	asked   bool
	answers chan string
}

func (o *oneQuestion) Read(p []byte) (int, error) {
	if o.asked {
		return 0, io.EOF
	}
	o.asked = true
	return copy(p, "question"), nil
}
func (o *oneQuestion) Write(p []byte) (int, error) { o.answers <- string(p); return len(p), nil }
func (o *oneQuestion) Close() error                { return nil }
