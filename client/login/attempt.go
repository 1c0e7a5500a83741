package login

import (
	"context"
	"errors"
	"net/url"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/internal/backoff"
)

const attempts = 4

// attempt sends an enrolment request until it is answered, refused, or was sent often enough. skew is measured
// against the middle of the answered request.
func attempt(ctx context.Context, now func() time.Time, send func() (*enroll.Response, error)) (resp *enroll.Response, skew time.Duration, err error) {
	waits := backoff.Backoff{Base: time.Second, Max: 8 * time.Second}
	for i := range attempts {
		sent := now()
		if resp, err = send(); err == nil {
			return resp, skewOf(resp.Time, sent, now()), nil
		}
		if !worthRetrying(err) || i == attempts-1 || !pause(ctx, max(waits.Next(), retryAfter(err))) {
			break
		}
	}
	return nil, 0, err
}

func skewOf(server, sent, received time.Time) time.Duration {
	if server.IsZero() {
		return 0
	}
	return server.Sub(sent.Add(received.Sub(sent) / 2)).Round(time.Millisecond)
}

// worthRetrying: the gateway said so, or nobody answered.
func worthRetrying(err error) bool {
	var problem *enroll.Problem
	if errors.As(err, &problem) {
		return problem.Temporary()
	}
	var network *url.Error // what net/http gives for everything below HTTP
	return errors.As(err, &network)
}

func retryAfter(err error) time.Duration {
	var problem *enroll.Problem
	if errors.As(err, &problem) {
		return min(problem.RetryAfter, 30*time.Second)
	}
	return 0
}

// pause waits, and reports whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
