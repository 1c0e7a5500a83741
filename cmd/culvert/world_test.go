package main

import (
	"bufio"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/server"
)

// exits runs a program and wants exactly this exit code:
//
//	exits CODE PROGRAM ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// fakeGate starts an HTTPS server that is no good gateway. It sets GATEWAY and
// FINGERPRINT, and writes its certificate to ca.pem. KIND is what it answers:
//
//	fakegate version      a discovery document of protocol version 2 only
//	fakegate web          a web page
//	fakegate noprovider   a discovery document whose provider cannot be reached
//	fakegate plain        a web page without TLS
//	fakegate hangup       nothing: each connection is closed at once
//	fakegate liar         a discovery document whose provider names another issuer
func fakeGate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakegate KIND")
	}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"issuer":"http://127.0.0.1:9/other","authorization_endpoint":"http://127.0.0.1:9/a","token_endpoint":"http://127.0.0.1:9/t","jwks_uri":"http://127.0.0.1:9/j"}`)
	}))
	ts.Defer(provider.Close)
	issuer := map[string]string{"liar": provider.URL, "noprovider": "http://127.0.0.1:1"}[args[0]]
	if args[0] == "hangup" {
		ts.Setenv("GATEWAY", "https://"+hangUp(ts))
		return
	}
	gate := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if args[0] == "web" {
			fmt.Fprint(w, "<h1>welcome</h1>")
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, discovery(args[0], issuer))
	}))
	gate.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if args[0] == "plain" {
		gate.Start()
		ts.Defer(gate.Close)
		ts.Setenv("GATEWAY", strings.Replace(gate.URL, "http:", "https:", 1))
		return
	}
	gate.StartTLS()
	ts.Defer(gate.Close)
	ts.Setenv("GATEWAY", gate.URL)
	ts.Setenv("FINGERPRINT", string(auth.FingerprintOf(gate.Certificate().Raw)))
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: gate.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs("ca.pem"), block, 0o600))
}

// hangUp closes each connection at once, as a balancer does that has nobody to pass it on to.
func hangUp(ts *testscript.TestScript) string {
	l := listenLoopback(ts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_ = conn.Close()
		}
	}()
	ts.Defer(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

func discovery(kind, issuer string) string {
	if kind == "version" {
		return `{"versions":[2],"trust_domain":"corp.example","gateway":"gw","providers":[],"time":"2026-11-23T10:00:00Z","certificate_ttl":3600,"session_ttl":43200}`
	}
	return fmt.Sprintf(`{"versions":[1],"trust_domain":"corp.example","gateway":"gw","providers":[{"name":"corp","issuer":%q,"client_id":"culvert",
		"token_auth":"none","redirect":{"host":"127.0.0.1","path":"/callback"},"scopes":["openid"],"refresh_scopes":["granted"],
		"refresh_identity":"id_token","step_up":{"prompt":"login"}}],"time":"2026-11-23T10:00:00Z","certificate_ttl":3600,"session_ttl":43200}`, issuer)
}

// scriptPolicy lets engineers reach the echo; "closed" is a port where nobody listens.
const scriptPolicy = `version: 1
services:
  echo: {address: "%[1]s", description: An echo, hostnames: [echo.corp.example], port: 7}
  shout: {address: "%[1]s", protocol: udp, description: Datagrams}
  closed: {address: "127.0.0.1:1", description: Nobody listens there}
  payroll: {address: "%[1]s", description: Salaries}
  ledger: {address: "%[1]s", description: Books}
  vault: {address: "%[1]s", description: Keys, requestable: {max: 1h, approvers: {groups: [it]}}}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [echo, shout, closed]}
  - {name: books, subjects: {groups: [engineering]}, allow: [ledger], reauth_within: 1ms}
  - {name: nobody sees salaries, subjects: {groups: [engineering]}, deny: [payroll], reason: Salaries are for accounting. Ask it-help.}
