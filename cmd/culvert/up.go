package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client"
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
reconnects after a failure, renews the certificate, and takes up a new login.

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
	cfg, err := a.config(slog.LevelWarn)
	if err != nil {
		return err
	}
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
	offered := false
	for s := range c.Watch(ctx) {
		switch {
		case a.json:
			if err := a.jsonLine(s); err != nil {
				return err
			}
			continue
		case s.State != last.State || s.Reason != last.Reason || len(s.Warnings) != len(last.Warnings):
			if err := a.statusLine(s); err != nil {
				return err
			}
			last = s
		}
		if !offered && s.Works() {
			offered = true
			a.printOffers(s)
		}
	}
	return nil
}

func (a *app) printOffers(s status.Status) {
	a.printf("         as %s\n", s.User)
	for _, o := range s.Offers {
		switch o.Kind {
		case "socks5":
			a.printf("         socks5://%s  (names are resolved at the gateway: socks5h)\n", o.Address)
		case "http-proxy":
			a.printf("         http://%s  (browsers: http://%s/proxy.pac)\n", o.Address, o.Address)
		default:
			a.printf("         %s leads to %s\n", o.Address, o.Service)
		}
	}
	if len(s.Offers) == 0 {
		a.printf("         culvert connect, forward, services and ping use this connection\n")
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
	address, name, found := strings.Cut(text, "=")
	if !found {
		address, name = "", text
	}
	name, kind := cutKind(name)
	target, err := parseTarget(kind, name)
	if err != nil {
		return front{}, err
	}
	f, err := a.listenForward(log, target, name, address, c.Dialer(false))
	if err != nil {
		return front{}, err
	}
	return front{offerOf("forward", f.Addr(), name), f.Serve, f.Close}, nil
}

// cutKind reads "dns/udp": before the tunnel is up nobody knows a service's kind.
func cutKind(name string) (string, wire.Kind) {
	if service, found := strings.CutSuffix(name, "/udp"); found {
		return service, wire.KindUDP
	}
	return strings.TrimSuffix(name, "/tcp"), wire.KindTCP
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
