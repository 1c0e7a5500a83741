package relay_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
)

var errLeft = errors.New("an administrator said so")

// TestCutLeavesTheServiceFirst: the service is left at once, the client when the context is cancelled, both for the cut's own reason.
func TestCutLeavesTheServiceFirst(t *testing.T) {
	client, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cut := new(relay.Cut)
	done := start(t, ctx, relay.TCP(a), relay.TCP(b), relay.Options{Cut: cut})
	talk(t, client, service)
	cut.Leave(errLeft)
	if _, err := io.ReadAll(service); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client saw %v before its turn", err)
	}
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	cancel(errors.New("another reason"))
	if _, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
	if res := <-done; res.Cause != errLeft || res.By != relay.SideLocal || res.AtoB != 1 {
		t.Errorf("got %+v", res)
	}
}

// TestCutOfABusyClient: a client that goes on to send ends the copy, and is aborted without the context.
func TestCutOfABusyClient(t *testing.T) {
	client, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	cut := new(relay.Cut)
	done := start(t, t.Context(), relay.TCP(a), relay.TCP(b), relay.Options{Cut: cut})
	talk(t, client, service)
	cut.Leave(errLeft)
	client.SetDeadline(time.Now().Add(10 * time.Second))
	for err := error(nil); err == nil; {
		_, err = client.Write([]byte("still here"))
	}
	if res := <-done; res.Cause != errLeft {
		t.Errorf("got %+v", res)
	}
}

func TestCutBeforeTheCopy(t *testing.T) {
	_, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cut := new(relay.Cut)
	cut.Leave(errLeft)
	cancel(errLeft)
	if res := <-start(t, ctx, relay.TCP(a), relay.TCP(b), relay.Options{Cut: cut}); res.Cause != errLeft {
		t.Errorf("got %+v", res)
	}
	if _, err := io.ReadAll(service); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service saw %v", err)
	}
	cut.Leave(errors.New("after the copy"))
}

func TestCutOfDatagrams(t *testing.T) {
	_, a := udpPair(t)
	b, service := udpPair(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cut := new(relay.Cut)
	done := make(chan relay.Result, 1)
	go func() { done <- relay.CopyPackets(ctx, a, b, relay.Options{Cut: cut}) }()
	cut.Leave(errLeft)
	cancel(errLeft)
	if res := <-done; res.Cause != errLeft || res.By != relay.SideLocal {
		t.Errorf("got %+v", res)
	}
	service.Close()
}

func talk(t *testing.T, client, service net.Conn) {
	t.Helper()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(service, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
