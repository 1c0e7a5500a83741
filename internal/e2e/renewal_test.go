//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// Certificates of 60 s, and a stream that lives 5 min: it does not notice the
// renewals. Then the user is disabled at the provider: the stream is cut when
// the certificate in force expires, and the client says why.
func TestRenewalsKeepAStreamAliveUntilTheUserIsDisabled(t *testing.T) {
	t.Parallel()
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, extra: "certificates: {ttl: 1m}\n", policy: fmt.Sprintf(`version: 1
services:
  echo: {address: %q}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [echo]}
`, echo(t))})
	d := newDesktop(t)
	d.login(g, "ada")
	d.up("-L", "echo")
	local := d.offers()["forward"]
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	exchange := func(n int) error {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		line := fmt.Sprintf("line %d\n", n)
		if _, err := io.WriteString(conn, line); err != nil {
			return err
		}
		got := make([]byte, len(line))
		if _, err := io.ReadFull(conn, got); err != nil {
			return err
		}
		if string(got) != line {
			return fmt.Errorf("sent %q, got %q", line, got)
		}
		return nil
	}
	serials := map[any]bool{}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	begun, n := time.Now(), 0
	for ; time.Since(begun) < 5*time.Minute; n++ {
		if err := exchange(n); err != nil {
			t.Fatalf("after %v: %v", time.Since(begun), err)
		}
		if n%10 == 0 {
			s := d.status()
			serials[s["session"].(map[string]any)["certificate_serial"]] = true
			if s["state"] != "connected" {
				t.Errorf("after %v: state %v, reason %v", time.Since(begun), s["state"], s["reason"])
			}
		}
		<-ticker.C
	}
	if len(serials) < 5 {
		t.Errorf("%d certificates in 5 min, want 5 at least: they last 60 s", len(serials))
	}

	p.control(t, "disable?sub=ada")
	disabled := time.Now()
	for ; err == nil; n++ {
		if time.Since(disabled) > 75*time.Second {
			t.Fatal("75 s after the user was disabled the stream still carries bytes")
		}
		err = exchange(n)
		<-ticker.C
	}
	t.Logf("cut %v after the user was disabled: %v", time.Since(disabled).Round(time.Second), err)
	d.waitState("expired")
	s := d.status()
	if text := fmt.Sprint(s["reason"], s["remedy"]); !strings.Contains(text, "culvert login") {
		t.Errorf("the status does not say what helps: %v", s)
	}
	if r := d.culvert("connect", "echo"); r.code != 3 {
		t.Errorf("connect after the session's end: %v; want exit code 3", r)
	}
}
