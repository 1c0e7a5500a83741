// Package dialer resolves names and dials targets on the gateway's side, and dials only addresses
// that were checked: what a name resolves to is fixed before the check and never looked up again.
//
// By itself it refuses the ranges that no service should reach by accident (policy.SpecialRange) and
// the gateway's own listeners; a target that the policy names literally is exempt. It decides nothing
// else: the policy's word comes through the check that [Dialer.DialChecked] is given, and without a
// check it refuses.
package dialer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Config configures a Dialer; its zero value is usable.
type Config struct {
	// Resolve looks names up. Optional: the system's resolver, or DNSServer where that is set.
	Resolve ResolveFunc
	// DNSServer is the address and port of the name server to ask instead of the system's, such as
	// "10.0.0.53:53". Optional.
	DNSServer string
	// Own returns the addresses that belong to the gateway and that no service should reach: its
	// listeners, its metrics, its database. An unspecified address means every address of this
	// machine. Called at each dial. Optional.
	Own func() []netip.AddrPort
	// LocalAddrs returns this machine's addresses, to recognise own listeners. Optional: those of the
	// network interfaces.
	LocalAddrs func() ([]netip.Addr, error)
	// Resolved is told everything that a name resolved to, for policy.Set.Learn. Optional.
	Resolved func(host string, addrs []netip.Addr)
	// ResolveTimeout bounds one look-up. Default 5 s.
	ResolveTimeout time.Duration
	// Timeout bounds a whole dial with all addresses of a name, look-up included. Default 15 s.
	Timeout time.Duration
	// MaxDials bounds how many dials run at once; more wait until theirs is over. Default 1,024.
	MaxDials int
	// KeepAlive finds dead services. Default: after 30 s idle every 15 s, dead after 4.
	KeepAlive net.KeepAliveConfig
	// Logger gets what the person at the desktop is not told. Optional.
	Logger *slog.Logger
}

// Bounds of Config, and how many addresses of a name are used at most.
const (
	defaultResolveTimeout = 5 * time.Second
	defaultTimeout        = 15 * time.Second
	defaultMaxDials       = 1024
	maxAddresses          = 16
	minAttempt            = 2 * time.Second
)

// A Dialer resolves and dials. It is safe for concurrent use and holds nothing that must be closed.
type Dialer struct {
	cfg   Config
	slots chan struct{}
	dial  func(context.Context, wire.Kind, netip.AddrPort) (net.Conn, error) // the seam for tests
}

// New returns a dialer, or an error that names the setting that is wrong.
func New(cfg Config) (*Dialer, error) {
	if cfg.DNSServer != "" {
		if _, err := netip.ParseAddrPort(cfg.DNSServer); err != nil {
			return nil, fmt.Errorf("dns server %q: want an address and a port, such as 10.0.0.53:53", cfg.DNSServer)
		}
	}
	if cfg.ResolveTimeout < 0 || cfg.Timeout < 0 || cfg.MaxDials < 0 {
		return nil, fmt.Errorf("dialer: a time-out or bound is negative")
	}
	cfg.setDefaults()
	d := &Dialer{cfg: cfg, slots: make(chan struct{}, cfg.MaxDials)}
	d.dial = d.netDial
	return d, nil
}

