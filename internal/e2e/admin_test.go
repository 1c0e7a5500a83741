//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

const (
	ownersYAML    = "admin: {roles: [{role: owner, groups: [admins]}]}\n"
	managedPolicy = `version: 1
services:
  wiki: {address: %q, hostnames: [wiki.corp.example], port: 80, protocol: http}
  database:
    address: %q
    requestable: {max: 4h, approvers: {groups: [admins]}}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [wiki]}
tests:
  - {name: sales stays out, subject: {groups: [sales]}, deny: [wiki, database]}
`
)

// jsonOf runs a command with --json and decodes what it printed.
func jsonOf[T any](d *desktop, args ...string) T {
	d.t.Helper()
	out := d.must(append(args, "--json")...)
	var v T
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		d.t.Fatalf("culvert %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v
}

// An administrator changes, explains and takes back rules from a desktop; two of them cannot overwrite each other.
func TestPolicyIsManagedFromADesktop(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	document := fmt.Sprintf(managedPolicy, web(t, "wiki"), echo(t))
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: document, extra: "policy: {source: managed}\n" + ownersYAML})
	root, bob := newDesktop(t), newDesktop(t)
	root.login(g, "root-admin")
	bob.login(g, "bob")
	if r := bob.culvert("admin", "policy", "show"); r.code != 4 {
		t.Errorf("bob, who has no role: %v; want exit code 4", r)
	}
	if r := bob.culvert("ping", "wiki"); r.code != 4 {
		t.Errorf("bob before the change: %v; want exit code 4", r)
	}

	file := filepath.Join(t.TempDir(), "new.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opened := strings.Replace(document, "groups: [engineering]", "groups: [engineering, sales]", 1)
	write(opened)
	if r := root.culvert("admin", "policy", "apply", file, "--comment", "sales too"); r.code != 1 || !strings.Contains(r.stderr, "sales stays out") {
		t.Errorf("a policy that fails its own test: %v; want exit code 1 and the test's name", r)
	}
	opened = strings.Replace(opened, "deny: [wiki, database]", "allow: [wiki], deny: [database]", 1)
	write(opened)
	diff := root.must("admin", "policy", "diff", file, "--since", "30d")
	if !strings.Contains(diff, "sales") || !strings.Contains(diff, "wiki") {
		t.Errorf("the difference does not name what sales gains:\n%s", diff)
	}
	root.must("admin", "policy", "apply", file, "--comment", "sales too", "--expect", "1")
	bob.must("ping", "wiki")
	if r := root.culvert("admin", "policy", "apply", file, "--comment", "again", "--expect", "1"); r.code != 1 || !strings.Contains(r.stderr, "2") {
		t.Errorf("on top of an old version: %v; want exit code 1 and the current number", r)
	}
	if r := root.culvert("admin", "policy", "explain", "--as", "corp:sub:bob", "database"); r.code != 4 || !strings.Contains(r.stdout, "no rule") {
		t.Errorf("explain: %v; want exit code 4, as bob would get, and why", r)
	}
	if out := root.must("admin", "policy", "who", "wiki"); !strings.Contains(out, "bob@corp.example") {
		t.Errorf("who reaches the wiki:\n%s", out)
	}
	root.must("admin", "policy", "rollback", "1", "--comment", "not yet")
	if r := bob.culvert("ping", "wiki"); r.code != 4 {
		t.Errorf("bob after the rollback: %v; want exit code 4", r)
	}
	history := jsonOf[adminapi.Page[adminapi.PolicyVersion]](root, "admin", "policy", "history").Items
	if len(history) != 3 || history[0].Number != 3 || !strings.HasSuffix(history[0].Comment, "not yet") || !strings.Contains(history[0].Author, "root-admin") {
		t.Errorf("history: %+v", history)
	}
	// The preview decides what was recorded again: bob's one visit would be refused.
	eventually(t, "the index has bob's visit", func() bool {
		result := jsonOf[adminapi.DiffResult](root, "admin", "policy", "diff", file, "--since", "1d")
		return result.Preview != nil && result.Preview.Changed > 0
	})
}

