package devidp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

const maxFile = 1 << 20

// ErrUsage is wrapped by what Run returns for arguments that it does not understand.
var ErrUsage = errors.New("usage")

// Run serves a provider until ctx ends: the whole of a command. args are its flags, without the command's name.
// It prints the issuer and the warning on out, and listens on the loopback address only.
func Run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("idp", flag.ContinueOnError)
	flags.SetOutput(out)
	listen := flags.String("listen", "127.0.0.1:9400", "address to listen on; loopback only")
	accounts := flags.String("accounts", "", "YAML file with accounts, clients and lifetimes (default: ada, bob and root-admin)")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("%w: unexpected argument %q", ErrUsage, flags.Arg(0))
	}
	file := Defaults()
	if *accounts != "" {
		data, err := durable.ReadFile(*accounts, maxFile)
		if err != nil {
			return fmt.Errorf("read the accounts: %w", err)
		}
		if file, err = ParseFile(*accounts, data); err != nil {
			return err
		}
	}
	l, err := listenLoopback(ctx, *listen)
	if err != nil {
		return err
	}
	provider, err := New(Config{
		Listener: l, Accounts: file.Accounts, Clients: file.Clients, Lifetimes: file.Lifetimes,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	fmt.Fprintf(out, "OpenID provider at %s\nWARNING: %s\naccounts: %s\n", provider.Issuer(), Warning, strings.Join(provider.store.names(), ", "))
	if *accounts == "" {
		fmt.Fprintf(out, "password of each: %s\nfor a gateway:    culvert-gateway init --issuer %s --client-id %s\n",
			DefaultPassword, provider.Issuer(), file.Clients[0].ID)
	}
	return Serve(ctx, l, provider)
}

func listenLoopback(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("the address %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("the address %q is not a loopback address; this provider is for %s", address, Warning)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

// Serve answers on l until ctx ends, then lets requests finish for up to 5 s. It closes l.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.Serve(l)
	if !stop() {
		err = <-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