func (c *Config) setDefaults() {
	if c.ResolveTimeout == 0 {
		c.ResolveTimeout = defaultResolveTimeout
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxDials == 0 {
		c.MaxDials = defaultMaxDials
	}
	if c.Own == nil {
		c.Own = func() []netip.AddrPort { return nil }
	}
	if c.Resolved == nil {
		c.Resolved = func(string, []netip.Addr) {}
	}
	if c.LocalAddrs == nil {
		c.LocalAddrs = interfaceAddrs
	}
	if c.Resolve == nil {
		c.Resolve = systemResolver(c.DNSServer)
	}
	if c.KeepAlive == (net.KeepAliveConfig{}) {
		c.KeepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Target is where to dial.
type Target struct {
	Kind    wire.Kind
	Host    string // a name, or an IP literal without brackets
	Port    uint16
	Literal bool // the policy names this very address; Host must then be an IP literal
}

// CheckFunc decides about one address that a target resolved to; an error refuses it. It is called
// before anything is sent to the address.
type CheckFunc func(netip.AddrPort) error

// Error is a dial that failed, in words for the person at the desktop. It never carries more of the
// gateway's surroundings than the service's address.
type Error struct {
	Code   wire.Code // CodeDenied, CodeRefused, CodeUnreachable, CodeTimedOut or CodeUnavailable
	Reason string
	Remedy string
	Err    error // the cause, for the gateway's log
}

// Error returns code and cause, for logs.
func (e *Error) Error() string {
	if e.Err == nil {
		return string(e.Code) + ": " + e.Reason
	}
	return string(e.Code) + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Refusal returns the error as the reply to a client.
func (e *Error) Refusal(service, reference string) *wire.Refusal {
	return &wire.Refusal{Code: e.Code, Reason: e.Reason, Remedy: e.Remedy, Reference: reference, Service: service}
}

// ResolveFunc returns the addresses of a host name, best first. A name that does not exist is a
// *net.DNSError with IsNotFound.
type ResolveFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// Resolve returns the addresses of a name, unmapped, without repetitions, at most 16, best first; an IP literal
// is its own address. Errors are *Error.
func (d *Dialer) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.ResolveTimeout)
	defer cancel()
	found, err := d.cfg.Resolve(ctx, host)
	if err != nil {
		return nil, resolveError(host, err)
	}
	addrs := tidy(found)
	if len(addrs) == 0 {
		return nil, &Error{Code: wire.CodeUnreachable, Reason: "the name " + host + " has no address", Remedy: remedyOwner}
	}
	d.cfg.Resolved(host, slices.Clone(addrs)) // all of them: whoever names one himself must not come by
	return addrs[:min(len(addrs), maxAddresses)], nil
}

func tidy(found []netip.Addr) []netip.Addr {
	var addrs []netip.Addr
	for _, a := range found {
		if a = a.Unmap(); a.IsValid() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// DialChecked resolves the target once, asks check about each address, and dials the ones that pass, one
// after the other, until one answers. The connection of a tcp target is a *net.TCPConn, of a udp target a
// connected *net.UDPConn; its RemoteAddr is the address that was checked.
//
// Errors are *Error; where every address was refused by check, its error comes back as it is.
func (d *Dialer) DialChecked(ctx context.Context, t Target, check CheckFunc) (net.Conn, error) {
	if check == nil {
		return nil, &Error{Code: wire.CodeDenied, Reason: "the gateway has no check for this target", Remedy: remedyAdmin}
	}
	if t.Kind != wire.KindTCP && t.Kind != wire.KindUDP || t.Port == 0 {
		return nil, &Error{Code: wire.CodeDenied, Reason: "the target is not complete", Remedy: remedyAdmin}
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	if err := d.acquire(ctx); err != nil {
		return nil, err
	}
	defer d.release()
	addrs, err := d.Resolve(ctx, t.Host)
	if err != nil {
		return nil, err
	}
	allowed, err := d.filter(t, addrs, check)
	if err != nil {
		return nil, err
	}
	return d.dialInTurn(ctx, t, allowed)
}

// filter returns the addresses that may be dialed, or the first refusal when there is none.
func (d *Dialer) filter(t Target, addrs []netip.Addr, check CheckFunc) ([]netip.AddrPort, error) {
	var allowed []netip.AddrPort
	var first error
	for _, addr := range addrs {
		at := netip.AddrPortFrom(addr, t.Port)
		err := d.refused(t, at)
		if err == nil {
			err = check(at)
		}
		switch {
		case err == nil:
			allowed = append(allowed, at)
		case first == nil:
			first = err
		}
	}
	if len(allowed) == 0 {
		return nil, first
	}
	return allowed, nil
}

// dialInTurn tries each address for a share of the time that is left, as net.Dialer does.
func (d *Dialer) dialInTurn(ctx context.Context, t Target, addrs []netip.AddrPort) (net.Conn, error) {
	var first error
	for i, at := range addrs {
		conn, err := d.attempt(ctx, t.Kind, at, len(addrs)-i)
		if err == nil {
			return conn, nil
		}
		d.cfg.Logger.Debug("dial failed", "host", t.Host, "address", at, "error", err)
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, dialError(t, first)
}

func (d *Dialer) attempt(ctx context.Context, kind wire.Kind, at netip.AddrPort, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && left > 1 {
		share := max(time.Until(deadline)/time.Duration(left), minAttempt)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, share)
		defer cancel()
	}
	return d.dial(ctx, kind, at)
}

func (d *Dialer) netDial(ctx context.Context, kind wire.Kind, at netip.AddrPort) (net.Conn, error) {
	nd := net.Dialer{KeepAliveConfig: d.cfg.KeepAlive}
	if kind == wire.KindUDP {
		return asConn(nd.DialUDP(ctx, "udp", netip.AddrPort{}, at))
	}
	return asConn(nd.DialTCP(ctx, "tcp", netip.AddrPort{}, at))
}

// asConn keeps a nil pointer from becoming a connection that is not nil.
func asConn[C net.Conn](conn C, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return conn, nil
}
