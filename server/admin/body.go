package admin

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// readBody reads what the route takes: at most MaxBody bytes, for at most BodyTimeout. Where a body is refused unread the
// connection ends, so that nobody makes the server swallow it.
func (a *API) readBody(c *call, r *http.Request) ([]byte, error) {
	if c.route.Request == nil {
		if r.ContentLength != 0 {
			c.w.Header().Set("Connection", "close")
			return nil, refuse(adminapi.CodeBadRequest, "this request has no body")
		}
		return nil, nil
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != adminapi.TypeJSON {
		c.w.Header().Set("Connection", "close")
		return nil, refuse(adminapi.CodeMediaType, "the body must be %s", adminapi.TypeJSON)
	}
	if r.ContentLength > c.route.MaxBody {
		c.w.Header().Set("Connection", "close")
		return nil, tooLarge(c.route)
	}
	conn := http.NewResponseController(c.w)
	// Where a test's writer has no deadlines, the server's own hold.
	_ = conn.SetReadDeadline(time.Now().Add(a.BodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(c.w, r.Body, c.route.MaxBody))
	// Taken back, or the server's watch for a hang-up would end the request.
	_ = conn.SetReadDeadline(time.Time{})
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge(c.route)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.w.Header().Set("Connection", "close")
		return nil, refuse(adminapi.CodeTimeout, "the request did not arrive within %s", a.BodyTimeout).because(err)
	case err != nil:
		return nil, refuse(adminapi.CodeBadRequest, "the request was cut short").because(err)
	}
	return body, nil
}

func tooLarge(r *bound) *refusal {
	return refuse(adminapi.CodeTooLarge, "the request is larger than %d KiB", r.MaxBody>>10)
}
