package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/server"
)

// serveFlags are the settings that have a flag; all others are in the file and
// the environment.
var serveFlags = []struct{ flag, key, usage string }{
	{"hostname", "hostname", "the name that clients use"},
	{"listen", "listen", "the one port for tunnel and HTTPS"},
	{"state-dir", "state_dir", "the folder for the database and the audit log"},
	{"policy", "policy.file", "the file with the access rules"},
	{"metrics-listen", "metrics.listen", "the loopback address for metrics"},
	{"unsafe-metrics-listen", "metrics.unsafe_listen", "any address for metrics: whoever reaches it reads them without a login"},
	{"drain-timeout", "drain_timeout", "how long open streams may go on after SIGTERM"},
	{"log-level", "log.level", "debug, info, warn, error"},
	{"log-format", "log.format", "text, json"},
}

func (p *program) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the gateway in the foreground", Args: cobra.NoArgs,
		Long: `Run the gateway in the foreground. It logs to standard error.

SIGHUP reads policy, certificate files and log level again; policy and
certificate files are also read when they change. SIGTERM and SIGINT drain: the
gateway stops being ready, accepts no more, tells its clients, waits for open
streams until drain_timeout, and closes. A second signal ends the wait.

Exit codes: 0 stopped in time, 1 error, 11 streams were cut at drain_timeout,
12 the audit log could not be closed, 13 the database could not be closed.`,
	}
	flags := make(map[string]*pflag.Flag)
	for _, f := range serveFlags {
		cmd.Flags().String(f.flag, "", f.usage)
		flags[f.key] = cmd.Flags().Lookup(f.flag)
	}
	cmd.RunE = func(*cobra.Command, []string) error { return p.serve(flags) }
	return cmd
}

func (p *program) serve(flags map[string]*pflag.Flag) error {
	reread := func() (*server.Config, error) { return p.load(flags) }
	cfg, err := reread()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := newLogger(p.err, cfg.Log, level)
	ctx, drain := context.WithCancel(context.Background())
	defer drain()
	// Before New: a signal during the start waits, and does not kill.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, os.Interrupt)
	defer signal.Stop(signals)
	log.Info("culvert-gateway starts", "version", buildinfo.Version(), "pid", os.Getpid(), "config", p.config)
	srv, err := server.New(ctx, *cfg, server.Options{Logger: log, LogLevel: level, Reread: reread})
	if err != nil {
		return err
	}
	defer handleSignals(ctx, signals, log, srv, drain)()
	return srv.Serve(ctx)
}

// handleSignals acts on SIGHUP, SIGTERM and SIGINT until the function that it
// returns is called.
func handleSignals(ctx context.Context, signals <-chan os.Signal, log *slog.Logger, srv *server.Server, drain context.CancelFunc) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for draining := false; ; {
			select {
			case <-quit:
				return
			case s := <-signals:
				draining = handleSignal(ctx, s, draining, log, srv, drain)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// handleSignal returns whether the gateway drains from now on.
func handleSignal(ctx context.Context, s os.Signal, draining bool, log *slog.Logger, srv *server.Server, drain context.CancelFunc) bool {
	switch {
	case s == syscall.SIGHUP:
		log.Info("SIGHUP: reloading")
		if err := srv.Reload(ctx); err == nil {
			log.Info("reloaded")
		}
		return draining
	case !draining:
		log.Info("draining; a second signal ends it at once", "signal", s.String())
		drain()
	default:
		log.Warn("second signal: stopping at once", "signal", s.String())
		srv.HurryUp()
	}
	return true
}

func newLogger(w io.Writer, cfg server.LogConfig, level *slog.LevelVar) *slog.Logger {
	_ = level.UnmarshalText([]byte(cfg.Level)) // validated
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func (p *program) healthcheckCommand() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Ask the gateway on this machine whether it is ready", Args: cobra.NoArgs,
		Long: `Ask the gateway that runs with this configuration whether it is ready, and say
why not. Exit codes: 0 ready, 1 not ready, 5 nobody answers.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.healthcheck(cmd.Context()) },
	}
}

func (p *program) healthcheck(ctx context.Context) error {
	cfg, err := p.load(nil)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ready, err := server.AskReady(ctx, cfg)
	if errors.Is(err, server.ErrUnreachable) {
		p.complain(err)
		return exitCode(exitUnreachable)
	}
	if err != nil {
		return err
	}
	if err := p.print(ready, readyText(ready)); err != nil {
		return err
	}
	if !ready.Ready {
		return exitCode(exitError)
	}
	return nil
}

func readyText(r server.Readiness) string {
	text := "not ready\n"
	if r.Ready {
		text = "ready\n"
	}
	for _, c := range r.Checks {
		state := "ok"
		if !c.OK {
			state = "NOT OK"
		}
		switch {
		case c.Detail == "":
		case c.OK:
			state += ", but " + c.Detail
		default:
			state += ": " + c.Detail
		}
		text += fmt.Sprintf("  %-12s %s\n", c.Name, state)
	}
	return text
}
