//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// Fault "database down or failing over": what is open goes on; the last view of the locks
// holds for database_hold, and then nothing new is opened; rules marked strict do not
// wait for that; nobody gets a certificate meanwhile. All of it comes back by itself.
func TestFaultDatabaseLost(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	c := startPair(t, p.issuer, fmt.Sprintf(`version: 1
services:
  echo: {address: %q, hostnames: [echo.corp.example], port: 80}
  vault: {address: %q, hostnames: [vault.corp.example], port: 80}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [echo]}
  - {name: the vault, subjects: {groups: [engineering]}, allow: [vault], strict: true}
`, echo(t), echo(t)), "", "database_hold: 8s\n")
	g := c.gateways[0]
	ada := newDesktop(t)
	ada.login(g, "ada")
	ada.up("--socks", "127.0.0.1:0")
	socks, err := proxy.SOCKS5("tcp", ada.offers()["socks5"], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	talk := func(conn net.Conn) error {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, "x"); err != nil {
			return err
		}
		_, err := conn.Read(make([]byte, 1))
		return err
	}
	open := func(host string) error {
		conn, err := socks.Dial("tcp", host+".corp.example:80")
		if err != nil {
			return err
		}
		defer conn.Close()
		return talk(conn)
	}
	working, err := socks.Dial("tcp", "echo.corp.example:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { working.Close() })
	if err := errors.Join(talk(working), open("vault")); err != nil {
		t.Fatalf("with the database: %v", err)
	}

	if err := c.postgres.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := open("echo"); err != nil {
		t.Errorf("a new stream within the hold: %v", err)
	}
	eventually(t, "a strict rule denies", func() bool { return open("vault") != nil })
	if r := ada.culvert("ping", "vault"); !strings.Contains(r.stderr, "strict") && !strings.Contains(r.stderr, "database") {
		t.Errorf("a strict rule without the database: %v; want the cause", r)
	}
	bob := newDesktop(t)
	login := bob.start("login", g.url, "--ca-fingerprint", g.fingerprint, "--no-browser")
	address := login.expect(`(?m)^(http://127\.0\.0\.1:\S+)$`)[1]
	_, _ = newBrowser(person("bob")).visit(t.Context(), address)
	<-login.done
	if login.err == nil || !strings.Contains(login.lines.String(), "cannot issue") && !strings.Contains(login.lines.String(), "try again") {
		t.Errorf("a login without the database ended with %v:\n%s", login.err, login.lines)
	}
	eventually(t, "after the hold nothing new is opened", func() bool { return open("echo") != nil })
	if r := ada.culvert("ping", "echo"); r.code == 0 || !strings.Contains(r.stderr, "unavailable") && !strings.Contains(r.stderr, "cannot check") {
		t.Errorf("after the hold: %v; want that it is unavailable", r)
	}
	if err := talk(working); err != nil {
		t.Errorf("the stream that was open: %v", err)
	}

	if err := c.postgres.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "with the database everything opens again", func() bool { return open("echo") == nil && open("vault") == nil })
	if err := talk(working); err != nil {
		t.Errorf("the stream that was open all the time: %v", err)
	}
	bob.login(g, "bob")
	if r := bob.culvert("ping", "echo"); r.code != 4 {
		t.Errorf("bob: %v; want exit code 4", r)
	}
}
