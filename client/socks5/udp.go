package socks5

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	maxFlows    = 256    // destinations at once in one association
	maxDatagram = 65_535 // what one read of a UDP socket can return, with the SOCKS header
)

// associate serves UDP ASSOCIATE (RFC 1928, section 7): it opens a UDP port
// beside the TCP connection, and ends with that connection.
func (s *Server) associate(ctx context.Context, conn net.Conn, req request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	udp, err := localnet.ListenPacket(netip.AddrPortFrom(local, 0).String())
	if err != nil {
		s.cfg.Logger.Warn("socks: no port for a UDP association", "error", err)
		_ = writeReply(conn, replyFailure, netip.AddrPort{})
		return
	}
	a := &association{server: s, udp: udp, flows: localnet.NewFlows[string](maxFlows)}
	a.peerHost = conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	a.peerPort.Store(uint32(req.port))
	if err := writeReply(conn, replySucceeded, udp.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		_ = udp.Close()
		return
	}
	// The association lives as long as the TCP connection; nothing is said on it.
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		cancel()
	}()
	a.run(ctx)
	_ = conn.Close() // ends the goroutine above
}

// An association is the UDP side of one program.
type association struct {
	server   *Server
	udp      *net.UDPConn
	peerHost netip.Addr              // the program's address: datagrams from elsewhere are dropped
	peerPort atomic.Uint32           // its port: as requested, or that of its first datagram
	flows    *localnet.Flows[string] // by the header that the program wrote, which stands in front of every answer too
}

func (a *association) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = a.udp.Close() })
	defer stop()
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := a.udp.ReadFromUDPAddrPort(buf)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || !a.isPeer(from) {
			continue
		}
		header, target, err := parseDatagram(buf[:n])
		if err != nil {
			a.server.cfg.Logger.Debug("socks: a datagram was dropped", "error", err)
			continue
		}
		flow, isNew := a.flow(header)
		if flow == nil {
			continue
		}
		flow.Deliver(buf[len(header):n])
		if isNew {
			key := string(header)
			wg.Go(func() {
				defer a.flows.Remove(key)
				a.serve(ctx, flow, target)
			})
		}
	}
}

// isPeer reports whether a datagram comes from the program that asked for the
// association; a program that named no port is known by its first datagram.
func (a *association) isPeer(from netip.AddrPort) bool {
	if from.Addr().Unmap() != a.peerHost {
		return false
	}
	a.peerPort.CompareAndSwap(0, uint32(from.Port()))
	return uint32(from.Port()) == a.peerPort.Load()
}

// parseDatagram reads the header of a datagram (RFC 1928, section 7) and
// returns it with what it names. Fragments are not put together; the RFC lets
// an implementation drop them.
func parseDatagram(p []byte) (header []byte, target wire.Target, err error) {
	if len(p) < 4 || p[0] != 0 || p[1] != 0 {
		return nil, target, errors.New("no SOCKS header")
	}
	if p[2] != 0 {
		return nil, target, errors.New("a fragment")
	}
	r := bytes.NewReader(p[4:])
	host, port, err := readAddress(r, p[3])
	if err != nil {
		return nil, target, err
	}
	target = wire.HostTarget(wire.KindUDP, host, port)
	if err := target.Validate(); err != nil {
		return nil, target, fmt.Errorf("destination: %w", err)
	}
	return p[:len(p)-r.Len()], target, nil
}

// flow returns the flow for a header, made when there is none; nil when there
// are too many.
func (a *association) flow(header []byte) (flow *localnet.Flow, isNew bool) {
	prefix := bytes.Clone(header)
	flow, isNew = a.flows.Get(string(header), func(p []byte) (int, error) {
		to := netip.AddrPortFrom(a.peerHost, uint16(a.peerPort.Load()))
		if _, err := a.udp.WriteToUDPAddrPort(append(bytes.Clone(prefix), p...), to); err != nil {
			return 0, err
		}
		return len(p), nil
	})
	if flow == nil {
		a.server.cfg.Logger.Warn("socks: too many udp destinations, a datagram was dropped", "limit", maxFlows)
	}
	return flow, isNew
}

func (a *association) serve(ctx context.Context, flow *localnet.Flow, target wire.Target) {
	remote, err := a.server.dial(ctx, target)
	if err != nil {
		return // UDP has no way to say so; the log and OnRefused have it
	}
	relay.CopyPackets(ctx, flow, remote, relay.Options{IdleTimeout: relay.PacketIdle(target.Port)})
}
