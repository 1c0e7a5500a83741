// Package gateway is the data path: it serves tunnel connections whose TLS handshake is done. For every stream it decides by the
// policy of that moment, writes the audit record, dials, relays and accounts; it has live streams decided again when something
// changed, takes renewed certificates, and drains.
//
// The life of a stream, in this order: registered, decided, its name resolved, each address decided, the opening record written,
// dialed, decided once more if something changed, answered, relayed, the closing record written. Until it is answered it may be
// refused; from the registration on, any change that takes its allow away finds it and cuts it.
//
// Who the client is comes from the verified certificate of the connection and from nowhere else. The package makes no policy,
// issues no certificate, resolves no name and listens on no port: those are server/policy, server/enroll, server/dialer and
// server.
package gateway

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/dialer"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// AdmitFunc answers whether a peer may have a session here now, and until when it may last whatever is renewed (zero: not known).
// It asks for locks and ended sessions, for new connections and for renewed certificates. A *wire.Termination is told to the person as
// it is; any other error means that there is no answer now.
type AdmitFunc func(ctx context.Context, peer mtls.Peer) (deadline time.Time, err error)

// Dialer opens connections to services.
type Dialer interface {
	// DialChecked resolves t, asks check about each address, and dials only addresses that passed. The connection of a tcp target
	// is a *net.TCPConn, of a udp target a connected *net.UDPConn. Errors are *dialer.Error, or check's own.
	DialChecked(ctx context.Context, t dialer.Target, check dialer.CheckFunc) (net.Conn, error)
}

// Audit keeps the record.
type Audit interface {
	// Append has handed the record to the operating system when it returns without an error. With an error, what the record
	// announces must not happen.
	Append(ctx context.Context, r audit.Record) (audit.Receipt, error)
}

// Config is what a Gateway needs. Every field is required unless it says otherwise.
type Config struct {
	ID          auth.GatewayID
	TrustDomain auth.TrustDomain

	Policy   func() *policy.Set // the policy in force; never nil
	Dialer   Dialer
	Registry *session.Registry
	Audit    Audit
	Admit    AdmitFunc
	Roots    func() *x509.CertPool // what renewed certificates are verified against
	// Current is asked for every stream that is allowed: nil while it is known whom a lock covers, and otherwise an error, for the log.
	// It must not block.
	Current func() error

	// Stale is true while the database cannot be asked: then strict rules allow nothing, neither new streams nor open ones. It must
	// not block. Optional.
	Stale func() bool
	// BuiltIn are the services inside this gateway by name, each of which begins with "culvert-". Optional.
	BuiltIn map[string]BuiltIn
	// StepUpWait is how long a stream waits for a fresh login. Optional; default and most: 2 min, after which the tunnel gives up.
	StepUpWait time.Duration
	// RootsDER are the roots that clients are to pin, as DER. Optional; default: clients keep theirs.
	RootsDER func() [][]byte
	// Tunnel bounds every connection. Optional; streams and undecided streams default to the register's limits.
	Tunnel tunnel.Limits
	// Stalls bounds streams that nobody reads, over all connections. Optional.
	Stalls *tunnel.StallLimit
	// IdleTimeout ends tcp streams on which nothing moves. Optional; default: none, as with TCP itself.
	IdleTimeout time.Duration
	Metrics     *Metrics         // optional
	Logger      *slog.Logger     // optional
	Now         func() time.Time // optional
}

// Gateway serves tunnel connections. It is safe for concurrent use; create it with New.
type Gateway struct {
	cfg     Config
	log     *slog.Logger
	metrics *Metrics

	draining chan struct{} // closed by Shutdown
	listing  chan struct{} // has a place for each list of services that may be made at once

	mu       sync.Mutex
	links    map[*link]struct{}
	deadline time.Time // of the drain
	closed   bool      // no further connection
	served   sync.WaitGroup
}

