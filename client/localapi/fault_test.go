package localapi

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A datagram that comes in several pieces, as large ones do over a Unix socket, is one datagram all the same.
func TestFaultDatagramInPieces(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	s := newStream(near, bufio.NewReaderSize(near, readBuffer), wire.KindUDP)
	defer s.Conn.Close()
	want := bytes.Repeat([]byte("culvert "), 8000)
	go func() {
		head := make([]byte, wire.HeaderSize)
		wire.PutHeader(head, wire.Header{Type: wire.TypeDatagram, Length: len(want)})
		for _, piece := range [][]byte{head, want[:1000], want[1000:40_000], want[40_000:], {byte(wire.TypeDatagram), 0, 0, 1, 'x'}} {
			if _, err := far.Write(piece); err != nil {
				return
			}
		}
	}()
	got := make([]byte, 1<<16)
	if n, err := s.Read(got); err != nil || !bytes.Equal(got[:n], want) {
		t.Errorf("%d of %d bytes, %v", n, len(want), err)
	}
	if n, err := s.Read(got[:10]); err != nil || n != 1 {
		t.Errorf("the next one: %d bytes, %v", n, err)
	}
}

// A client that is stopped in a debugger, or stuck, does not take those who ask it along.
func TestFaultRunningClientDoesNotAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // accepts nothing; the system's queue does
	c := NewClient(path)
	c.patience = 50 * time.Millisecond
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("it answered")
	}
	if err := c.Reload(t.Context()); err == nil {
		t.Error("it answered")
	}
}

// The peer says why and goes; a write that finds nobody there must not take the reason with it.
func TestFaultReasonBehindAFailedWrite(t *testing.T) {
	near, far := socketPair(t)
	s := newStream(near, bufio.NewReaderSize(near, readBuffer), wire.KindTCP)
	peer := newStream(far, bufio.NewReaderSize(far, readBuffer), wire.KindTCP)
	refusal := &wire.Refusal{Code: wire.CodeDenied, Reason: "sales only", Reference: "k7qw-3m9p"}
	peer.sendAbort(refusal) // and closes
	if _, err := s.Write([]byte("early data")); err == nil {
		t.Fatal("the write found somebody")
	}
	var got *wire.Refusal
	if _, err := s.Read(make([]byte, 16)); !errors.As(err, &got) || got.Reason != refusal.Reason {
		t.Errorf("read %v, want the refusal", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// socketPair is two ends of a Unix socket.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}
