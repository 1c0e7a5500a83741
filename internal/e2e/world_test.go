//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A provider is the independent OpenID provider.
type provider struct {
	issuer string
}

// startProvider runs the provider; groups is "id_token" or "userinfo", env is for what else it reads from the environment.
func startProvider(t testing.TB, groups string, env ...string) *provider {
	t.Helper()
	modules := testenv.NeedNodeModule(t, "oidc-provider")
	p := start(t, append([]string{"CULVERT_TEST_NODE_MODULES=" + modules, "GROUPS=" + groups}, env...),
		testenv.NeedTool(t, "node"), filepath.Join("testdata", "provider", "provider.mjs"))
	return &provider{issuer: p.expect(`\{"issuer":"([^"]+)"\}`)[1]}
}

// control changes an account: "disable?sub=ada", "groups?sub=ada&groups=sales".
func (p *provider) control(t testing.TB, what string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Post(p.issuer+"/control/"+what, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatalf("provider control %s: %s", what, resp.Status)
	}
}

// A gateway is the real program on files that its own init wrote.
type gateway struct {
	t           testing.TB
	dir         string
	url         string
	fingerprint string
	caFile      string // of a certificate that is not self-issued
	listen      string
	proc        *process
}

// gatewayConfig is what differs between tests.
type gatewayConfig struct {
	policy    string // YAML
	issuer    string
	providers string // further keys of the provider, indented by four spaces
	extra     string // further YAML at the top level
	listen    string // default: a free port
}

// startGateway initialises a gateway in a new folder and starts it.
func startGateway(t testing.TB, cfg gatewayConfig) *gateway {
	t.Helper()
	g := newGateway(t, cfg)
	g.start()
	return g
}

// newGateway initialises a gateway in a new folder.
func newGateway(t testing.TB, cfg gatewayConfig) *gateway {
	t.Helper()
	if cfg.listen == "" {
		cfg.listen = freePort(t)
	}
	g := &gateway{t: t, dir: filepath.Join(t.TempDir(), "gw"), listen: cfg.listen}
	init := run(t, nil, nil, program(t, "culvert-gateway"), "init", "--dir", g.dir,
		"--hostname", "127.0.0.1", "--trust-domain", "corp.example", "--listen", g.listen)
	if init.code != 0 {
		t.Fatalf("init: %v", init)
	}
	g.writePolicy(cfg.policy)
	config := fmt.Sprintf(`hostname: 127.0.0.1
trust_domain: corp.example
listen: %q
drain_timeout: 2s
metrics: {listen: ""}
providers:
  - name: corp
    issuer: %q
    client_id: culvert
    extra_auth_params: {prompt: consent} # this provider gives a refresh token only then (OpenID Connect Core, section 11)
%s%s`, g.listen, cfg.issuer, cfg.providers, cfg.extra)
	if err := os.WriteFile(g.config(), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gateway) config() string { return filepath.Join(g.dir, "gateway.yaml") }

func (g *gateway) writePolicy(text string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "policy.yaml"), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// start runs the gateway on its files, a first time or after it was killed.
func (g *gateway) start() {
	g.t.Helper()
	g.proc = start(g.t, nil, program(g.t, "culvert-gateway"), "serve", "--config", g.config())
	login := g.proc.expect(`culvert login (https://[^\s"]+)(?: --ca-fingerprint (sha256:[0-9a-f]{64}))?`)
	g.url, g.fingerprint = login[1], login[2]
}

// trust are the flags of a login that say whom to trust.
func (g *gateway) trust() []string {
	if g.caFile != "" {
		return []string{"--ca-file", g.caFile}
	}
	return []string{"--ca-fingerprint", g.fingerprint}
}

// admin runs a command of "culvert-gateway admin" on this gateway, as root.
func (g *gateway) admin(args ...string) result {
	g.t.Helper()
	return run(g.t, nil, nil, program(g.t, "culvert-gateway"), append([]string{"admin", "--config", g.config()}, args...)...)
}

// audit returns the records that the gateway has written, oldest first.
func (g *gateway) audit() []map[string]any {
	g.t.Helper()
	files, err := filepath.Glob(filepath.Join(g.dir, "state", "audit", "*"))
	if err != nil {
		g.t.Fatal(err)
	}
	var records []map[string]any
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			g.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			var record map[string]any
			if json.Unmarshal([]byte(line), &record) == nil {
				records = append(records, record)
			}
		}
	}
	return records
}

// freePort returns a loopback address that nobody listened on a moment ago, for
// a program that must be told its port.
func freePort(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A desktop is one person's machine: a state folder and the real program.
type desktop struct {
	t   testing.TB
	env []string
}

func newDesktop(t testing.TB) *desktop {
	t.Helper()
	return &desktop{t, []string{"CULVERT_STATE_DIR=" + filepath.Join(t.TempDir(), "state"), "DBUS_SESSION_BUS_ADDRESS=",
		"HTTPS_PROXY=", "https_proxy=", "NO_PROXY=", "no_proxy="}}
}

// culvert runs a command to its end.
func (d *desktop) culvert(args ...string) result {
	d.t.Helper()
	return run(d.t, d.env, nil, program(d.t, "culvert"), args...)
}

// must is culvert for a command that has to succeed; it returns its output.
func (d *desktop) must(args ...string) string {
	d.t.Helper()
	r := d.culvert(args...)
	if r.code != 0 {
		d.t.Fatalf("culvert %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// start runs a command that stays.
func (d *desktop) start(args ...string) *process {
	d.t.Helper()
	return start(d.t, d.env, program(d.t, "culvert"), args...)
}

// login logs in at the gateway as somebody whom the independent provider knows.
func (d *desktop) login(g *gateway, name string) {
	d.t.Helper()
	d.loginWith(g, newBrowser(person(name)))
}

// loginWith logs in with a browser that keeps the provider's session.
func (d *desktop) loginWith(g *gateway, b *browser) {
	d.t.Helper()
	p := d.start(append([]string{"login", g.url, "--no-browser"}, g.trust()...)...)
	address := p.expect(`(?m)^(http://127\.0\.0\.1:\S+)$`)[1]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if page, err := b.visit(ctx, address); err != nil {
		d.t.Fatalf("login as %s: %v\n%s", b.fields["login"], err, page)
	}
	<-p.done
	if p.err != nil {
		d.t.Fatalf("culvert login: %v\n%s", p.err, p.lines)
	}
}

// up starts the client in the foreground and waits until it is connected.
func (d *desktop) up(args ...string) *process {
	d.t.Helper()
	p := d.start(append([]string{"up"}, args...)...)
	d.waitState("connected")
	return p
}

// status returns the client's own word, as programs get it.
func (d *desktop) status() map[string]any {
	d.t.Helper()
	r := d.culvert("status", "--json")
	var s map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		d.t.Fatalf("culvert status --json: %v\n%v", err, r)
	}
	return s
}

// waitState waits for a state, as `culvert status --watch --json` reports it.
func (d *desktop) waitState(want string) {
	d.t.Helper()
	eventually(d.t, "the client is "+want, func() bool { return d.status()["state"] == want })
}
