package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	maxFlows    = 256    // programs at once on one udp forward
	maxDatagram = 65_507 // the most that UDP over IPv4 carries (RFC 768)
)

// serveUDP gives each local source address a stream of its own.
func (f *Forward) serveUDP(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = f.udp.Close() })
	defer stop()

	flows := localnet.NewFlows[netip.AddrPort](maxFlows)
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := f.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			// An ICMP error of an earlier reply may surface here; the port lives on.
			f.cfg.Logger.Debug("udp forward", "error", err)
			continue
		}
		flow, isNew := flows.Get(from, func(p []byte) (int, error) { return f.udp.WriteToUDPAddrPort(p, from) })
		if flow == nil {
			f.cfg.Logger.Warn("too many udp flows, a datagram was dropped", "target", f.cfg.Target.String(), "limit", maxFlows)
			continue
		}
		flow.Deliver(buf[:n])
		if isNew {
			wg.Go(func() {
				defer flows.Remove(from)
				f.runFlow(ctx, flow)
			})
		}
	}
}

func (f *Forward) runFlow(ctx context.Context, flow *localnet.Flow) {
	remote, err := f.cfg.Dial(ctx, f.cfg.Target)
	if err != nil {
		f.refused(err)
		return
	}
	idle := relay.PacketIdle(f.cfg.Target.Port)
	result := relay.CopyPackets(ctx, flow, remote, relay.Options{IdleTimeout: idle})
	var refusal *wire.Refusal
	if errors.As(result.Cause, &refusal) {
		f.refused(refusal)
	}
}