`

// world starts a gateway with a login provider and an echo, all real, and sets
// GATEWAY, FINGERPRINT and ECHO.
func world(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: world")
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ends []<-chan error
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			for _, end := range ends {
				<-end
			}
		})
	}
	ts.Defer(stop)
	ts.Value(worldKey{}).(*worldHandle).stop = stop
	begin := func(f func() error) {
		end := make(chan error, 1)
		ends = append(ends, end)
		go func() { end <- f() }()
	}

	echo := listenLoopback(ts)
	begin(func() error { return serveEcho(ctx, echo) })
	idp := listenLoopback(ts)
	provider, err := devidp.New(devidp.Config{Listener: idp, Logger: slog.New(slog.DiscardHandler)})
	ts.Check(err)
	begin(func() error { return devidp.Serve(ctx, idp, provider) })
	gateway := startGateway(ctx, ts, provider.Issuer(), fmt.Sprintf(scriptPolicy, echo.Addr()))
	begin(func() error { return gateway.Serve(ctx) })
	ts.Setenv("GATEWAY", gateway.URL())
	ts.Setenv("FINGERPRINT", string(gateway.Fingerprint()))
	ts.Setenv("ECHO", echo.Addr().String())
}

// worldKey finds a script's worldHandle.
type worldKey struct{}

type worldHandle struct{ stop func() }

// stopWorld ends what world started:
//
//	stopworld
func stopWorld(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: stopworld")
	}
	ts.Value(worldKey{}).(*worldHandle).stop()
}

func listenLoopback(ts *testscript.TestScript) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	return l
}

func startGateway(ctx context.Context, ts *testscript.TestScript, issuer, policy string) *server.Server {
	folder := ts.MkAbs("gateway")
	_, err := server.InitFiles(folder, server.InitOptions{
		Hostname: "127.0.0.1", TrustDomain: "corp.example", Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0",
		ProviderName: "corp", Issuer: issuer, ClientID: "culvert",
	})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(folder, "policy.yaml"), []byte(policy), 0o600))
	l := listenLoopback(ts)
	cfg, err := server.LoadConfig(filepath.Join(folder, server.ConfigFile), nil)
	ts.Check(err)
	cfg.Listen, cfg.DrainTimeout = l.Addr().String(), time.Second
	cfg.Admin.Roles = []server.RoleConfig{{Role: "owner", Groups: []string{"admins"}}}
	ts.Check(cfg.Validate())
	gateway, err := server.New(ctx, *cfg, server.Options{Logger: slog.New(slog.DiscardHandler), Listener: l})
	ts.Check(err)
	return gateway
}

func serveEcho(ctx context.Context, l net.Listener) error {
	context.AfterFunc(ctx, func() { _ = l.Close() })
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil
		}
		conns.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			_, _ = io.Copy(conn, conn)
		})
	}
}

// scriptLogin runs culvert login --no-browser with further arguments, and does at
// the provider what ACCOUNT would:
//
//	login ACCOUNT ARG...
func scriptLogin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: login ACCOUNT ARG...")
	}
	path, err := exec.LookPath("culvert")
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"login", "--no-browser"}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "CULVERT_STATE_DIR="+ts.Getenv("CULVERT_STATE_DIR"), "CULVERT_KEYRING=file")
	cmd.Stdout = ts.Stdout()
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		fmt.Fprintln(ts.Stderr(), lines.Text())
		if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, "http://") {
			ts.Check(devidp.Login(ctx, line, args[0], devidp.DefaultPassword))
		}
	}
	ts.Check(cmd.Wait())
}

// waitFor runs a program until what it prints contains TEXT:
//
//	waitfor TEXT PROGRAM ARG...
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: waitfor TEXT PROGRAM ARG...")
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-ticker.C {
		_ = ts.Exec(args[1], args[2:]...) // its exit code is not what is waited for
		if out := ts.ReadFile("stdout"); strings.Contains(out, args[0]) {
			return
		}
	}
	ts.Fatalf("%q did not print %q within 20 s", args[1:], args[0])
}
