package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/forward"
	"github.com/culvert-vpn/culvert/client/httpproxy"
	"github.com/culvert-vpn/culvert/client/socks5"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

type upFlags struct {
	mode      string
	socks     string
	httpProxy string
	forwards  []string
}

func (a *app) upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Connect, stay connected, and offer ways into the tunnel",
		Long: `Keeps the connection to the gateway up in the foreground until interrupted:
reconnects after a failure, renews the certificate, and takes up a new login. When a
service wants a fresh login, it opens the login provider's page once for all that wait.

Programs reach services through --socks, --http-proxy or -L. culvert connect,
forward, services and ping of the same profile use this connection as well.`,
		Example: `  culvert up --socks 1080 --http-proxy 3128
  culvert up -L db -L 8080=wiki`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.mode, "mode", "proxy", "how traffic gets into the tunnel: proxy")
	flags.StringVar(&f.socks, "socks", "", "offer SOCKS5 on this loopback `address` or port")
	flags.StringVar(&f.httpProxy, "http-proxy", "", "offer an HTTP proxy, with /proxy.pac, on this loopback `address` or port")
	flags.StringArrayVarP(&f.forwards, "forward", "L", nil, "offer a service on a port, `[LOCAL=]SERVICE`; may be repeated")
	return cmd
}

// check finds what is wrong with the command line before anything is opened.
func (f upFlags) check() error {
	if err := errors.Join(checkLocal("--socks", f.socks), checkLocal("--http-proxy", f.httpProxy)); err != nil {
		return err
	}
	for _, text := range f.forwards {
		address, name := cutLocal(text)
		name, kind, _ := cutKind(name)
		if _, err := parseTarget(kind, name); err != nil {
			return err
		}
		if err := checkLocal("-L "+text, address); err != nil {
			return err
		}
	}
	return nil
}

// front is a listening server that leads into the tunnel.
type front struct {
	offer status.Offer
	serve func(context.Context) error
	close func() error
}

func (a *app) up(ctx context.Context, f upFlags) error {
	if f.mode != "proxy" {
		return &usageError{fmt.Errorf("unknown mode %q: proxy is the only one", f.mode)}
	}
	if err := f.check(); err != nil {
		return err
	}
	cfg, err := a.config(slog.LevelWarn)
	if err != nil {
		return err
	}
	cfg.Prompt = a.prompt()
	c := client.New(cfg)
	fronts, err := a.listenFronts(c, f, cfg.Logger)
	defer closeFronts(fronts)
	if err != nil {
		return err
	}
	local, err := c.ListenLocal()
	if err != nil {
		return err
	}
	defer local.Close()
	if err := c.Up(ctx); err != nil {
		return err
	}
	defer c.Down()
	return a.runUp(ctx, c, append(fronts, front{serve: func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { _ = local.Close() })
		return local.Serve()
	}}))
}

// runUp serves everything until ctx ends, somebody calls down, or a part fails.
func (a *app) runUp(ctx context.Context, c *client.Client, fronts []front) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, len(fronts))
	for _, f := range fronts {
		if f.offer.Address != "" {
			c.Offer(f.offer)
		}
		go func() { ended <- f.serve(ctx) }()
	}
	context.AfterFunc(ctx, c.Stop)
	show := make(chan error, 1)
	go func() { show <- a.showUp(ctx, c) }()
	var errs []error
	running := len(fronts)
	select {
	case <-c.Done():
	case err := <-ended:
		running--
		errs = append(errs, err)
	}
	cancel(errors.New("culvert up ends"))
	for range running {
		errs = append(errs, <-ended)
	}
	<-c.Done()
	return errors.Join(append(errs, <-show)...)
}

// showUp prints what is offered, and the state whenever it changes.
func (a *app) showUp(ctx context.Context, c *client.Client) error {
	var last status.Status
	var services []wire.Service
	var signedIn status.Session
	offered := false
	for s := range c.Watch(ctx) {
		switch {
		case a.json:
			if err := a.jsonLine(s); err != nil {
				return err
			}
			continue
		case s.State == status.Stopped:
			a.printf("%s stopped\n", time.Now().Format("15:04:05"))
		case s.State != last.State || s.Reason != last.Reason || warnings(s) != warnings(last):
			if err := a.statusLine(s); err != nil {
				return err
			}
			last = s
		}
		if fresher(signedIn, s.Session) {
			a.printf("%s signed in afresh; what waited for it goes on\n", time.Now().Format("15:04:05"))
		}
		signedIn = s.Session
		now := c.Services()
		for _, line := range turns(services, now) {
			a.printf("%s %s\n", time.Now().Format("15:04:05"), line)
		}
		if len(now) > 0 { // else the connection is away, and what changes meanwhile is told afterwards
			services = now
		}
		if !offered && s.Works() {
			offered = true
			a.printOffers(s, c.Services())
		}
	}
	return nil
}

// fresher reports that the same session goes on with a later login: a step-up.
func fresher(before, now status.Session) bool {
	return before.ID != "" && before.ID == now.ID && !before.AuthTime.IsZero() && now.AuthTime.After(before.AuthTime)
}

// turns says what has become of what can be asked for: it is open now, about to end, or over.
func turns(before, now []wire.Service) []string {
	var lines []string
	for _, s := range now {
		was, known := findService(before, s.Name)
		switch {
		case !known:
		case s.Allowed && !was.Allowed && was.Requestable > 0:
			lines = append(lines, s.Name+" is open to you now")
		case s.Allowed && was.Allowed && s.Reason != "" && s.Reason != was.Reason:
			lines = append(lines, s.Name+": "+s.Reason)
		case was.Allowed && !s.Allowed && s.Requestable > 0:
			lines = append(lines, s.Name+" is no longer open to you"+requestText(s, "; ask: "))
		}
	}
	return lines
}

