//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const wikiPolicy = `version: 1
services:
  wiki: {address: %q, hostnames: [wiki.corp.example], port: 80, protocol: http}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [wiki]}
`

// Groups come from the ID token or from userinfo; either way the rules see them.
func TestGroupsFromTheIDTokenAndFromUserinfo(t *testing.T) {
	t.Parallel()
	for _, source := range []string{"id_token", "userinfo"} {
		p := startProvider(t, source)
		g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki")),
			providers: "    groups_source: " + source + "\n"})
		for name, allowed := range map[string]bool{"ada": true, "bob": false} {
			d := newDesktop(t)
			d.login(g, name)
			var list []struct {
				Name    string `json:"name"`
				Allowed bool   `json:"allowed"`
			}
			out := d.must("services", "--json")
			if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].Allowed != allowed {
				t.Errorf("%s with groups from %s: services %s (%v), want allowed %v", name, source, out, err, allowed)
			}
		}
	}
}

func TestDeviceCodeLogin(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki")), providers: "    device: gateway\n"})
	d := newDesktop(t)
	proc := d.start("login", g.url, "--ca-fingerprint", g.fingerprint, "--device-code")
	address := proc.expect(`(http://127\.0\.0\.1:\S+/device\S*user_code=\S+)`)[1]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if page, err := newBrowser(person("ada")).visit(ctx, address); err != nil {
		t.Fatalf("the provider's device pages: %v\n%s", err, page)
	}
	<-proc.done
	if proc.err != nil {
		t.Fatalf("culvert login --device-code: %v\n%s", proc.err, proc.lines)
	}
	if out := d.must("ping", "wiki"); out == "" {
		t.Error("ping printed nothing")
	}
}

// A device login is off unless the operator turns it on.
func TestDeviceCodeLoginIsOffByDefault(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki"))})
	r := newDesktop(t).culvert("login", g.url, "--ca-fingerprint", g.fingerprint, "--device-code")
	if r.code != 1 || !strings.Contains(r.stderr, "device") {
		t.Errorf("%v; want exit code 1 and a word about device logins", r)
	}
}

// What goes wrong is said, with what helps, and nothing is lost.
func TestBadInputEndsInAClearError(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki"))})
	closed := freePort(t)
	notAGateway := web(t, "a web page")
	d := newDesktop(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"not logged in", []string{"services"}, 3, []string{"not logged in", "culvert login"}},
		{"no address", []string{"login"}, 2, []string{"culvert login"}},
		{"wrong fingerprint", []string{"login", g.url, "--ca-fingerprint", "sha256:" + strings.Repeat("00", 32), "--no-browser"}, 1, []string{"fingerprint"}},
		{"no fingerprint", []string{"login", g.url, "--no-browser"}, 1, []string{"--ca-fingerprint"}},
		{"malformed fingerprint", []string{"login", g.url, "--ca-fingerprint", "abc", "--no-browser"}, 2, []string{"sha256:"}},
		{"nobody there", []string{"login", "https://" + closed, "--no-browser"}, 5, []string{closed}},
		{"not TLS", []string{"login", "https://" + notAGateway, "--no-browser"}, 5, []string{notAGateway, "HTTPS"}},
		{"plain http", []string{"login", "http://" + notAGateway, "--no-browser"}, 2, []string{"https"}},
		{"unknown command", []string{"lgoin"}, 2, []string{"lgoin", "login"}},
		{"unknown flag", []string{"up", "--sock", "x"}, 2, []string{"--sock"}},
		{"not loopback", []string{"up", "--socks", "0.0.0.0:1080"}, 2, []string{"loopback"}},
		{"profile name", []string{"--profile", "../x", "status"}, 2, []string{"profile"}},
	} {
		r := d.culvert(tt.args...)
		if r.code != tt.code {
			t.Errorf("%s: %v; want exit code %d", tt.name, r, tt.code)
		}
		for _, want := range tt.want {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("%s: stderr %q lacks %q", tt.name, r.stderr, want)
			}
		}
		if !strings.HasPrefix(r.stderr, "culvert: ") {
			t.Errorf("%s: stderr %q does not begin with the program's name", tt.name, r.stderr)
		}
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki"))})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	d := newDesktop(t)
	d.login(g, "ada")
	if r := d.culvert("up", "--socks", taken.Addr().String()); r.code != 1 || !strings.Contains(r.stderr, taken.Addr().String()) {
		t.Errorf("up on a taken port: %v", r)
	}
	// A second gateway on the same folder, and one on the same port.
	if r := run(t, nil, nil, program(t, "culvert-gateway"), "serve", "--config", g.config()); r.code != 1 || !strings.Contains(r.stderr, "another") {
		t.Errorf("a second gateway on one state folder: %v", r)
	}
}

// A corrupt state file is kept aside, never overwritten, and a login mends it.
func TestACorruptStateFileIsKeptAside(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki"))})
	d := newDesktop(t)
	d.login(g, "ada")
	state := strings.TrimPrefix(d.env[0], "CULVERT_STATE_DIR=")
	files, _ := filepath.Glob(filepath.Join(state, "profiles", "*", "login.json"))
	if len(files) != 1 {
		t.Fatalf("login files %v, want one", files)
	}
	if err := os.WriteFile(files[0], []byte(`{"version":1, broken`), 0o600); err != nil {
		t.Fatal(err)
	}
	r := d.culvert("services")
	if r.code == 0 || !strings.Contains(r.stderr, ".corrupt-") {
		t.Errorf("with a corrupt state file: %v; want an error that names where it is kept", r)
	}
	aside, _ := filepath.Glob(files[0] + ".corrupt-*")
	if len(aside) != 1 {
		t.Fatalf("kept aside: %v", aside)
	}
	if kept, _ := os.ReadFile(aside[0]); string(kept) != `{"version":1, broken` {
		t.Errorf("what is kept aside holds %q", kept)
	}
	d.login(g, "ada")
	d.must("services")
}

// A broken policy is refused and the rules in force stay; a good one takes hold
// of open streams.
func TestPolicyReload(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	wiki := web(t, "wiki")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(wikiPolicy, wiki)})
	d := newDesktop(t)
	d.login(g, "ada")
	d.up("--socks", "127.0.0.1:0", "-L", "wiki")
	conn, err := net.Dial("tcp", d.offers()["forward"])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	get := func() (string, error) {
		if _, err := fmt.Fprintf(conn, "GET /x HTTP/1.1\r\nHost: wiki\r\n\r\n"); err != nil {
			return "", err
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		return string(buf[:n]), err
	}
	if page, err := get(); err != nil || !strings.Contains(page, "wiki says /x") {
		t.Fatalf("before: %q, %v", page, err)
	}
	g.writePolicy("version: 1\nservices: {wiki: {adress: nowhere}}\n")
	g.proc.expect(`policy\.yaml:2:\d+: unknown key .?"adress`)
	if page, err := get(); err != nil || !strings.Contains(page, "wiki says /x") {
		t.Fatalf("after a broken policy: %q, %v", page, err)
	}
	g.writePolicy(fmt.Sprintf(strings.Replace(wikiPolicy, "engineering", "nobody", 1), wiki))
	eventually(t, "the open stream is cut", func() bool {
		_, err := get()
		return err != nil
	})
	if r := d.culvert("connect", "wiki"); r.code != 4 {
		t.Errorf("connect after the change: %v; want exit code 4", r)
	}
}
