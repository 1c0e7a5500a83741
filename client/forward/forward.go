// Package forward offers one service of the tunnel on a loopback port of the
// desktop, for programs that can be told an address and nothing else. It does
// not know the tunnel: it is given a function that opens streams.
package forward

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"strconv"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A DialFunc opens a stream to target. A refusal is a *wire.Refusal. For a udp
// target the stream keeps the boundaries of datagrams.
type DialFunc func(ctx context.Context, target wire.Target) (relay.Conn, error)

// Config describes one forward.
type Config struct {
	// Target is what is forwarded to; required.
	Target wire.Target
	// Listen is the loopback address; required. Port 0 lets the system choose.
	Listen string
	// Dial opens the streams; required.
	Dial DialFunc
	// Logger is required.
	Logger *slog.Logger
	// OnRefused is called for each connection that could not be opened, so that
	// a person can be shown why. Optional.
	OnRefused func(error)
}

// A Forward is a listening port that leads to one service.
type Forward struct {
	cfg Config
	tcp net.Listener
	udp *net.UDPConn
}

// Listen opens the port. Connections wait in the system's queue until Serve.
func Listen(cfg Config) (*Forward, error) {
	if cfg.Dial == nil || cfg.Logger == nil {
		return nil, errors.New("forward: Dial and Logger are required")
	}
	if err := cfg.Target.Validate(); err != nil {
		return nil, fmt.Errorf("forward to %s: %w", cfg.Target, err)
	}
	if err := cfg.Target.CheckOffered(); err != nil {
		return nil, fmt.Errorf("forward to %s: %w", cfg.Target, err)
	}
	f := &Forward{cfg: cfg}
	var err error
	if cfg.Target.Kind == wire.KindUDP {
		f.udp, err = localnet.ListenPacket(cfg.Listen)
	} else {
		f.tcp, err = localnet.Listen(cfg.Listen)
	}
	if err != nil {
		return nil, fmt.Errorf("forward %s: %w", cfg.Target, err)
	}
	return f, nil
}

// ListenStable is Listen for a forward whose address nobody chose: the port is
// the same each time for the same name (a profile and a service, say), so that
// saved settings of other programs stay right, unless something else has it.
// taken is the error that kept the stable port away, nil otherwise.
func ListenStable(cfg Config, name string) (f *Forward, taken, err error) {
	cfg.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(StablePort(name)))
	if f, err = Listen(cfg); err == nil {
		return f, nil, nil
	}
	taken = err
	cfg.Listen = "127.0.0.1:0"
	f, err = Listen(cfg)
	return f, taken, err
}

// StablePort returns a port from 20000 to 31999 for name. Those are neither
// well-known ports nor ones that systems give out by themselves (32768 up on
// Linux, 49152 up elsewhere).
func StablePort(name string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return 20000 + int(h.Sum32()%12000)
}

// Addr is where the forward listens.
func (f *Forward) Addr() net.Addr {
	if f.udp != nil {
		return f.udp.LocalAddr()
	}
	return f.tcp.Addr()
}

// Target is where the forward leads to.
func (f *Forward) Target() wire.Target { return f.cfg.Target }

// Serve forwards until ctx ends, then closes the port and every connection and
// waits for them.
func (f *Forward) Serve(ctx context.Context) error {
	if f.udp != nil {
		return f.serveUDP(ctx)
	}
	return localnet.Serve(ctx, f.tcp, localnet.Options{Logger: f.cfg.Logger}, f.handle)
}

// Close closes the port of a Forward that is not served.
func (f *Forward) Close() error {
	if f.udp != nil {
		return f.udp.Close()
	}
	return f.tcp.Close()
}

func (f *Forward) handle(ctx context.Context, conn net.Conn) {
	local := relay.TCP(conn.(*net.TCPConn))
	remote, err := f.cfg.Dial(ctx, f.cfg.Target)
	if err != nil {
		f.refused(err)
		// The program connected already; a reset is the nearest that TCP has
		// to "refused".
		local.Abort(err)
		return
	}
	result := relay.Copy(ctx, local, remote, relay.Options{})
	f.ended(result)
}

// ended reports a stream that was refused after the program had written into
// it: the reply comes behind the early data.
func (f *Forward) ended(result relay.Result) {
	var refusal *wire.Refusal
	if errors.As(result.Cause, &refusal) {
		f.refused(refusal)
		return
	}
	f.cfg.Logger.Debug("forwarded connection ended", "target", f.cfg.Target.String(),
		"sent", result.AtoB, "received", result.BtoA, "cause", result.Cause)
}

func (f *Forward) refused(err error) {
	f.cfg.Logger.Info("forwarded connection was not opened", "target", f.cfg.Target.String(), "error", err)
	if f.cfg.OnRefused != nil {
		f.cfg.OnRefused(err)
	}
}
