package main

import (
	"context"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/client/localapi"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// adminCommand is the administration of the gateway, through the tunnel.
func (a *app) adminCommand() *cobra.Command {
	return adminctl.Command(a.ctl(adminapi.ServiceAdmin))
}

// ctl lends the commands of package adminctl what they need to speak with a service inside the gateway.
func (a *app) ctl(service string) adminctl.Config {
	return adminctl.Config{
		In: a.in, Out: a.out, Err: a.err, Program: "culvert",
		JSON:    func() bool { return a.json },
		Connect: func(ctx context.Context) (adminctl.Connection, error) { return a.connectBuiltIn(ctx, service) },
		Peek:    func(ctx context.Context) (adminctl.Connection, error) { return a.peekBuiltIn(ctx, service) },
	}
}

// connectBuiltIn goes through a running culvert up, or else makes a connection of its own.
func (a *app) connectBuiltIn(ctx context.Context, service string) (adminctl.Connection, error) {
	l, err := a.link(ctx)
	if err != nil {
		return adminctl.Connection{}, err
	}
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := l.openBuiltIn(ctx, service)
		return conn, builtInError(service, err)
	}
	return adminctl.Connection{Dial: dial, Close: l.close}, nil
}

// peekBuiltIn goes through a running culvert up only: a shell that completes a word must not log in or wait.
func (a *app) peekBuiltIn(ctx context.Context, service string) (adminctl.Connection, error) {
	if err := a.start(); err != nil {
		return adminctl.Connection{}, err
	}
	cfg, err := a.config(quiet)
	if err != nil {
		return adminctl.Connection{}, err
	}
	local := a.local(cfg)
	if !local.Running(ctx) {
		return adminctl.Connection{}, localapi.ErrNotRunning
	}
	return adminctl.Connection{Dial: func(ctx context.Context) (net.Conn, error) {
		stream, err := local.OpenBuiltIn(ctx, service)
		if err != nil {
			return nil, err
		}
		return stream, nil
	}}, nil
}

// builtInError says what it means that the gateway has no such service for this person: to those without a role it answers as for a name
// that does not exist, and only the administration can be asked for by somebody who has none.
func builtInError(service string, err error) error {
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchService && refusal.Code != wire.CodeDenied {
		return err
	}
	if service == adminapi.ServiceSelf {
		return &adminctl.Error{Code: adminctl.ExitError, Message: "this gateway takes no requests", Reference: refusal.Reference, Err: err,
			Hint: "it may be older than this culvert"}
	}
	return &adminctl.Error{Code: adminctl.ExitDenied, Message: "you have no role at this gateway", Reference: refusal.Reference, Err: err,
		Hint: "an owner gives roles in the gateway's configuration, under admin; culvert status shows who you are"}
}
