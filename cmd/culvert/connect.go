package main

import (
	"context"
	"io"
	"time"

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
	l, err := a.link(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	// No wait: what ssh says first travels with the request.
	stream, err := l.open(ctx, target, false)
	if err != nil {
		return err
	}
	if err := pipe(ctx, stream, a.in, a.out); err != nil {
		return err
	}
	return l.flush(ctx)
}

// reasonWait is how long the reason of a failed write may take to arrive.
const reasonWait = time.Second

// pipe copies both directions until both have ended, one failed, the stream was
// lost, or ctx ended. Reading in and writing to out cannot be interrupted and may
// outlive the call: a command ends right after it.
func pipe(ctx context.Context, stream relay.Conn, in io.Reader, out io.Writer) error {
	lost := make(chan error, 1)
	if n, ok := stream.(relay.AbortNotifier); ok {
		stop := n.OnAbort(func(cause error) { lost <- cause })
		defer stop()
	}
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { sent <- send(stream, in) }()
	go func() { received <- receive(stream, out) }()
	for range 2 {
		var err error
		select {
		case err = <-received:
		case err = <-sent:
			if err != nil {
				err = reason(err, received)
			}
		case err = <-lost:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			stream.Abort(err)
			return orCause(ctx, err)
		}
	}
	return stream.Close()
}

// reason prefers what reading says: a write only notices.
func reason(err error, received <-chan error) error {
	timer := time.NewTimer(reasonWait)
	defer timer.Stop()
	select {
	case read := <-received:
		if read != nil {
			return read
		}
	case <-timer.C:
	}
	return err
}

func receive(stream relay.Conn, out io.Writer) error {
	if _, err := io.Copy(onlyWriter{out}, onlyReader{stream}); err != nil {
		return err
	}
	// Readers of out must see the end now, while in may stay open for longer.
	if c, ok := out.(io.Closer); ok {
		_ = c.Close()
	}
	return nil
}

// onlyWriter and onlyReader hide the fast paths of files and streams: bytes are
// passed on as they come.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

func send(stream relay.Conn, in io.Reader) error {
	if _, err := io.Copy(onlyWriter{stream}, onlyReader{in}); err != nil {
		return err
	}
	return stream.CloseWrite()
}

func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
