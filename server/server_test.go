package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// echoService answers with what it gets, and gives its address.
func echoService(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func echoPolicy(address, group string) string {
	return fmt.Sprintf(`version: 1
services:
  echo: {address: %q}
rules:
  - name: who may
    subjects: {groups: [%s]}
    allow: [echo]
`, address, group)
}

// everything is an installation with a provider and an echo service for engineering.
func everything(t *testing.T, edit func(*Config)) *installation {
	t.Helper()
	provider := newProvider(t)
	i := newInstallation(t, func(cfg *Config) {
		cfg.Providers = []oidc.ProviderConfig{provider}
		if edit != nil {
			edit(cfg)
		}
	})
	writeFile(t, i.cfg.Policy.File, echoPolicy(echoService(t), "engineering"))
	return i
}

func mustLogin(t *testing.T, r *running, account string) *employee {
	t.Helper()
	e, err := r.login(account)
	if err != nil {
		t.Fatalf("login of %s: %v", account, err)
	}
	return e
}

// open connects, and opens a stream that echoes.
func (e *employee) open(t *testing.T, ctx context.Context, r *running) (*tunnel.Session, *tunnel.Stream) {
	t.Helper()
	session, err := e.up(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	stream, err := session.Open(ctx, wire.Target{Kind: "tcp", Service: "echo"}, tunnel.OpenOptions{Wait: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := echo(ctx, stream); err != nil {
		t.Fatal(err)
	}
	return session, stream
}

func echo(ctx context.Context, stream io.ReadWriter) error {
	if _, err := io.WriteString(stream, "hello"); err != nil {
		return err
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(stream, got); err != nil {
		return err
	}
	if string(got) != "hello" {
		return fmt.Errorf("got %q", got)
	}
	return ctx.Err()
}

func TestLoginTunnelAndReload(t *testing.T) {
	i := everything(t, nil)
	r := i.serve(Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, stream := mustLogin(t, r, "ada").open(t, ctx, r)
	// A policy that takes the right away bites on the live stream, without a signal.
	text, err := os.ReadFile(i.cfg.Policy.File)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, i.cfg.Policy.File, strings.Replace(string(text), "engineering", "sales", 1))
	if _, err := io.ReadAll(stream); err == nil {
		t.Error("the stream ended cleanly although its right was taken away")
	}
	_, err = session.Open(ctx, wire.Target{Kind: "tcp", Service: "echo"}, tunnel.OpenOptions{Wait: true})
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeDenied || refusal.Reference == "" {
		t.Errorf("a new stream: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	var end *wire.Termination
	<-session.Done()
	if !errors.As(session.Err(), &end) || end.Code != wire.TerminateShutdown {
		t.Errorf("the client learned %v", session.Err())
	}
}

func TestBrokenPolicyLeavesTheOldInForce(t *testing.T) {
	i := everything(t, nil)
	r := i.serve(Options{})
	version := r.rules.set().Version()
	good, err := os.ReadFile(i.cfg.Policy.File)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"not YAML":        "version: [",
		"unknown service": strings.Replace(string(good), "allow: [echo]", "allow: [ecko]", 1),
		"failing test":    string(good) + "tests:\n  - name: wrong\n    subject: {groups: [sales]}\n    allow: [echo]\n",
		"empty":           "",
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, i.cfg.Policy.File, text)
			if err := r.Reload(t.Context()); err == nil {
				t.Error("reloaded")
			}
			if got := r.rules.set().Version(); got != version {
				t.Errorf("version %s is in force, want the old %s", got, version)
			}
			if !r.rules.alarm.Load() {
				t.Error("no alarm")
			}
		})
	}
	if metrics := get(t, http.DefaultClient, "http://"+r.MetricsAddr().String()+"/metrics"); !strings.Contains(metrics, `culvert_reload_alarm{what="policy"} 1`) {
		t.Error("the alarm is not in the metrics")
	}
	writeFile(t, i.cfg.Policy.File, string(good))
	if err := r.Reload(t.Context()); err != nil || r.rules.alarm.Load() {
		t.Errorf("the good file again: %v, alarm %v", err, r.rules.alarm.Load())
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if text := auditText(t, i); strings.Count(text, `"policy.refused"`) < 4 || !strings.Contains(text, `"policy.loaded"`) {
		t.Errorf("the audit log lacks the refusals:\n%s", text)
	}
}

func auditText(t *testing.T, i *installation) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(i.cfg.StateDir, "audit", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	var all strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

func get(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A policy whose tests fail refuses a first start; one that was accepted before
// loads with an alarm, since a test may fail by the calendar alone.
func TestPolicyWithFailingTestsAtStart(t *testing.T) {
	i := newInstallation(t, nil)
	good, err := os.ReadFile(i.cfg.Policy.File)
	if err != nil {
		t.Fatal(err)
	}
	failing := strings.Replace(string(good), "deny: [wiki, database]", "allow: [wiki]", 1)
	writeFile(t, i.cfg.Policy.File, failing)
	if srv, err := New(t.Context(), *i.cfg, Options{}); err == nil {
		srv.Close()
		t.Fatal("a policy that was never accepted started with failing tests")
	} else if !strings.Contains(err.Error(), "stranger") {
		t.Errorf("the error does not name the test: %v", err)
	}
	acceptPolicy(t, i, failing)
	srv, err := New(t.Context(), *i.cfg, Options{Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatalf("a policy accepted before: %v", err)
	}
	defer srv.Close()
	if !srv.rules.alarm.Load() {
		t.Error("no alarm")
	}
}

func acceptPolicy(t *testing.T, i *installation, text string) {
	t.Helper()
	db, err := store.Open(t.Context(), i.cfg.databaseURL(), store.Options{TrustDomain: "corp.example", Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.AcceptPolicy(t.Context(), store.PolicyVersion{Digest: policy.DigestOf([]byte(text)).String(), Source: "file", Document: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

func TestReadiness(t *testing.T) {
	i := newInstallation(t, nil) // without a provider, as init leaves it
	r := i.serve(Options{})
	client := r.https()
	resp, err := client.Get(r.URL() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ready Readiness
	if err := json.NewDecoder(resp.Body).Decode(&ready); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusServiceUnavailable || ready.Ready || resp.ProtoMajor != 2 {
		t.Errorf("status %d, ready %v, %s", resp.StatusCode, ready.Ready, resp.Proto)
	}
	for _, c := range ready.Checks {
		if c.OK == (c.Name == "providers") {
			t.Errorf("check %+v", c)
		}
		if strings.Contains(c.Detail, i.dir) {
			t.Errorf("a stranger reads a path: %q", c.Detail)
		}
	}
	if body := get(t, client, r.URL()+"/healthz"); body != "ok\n" {
		t.Errorf("/healthz says %q", body)
	}
	if body := get(t, client, r.URL()+"/.well-known/culvert"); !strings.Contains(body, "no OpenID provider") {
		t.Errorf("discovery says %q", body)
	}
}

func TestHTTPSHeadersAndPages(t *testing.T) {
	r := everything(t, nil).serve(Options{})
	client := r.https()
	for path, want := range map[string]int{"/": 200, "/healthz": 200, "/readyz": 200, "/.well-known/culvert": 200, "/nothing": 404, "/v1/nothing": 404, "/metrics": 404} {
		resp, err := client.Get(r.URL() + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
		for _, header := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Cache-Control"} {
			if resp.Header.Get(header) == "" {
				t.Errorf("%s: no header %s", path, header)
			}
		}
	}
}

// Names and help texts as Prometheus wants them.
func TestMetricsAreWellNamed(t *testing.T) {
	r := everything(t, nil).serve(Options{})
	problems, err := testutil.GatherAndLint(r.metrics.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "culvert_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestMetricsAreForThisMachine(t *testing.T) {
	r := newInstallation(t, nil).serve(Options{})
	base := "http://" + r.MetricsAddr().String()
	for _, name := range []string{"culvert_sessions", "culvert_handshakes", "culvert_build_info", "go_goroutines"} {
		if !strings.Contains(get(t, http.DefaultClient, base+"/metrics"), name) {
			t.Errorf("no metric %s", name)
		}
	}
	req, err := http.NewRequest(http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example" // a page whose name was pointed here
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign host got %d", resp.StatusCode)
	}
}

// Two gateways on one SQLite folder would each believe to be alone.
func TestSecondGatewayOnOneFolderIsRefused(t *testing.T) {
	i := newInstallation(t, nil)
	r := i.serve(Options{})
	eventually(t, "the first one runs", func() bool { _, err := ReadRunInfo(i.cfg.StateDir); return err == nil })
	_, err := New(t.Context(), *i.cfg, Options{})
	if err == nil || !strings.Contains(err.Error(), "another gateway (process") || !strings.Contains(err.Error(), r.Addr().String()) {
		t.Errorf("the second one: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	srv, err := New(t.Context(), *i.cfg, Options{})
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	if err := errors.Join(srv.Close(), srv.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
}

func TestStartErrorsSayWhatToDo(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name  string
		spoil func(*installation)
		want  []string
	}{
		{"port in use", func(i *installation) { i.cfg.Listen = taken.Addr().String() }, []string{taken.Addr().String(), "another program listens there"}},
		{"metrics port in use", func(i *installation) { i.cfg.Metrics.Listen = taken.Addr().String() }, []string{"metrics.listen", "another program listens there"}},
		{"not this machine's address", func(i *installation) { i.cfg.Listen = "192.0.2.1:0" }, []string{"no such address"}},
		{"no policy", func(i *installation) { os.Remove(i.cfg.Policy.File) }, []string{"no such file", "policy"}},
		{"corrupt database", func(i *installation) {
			writeFile(i.t, filepath.Join(i.cfg.StateDir, "gateway.db"), strings.Repeat("this is no database ", 100))
		}, []string{"gateway.db"}},
		{"state of others", func(i *installation) { os.Chmod(i.cfg.StateDir, 0o777) }, []string{"others may write"}},
		{"another trust domain", func(i *installation) { i.cfg.TrustDomain = "other.example" }, []string{`"corp.example"`, "set trust_domain"}},
		{"no certificate file", func(i *installation) {
			i.cfg.TLS = TLSConfig{Mode: "files", Certificate: filepath.Join(i.dir, "no.crt"), Key: filepath.Join(i.dir, "no.key")}
		}, []string{"no.crt"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			i := newInstallation(t, nil)
			tt.spoil(i)
			srv, err := New(t.Context(), *i.cfg, Options{})
			if err == nil {
				srv.Close()
				t.Fatal("started")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
		})
	}
}

// Threat class: mTLS fails open on a bad CA file (Caddy CVE-2026-27586).
func TestThreatBrokenCARefusesToStart(t *testing.T) {
	for _, file := range []string{"root.crt", "issuing.crt", "issuing.key"} {
		for how, spoil := range map[string]func(string) error{
			"missing": os.Remove,
			"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"corrupt": func(path string) error {
				return os.WriteFile(path, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), 0o600)
			},
		} {
			t.Run(file+" "+how, func(t *testing.T) {
				i := newInstallation(t, nil)
				if err := spoil(filepath.Join(i.cfg.CADir, file)); err != nil {
					t.Fatal(err)
				}
				srv, err := New(t.Context(), *i.cfg, Options{})
				if err == nil {
					srv.Close()
					t.Fatal("started")
				}
				if !strings.Contains(err.Error(), file) {
					t.Errorf("the error does not name the file: %v", err)
				}
			})
		}
	}
}

// Threat class: SNI or ALPN falls back to no client check (Traefik CVE-2026-53622).
func TestThreatNoTunnelWithoutAClientCertificate(t *testing.T) {
	r := newInstallation(t, nil).serve(Options{})
	for _, name := range []string{"127.0.0.1", "", "VPN.corp.example", "other.example"} {
		for _, protos := range [][]string{{wire.ALPN}, {"h2", wire.ALPN}, {wire.ALPN, "http/1.1"}} {
			conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protos})
			if err != nil {
				continue // refused already
			}
			// TLS 1.3: the server's refusal arrives with the first read.
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Errorf("name %q, protocols %v: data came without a client certificate", name, protos)
			}
			conn.Close()
		}
	}
}
