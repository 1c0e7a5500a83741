//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// A service that says nothing itself ends its own direction at once, and then reads what comes in its own time. connect reports success only
// for an upload that such a service gets whole.
func TestFaultUploadToAServiceThatEndedItsSide(t *testing.T) {
	t.Parallel()
	got := make(chan error, 1)
	want := randomBytes(t, 16<<20)
	addr := tcpService(t, func(conn *net.TCPConn) {
		_ = conn.SetReadBuffer(64 << 10)
		_ = conn.CloseWrite()
		data, err := io.ReadAll(slowly{conn})
		if err == nil && !bytes.Equal(data, want) {
			err = fmt.Errorf("%d of %d bytes and a clean end", len(data), len(want))
		} else if err != nil {
			err = fmt.Errorf("%d of %d bytes: %w", len(data), len(want), err)
		}
		got <- err
	})
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  sink: {address: %q}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [sink]}
`, addr)})
	d := newDesktop(t)
	d.login(g, "ada")
	r := run(t, d.env, bytes.NewReader(want), program(t, "culvert"), "connect", "sink")
	if err := <-got; r.code == 0 && err != nil {
		t.Errorf("connect reported success; the service got %v", err)
	}
}

// slowly reads some 12 MB a second.
type slowly struct{ io.Reader }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return s.Reader.Read(p[:min(len(p), 64<<10)])
}
