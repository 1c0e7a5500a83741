// Package localnet listens on loopback addresses only and serves what connects
// there: bounded, patient when file descriptors run out, and waiting for every
// handler before it returns. It knows no protocol.
package localnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/internal/neterr"
)

// ErrNotLoopback reports an address that other machines could reach.
var ErrNotLoopback = errors.New("not a loopback address")

// ParseAddr checks that addr ("127.0.0.1:1080", "[::1]:0", "localhost:0" or
// ":1080", which means 127.0.0.1) is a loopback address with a port, and
// returns it as an IP literal, so that no resolver decides where it listens.
func ParseAddr(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: want HOST:PORT, such as 127.0.0.1:1080", addr)
	}
	if host == "" || host == "localhost" {
		host = "127.0.0.1"
	}
	ap, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: want an IP address and a port from 0 to 65535", addr)
	}
	if !ap.Addr().Unmap().IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w; anybody on the network could use it, take 127.0.0.1 or [::1]", addr, ErrNotLoopback)
	}
	return ap, nil
}

// Listen listens for TCP on a loopback address as ParseAddr takes it.
func Listen(addr string) (net.Listener, error) {
	ap, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", ap.String())
	return ln, inUse(err, ap)
}

// ListenPacket listens for UDP on a loopback address as ParseAddr takes it.
func ListenPacket(addr string) (*net.UDPConn, error) {
	ap, err := ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(ap))
	return conn, inUse(err, ap)
}

func inUse(err error, ap netip.AddrPort) error {
	if neterr.Is(err, syscall.EADDRINUSE) {
		return &takenError{ap, err}
	}
	return err
}

// takenError is EADDRINUSE in words.
type takenError struct {
	addr netip.AddrPort
	err  error
}

func (e *takenError) Error() string { return "another program has the port " + e.addr.String() }
func (e *takenError) Unwrap() error { return e.err }

// Options adjust Serve.
type Options struct {
	// Max bounds the connections served at once; further ones are closed at
	// once. Default 4096.
	Max int
	// Logger is required.
	Logger *slog.Logger
}

// Serve accepts from ln and runs handle for each connection on a goroutine of
// its own, until ctx ends or ln is closed. It closes ln and returns after the
// last handler has; handlers get ctx and end with it. The error is nil when
// ctx ended.
func Serve(ctx context.Context, ln net.Listener, opts Options, handle func(context.Context, net.Conn)) error {
	limit := opts.Max
	if limit <= 0 {
		limit = 4096
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()

	slots := make(chan struct{}, limit)
	for {
		conn, err := accept(ctx, ln, opts.Logger)
		if err != nil {
			_ = ln.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
		select {
		case slots <- struct{}{}:
		default:
			opts.Logger.Warn("too many connections, one is closed", "listener", ln.Addr().String(), "limit", limit)
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			handle(ctx, conn)
		})
	}
}

// accept waits and tries again where the process is short of something that
// comes back: file descriptors, memory, a connection that was gone at once.
func accept(ctx context.Context, ln net.Listener, logger *slog.Logger) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := ln.Accept()
		if err == nil || !passing(err) {
			return conn, err
		}
		logger.Warn("cannot accept, trying again", "listener", ln.Addr().String(), "error", err, "wait", wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

func passing(err error) bool {
	return neterr.Is(err, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS, syscall.ECONNABORTED)
}