// Somebody asks for a service, an administrator approves, it opens, and closes with the approval.
func TestRequestAndApproval(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(managedPolicy, web(t, "wiki"), echo(t)), extra: ownersYAML})
	ada, root := newDesktop(t), newDesktop(t)
	ada.login(g, "ada")
	root.login(g, "root-admin")
	if r := ada.culvert("ping", "database"); r.code != 4 || !strings.Contains(r.stderr, "culvert request database") {
		t.Errorf("before: %v; want exit code 4 and how to ask", r)
	}
	if r := ada.culvert("request", "database", "--for", "9h", "--reason", "on call"); r.code == 0 || !strings.Contains(r.stderr, "4h") {
		t.Errorf("longer than allowed: %v; want the limit", r)
	}
	ada.must("request", "database", "--for", "1h", "--reason", "on call")
	asked := jsonOf[adminapi.Page[adminapi.Request]](root, "admin", "requests").Items
	if len(asked) != 1 || asked[0].Reason != "on call" || asked[0].User.Name != "Ada" {
		t.Fatalf("requests: %+v", asked)
	}
	root.must("admin", "requests", "approve", asked[0].ID, "--note", "until noon")
	ada.must("ping", "database")
	forward := ada.start("forward", "database")
	local := forward.expect(`127\.0\.0\.1:\d+`)[0]
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatalf("through the approved request: %v", err)
	}
	root.must("admin", "requests", "end", asked[0].ID, "--note", "done")
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("after its end: %v, want a reset", err)
	}
	if r := ada.culvert("ping", "database"); r.code != 4 {
		t.Errorf("after its end: %v; want exit code 4", r)
	}
	// Nobody approves their own.
	root.must("request", "database", "--for", "1h", "--reason", "curious")
	own := jsonOf[adminapi.Page[adminapi.Request]](root, "admin", "requests", "--state", "pending").Items
	if len(own) != 1 {
		t.Fatalf("pending: %+v", own)
	}
	if r := root.culvert("admin", "requests", "approve", own[0].ID); r.code == 0 || !strings.Contains(r.stderr, "own") {
		t.Errorf("approving one's own: %v; want a refusal", r)
	}
}

// A rule wants a fresh login: one prompt serves all streams that wait, and they go on.
func TestStepUpAtTheProvider(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  vault: {address: %q, hostnames: [vault.corp.example], port: 80, protocol: http}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [vault], reauth_within: 2s}
`, web(t, "vault"))})
	d := newDesktop(t)
	d.login(g, "ada")
	up := d.up("--http-proxy", "127.0.0.1:0", "--no-browser")
	<-time.After(3 * time.Second) // the login must have become too old
	type answer struct {
		page string
		err  error
	}
	answers := make(chan answer, 3)
	for range cap(answers) {
		go func() {
			page, err := reads(d.proxied(), "http://vault.corp.example/")
			answers <- answer{page, err}
		}()
	}
	address := up.expect(`(?m)^(http://127\.0\.0\.1:\S+)$`)[1]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if page, err := newBrowser(person("ada")).visit(ctx, address); err != nil {
		t.Fatalf("the fresh login: %v\n%s", err, page)
	}
	for range cap(answers) {
		if a := <-answers; a.err != nil || a.page != "vault says /" {
			t.Errorf("a request that waited: %q, %v", a.page, a.err)
		}
	}
	if n := strings.Count(up.lines.String(), "\nhttp://127.0.0.1:"); n != 1 {
		t.Errorf("%d prompts, want one for all:\n%s", n, up.lines)
	}
}

// The provider says that a session is over, and whoever has it is cut off at once.
func TestBackChannelLogout(t *testing.T) {
	t.Parallel()
	listen := freePort(t)
	p := startProvider(t, "id_token", "BACKCHANNEL_LOGOUT_URI=https://"+listen+"/v1/logout/corp",
		"NODE_TLS_REJECT_UNAUTHORIZED=0") // the gateway's certificate is self-issued
	g := startGateway(t, gatewayConfig{issuer: p.issuer, listen: listen, policy: fmt.Sprintf(wikiPolicy, web(t, "wiki"))})
	d := newDesktop(t)
	b := newBrowser(person("ada"))
	d.loginWith(g, b)
	d.up("--http-proxy", "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	if page, err := b.visit(ctx, p.issuer+"/session/end"); err != nil {
		t.Fatalf("the provider's logout: %v\n%s", err, page)
	}
	eventually(t, "the client is cut off", func() bool { return d.status()["state"] != "connected" })
	t.Logf("cut off %v after the visit began", time.Since(began))
	if r := d.culvert("ping", "wiki"); r.code != 3 {
		t.Errorf("afterwards: %v; want exit code 3", r)
	}
	// A new login is free.
	d2 := newDesktop(t)
	d2.login(g, "ada")
	d2.must("ping", "wiki")
	if !g.recorded("logout.backchannel") {
		t.Error("the audit log has no logout")
	}
}

// recorded reports whether the audit log has an event.
func (g *gateway) recorded(event string) bool {
	for _, record := range g.audit() {
		if record["event"] == event {
			return true
		}
	}
	return false
}
