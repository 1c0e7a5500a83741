package client

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A gateway that lies about its services draws neither the internet nor the desktop's own addresses to itself, nor the
// login provider, to which people type their passwords.
func TestThreatGatewayAnnouncesWhatIsNotItsOwn(t *testing.T) {
	login := &Login{URL: "https://GW.example:8443", Tunnel: "[2001:db8::7]:8443",
		Identity: auth.Identity{Issuer: "https://idp.example/realm"}}
	own := login.ownHosts()
	for _, name := range []string{"gw.example", "Idp.Example.", "localhost", "a.localhost", "127.0.0.1", "::1", "::ffff:127.0.0.1", "2001:db8::7"} {
		kept, refused := withoutOverreach([]wire.Service{{Name: "x", Hostnames: []string{name, "wiki.example"}}}, own)
		if !slices.Equal(kept[0].Hostnames, []string{"wiki.example"}) || !slices.Equal(refused, []string{name}) {
			t.Errorf("%s: kept %q, refused %q", name, kept[0].Hostnames, refused)
		}
	}
	for _, network := range []string{"0.0.0.0/0", "128.0.0.0/1", "::/0", "2000::/3", "127.0.0.0/8", "127.0.0.1/32", "::1/128", "::/64",
		"169.254.169.254/32", "169.0.0.0/8", "fe80::/64", "2001:db8::/32"} {
		given := []wire.Service{{Name: "x", Networks: []netip.Prefix{netip.MustParsePrefix(network)}}}
		kept, refused := withoutOverreach(given, own)
		if len(kept) != 1 || len(kept[0].Networks) != 0 || !slices.Equal(refused, []string{network}) {
			t.Errorf("%s: kept %v, refused %q", network, kept, refused)
		}
		if len(given[0].Networks) != 1 {
			t.Error("what was given was changed")
		}
	}
	honest := wire.Service{Name: "x", Hostnames: []string{"wiki", "wiki.gw.example", "idp.example.org"}}
	for _, network := range []string{"10.0.0.0/8", "10.20.0.7/32", "fc00::/7", "2001:db9::/32"} {
		honest.Networks = append(honest.Networks, netip.MustParsePrefix(network))
	}
	kept, refused := withoutOverreach([]wire.Service{honest}, own)
	if len(refused) != 0 || !slices.Equal(kept[0].Hostnames, honest.Hostnames) || !slices.Equal(kept[0].Networks, honest.Networks) {
		t.Errorf("refused %q of an honest list", refused)
	}
}

// What a client hands on is what is left.
func TestAnnouncedServicesAreLookedAt(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.up()
		l := b.c.lane
		l.onServices(wire.Services{Services: []wire.Service{{Name: "x", Networks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}}})
		b.want(status.Connected)
		if list := b.c.Services(); len(list) != 1 || len(list[0].Networks) != 0 || len(l.services[0].Networks) != 0 {
			t.Errorf("services = %+v", list)
		}
	})
}
