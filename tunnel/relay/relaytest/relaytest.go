// Package relaytest holds the table of what a TCP connection does at its end (half-close, abort, reset, large data), as tests that run
// over anything that joins two TCP ends: a plain connection, a relay, the tunnel. It does not test what lies between beyond that.
package relaytest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait of a case. Nothing here waits that long unless it fails.
const patience = 20 * time.Second

// Join opens a connection and returns its application ends. What it starts must end by itself once both ends are closed.
type Join func(t testing.TB) (client, service *net.TCPConn)

// Pair is a plain TCP connection over loopback; both ends are closed with the test.
func Pair(t testing.TB) (dialed, accepted *net.TCPConn) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer ln.Close()
	dialed, err = net.DialTCP("tcp", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	accepted, err = ln.AcceptTCP()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed, accepted
}

// Run runs every case over connections from join.
func Run(t *testing.T, join Join) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			client, service := join(t)
			for _, conn := range []*net.TCPConn{client, service} {
				if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
			}
			tc.run(t, client, service)
			client.Close()
			service.Close()
		})
	}
}

var cases = []struct {
	name string
	run  func(t *testing.T, client, service *net.TCPConn)
}{
	{"data both ways and two clean ends", bothWays},
	{"client half-closes and is answered", func(t *testing.T, c, s *net.TCPConn) { halfClose(t, c, s) }},
	{"service half-closes and is answered", func(t *testing.T, c, s *net.TCPConn) { halfClose(t, s, c) }},
	{"client resets", func(t *testing.T, c, s *net.TCPConn) { reset(t, c, s) }},
	{"service resets", func(t *testing.T, c, s *net.TCPConn) { reset(t, s, c) }},
	{"client resets behind data", func(t *testing.T, c, s *net.TCPConn) { resetBehindData(t, c, s) }},
	{"service resets behind data", func(t *testing.T, c, s *net.TCPConn) { resetBehindData(t, s, c) }},
	{"client resets after its clean end", func(t *testing.T, c, s *net.TCPConn) { resetAfterEnd(t, c, s) }},
	{"service resets after its clean end", func(t *testing.T, c, s *net.TCPConn) { resetAfterEnd(t, s, c) }},
	{"client stops reading and resets", func(t *testing.T, c, s *net.TCPConn) { stallAndReset(t, c, s) }},
	{"service stops reading and resets", func(t *testing.T, c, s *net.TCPConn) { stallAndReset(t, s, c) }},
	{"client resets while its data waits", func(t *testing.T, c, s *net.TCPConn) { resetWhileWaiting(t, c, s) }},
	{"service resets while its data waits", func(t *testing.T, c, s *net.TCPConn) { resetWhileWaiting(t, s, c) }},
	{"client closes with unread data", func(t *testing.T, c, s *net.TCPConn) { closeUnread(t, c, s) }},
	{"service closes with unread data", func(t *testing.T, c, s *net.TCPConn) { closeUnread(t, s, c) }},
}

func bothWays(t *testing.T, client, service *net.TCPConn) {
	const size = 6 << 20
	up, down := payload(1, size), payload(2, size)
	sent := make(chan error, 2)
	send := func(conn *net.TCPConn, data []byte) {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.CloseWrite())
	}
	go send(client, up)
	go send(service, down)
	got := make(chan [32]byte, 1)
	go func() {
		data, _ := io.ReadAll(client)
		got <- sha256.Sum256(data)
	}()
	atService, err := io.ReadAll(service)
	if err != nil {
		t.Errorf("service reads: %v", err)
	}
	if !bytes.Equal(atService, up) {
		t.Errorf("service got %d bytes that are not what was sent", len(atService))
	}
	if <-got != sha256.Sum256(down) {
		t.Error("client got other bytes than were sent")
	}
	if err := errors.Join(<-sent, <-sent); err != nil {
		t.Errorf("send: %v", err)
	}
}

