package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/server"
)

//go:embed policy.yaml
var policyText string

// A world is everything that the demonstration needs besides the employees.
type world struct {
	dir      string
	logger   *slog.Logger
	issuer   string
	password string
	wiki     net.Addr
	echo     net.Addr
	gateway  *server.Server
	parts    []*local
}

// build starts the parts one by one. They end with ctx; wait waits for them.
func build(ctx context.Context, r *report, dir string, logger *slog.Logger) (*world, error) {
	w := &world{dir: dir, logger: logger, password: devidp.DefaultPassword}
	r.scene("The world")
	for _, part := range []struct {
		name  string
		start func(context.Context) (string, error)
	}{
		{"two internal services", w.startServices},
		{"an OpenID provider", w.startProvider},
		{"the gateway's first files", w.initGateway},
		{"the gateway", w.startGateway},
	} {
		if !r.step("world", part.name, func() (string, error) { return part.start(ctx) }) {
			err := r.steps[len(r.steps)-1].err
			return nil, errors.Join(fmt.Errorf("%s did not start: %w", part.name, err), w.waitFor(0))
		}
	}
	return w, nil
}

// wait returns when every part has ended after its context.
func (w *world) wait() error { return w.waitFor(time.Minute) }

func (w *world) waitFor(patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var errs []error
	for _, p := range w.parts {
		select {
		case err := <-p.done:
			errs = append(errs, err)
		case <-timer.C:
			return errors.Join(append(errs, errors.New("a part of the demonstration did not end"))...)
		}
	}
	return errors.Join(errs...)
}

// listen opens a loopback port that the system chooses.
func listen() (net.Listener, error) { return localnet.Listen("127.0.0.1:0") }

func (w *world) startServices(ctx context.Context) (string, error) {
	handler, err := wiki()
	if err != nil {
		return "", err
	}
	web, err := listen()
	if err != nil {
		return "", err
	}
	echo, err := listen()
	if err != nil {
		return "", err
	}
	w.wiki, w.echo = web.Addr(), echo.Addr()
	w.parts = append(w.parts, serveHTTP(ctx, web, handler, w.logger), serveEcho(ctx, echo, w.logger))
	return fmt.Sprintf("a wiki on %s, a TCP echo on %s", w.wiki, w.echo), nil
}

func (w *world) startProvider(ctx context.Context) (string, error) {
	ln, err := listen()
	if err != nil {
		return "", err
	}
	provider, err := devidp.New(devidp.Config{Listener: ln, Logger: w.logger})
	if err != nil {
		return "", err
	}
	w.issuer = provider.Issuer()
	l := &local{ln, make(chan error, 1)}
	go func() { l.done <- devidp.Serve(ctx, ln, provider) }()
	w.parts = append(w.parts, l)
	return w.issuer + ", for development only", nil
}

// initGateway does what an operator does with `culvert-gateway init`, and puts
// the demonstration's rules into the policy's place.
func (w *world) initGateway(context.Context) (string, error) {
	folder := filepath.Join(w.dir, "gateway")
	_, err := server.InitFiles(folder, server.InitOptions{
		Hostname: "127.0.0.1", TrustDomain: "culvert-demo.example", Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0",
		ProviderName: "demo", Issuer: w.issuer, ClientID: "culvert",
	})
	if err != nil {
		return "", err
	}
	tmpl, err := template.New("policy").Parse(policyText)
	if err != nil {
		return "", err
	}
	var policy bytes.Buffer
	if err := tmpl.Execute(&policy, map[string]string{"Wiki": w.wiki.String(), "Echo": w.echo.String()}); err != nil {
		return "", err
	}
	if err := durable.WriteFile(filepath.Join(folder, "policy.yaml"), policy.Bytes(), 0o600); err != nil {
		return "", err
	}
	return "CA, configuration, rules with their tests in " + folder, nil
}

func (w *world) startGateway(ctx context.Context) (string, error) {
	ln, err := listen()
	if err != nil {
		return "", err
	}
	cfg, err := server.LoadConfig(filepath.Join(w.dir, "gateway", server.ConfigFile), nil)
	if err != nil {
		return "", errors.Join(err, ln.Close())
	}
	cfg.Listen = ln.Addr().String() // the port is known only now; clients are told it
	cfg.DrainTimeout = 2 * time.Second
	cfg.Admin.Roles = []server.RoleConfig{{Role: "owner", Groups: []string{"admins"}}}
	if err := cfg.Validate(); err != nil {
		return "", errors.Join(err, ln.Close())
	}
	srv, err := server.New(ctx, *cfg, server.Options{Logger: w.logger, Listener: ln})
	if err != nil {
		return "", err
	}
	w.gateway = srv
	l := &local{ln, make(chan error, 1)}
	go func() { l.done <- srv.Serve(ctx) }()
	w.parts = append(w.parts, l)
	return fmt.Sprintf("%s, metrics on http://%s/metrics", srv.URL(), srv.MetricsAddr()), nil
}

// handStateDir is where the commands by hand keep their state, away from the
// person's own profiles.
func (w *world) handStateDir() string { return filepath.Join(w.dir, "by-hand") }

func (w *world) stateDir(who string) (string, error) {
	dir := filepath.Join(w.dir, "desktop-"+who)
	return dir, os.MkdirAll(dir, 0o700)
}

func runIDP(ctx context.Context, args []string, out io.Writer) error {
	return devidp.Run(ctx, args, out)
}