// New checks that nothing is missing. What decides or records must be there: without it there is no gateway.
func New(cfg Config) (*Gateway, error) {
	if missing := cfg.missing(); missing != "" {
		return nil, fmt.Errorf("gateway: Config.%s is required", missing)
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Logger, metrics: cfg.Metrics, links: make(map[*link]struct{}),
		draining: make(chan struct{}), listing: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	if g.metrics == nil {
		g.metrics = NewMetrics(cfg.Registry)
	}
	if g.cfg.Now == nil {
		g.cfg.Now = time.Now
	}
	if err := checkBuiltIns(cfg.BuiltIn); err != nil {
		return nil, err
	}
	if w := cfg.StepUpWait; w <= 0 || w > stepUpWait {
		g.cfg.StepUpWait = stepUpWait
	}
	limits := cfg.Registry.Limits()
	if g.cfg.Tunnel.MaxStreams == 0 {
		g.cfg.Tunnel.MaxStreams = limits.StreamsPerSession
	}
	if g.cfg.Tunnel.MaxUndecided == 0 {
		g.cfg.Tunnel.MaxUndecided = limits.UndecidedPerSession
	}
	return g, nil
}

// missing names the first required field that is not there.
func (cfg *Config) missing() string {
	switch {
	case cfg.ID == "":
		return "ID"
	case cfg.TrustDomain == "":
		return "TrustDomain"
	case cfg.Policy == nil:
		return "Policy"
	case cfg.Dialer == nil:
		return "Dialer"
	case cfg.Registry == nil:
		return "Registry"
	case cfg.Audit == nil:
		return "Audit"
	case cfg.Admit == nil:
		return "Admit"
	case cfg.Roots == nil:
		return "Roots"
	case cfg.Current == nil:
		return "Current"
	}
	return ""
}

// Run ends sessions that expire and has streams decided again as time passes. It returns when ctx is done; a gateway without it
// is not safe to use.
func (g *Gateway) Run(ctx context.Context) {
	var watching sync.WaitGroup
	if g.cfg.Stale != nil {
		watching.Go(func() { g.watchStale(ctx) })
	}
	g.cfg.Registry.Run(ctx)
	watching.Wait()
}

// stalePoll is how often it is asked whether the database answers.
const stalePoll = 250 * time.Millisecond

func (g *Gateway) watchStale(ctx context.Context) {
	poll := time.NewTicker(stalePoll)
	defer poll.Stop()
	was := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
		if is := g.cfg.Stale(); is != was {
			was = is
			g.Redecide("the database answers: " + strconv.FormatBool(!is))
		}
	}
}

// PolicyChanged is called when Config.Policy returns another policy than before. It does what Redecide does.
func (g *Gateway) PolicyChanged() int {
	return g.Redecide("policy " + g.cfg.Policy().Version())
}

// Redecide is called when something changed that decisions depend on: the policy, what is granted, who may use a service inside the
// gateway. When it returns, every stream that lost its allow is cut; clients are told what they may reach now soon after. It returns how
// many streams were cut.
func (g *Gateway) Redecide(why string) int {
	n := g.cfg.Registry.Redecide()
	for _, l := range g.all() {
		l.announce()
	}
	g.log.Info("streams were decided again", "why", why, "streams_cut", n)
	return n
}

// errClosed is why a connection is not served after Shutdown.
var errClosed = errors.New("gateway: shut down")

// register notes a connection that is served from here on. Shutdown waits for it.
func (g *Gateway) register(l *link) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return errClosed
	}
	g.links[l] = struct{}{}
	g.served.Add(1)
	return nil
}

func (g *Gateway) unregister(l *link) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.links, l)
	g.served.Done()
}

func (g *Gateway) all() []*link {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*link, 0, len(g.links))
	for l := range g.links {
		list = append(list, l)
	}
	return list
}

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining:
		return true
	default:
		return false
	}
}

const (
	shutdownReason = "the gateway is shutting down"
	drainPoll      = 100 * time.Millisecond
)

// Shutdown drains: clients are told, no stream is opened any more, and open ones go on until they end or ctx is done. Then every
// connection ends with Terminated(shutdown), and Shutdown returns when none is served any more. It is an error, with ctx's
// cause, when streams had to be cut.
func (g *Gateway) Shutdown(ctx context.Context) error {
	g.startDraining(ctx)
	cut := g.waitForStreams(ctx)
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cfg.Registry.Cut(session.Filter{All: true}, wire.Termination{Code: wire.TerminateShutdown, Reason: shutdownReason})
	g.served.Wait()
	if cut > 0 {
		return fmt.Errorf("drain: %d streams were cut: %w", cut, context.Cause(ctx))
	}
	return nil
}

func (g *Gateway) startDraining(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isDraining() {
		return
	}
	g.deadline, _ = ctx.Deadline()
	close(g.draining)
}

func (g *Gateway) drainDeadline() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.deadline
}

// waitForStreams returns how many streams were still open when ctx was done.
func (g *Gateway) waitForStreams(ctx context.Context) int {
	poll := time.NewTicker(drainPoll)
	defer poll.Stop()
	for {
		_, streams := g.cfg.Registry.Counts()
		if streams == 0 || ctx.Err() != nil {
			return streams
		}
		select {
		case <-ctx.Done():
		case <-poll.C:
		}
	}
}
