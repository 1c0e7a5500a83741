package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/internal/localsock"
	"github.com/culvert-vpn/culvert/internal/neterr"
	"github.com/culvert-vpn/culvert/server"
)

// adminCommand is the administration of a running gateway over its own socket, for when nobody can log in.
func (p *program) adminCommand() *cobra.Command {
	var socket string
	cmd := adminctl.Command(adminctl.Config{
		In: p.in, Out: p.out, Err: p.err, Program: "culvert-gateway",
		About: `Administers the gateway that runs on this machine, over a socket that only root and
the gateway's own user can open: break-glass, for when nobody can log in. Who comes
this way may do everything, and each command is recorded as done by root. For
everyday work there is "culvert admin", through the tunnel and under a person's name.
`,
		JSON:    func() bool { return p.json },
		Connect: func(ctx context.Context) (adminctl.Connection, error) { return p.connectSocket(ctx, socket) },
	})
	cmd.PersistentFlags().StringVar(&socket, "socket", "", "the gateway's socket (default from the configuration: admin.socket)")
	return cmd
}

// connectSocket connects once before a command begins, so that a gateway that does not run is said as such.
func (p *program) connectSocket(ctx context.Context, path string) (adminctl.Connection, error) {
	if path == "" {
		var err error
		if path, err = p.adminSocket(); err != nil {
			return adminctl.Connection{}, err
		}
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := localsock.Dial(ctx, path)
		return conn, socketError(path, err)
	}
	conn, err := dial(ctx)
	if err != nil {
		return adminctl.Connection{}, err
	}
	_ = conn.Close()
	return adminctl.Connection{Dial: dial}, nil
}

// adminSocket is the socket that the configuration names. What else is wrong with a configuration does not matter here: the running
// gateway has an older one.
func (p *program) adminSocket() (string, error) {
	cfg, err := p.load(nil)
	switch {
	case cfg == nil && errors.Is(err, fs.ErrPermission):
		return "", &adminctl.Error{Code: adminctl.ExitDenied, Message: "the configuration " + p.config + " cannot be read", Hint: notRoot, Err: err}
	case cfg == nil:
		return "", err
	case err != nil:
		fmt.Fprintf(p.err, "culvert-gateway: warning: the configuration %s has faults; culvert-gateway config check tells them\n", p.config)
	}
	switch cfg.Admin.Socket {
	case "off":
		return "", &adminctl.Error{Code: adminctl.ExitError, Message: "this gateway has no admin socket", Hint: "the configuration says admin.socket: off"}
	case "":
		return filepath.Join(cfg.StateDir, server.AdminSocket), nil
	default:
		return cfg.Admin.Socket, nil
	}
}

const notRoot = "run it as root, or as the user that the gateway runs as"

// socketError says in an operator's words why nobody answers at a socket.
func socketError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &adminctl.Error{Code: adminctl.ExitDenied, Message: "the socket " + path + " cannot be opened: permission denied", Hint: notRoot, Err: err}
	case errors.Is(err, fs.ErrNotExist), neterr.Is(err, syscall.ECONNREFUSED):
		return &adminctl.Error{Code: adminctl.ExitGateway, Message: "no gateway runs at the socket " + path, Err: err,
			Hint: "start it with culvert-gateway serve, or name its --config or --socket"}
	default:
		return &adminctl.Error{Code: adminctl.ExitError, Message: fmt.Sprintf("connect to %s: %v", path, err), Err: err}
	}
}
