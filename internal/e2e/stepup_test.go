//go:build linux

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/devidp"
)

// startDevIDP runs a provider that a test can tell what to do, in this process.
func startDevIDP(t testing.TB) *devidp.Provider {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	idp, err := devidp.New(devidp.Config{Listener: srv.Listener})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = idp
	srv.Start()
	t.Cleanup(srv.Close)
	return idp
}

// signInAt is a line that holds nothing but an address of the provider.
const signInAt = `(?m)^(http://127\.0\.0\.1:\S+)$`

// loginDev logs in as an account of devidp.
func (d *desktop) loginDev(g *gateway, account string) {
	d.t.Helper()
	p := d.start(append([]string{"login", g.url, "--no-browser"}, g.trust()...)...)
	if err := devidp.Login(d.t.Context(), p.expect(signInAt)[1], account, devidp.DefaultPassword); err != nil {
		d.t.Fatal(err)
	}
	<-p.done
	if p.err != nil {
		d.t.Fatalf("culvert login: %v\n%s", p.err, p.lines)
	}
}

// stepUpWorld is a gateway whose service db wants a login of the last 15 minutes, and a desktop whose login is an hour old.
func stepUpWorld(t *testing.T) (*devidp.Provider, *gateway, *desktop) {
	t.Helper()
	idp := startDevIDP(t)
	if err := idp.RememberLogin("ada", time.Hour); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, gatewayConfig{issuer: idp.Issuer(), policy: fmt.Sprintf(`version: 1
services:
  db: {address: %q}
  wiki: {address: %q}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [wiki]}
  - {name: dba, subjects: {groups: [engineering]}, allow: [db], reauth_within: 15m}
`, echo(t), echo(t))})
	d := newDesktop(t)
	d.loginDev(g, "ada")
	return idp, g, d
}

// say sends a line and wants it back.
func say(t testing.TB, conn net.Conn, line string) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}

// A service that wants a fresh login gets it, once for every stream that waits, and the streams go on.
func TestFreshLoginForStreamsThatWait(t *testing.T) {
	t.Parallel()
	_, g, d := stepUpWorld(t)
	p := d.start("up", "--no-browser", "-L", "db", "-L", "wiki")
	d.waitState("connected")
	lines := map[string]string{}
	for _, name := range []string{"db", "wiki"} {
		lines[name] = p.expect(`(127\.0\.0\.1:\d+) leads to ` + name)[1]
	}
	const asks = "asks for a fresh login (at most 15m old; yours is 1h"
	if list, db := d.must("services"), d.must("explain", "db"); strings.Count(list, asks) != 1 || !strings.Contains(db, "you may reach it; it "+asks) {
		t.Errorf("before the fresh login:\n%s\n%s", list, db)
	}
	wiki := dial(t, lines["wiki"])
	say(t, wiki, "no question asked")
	var waiting []net.Conn
	for range 3 {
		waiting = append(waiting, dial(t, lines["db"]))
	}
	for i, conn := range waiting {
		fmt.Fprintf(conn, "early %d\n", i)
	}
	address := p.expect(signInAt)[1]
	eventually(t, "the status names the request", func() bool { return strings.Contains(d.must("status"), "fresh login") })
	// Another program of the same person waits too, and is told where to go.
	other := d.start("connect", "db")
	if told := other.expect(signInAt)[1]; told != address {
		t.Errorf("connect says %s, up says %s", told, address)
	}
	if err := devidp.Login(t.Context(), address, "ada", devidp.DefaultPassword); err != nil {
		t.Fatal(err)
	}
	for i, conn := range waiting {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != fmt.Sprintf("early %d\n", i) {
			t.Errorf("stream %d: %q, %v", i, got, err)
		}
	}
	p.expect("signed in afresh")
	if list := d.must("services"); strings.Contains(list, asks) {
		t.Errorf("after the fresh login:\n%s", list)
	}
	fmt.Fprintln(other.stdin, "through the other program")
	other.expect("through the other program")
	say(t, wiki, "and the old stream goes on")
	say(t, dial(t, lines["db"]), "nobody is asked again")
	if n := len(regexp.MustCompile(signInAt).FindAllString(p.lines.String(), -1)); n != 1 {
		t.Errorf("asked %d times:\n%s", n, p.lines)
	}
	issued := 0
	for _, r := range g.audit() {
		if r["event"] == "enroll.issued" && r["detail"] == "step-up" {
			issued++
		}
	}
	if issued != 1 {
		t.Errorf("%d certificates by step-up in the audit log", issued)
	}
}

