package client

import (
	"context"
	"path/filepath"

	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// SocketPath is where the client that runs with a profile serves the local API.
func SocketPath(profile *certstore.Profile) string { return filepath.Join(profile.Dir(), "api.sock") }

// ListenLocal takes the local API's socket of the client's profile. The error
// wraps localapi.ErrRunning when another client runs with it. The caller calls
// Serve and Close.
func (c *Client) ListenLocal() (*localapi.Server, error) {
	return localapi.Listen(localapi.Config{Path: SocketPath(c.cfg.Profile), Backend: backend{c}, Logger: c.log})
}

// backend is a Client in the form that the local API takes.
type backend struct{ *Client }

// Open implements localapi.Backend.
func (b backend) Open(ctx context.Context, target wire.Target, wait bool) (relay.Conn, error) {
	return b.Dialer(wait)(ctx, target)
}

// OpenBuiltIn implements localapi.Backend.
func (b backend) OpenBuiltIn(ctx context.Context, name string) (relay.Conn, error) {
	stream, err := b.Client.OpenBuiltIn(ctx, name)
	if err != nil {
		return nil, err // not a nil Stream in an interface
	}
	return stream, nil
}

// Dialer returns Open in the form that fronts take. With wait an opened stream
// was accepted by the service; without, a refusal comes from its Read.
func (c *Client) Dialer(wait bool) func(ctx context.Context, target wire.Target) (relay.Conn, error) {
	return func(ctx context.Context, target wire.Target) (relay.Conn, error) {
		stream, err := c.Open(ctx, target, OpenOptions{Wait: wait})
		if err != nil {
			return nil, err // not a nil Stream in an interface
		}
		return stream, nil
	}
}
