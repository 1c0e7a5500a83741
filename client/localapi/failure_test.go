package localapi

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// What a command branches on comes out of a running client as it went in.
func TestFailuresKeepWhatTheyAre(t *testing.T) {
	for _, want := range []error{
		&wire.Refusal{Code: wire.CodeDenied, Reason: "no", Remedy: "ask", Reference: "k7qw-3m9p", Service: "wiki"},
		&wire.Termination{Code: wire.TerminateExpired, Reason: "over", Reference: "k7qw-3m9p"},
		&tunnel.AbortError{Code: wire.AbortRevoked, Reason: "no more"},
		&status.Error{Status: status.Status{State: status.Expired}},
	} {
		if diff := cmp.Diff(want, failureOf(fmt.Errorf("wrapped: %w", want)).err()); diff != "" {
			t.Errorf("%T changed (-in +out):\n%s", want, diff)
		}
	}
	for _, want := range []error{tunnel.ErrLost, context.DeadlineExceeded} {
		in := fmt.Errorf("%w: the peer closed it", want)
		out := failureOf(in).err()
		if !errors.Is(out, want) || out.Error() != in.Error() {
			t.Errorf("%v came out as %v", in, out)
		}
	}
}