func dial(t testing.TB, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Two programs that each have a connection of their own ask once, and a no of the one is the other's too.
func TestFreshLoginOverTwoProcesses(t *testing.T) {
	t.Parallel()
	_, _, d := stepUpWorld(t)
	both := func() (asked, other *process, address string) {
		t.Helper()
		one, two := d.start("connect", "--no-browser", "db"), d.start("connect", "--no-browser", "db")
		eventually(t, "one of them asks", func() bool { return asks(one) || asks(two) })
		if asks(two) {
			one, two = two, one
		}
		return one, two, one.expect(signInAt)[1]
	}

	asked, other, address := both()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := (devidp.Browser{}).Cancel(ctx, address); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{asked, other} {
		<-p.done
		if code := p.cmd.ProcessState.ExitCode(); code != 4 {
			t.Errorf("exit code %d of a declined login, want 4:\n%s", code, p.lines)
		}
		p.expect("cancelled")
	}
	if asks(other) {
		t.Errorf("the other program asked as well:\n%s", other.lines)
	}

	d.forgetDecline()
	asked, other, address = both()
	if err := devidp.Login(t.Context(), address, "ada", devidp.DefaultPassword); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{asked, other} {
		fmt.Fprintln(p.stdin, "it goes on")
		p.expect("it goes on")
	}
	if asks(other) {
		t.Errorf("the other program asked as well:\n%s", other.lines)
	}
}

// forgetDecline lets the few seconds pass for which nobody is asked again after a no.
func (d *desktop) forgetDecline() {
	d.t.Helper()
	dir := strings.TrimPrefix(d.env[0], "CULVERT_STATE_DIR=")
	if err := os.Remove(filepath.Join(dir, "profiles", "default", "stepup.json")); err != nil {
		d.t.Fatal(err)
	}
}

func asks(p *process) bool { return regexp.MustCompile(signInAt).MatchString(p.lines.String()) }

// Somebody logs out at the provider, and the tunnel ends within a second.
func TestLogoutAtTheProvider(t *testing.T) {
	t.Parallel()
	idp, g, d := stepUpWorld(t)
	p := d.up("-L", "wiki")
	conn := dial(t, p.expect(`(127\.0\.0\.1:\d+) leads to wiki`)[1])
	say(t, conn, "before the logout")
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the gateway's certificate is self-issued
	t.Cleanup(transport.CloseIdleConnections)
	if err := idp.NotifyLogout("culvert", g.url+"/v1/logout/corp", &http.Client{Transport: transport}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := idp.EndSession(t.Context(), "ada"); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("it took %s", took)
	}
	eventually(t, "the client says that it is over", func() bool { return d.status()["state"] != "connected" })
	if r := d.culvert("ping", "wiki"); r.code != 3 && r.code != 4 {
		t.Errorf("ping after the logout: %v", r)
	}
}

// The certified provider honours max_age and prompt by its own rules, with a session of its own in the browser.
func TestFreshLoginAtTheIndependentProvider(t *testing.T) {
	t.Parallel()
	const fresh = 5 * time.Second
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  db: {address: %q}
rules:
  - {name: dba, subjects: {groups: [engineering]}, allow: [db], reauth_within: %s}
`, echo(t), fresh)})
	d := newDesktop(t)
	d.login(g, "ada")
	loggedIn := time.Now()
	eventually(t, "the login is old", func() bool { return time.Since(loggedIn) > fresh+time.Second })
	c := d.start("connect", "--no-browser", "db")
	address := c.expect(signInAt)[1]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if page, err := newBrowser(person("ada")).visit(ctx, address); err != nil {
		t.Fatalf("%v\n%s", err, page)
	}
	fmt.Fprintln(c.stdin, "signed in again")
	c.expect("signed in again")
}
