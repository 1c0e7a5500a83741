package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/buildinfo"
	"github.com/culvert-vpn/culvert/server/audit"
)

const (
	// cleanEvery is how often the database drops what has ended.
	cleanEvery = time.Hour
	// lookUpEvery is how often the names that services dial are looked up.
	lookUpEvery = time.Minute
	// closeWait is how long the end of a drain waits for connections that
	// have been told to go, and for running HTTPS requests.
	closeWait = 5 * time.Second
)

// Serve runs the gateway until ctx ends, and then drains in order: not ready,
// no new connections, clients told, streams waited for until DrainTimeout,
// sessions terminated, audit log and store closed. The error is a *DrainError
// when a step went wrong. It may be called once.
func (s *Server) Serve(ctx context.Context) error {
	s.mu.Lock()
	if s.serving || s.closed {
		s.mu.Unlock()
		return errors.New("this gateway has served already")
	}
	s.serving = true
	s.mu.Unlock()
	// The tunnels must outlive ctx: its end only begins the drain.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var background sync.WaitGroup
	failed := make(chan error, 4)
	s.startServing(life, &background, failed)
	err := s.announce(life)
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
			s.log.Error("the gateway cannot go on; draining", "error", err)
		}
	}
	err = errors.Join(err, s.drain(life))
	end()
	background.Wait()
	return errors.Join(err, s.release())
}

// startServing starts everything that runs beside the connections. Whatever of
// it ends with an error before the drain reports to failed.
func (s *Server) startServing(life context.Context, background *sync.WaitGroup, failed chan<- error) {
	report := func(serve func() error) func() {
		return func() {
			if err := serve(); err != nil {
				failed <- err
			}
		}
	}
	jobs := map[string]func(){
		"accept":      report(func() error { return s.front.serve(life) }),
		"https":       report(s.web.serve),
		"certificate": func() { s.cert.run(life) },
		"policy":      func() { s.policyWatch.run(life, func() { _ = s.reloadPolicy(life, "the file changed") }) },
		"sessions":    func() { s.gateway.Run(life) },
		"locks":       func() { s.standing.run(life) },
		"followers":   func() { s.standing.runFollowers(life) },
		"changes":     func() { s.watchChanges(life) },
		"presence":    func() { s.presence.run(life) },
		"admin":       report(func() error { return s.administration.run(life) }),
		"clean-up":    func() { s.cleanUp(life) },
		"leaf":        func() { s.keepLeaf(life) },
		"names": func() {
			s.dialer.Watch(life, lookUpEvery, s.newNames, func() []string { return s.rules.set().Hosts() })
		},
		"learned names": func() { s.redecideLearned(life) },
	}
	if s.certWatch != nil {
		jobs["certificate files"] = func() { s.certWatch.run(life, func() { _ = s.reloadCertificate(life, "the files changed") }) }
	}
	if s.metricsServer != nil {
		jobs["metrics"] = report(func() error {
			if err := s.metricsServer.Serve(s.metricsListener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve metrics: %w", err)
			}
			return nil
		})
	}
	for _, p := range s.providers {
		jobs["provider "+p.name] = func() { p.run(life) }
	}
	for name, job := range jobs {
		background.Go(func() { s.guard(life, name, job) })
	}
}

// redecideLearned has open streams decided again when a name turns out to lead to an address that somebody may have opened as part
// of a network: at most once a second, as some names resolve to something else each time.
func (s *Server) redecideLearned(ctx context.Context) {
	for {
		select {
		case <-s.learned:
		case <-ctx.Done():
			return
		}
		if n := s.registry.Redecide(); n > 0 {
			s.log.Info("streams were cut: their addresses belong to services that are denied", "streams", n)
		}
		if !sleep(ctx, time.Second) {
			return
		}
	}
}

// watchChanges has the database's notices of a change looked into at once. Without
// them, asking it every now and then finds the same a little later.
func (s *Server) watchChanges(ctx context.Context) {
	if err := s.store.Watch(ctx, s.standing.kick); err != nil && ctx.Err() == nil {
		s.log.Warn("no notices of changes from the database; they are found by asking", "error", err)
	}
}

// signal wakes whoever waits for c, which has room for one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// jobPause is how long a background job that panicked rests before it runs again.
const jobPause = time.Second

// guard runs a background job, again and again while it panics: a bug there must
// neither end everybody's tunnels nor, in the job that follows the locks, let
// somebody stay.
func (s *Server) guard(ctx context.Context, name string, job func()) {
	for s.panicked(name, job) && sleep(ctx, jobPause) {
	}
}

func (s *Server) panicked(name string, job func()) (yes bool) {
	defer func() {
		if v := recover(); v != nil {
			yes = true
			s.metrics.panics.Inc()
			s.log.Error("panic in a background job; it runs again", "job", name, "panic", v, "stack", string(debug.Stack()))
		}
	}()
	job()
	return false
}

// announce says that and where the gateway runs: to the log, to the state
// folder and to the audit log.
func (s *Server) announce(ctx context.Context) error {
	info := RunInfo{PID: os.Getpid(), Version: buildinfo.Version(), Listen: s.Addr().String(), URL: s.URL()}
	if addr := s.MetricsAddr(); addr != nil {
		info.Metrics = addr.String()
	}
	if err := writeRunInfo(s.cfg.StateDir, info); err != nil {
		return explain(err, s.cfg.StateDir)
	}
	if _, err := s.audit.Append(ctx, audit.Record{Event: audit.EventGatewayStart, Detail: "listening on " + info.Listen}); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	login := "culvert login " + info.URL
	if fingerprint := s.Fingerprint(); fingerprint != "" {
		login += " --ca-fingerprint " + string(fingerprint)
	}
	s.log.Info("listening", "listen", info.Listen, "metrics", info.Metrics, "url", info.URL, "login", login)
	for _, check := range s.Readiness(ctx).Checks {
		if !check.OK {
			s.log.Warn("not ready", "check", check.Name, "detail", check.Detail)
		}
	}
	return nil
}

// cleanUp drops what has ended from the database now and then.
func (s *Server) cleanUp(ctx context.Context) {
	for sleep(ctx, cleanEvery) {
		if _, err := s.store.Cleanup(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot clean up the database; trying again", "error", err, "in", cleanEvery)
		}
	}
}

// keepLeaf has the gateway's own certificate renewed in time, not only when a
// client comes, and every one of them in the inventory.
func (s *Server) keepLeaf(ctx context.Context) {
	for recorded := ""; ; {
		cert, err := s.leaf.Certificate()
		if err != nil {
			s.log.Error("cannot renew the gateway's own certificate; no tunnel can be opened once it has ended", "error", err)
		} else if serial := cert.Leaf.SerialNumber.Text(16); serial != recorded {
			recorded = serial
			s.recordLeaf(ctx, cert.Leaf, cert.Certificate)
		}
		if !sleep(ctx, time.Hour) {
			return
		}
	}
}
