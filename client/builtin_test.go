package client

import (
	"errors"
	"testing"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// TestThreatBuiltInServicesAreNotOffered: what fronts call never opens a service inside the gateway, and what opens those never opens
// another one (admin without authorization, NetBird GHSA-rxmp).
func TestThreatBuiltInServicesAreNotOffered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		var refusal *wire.Refusal
		for _, target := range []wire.Target{
			wire.ServiceTarget(wire.KindTCP, "culvert-admin"), wire.ServiceTarget(wire.KindUDP, "CULVERT-self"), wire.HostTarget(wire.KindTCP, "culvert-admin", 80),
		} {
			if _, err := b.c.Open(t.Context(), target, OpenOptions{Wait: true}); !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchService {
				t.Errorf("open %s: %v", target, err)
			}
			if _, err := b.c.Dialer(true)(t.Context(), target); !errors.As(err, &refusal) {
				t.Errorf("dial %s: %v", target, err)
			}
		}
		if _, err := b.c.OpenBuiltIn(t.Context(), "wiki"); err == nil {
			t.Error("wiki was opened as a built-in service")
		}
		if stream, err := b.c.OpenBuiltIn(t.Context(), "culvert-admin"); err != nil || stream == nil {
			t.Errorf("open culvert-admin: %v", err)
		}
	})
}
