// Package localnettest holds what the tests of the fronts (SOCKS5, HTTP proxy, forward) share: a front that
// serves until its test ends, connections to it, and the services behind it. It does not test anything itself.
package localnettest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Patience bounds every wait. Nothing waits that long unless its test fails.
const Patience = 20 * time.Second

// Dial opens a stream for a front; each front has a type of its own for it.
type Dial = func(context.Context, wire.Target) (relay.Conn, error)

// Serve runs serve until the test ends, which waits for it and fails where it returns an error.
func Serve(t testing.TB, serve func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// Connect opens a connection to a front and sends text. It is closed with the test.
func Connect(t testing.TB, front net.Addr, text string) net.Conn {
	t.Helper()
	conn, err := net.Dial(front.Network(), front.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(Patience)); err != nil {
		t.Fatal(err)
	}
	if text == "" {
		return conn
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Pairs gives each stream a plain TCP connection of its own, and hands the service's end of it to serve.
func Pairs(t testing.TB, serve func(*net.TCPConn)) Dial {
	return func(context.Context, wire.Target) (relay.Conn, error) {
		dialed, peer := relaytest.Pair(t)
		serve(peer)
		return relay.TCP(dialed), nil
	}
}

// To leads every stream to one address, TCP or UDP, and reports the targets where targets is not nil.
func To(network, addr string, targets chan<- wire.Target) Dial {
	return func(ctx context.Context, target wire.Target) (relay.Conn, error) {
		if targets != nil {
			targets <- target
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			return relay.TCP(tcp), nil
		}
		return datagrams{conn}, nil
	}
}

// Refuse refuses every stream.
func Refuse(err error) Dial {
	return func(context.Context, wire.Target) (relay.Conn, error) { return nil, err }
}

// datagrams is a connected UDP socket as a stream that keeps boundaries.
type datagrams struct{ net.Conn }

func (datagrams) CloseWrite() error { return nil }
func (d datagrams) Abort(error)     { _ = d.Close() }

// UDPService sends back what answer makes of each datagram, until the test ends. Nil is no answer.
func UDPService(t testing.TB, answer func([]byte) []byte) (addr string) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 65535)
		for {
			n, from, err := conn.ReadFromUDP(buf)
			if err != nil {
				return
			}
			if out := answer(buf[:n]); out != nil {
				_, _ = conn.WriteToUDP(out, from) // what is lost is what the test sees
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// Echo is an answer for [UDPService]: the datagram itself.
func Echo(datagram []byte) []byte { return datagram }
