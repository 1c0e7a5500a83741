package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client/forward"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func (a *app) forwardCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forward SERVICE|HOST:PORT [LOCAL_ADDR]",
		Short: "Offer a service on a port of this machine",
		Long: `Listens on a loopback address and leads every connection to the service, until
interrupted. Without LOCAL_ADDR the port is the same each time, unless another
program has it. It goes through a running culvert up, or else makes its own
connection.`,
		Example:           "  culvert forward db\n  culvert forward db 5432",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, args []string) error {
			address := ""
			if len(args) == 2 {
				address = args[1]
			}
			return a.forward(cmd.Context(), args[0], address)
		},
	}
}

func (a *app) forward(ctx context.Context, name, address string) error {
	if _, err := parseTarget(wire.KindTCP, name); err != nil {
		return err
	}
	if err := checkLocal("LOCAL_ADDR", address); err != nil {
		return err
	}
	l, err := a.link(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	target, err := a.mayForward(ctx, l, name)
	if err != nil {
		return err
	}
	f, err := a.listenForward(a.logger(quiet), target, name, address, func(ctx context.Context, t wire.Target) (relay.Conn, error) {
		return l.open(ctx, t, false)
	})
	if err != nil {
		return err
	}
	offer := status.Offer{Kind: "forward", Address: f.Addr().String(), Service: name}
	if a.json {
		err = a.jsonLine(offer)
	} else {
		a.printf("%s leads to %s; interrupt to stop\n", offer.Address, name)
	}
	return errors.Join(err, f.Serve(ctx))
}

// mayForward returns the target of SERVICE. One that the list does not allow, or
// does not have, is opened once: a refusal then comes from the gateway, with a
// reference and its record, and before a port is offered.
func (a *app) mayForward(ctx context.Context, l link, name string) (wire.Target, error) {
	list, err := l.services(ctx)
	if err != nil {
		return wire.Target{}, err
	}
	target, service, err := resolve(list, name)
	if err != nil || target.Service == "" || service.Allowed {
		return target, err
	}
	stream, err := l.open(ctx, target, true)
	if err != nil {
		return target, err
	}
	return target, stream.Close() // the list was older than the rules
}

// listenForward opens the port of a forward. Without an address it is the same
// one for the same service of the same profile.
func (a *app) listenForward(log *slog.Logger, target wire.Target, name, address string, dial forward.DialFunc) (*forward.Forward, error) {
	cfg := forward.Config{Target: target, Listen: localAddress(address), Dial: dial, Logger: log, OnRefused: a.refused}
	if address != "" {
		return forward.Listen(cfg)
	}
	f, taken, err := forward.ListenStable(cfg, a.profile+"/"+name)
	if err == nil && taken != nil {
		a.warnf("another program has the port that %s usually gets; this time it is %s", name, f.Addr())
	}
	return f, err
}

// refused tells the person why a program of theirs got no connection. The
// gateway gives the repetitions of a refusal one reference: a browser that tries
// again and again fills no screen.
func (a *app) refused(err error) {
	var refusal *wire.Refusal
	switch {
	case errors.Is(err, context.Canceled):
	case errors.As(err, &refusal) && refusal.Reference != "" && !a.isNews(refusal.Reference, time.Now()):
	default:
		a.report(err)
	}
}

// repeatAfter is how long a reference that was shown is not shown again.
const repeatAfter = 10 * time.Second

func (a *app) isNews(reference string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.told, func(_ string, seen time.Time) bool { return now.Sub(seen) >= repeatAfter })
	if _, seen := a.told[reference]; seen {
		return false
	}
	if a.told == nil {
		a.told = make(map[string]time.Time)
	}
	a.told[reference] = now
	return true
}