// warnings counts what a line about the state is printed for. A request for a fresh login is told as it comes, with its address.
func warnings(s status.Status) int {
	n := len(s.Warnings)
	if stepUpWarning(s).Code != "" {
		n--
	}
	return n
}

func (a *app) printOffers(s status.Status, list []wire.Service) {
	a.printf("         as %s\n", s.User)
	for _, o := range s.Offers {
		switch o.Kind {
		case "socks5":
			a.printf("         socks5://%s  (names are resolved at the gateway: socks5h)\n", o.Address)
		case "http-proxy":
			a.printf("         http://%s  (browsers: http://%s/proxy.pac)\n", o.Address, o.Address)
		default:
			a.printf("         %s leads to %s%s\n", o.Address, o.Service, remark(list, o.Service))
		}
	}
	if len(s.Offers) == 0 {
		a.printf("         culvert connect, forward, services and ping use this connection\n")
	}
}

// remark says what is special about a service that a port leads to.
func remark(list []wire.Service, name string) string {
	service, found := findService(list, name)
	switch {
	case !found && !strings.Contains(name, ":"):
		return ", which the gateway does not list"
	case found && !service.Allowed && service.Reason != "":
		return ", which is denied to you: " + service.Reason + requestText(service, "; ask: ")
	case found && !service.Allowed:
		return ", which is denied to you" + requestText(service, "; ask: ")
	case service.Kind == wire.KindUDP:
		return " (udp)"
	default:
		return ""
	}
}

// listenFronts opens every port before the tunnel is made, so that a taken port
// is said at once. On an error it returns those that are open.
func (a *app) listenFronts(c *client.Client, f upFlags, log *slog.Logger) ([]front, error) {
	var fronts []front
	if f.socks != "" {
		s, err := socks5.Listen(socks5.Config{Listen: localAddress(f.socks), Dial: c.Dialer(true), Logger: log, OnRefused: a.refusedTarget})
		if err != nil {
			return fronts, err
		}
		fronts = append(fronts, front{offerOf("socks5", s.Addr(), ""), s.Serve, s.Close})
	}
	if f.httpProxy != "" {
		s, err := httpproxy.Listen(httpproxy.Config{Listen: localAddress(f.httpProxy), Dial: c.Dialer(true), Services: c.Services,
			Logger: log, OnRefused: a.refusedTarget})
		if err != nil {
			return fronts, err
		}
		fronts = append(fronts, front{offerOf("http-proxy", s.Addr(), ""), s.Serve, s.Close})
	}
	for _, text := range f.forwards {
		one, err := a.listenOption(c, text, log)
		if err != nil {
			return fronts, err
		}
		fronts = append(fronts, one)
	}
	return fronts, nil
}

// listenOption is one -L [LOCAL=]SERVICE.
func (a *app) listenOption(c *client.Client, text string, log *slog.Logger) (front, error) {
	address, name := cutLocal(text)
	name, kind, told := cutKind(name)
	target, err := parseTarget(kind, name)
	if err != nil {
		return front{}, err
	}
	f, err := a.listenForward(log, target, name, address, c.Dialer(false))
	if err != nil {
		return front{}, err
	}
	serve := f.Serve
	if target.Service != "" && !told {
		serve = func(ctx context.Context) error { return a.serveAnyKind(ctx, c, f, log) }
	}
	return front{offerOf("forward", f.Addr(), name), serve, f.Close}, nil
}

// serveAnyKind serves f, which listens for TCP, until the gateway's list says
// that the service is a udp one, and then that kind on the same address: before
// the tunnel is up nobody knows.
func (a *app) serveAnyKind(ctx context.Context, c *client.Client, f *forward.Forward, log *slog.Logger) error {
	tcp, stop := context.WithCancel(ctx)
	defer stop()
	target, isUDP := f.Target(), make(chan bool, 1)
	go func() {
		service, found := waitListed(tcp, c, target.Service)
		udp := found && service.Kind == wire.KindUDP
		isUDP <- udp
		if udp {
			stop()
		}
	}()
	err := f.Serve(tcp)
	stop()
	if !<-isUDP || err != nil || ctx.Err() != nil {
		return err
	}
	target.Kind = wire.KindUDP
	f, err = a.listenForward(log, target, target.Service, f.Addr().String(), c.Dialer(false))
	if err != nil {
		return err
	}
	return f.Serve(ctx)
}

// waitListed waits for the gateway's first list, and returns the service in it.
func waitListed(ctx context.Context, c *client.Client, name string) (wire.Service, bool) {
	for s := range c.Watch(ctx) {
		if s.Works() { // the list comes before that
			return findService(c.Services(), name)
		}
	}
	return wire.Service{}, false
}

// cutLocal reads [LOCAL=]SERVICE.
func cutLocal(text string) (address, name string) {
	if address, name, found := strings.Cut(text, "="); found {
		return address, name
	}
	return "", text
}

// cutKind reads a service's name with or without its kind: "dns/udp".
func cutKind(name string) (service string, kind wire.Kind, told bool) {
	if service, told = strings.CutSuffix(name, "/udp"); told {
		return service, wire.KindUDP, true
	}
	service, told = strings.CutSuffix(name, "/tcp")
	return service, wire.KindTCP, told
}

func offerOf(kind string, address net.Addr, service string) status.Offer {
	return status.Offer{Kind: kind, Address: address.String(), Service: service}
}

func closeFronts(fronts []front) {
	for _, f := range fronts {
		_ = f.close() // served ones are closed already
	}
}

func (a *app) refusedTarget(_ wire.Target, err error) { a.refused(err) }
