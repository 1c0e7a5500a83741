package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func (a *app) connectCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "connect SERVICE|HOST:PORT",
		Short: "Join stdin and stdout to a service, for ssh's ProxyCommand",
		Long: `Opens one stream and copies stdin to it and it to stdout, each direction to its
own end. It goes through a running culvert up, or else makes its own connection.`,
		Example: `  ssh -o ProxyCommand='culvert connect %h:%p' host.corp.example
  rsync -e "ssh -o ProxyCommand='culvert connect ssh-lab'" …`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.connect(cmd.Context(), args[0]) },
	}
}

func (a *app) connect(ctx context.Context, name string) error {
	target, err := parseTarget(wire.KindTCP, name)
	if err != nil {
		return err
	}
	cfg, err := a.config(quiet)
	if err != nil {
		return err
	}
	l, err := a.link(ctx, cfg)
	if err != nil {
		return err
	}
	defer l.close()
	// No wait: what ssh says first travels with the request.
	stream, err := l.open(ctx, target, false)
	if err != nil {
		return err
	}
	return pipe(ctx, stream, a.in, a.out)
}

// pipe copies both directions until both have ended, or one failed. The
// goroutine that reads in cannot be interrupted and may outlive the call: a
// command ends right after it.
func pipe(ctx context.Context, stream relay.Conn, in io.Reader, out io.Writer) error {
	stop := context.AfterFunc(ctx, func() { stream.Abort(context.Cause(ctx)) })
	defer stop()
	sent := make(chan error, 1)
	go func() { sent <- send(stream, in) }()
	if _, err := io.Copy(onlyWriter{out}, onlyReader{stream}); err != nil {
		stream.Abort(err)
		return orCause(ctx, err)
	}
	// Readers of out must see the end now, while in may stay open for longer.
	if c, ok := out.(io.Closer); ok {
		_ = c.Close()
	}
	err := <-sent
	if err != nil {
		stream.Abort(err)
		return orCause(ctx, err)
	}
	return stream.Close()
}

// onlyWriter and onlyReader hide the fast paths of files and streams: bytes are
// passed on as they come.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

func send(stream relay.Conn, in io.Reader) error {
	_, err := io.Copy(onlyWriter{stream}, onlyReader{in})
	if err == nil {
		err = stream.CloseWrite()
	}
	// The reason comes from reading; a write only notices.
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
