package localapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// failure is an error on its way over the socket: as the body of an HTTP answer
// that is not 2xx, and as the body of an abort frame. Errors that callers
// branch on come out as what they went in.
type failure struct {
	Kind      string         `json:"kind"` // refusal, terminated, aborted, lost, not_connected, timeout, error
	Code      string         `json:"code,omitempty"`
	Reason    string         `json:"reason,omitempty"`
	Remedy    string         `json:"remedy,omitempty"`
	Reference string         `json:"reference,omitempty"`
	Service   string         `json:"service,omitempty"`
	Status    *status.Status `json:"status,omitempty"` // not_connected only
}

func failureOf(err error) failure {
	var (
		refusal      *wire.Refusal
		notConnected *status.Error
		termination  *wire.Termination
		aborted      *tunnel.AbortError
	)
	switch {
	case errors.As(err, &refusal):
		return failure{Kind: "refusal", Code: string(refusal.Code), Reason: refusal.Reason, Remedy: refusal.Remedy,
			Reference: refusal.Reference, Service: refusal.Service}
	case errors.As(err, &notConnected):
		return failure{Kind: "not_connected", Reason: err.Error(), Status: &notConnected.Status}
	case errors.As(err, &termination):
		return failure{Kind: "terminated", Code: string(termination.Code), Reason: termination.Reason, Reference: termination.Reference}
	case errors.As(err, &aborted):
		return failure{Kind: "aborted", Code: string(aborted.Code), Reason: aborted.Reason}
	case errors.Is(err, tunnel.ErrLost):
		return failure{Kind: "lost", Reason: wire.CleanText(err.Error())}
	case errors.Is(err, context.DeadlineExceeded):
		return failure{Kind: "timeout", Reason: err.Error()}
	case err == nil:
		return failure{Kind: "error", Reason: "aborted"}
	default:
		return failure{Kind: "error", Reason: wire.CleanText(err.Error())}
	}
}

func (f failure) err() error {
	switch {
	case f.Kind == "refusal":
		return &wire.Refusal{Code: wire.Code(f.Code), Reason: f.Reason, Remedy: f.Remedy, Reference: f.Reference, Service: f.Service}
	case f.Kind == "not_connected" && f.Status != nil:
		return &status.Error{Status: *f.Status}
	case f.Kind == "terminated":
		return &wire.Termination{Code: wire.TerminateCode(f.Code), Reason: f.Reason, Reference: f.Reference}
	case f.Kind == "aborted":
		return &tunnel.AbortError{Code: wire.AbortCode(f.Code), Reason: f.Reason}
	case f.Kind == "lost":
		return lostError(f.Reason)
	case f.Kind == "timeout":
		return timeoutError(f.Reason)
	case f.Reason == "":
		return errors.New("the running client gave no reason")
	default:
		return errors.New(f.Reason)
	}
}

func (f failure) httpStatus() int {
	switch f.Kind {
	case "refusal", "terminated":
		return http.StatusForbidden
	case "not_connected":
		return http.StatusServiceUnavailable
	case "timeout":
		return http.StatusGatewayTimeout
	default:
		return http.StatusInternalServerError
	}
}

// lostError keeps the end of the tunnel recognisable as one.
type lostError string

func (e lostError) Error() string        { return string(e) }
func (e lostError) Is(target error) bool { return target == tunnel.ErrLost }

// timeoutError keeps a time-out recognisable as one.
type timeoutError string

func (e timeoutError) Error() string        { return string(e) }
func (e timeoutError) Timeout() bool        { return true }
func (e timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }
