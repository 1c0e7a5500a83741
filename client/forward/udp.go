package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	maxFlows    = 256    // flows at once on one udp forward; a further program waits for one to end
	flowQueue   = 64     // datagrams that wait for a flow that is still being opened; more are dropped
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

	table := flowTable{flows: make(map[netip.AddrPort]*flow)}
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
		fl, isNew := table.get(from, f.udp)
		if fl == nil {
			f.cfg.Logger.Warn("too many udp flows, a datagram was dropped", "target", f.cfg.Target.String(), "limit", maxFlows)
			continue
		}
		fl.deliver(buf[:n])
		if isNew {
			wg.Go(func() {
				defer table.remove(from)
				f.runFlow(ctx, fl)
			})
		}
	}
}

func (f *Forward) runFlow(ctx context.Context, fl *flow) {
	remote, err := f.cfg.Dial(ctx, f.cfg.Target)
	if err != nil {
		f.refused(err)
		return
	}
	idle := relay.PacketIdle(f.cfg.Target.Port)
	result := relay.CopyPackets(ctx, fl, remote, relay.Options{IdleTimeout: idle})
	var refusal *wire.Refusal
	if errors.As(result.Cause, &refusal) {
		f.refused(refusal)
	}
}

// A flowTable finds the flow of a source address. It is safe for concurrent use.
type flowTable struct {
	mu    sync.Mutex
	flows map[netip.AddrPort]*flow
}

// get returns the flow of a source, made when there is none, or nil when there
// are too many.
func (t *flowTable) get(from netip.AddrPort, conn *net.UDPConn) (fl *flow, isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fl := t.flows[from]; fl != nil {
		return fl, false
	}
	if len(t.flows) >= maxFlows {
		return nil, false
	}
	fl = &flow{conn: conn, peer: from, in: make(chan []byte, flowQueue), done: make(chan struct{})}
	t.flows[from] = fl
	return fl, true
}

func (t *flowTable) remove(from netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fl := t.flows[from]; fl != nil {
		_ = fl.Close()
		delete(t.flows, from)
	}
}

// A flow is the local end of one program's datagrams, a relay.PacketConn.
type flow struct {
	conn *net.UDPConn
	peer netip.AddrPort
	in   chan []byte
	once sync.Once
	done chan struct{}
}

// deliver queues a datagram; a full queue drops it, as a network would.
func (fl *flow) deliver(datagram []byte) {
	select {
	case fl.in <- append([]byte(nil), datagram...):
	default:
	}
}

func (fl *flow) Read(p []byte) (int, error) {
	select {
	case d := <-fl.in:
		return copy(p, d), nil
	case <-fl.done:
		return 0, io.EOF
	}
}

func (fl *flow) Write(p []byte) (int, error) {
	return fl.conn.WriteToUDPAddrPort(p, fl.peer)
}

func (fl *flow) Close() error {
	fl.once.Do(func() { close(fl.done) })
	return nil
}
