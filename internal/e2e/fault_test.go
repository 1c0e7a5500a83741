//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"
)

// Fault "gateway killed mid-stream": 50 downloads are under way when the
// gateway is killed. Each ends with an error at the program that downloads,
// none looks complete; and the client is back within 5 s of the gateway's
// return.
func TestFaultGatewayKilledDuringDownloads(t *testing.T) {
	t.Parallel()
	const half = 4 << 20
	killed := make(chan struct{})
	chunk := randomBytes(t, half)
	service := tcpService(t, func(conn *net.TCPConn) {
		if _, err := conn.Write(chunk); err != nil {
			return
		}
		var one [1]byte
		if n, _ := conn.Read(one[:]); n == 0 || one[0] != 'c' { // 'c': complete at once
			<-killed
		}
		_, _ = conn.Write(chunk)
	})
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  files: {address: %q, hostnames: [files.corp.example], port: 80}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [files]}
`, service)})
	d := newDesktop(t)
	d.login(g, "ada")
	d.up("--socks", "127.0.0.1:0")
	dialer, err := proxy.SOCKS5("tcp", d.offers()["socks5"], nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	download := func(how string, begun func()) (int64, error) {
		conn, err := dialer.Dial("tcp", "files.corp.example:80")
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(2 * patience))
		if _, err := conn.Write([]byte(how)); err != nil {
			return 0, err
		}
		first, err := io.CopyN(io.Discard, conn, half)
		begun()
		if err != nil {
			return first, err
		}
		rest, err := io.Copy(io.Discard, conn)
		return first + rest, err
	}
	if n, err := download("c", func() {}); n != 2*half || err != nil {
		t.Fatalf("a download with a living gateway: %d bytes, %v", n, err)
	}

	var begun, ended sync.WaitGroup
	results := make([]error, 50)
	sizes := make([]int64, 50)
	for i := range results {
		begun.Add(1)
		ended.Go(func() { sizes[i], results[i] = download("w", begun.Done) })
	}
	begun.Wait()
	g.proc.kill()
	close(killed)
	ended.Wait()
	for i, err := range results {
		var timeout net.Error
		switch {
		case err == nil && sizes[i] != 2*half:
			t.Errorf("download %d looks complete after %d of %d bytes", i, sizes[i], 2*half)
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Errorf("download %d hangs after %d bytes", i, sizes[i])
		case err == nil:
			t.Errorf("download %d is complete although the gateway was killed before its second half was sent", i)
		}
	}
	d.waitState("reconnecting")

	g.start()
	returned := time.Now()
	d.waitState("connected")
	if took := time.Since(returned); took > 5*time.Second {
		t.Errorf("connected %v after the gateway's return, want 5 s at most", took)
	}
	if n, err := download("c", func() {}); n != 2*half || err != nil {
		t.Errorf("a download after the gateway's return: %d bytes, %v", n, err)
	}
	// The recovery has written the closing records that the crash left out.
	opened := map[any]bool{}
	for _, record := range g.audit() {
		switch record["event"] {
		case "stream.open":
			opened[record["stream"]] = true
		case "stream.close":
			if record["condition"] == nil && record["reason"] != "process died" {
				t.Errorf("a closing record that does not say why: %v", record)
			}
			delete(opened, record["stream"])
		}
	}
	// The last download may still be closing; those of the killed process may not.
	if len(opened) > 1 {
		t.Errorf("%d streams of the killed gateway have no closing record", len(opened))
	}
}
