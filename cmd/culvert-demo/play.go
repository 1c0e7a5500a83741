package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/client"
	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// patience bounds each step of an employee.
const patience = 30 * time.Second

// An employee is one person at one desktop.
type employee struct {
	name    string
	subject string // at the provider, once logged in
	world   *world
	profile *certstore.Profile
	client  *client.Client
}

// play lets two employees do what employees do, and an administrator what administrators do. What goes wrong is in the
// report; a person who cannot log in does not go on.
func play(ctx context.Context, r *report, w *world) {
	ada := &employee{name: "ada", world: w}
	defer ada.leave()
	r.scene("Ada, engineering")
	if ada.arrive(ctx, r) {
		r.step("ada", "reads the wiki", func() (string, error) { return ada.readWiki(ctx) })
		r.step("ada", "is refused the echo", func() (string, error) { return ada.refused(ctx, "echo", "Engineers have echoes enough") })
	}
	bob := &employee{name: "bob", world: w}
	defer bob.leave()
	r.scene("Bob, sales")
	if bob.arrive(ctx, r) {
		r.step("bob", "is refused the wiki", func() (string, error) { return bob.refused(ctx, "wiki", "") })
		r.step("bob", "shouts into the echo", func() (string, error) { return bob.shout(ctx) })
		administrate(ctx, r, w, bob)
	}
}

// arrive logs in and connects.
func (e *employee) arrive(ctx context.Context, r *report) bool {
	return r.step(e.name, "logs in", func() (string, error) { return e.login(ctx) }) &&
		r.step(e.name, "has a certificate", func() (string, error) { return e.certificate() }) &&
		r.step(e.name, "opens the tunnel", func() (string, error) { return e.connect(ctx) })
}

func (e *employee) leave() {
	if e.client != nil {
		e.client.Down()
	}
}

// login runs the client's own login. Where a person would use a browser, the
// provider's login page is filled in over HTTP.
func (e *employee) login(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir, err := e.world.stateDir(e.name)
	if err != nil {
		return "", err
	}
	// The demonstration must not leave keys in a person's own keyring.
	ring, err := keyring.New(keyring.Config{Dir: dir, Use: keyring.KindFile})
	if err != nil {
		return "", err
	}
	if e.profile, err = certstore.Open(dir, "", certstore.Options{Keyring: ring, Logger: e.world.logger}); err != nil {
		return "", err
	}
	browser := make(chan error, 1)
	login, err := client.LogIn(ctx, e.config(), client.LogInOptions{
		URL:   e.world.gateway.URL(),
		Trust: client.Trust{Fingerprint: e.world.gateway.Fingerprint()},
		Out:   io.Discard,
		Open: func(address string) error {
			go func() { browser <- devidp.Login(ctx, address, e.name, e.world.password) }()
			return nil
		},
	})
	if err != nil {
		return "", err
	}
	if err := <-browser; err != nil {
		return "", fmt.Errorf("the provider's page: %w", err)
	}
	id := login.Identity
	e.subject = id.Subject
	return fmt.Sprintf("authorization code with PKCE; %s, groups %s", id.Subject, strings.Join(id.Groups, ", ")), nil
}

func (e *employee) config() client.Config {
	return client.Config{Profile: e.profile, Logger: e.world.logger.With("desktop", e.name)}
}

func (e *employee) certificate() (string, error) {
	e.client = client.New(e.config())
	s, err := client.Offline(e.profile, time.Now())
	if err != nil {
		return "", err
	}
	if s.Session.Serial == "" {
		return "", errors.New("the profile holds no certificate")
	}
	return fmt.Sprintf("serial %s\nexpires %s, renewable until %s", s.Session.Serial,
		s.Session.NotAfter.Local().Format(time.TimeOnly), s.Session.Deadline.Local().Format("15:04:05 on 2 January")), nil
}

func (e *employee) connect(ctx context.Context) (string, error) {
	if err := e.client.Up(ctx); err != nil {
		return "", err
	}
	ready, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := e.client.Ready(ready); err != nil {
		return "", err
	}
	rtt, err := e.client.Ping(ready)
	if err != nil {
		return "", err
	}
	s := e.client.Status()
	return fmt.Sprintf("%s, mutual\ngateway %s, round trip %s", s.Gateway.TLS, s.Gateway.ID, round(rtt)), nil
}

// readWiki gets a page by the name that people type. Its address is known to
// the gateway alone.
func (e *employee) readWiki(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return e.client.Open(ctx, wire.HostTarget(wire.KindTCP, "wiki.corp.example", 80), client.OpenOptions{Wait: true})
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://wiki.corp.example/on-call", nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || !bytes.Contains(body, []byte("When the pager rings")) {
		return "", fmt.Errorf("the wiki answered %s with %d bytes that are not the page", resp.Status, len(body))
	}
	return fmt.Sprintf("GET http://wiki.corp.example/on-call: %s, %d bytes", resp.Status, len(body)), nil
}

// refused opens a stream that must be denied, with a reason that holds want and
// a reference.
func (e *employee) refused(ctx context.Context, service, want string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := e.client.Open(ctx, wire.ServiceTarget(wire.KindTCP, service), client.OpenOptions{Wait: true})
	if err == nil {
		_ = stream.Close()
		return "", fmt.Errorf("%s was allowed to reach %s", e.name, service)
	}
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) {
		return "", fmt.Errorf("expected a refusal: %w", err)
	}
	if refusal.Code != wire.CodeDenied || refusal.Reason == "" || refusal.Reference == "" || !strings.Contains(refusal.Reason, want) {
		return "", fmt.Errorf("expected a denial with a reason and a reference: %w", err)
	}
	detail := fmt.Sprintf("%s: %s", refusal.Code, refusal.Reason)
	if refusal.Remedy != "" {
		detail += "\n" + refusal.Remedy
	}
	return detail + "\nreference " + refusal.Reference, nil
}

// shout sends a line, ends its direction and expects the line back with a clean
// end.
func (e *employee) shout(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := e.client.Open(ctx, wire.ServiceTarget(wire.KindTCP, "echo"), client.OpenOptions{})
	if err != nil {
		return "", err
	}
	defer stream.Close()
	_ = stream.SetDeadline(time.Now().Add(patience))
	const line = "is anybody there?\n"
	if _, err := io.WriteString(stream, line); err != nil {
		return "", err
	}
	if err := stream.CloseWrite(); err != nil {
		return "", err
	}
	back, err := io.ReadAll(stream)
	if err != nil {
		return "", err
	}
	if string(back) != line {
		return "", fmt.Errorf("the echo said %q", back)
	}
	return fmt.Sprintf("%q came back, and the half-close too", strings.TrimSpace(line)), nil
}
