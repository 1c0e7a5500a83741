// Command culvert is the employee's program: it logs in, keeps the tunnel to the
// gateway up, and leads programs of this machine to the services behind it.
//
// It parses flags and prints; what it does is done by package client and the
// packages below it.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/culvert-vpn/culvert/internal/adminctl"
)

func main() { os.Exit(realMain()) }

// realMain is main without os.Exit, so that tests can run the command.
func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), endings()...)
	defer stop()
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr})
}

// endings are the signals that ask the program to end. A hang-up is one of them, since ssh ends its ProxyCommand with it, but not
// where nohup had it ignored.
func endings() []os.Signal {
	list := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		list = append(list, syscall.SIGHUP)
	}
	return list
}

// streams are the program's standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, std streams) int {
	a := &app{streams: std}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var admin *adminctl.Error
	if !a.started && !errors.As(err, &admin) {
		err = &usageError{&commandLineError{err, command}}
	}
	a.report(err)
	return exitCode(err)
}
