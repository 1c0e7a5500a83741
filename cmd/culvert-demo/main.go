// Command culvert-demo shows the whole of Culvert in one process: an OpenID
// provider with three accounts, a gateway with its CA and state, two internal
// services, two employees who log in and use them, and an administrator who
// answers a request and cuts somebody off. It is for a first look and for trying
// things out by hand; nothing of it is fit for real people.
//
//	culvert-demo [--once]     the demonstration; --once ends after it
//	culvert-demo idp          the provider alone, for trying out a gateway
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/server"
)

const usage = `Shows the whole of Culvert in one process, with nothing to install.

Usage:
  culvert-demo [flags]       the demonstration; it stays up until Ctrl-C
  culvert-demo idp [flags]   only the OpenID provider, to try a gateway with

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	forgetGateway()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// forgetGateway takes the settings of a real gateway out of the environment: the demonstration must not use its database.
func forgetGateway() {
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, server.EnvPrefix) {
			os.Unsetenv(name)
		}
	}
}

// run returns the exit code: 0 when everything happened as it should, 1 when
// something did not, 2 for wrong usage.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) > 0 && args[0] == "idp" {
		return idp(ctx, args[1:], out, errs)
	}
	flags := flag.NewFlagSet("culvert-demo", flag.ContinueOnError)
	flags.SetOutput(errs)
	once := flags.Bool("once", false, "end after the demonstration; the exit code tells whether everything happened as it should")
	verbose := flags.Bool("verbose", false, "show the log of the gateway and of the clients on standard error")
	flags.Usage = func() {
		fmt.Fprint(errs, usage)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(errs, "culvert-demo: unexpected argument %q\n  hint: culvert-demo [--once] [--verbose], or culvert-demo idp\n", flags.Arg(0))
		return 2
	}
	logger := slog.New(slog.DiscardHandler)
	if *verbose {
		logger = slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if err := demonstrate(ctx, out, logger, *once); err != nil {
		fmt.Fprintf(errs, "culvert-demo: %v\n", err)
		return 1
	}
	return 0
}

func idp(ctx context.Context, args []string, out, errs io.Writer) int {
	err := runIDP(ctx, args, out)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, devidp.ErrUsage):
		fmt.Fprintf(errs, "culvert-demo idp: %v\n  hint: culvert-demo idp --help\n", err)
		return 2
	default:
		fmt.Fprintf(errs, "culvert-demo idp: %v\n", err)
		return 1
	}
}

// demonstrate builds the world, plays the scenes, and stays until ctx ends
// unless once is set.
func demonstrate(ctx context.Context, out io.Writer, logger *slog.Logger, once bool) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dir, err := os.MkdirTemp("", "culvert-demo-")
	if err != nil {
		return fmt.Errorf("no temporary folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	r := newReport(out)
	r.title("Culvert, demonstrated in one process")
	w, err := build(ctx, r, dir, logger)
	if err != nil {
		return err
	}
	defer func() {
		cancel()
		err = errors.Join(err, w.wait())
	}()
	play(ctx, r, w)
	r.summary()
	if r.failed > 0 {
		return fmt.Errorf("%d of %d steps did not happen as they should", r.failed, len(r.steps))
	}
	if once || ctx.Err() != nil {
		return nil
	}
	r.byHand(w)
	<-ctx.Done()
	fmt.Fprintln(out, "\nstopping: the gateway drains, and everything in the temporary folder goes")
	return nil
}