func halfClose(t *testing.T, first, second *net.TCPConn) {
	write(t, first, "question")
	closeWrite(t, first)
	if got, err := io.ReadAll(second); err != nil || string(got) != "question" {
		t.Fatalf("read until the half-close: %q, %v", got, err)
	}
	write(t, second, "answer")
	closeWrite(t, second)
	if got, err := io.ReadAll(first); err != nil || string(got) != "answer" {
		t.Fatalf("read after the own half-close: %q, %v", got, err)
	}
}

func reset(t *testing.T, from, to *net.TCPConn) {
	write(t, from, "x")
	readFull(t, to, 1)
	abort(t, from)
	wantReset(t, to)
}

// resetBehindData: the reader may get any part of the data, but never an end that looks clean.
func resetBehindData(t *testing.T, from, to *net.TCPConn) {
	const size = 1 << 20
	received := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, to)
		received <- err
	}()
	if _, err := from.Write(payload(3, size)); err != nil {
		t.Fatalf("write: %v", err)
	}
	abort(t, from)
	if err := <-received; !isReset(err) {
		t.Errorf("the reader saw %v, want a reset", err)
	}
}

func resetAfterEnd(t *testing.T, from, to *net.TCPConn) {
	closeWrite(t, from)
	if got, err := io.ReadAll(to); err != nil || len(got) != 0 {
		t.Fatalf("read until the half-close: %q, %v", got, err)
	}
	abort(t, from)
	wantWriteFails(t, to)
}

// stallAndReset: the sender is blocked because nobody reads, and the reset has to reach it there.
func stallAndReset(t *testing.T, stalled, sender *net.TCPConn) {
	write(t, sender, "x")
	readFull(t, stalled, 1)
	failed := make(chan error, 1)
	go func() {
		_, err := io.Copy(sender, endless{})
		failed <- err
	}()
	readFull(t, stalled, 64<<10) // the flow has begun; from here on nobody reads
	abort(t, stalled)
	if err := <-failed; !isReset(err) {
		t.Errorf("the blocked sender saw %v, want a reset", err)
	}
}

// resetWhileWaiting: nobody reads, so that the data fills whatever lies in between, and then its sender resets. The other end learns of
// it without having read a byte.
func resetWhileWaiting(t *testing.T, from, to *net.TCPConn) {
	var n int64
	var err error
	for moved := int64(1); moved > 0 && err == nil; { // until nothing moves for a moment
		_ = from.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		moved, err = io.CopyN(from, endless{}, 64<<20)
		n += moved
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
	}
	if err != nil || n == 0 {
		t.Fatalf("fill the connection: %d bytes, %v", n, err)
	}
	abort(t, from)
	wantWriteFails(t, to)
}

// closeUnread: closing a socket that holds unread data is a reset on the wire (RFC 2525 §2.17).
func closeUnread(t *testing.T, closer, sender *net.TCPConn) {
	write(t, sender, "some data that nobody reads")
	readFull(t, closer, 4)
	closer.Close()
	wantWriteFails(t, sender)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func write(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := conn.Write([]byte(s)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func closeWrite(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := conn.CloseWrite(); err != nil {
		t.Fatalf("half-close: %v", err)
	}
}

func readFull(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	if _, err := io.ReadFull(conn, make([]byte, n)); err != nil {
		t.Fatalf("read %d bytes: %v", n, err)
	}
}

func abort(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
		t.Fatalf("reset: %v", err)
	}
}

func wantReset(t *testing.T, conn net.Conn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, conn); !isReset(err) {
		t.Errorf("after %d bytes the reader saw %v, want a reset", n, err)
	}
}

// wantWriteFails writes now and then until the reset has arrived.
func wantWriteFails(t *testing.T, conn net.Conn) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if _, err := conn.Write([]byte("x")); err != nil {
			if !isReset(err) {
				t.Errorf("the writer saw %v, want a reset", err)
			}
			return
		}
	}
	t.Error("writes still succeed after the peer's reset")
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func payload(seed int64, size int) []byte {
	p := make([]byte, size)
	rand.New(rand.NewSource(seed)).Read(p)
	return p
}
