package dialer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Remedies, for the person at the desktop.
const (
	remedyAdmin = "ask an administrator of this gateway, and give the reference"
	remedyOwner = "tell whoever runs the service, or an administrator of this gateway"
	remedyRetry = "try again in a moment"
)

// resolveError explains a failed look-up.
func resolveError(host string, err error) error {
	var dns *net.DNSError
	isDNS := errors.As(err, &dns)
	switch {
	case isDNS && dns.IsNotFound:
		return &Error{wire.CodeUnreachable, "the name " + host + " does not exist where the gateway looks", remedyOwner, err}
	case errors.Is(err, context.Canceled):
		return &Error{wire.CodeUnavailable, "the look-up of " + host + " was given up", remedyRetry, err}
	case isTimeout(err):
		return &Error{wire.CodeTimedOut, "the look-up of " + host + " got no answer in time", remedyRetry, err}
	default:
		return &Error{wire.CodeUnavailable, "the gateway cannot look up " + host + " at the moment", remedyRetry, err}
	}
}

// dialError explains a failed dial: what a program at the desktop would have seen without the tunnel.
func dialError(t Target, err error) error {
	service := fmt.Sprintf("%s port %d", t.Host, t.Port)
	switch {
	case errors.Is(err, context.Canceled):
		return &Error{wire.CodeUnavailable, "the connection to " + service + " was given up", remedyRetry, err}
	case isAny(err, refusedErrors()):
		return &Error{wire.CodeRefused, "nothing accepts connections at " + service, remedyOwner, err}
	case isTimeout(err):
		return &Error{wire.CodeTimedOut, service + " did not answer in time", remedyOwner, err}
	case isAny(err, unreachableErrors()):
		return &Error{wire.CodeUnreachable, "the gateway has no way to " + service, remedyOwner, err}
	default:
		return &Error{wire.CodeUnavailable, "the gateway cannot connect to " + service + " at the moment", remedyRetry, err}
	}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

func isAny(err error, list []error) bool {
	return slices.ContainsFunc(list, func(e error) bool { return errors.Is(err, e) })
}

// acquire waits for one of the slots that bound how many dials run.
func (d *Dialer) acquire(ctx context.Context) error {
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &Error{wire.CodeUnavailable, "the gateway opens too many connections at the moment", remedyRetry, context.Cause(ctx)}
	}
}

func (d *Dialer) release() { <-d.slots }

// systemResolver returns the look-up by the system's resolver, or by the name server at server.
func systemResolver(server string) ResolveFunc {
	r := net.DefaultResolver
	if server != "" {
		r = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var nd net.Dialer
			return nd.DialContext(ctx, network, server)
		}}
	}
	return func(ctx context.Context, host string) ([]netip.Addr, error) {
		// The final dot keeps search domains out, so that a service's name means one name only. A name of a
		// single label means nothing without them.
		if strings.Contains(host, ".") {
			host += "."
		}
		return r.LookupNetIP(ctx, "ip", host)
	}
}
