package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// link is a way into the tunnel: the running culvert up if there is one, else a
// connection of this command's own.
type link interface {
	// open opens a stream; see client.OpenOptions for wait.
	open(ctx context.Context, target wire.Target, wait bool) (relay.Conn, error)
	// openBuiltIn opens a stream to a service inside the gateway, such as "culvert-admin".
	openBuiltIn(ctx context.Context, name string) (net.Conn, error)
	services(ctx context.Context) ([]wire.Service, error)
	ping(ctx context.Context) (time.Duration, error)
	status(ctx context.Context) (status.Status, error)
	// flush waits until what was written has reached the gateway, so that close takes nothing of it away.
	flush(ctx context.Context) error
	close()
}

// flushTime is more than a slow line needs for what may be on its way.
const flushTime = time.Minute

// link returns a link that works, or why there is none.
func (a *app) link(ctx context.Context) (link, error) {
	cfg, err := a.config(quiet)
	if err != nil {
		return nil, err
	}
	local := a.local(cfg)
	if local.Running(ctx) {
		return &running{Client: local, app: a}, nil
	}
	cfg.Prompt = a.prompt()
	c := client.New(cfg)
	if err := c.Up(ctx); err != nil {
		return nil, err
	}
	if err := c.Ready(ctx); err != nil {
		c.Down()
		return nil, err
	}
	return own{c}, nil
}

// running is a culvert up of another process.
type running struct {
	*localapi.Client
	app *app

	watch sync.Once
	stop  context.CancelFunc // of the watch; nil before it
	over  chan struct{}      // closed when the watch has ended
}

// announce says what the next call waits for, so that it does not look like a hang.
func (r *running) announce(ctx context.Context) {
	if s, err := r.Status(ctx); err == nil && !s.Works() && !s.Final() {
		r.app.warnf("%s; waiting for the connection", s.Headline())
	}
}

func (r *running) open(ctx context.Context, target wire.Target, wait bool) (relay.Conn, error) {
	r.announce(ctx)
	r.watch.Do(r.showStepUps)
	stream, err := r.Open(ctx, target, wait)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (r *running) openBuiltIn(ctx context.Context, name string) (net.Conn, error) {
	r.announce(ctx)
	stream, err := r.OpenBuiltIn(ctx, name)
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (r *running) services(ctx context.Context) ([]wire.Service, error) { return r.Services(ctx) }
func (r *running) status(ctx context.Context) (status.Status, error)    { return r.Status(ctx) }
func (r *running) flush(context.Context) error                          { return nil }

func (r *running) close() {
	if r.stop != nil {
		r.stop()
		<-r.over
	}
}

// showStepUps tells the person, until close, when the running culvert up asks for a fresh login: it may have no terminal, and what
// they wait for looks like a hang.
func (r *running) showStepUps() {
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.over = stop, make(chan struct{})
	go func() {
		defer close(r.over)
		last := ""
		for s, err := range r.Watch(ctx) {
			if err != nil {
				return
			}
			asked := stepUpWarning(s)
			if asked.URL != "" && asked.URL != last {
				r.app.warnf("%s; sign in here:\n%s", lowerFirst(asked.Text), wire.CleanText(asked.URL))
			}
			last = asked.URL
		}
	}()
}

// stepUpWarning is the request for a fresh login that is open; zero when none is.
func stepUpWarning(s status.Status) status.Warning {
	for _, w := range s.Warnings {
		if w.Code == status.WarnStepUp {
			return w
		}
	}
	return status.Warning{}
}

func (r *running) ping(ctx context.Context) (time.Duration, error) {
	r.announce(ctx)
	return r.Ping(ctx)
}

// own is a connection of this process.
type own struct{ *client.Client }

func (o own) open(ctx context.Context, target wire.Target, wait bool) (relay.Conn, error) {
	return o.Dialer(wait)(ctx, target)
}

func (o own) openBuiltIn(ctx context.Context, name string) (net.Conn, error) {
	return o.OpenBuiltIn(ctx, name)
}

func (o own) services(ctx context.Context) ([]wire.Service, error) {
	o.Settle(ctx)
	return o.Services(), nil
}

func (o own) ping(ctx context.Context) (time.Duration, error) { return o.Ping(ctx) }
func (o own) status(context.Context) (status.Status, error)   { return o.Status(), nil }
func (o own) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTime)
	defer cancel()
	if _, err := o.Ping(ctx); err != nil {
		return fmt.Errorf("wait until everything has arrived: %w", err)
	}
	return nil
}

func (o own) close() { o.Down() }

// parseTarget reads SERVICE as people write it: a service's name, or HOST:PORT.
func parseTarget(kind wire.Kind, s string) (wire.Target, error) {
	if !strings.Contains(s, ":") {
		t := wire.ServiceTarget(kind, s)
		if err := t.Validate(); err != nil {
			return t, &usageError{fmt.Errorf("%q is not the name of a service", s)}
		}
		return t, nil
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil {
		return wire.Target{}, &usageError{fmt.Errorf("%q is neither a service nor HOST:PORT", s)}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return wire.Target{}, &usageError{fmt.Errorf("%q: the port is a number", s)}
	}
	t := wire.HostTarget(kind, host, uint16(port))
	if err := t.Validate(); err != nil {
		return t, &usageError{fmt.Errorf("%q: %w", s, err)}
	}
	return t, nil
}

// findService looks a service up by name.
func findService(list []wire.Service, name string) (wire.Service, bool) {
	for _, s := range list {
		if s.Name == name {
			return s, true
		}
	}
	return wire.Service{}, false
}

// resolve returns the target of SERVICE with the kind that the gateway listed,
// and what it listed, which is zero for what it did not. It refuses nothing: the
// gateway does, so that every refusal has a record.
func resolve(list []wire.Service, name string) (wire.Target, wire.Service, error) {
	target, err := parseTarget(wire.KindTCP, name)
	if err != nil || target.Service == "" {
		return target, wire.Service{}, err
	}
	service, found := findService(list, name)
	if found {
		target.Kind = service.Kind
	}
	return target, service, nil
}

// checkLocal tells a wrong LOCAL address from one that cannot be had.
func checkLocal(what, address string) error {
	if address == "" {
		return nil
	}
	if _, err := localnet.ParseAddr(localAddress(address)); err != nil {
		return &usageError{fmt.Errorf("%s: %w", what, err)}
	}
	return nil
}

// localAddress completes LOCAL_ADDR: a port alone is one on loopback.
func localAddress(s string) string {
	if s != "" && strings.Trim(s, "0123456789") == "" {
		return net.JoinHostPort("127.0.0.1", s)
	}
	if strings.HasPrefix(s, ":") {
		return "127.0.0.1" + s
	}
	return s
}
