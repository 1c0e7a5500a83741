package enroll

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
)

// call is one request on its way, with what is known of who sent it.
type call struct {
	kind   string
	remote netip.AddrPort
	body   []byte
	// actor grows as things are verified; it starts as the address alone.
	actor  *audit.Actor
	client string
}

// route is what answers a path.
type route struct {
	method string
	kind   string
	serve  func(context.Context, *call) (status int, reply any, err error)
}

// ServeHTTP answers with JSON, or with problem details (RFC 9457).
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	remote, _ := netip.ParseAddrPort(r.RemoteAddr) // not an IP address: all such share one limit
	c := &call{kind: "unknown", remote: remote, actor: audit.Stranger(remote)}
	ctx, cancel := context.WithTimeout(r.Context(), h.Limits.Timeout)
	defer cancel()
	if provider, ok := isLogout(r.URL.Path); ok {
		h.serveLogout(ctx, w, r, c, provider)
		return
	}
	status, reply, err := h.serve(ctx, w, r, c)
	if err != nil {
		h.answerRefusal(ctx, w, c, asRefusal(err))
		return
	}
	h.answer(w, status, "application/json", reply)
}

// serve does the checks that cost least first: path, method, rate, a free slot, and
// only then the body.
func (h *Handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request, c *call) (int, any, error) {
	route, ok := h.routes[r.URL.Path]
	if !ok {
		return 0, nil, refuse(enroll.CodeNotFound, "there is nothing at %s", plaintext.Clip(r.URL.Path, 128)).
			remedy("the client may be newer than the gateway: culvert version")
	}
	c.kind = route.kind
	if r.Method != route.method && !(r.Method == http.MethodHead && route.method == http.MethodGet) {
		w.Header().Set("Allow", route.method)
		return 0, nil, refuse(enroll.CodeMethodNotAllowed, "%s takes %s only", r.URL.Path, route.method)
	}
	if route.method == http.MethodGet {
		return route.serve(ctx, c)
	}
	if wait := h.addresses.take(addressOf(c.remote)); wait > 0 {
		return 0, nil, refuse(enroll.CodeRateLimited, "too many requests from your address").
			remedy("wait " + wait.Round(time.Second).String()).retryIn(wait)
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return 0, nil, refuse(enroll.CodeBadRequest, "the request must be application/json")
	}
	var status int
	var reply any
	err := h.withBody(ctx, w, r, c, func() (err error) {
		status, reply, err = route.serve(ctx, c)
		return err
	})
	return status, reply, err
}

// withBody reads the body, and works on it when a slot is free.
func (h *Handler) withBody(ctx context.Context, w http.ResponseWriter, r *http.Request, c *call, work func() error) error {
	body := &heldBody{r: http.MaxBytesReader(w, r.Body, enroll.MaxRequest), held: &h.held}
	defer body.letGo()
	var err error
	if c.body, err = h.readBody(w, r, body); err != nil {
		return err
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return busy()
	}
	return work()
}

func busy() *refusal {
	return refuse(enroll.CodeUnavailable, "the gateway is busy with other logins").
		remedy("try again in a moment").retryIn(5 * time.Second)
}

// heldBody reads a body and counts it among those that are in memory, until it
// is let go. It counts what has come and not what was announced: who announces a
// lot and sends nothing takes nothing from others.
type heldBody struct {
	r    io.Reader
	held *atomic.Int64
	n    int64
}

var errHeld = errors.New("too many bytes of requests are in memory")

func (b *heldBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if b.held.Add(int64(n)) > maxHeld && n > 0 {
		return n, errHeld
	}
	return n, err
}

func (b *heldBody) letGo() { b.held.Add(-b.n) }

// readBody reads at most enroll.MaxRequest bytes, for at most BodyTimeout.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, from io.Reader) ([]byte, error) {
	if r.ContentLength > enroll.MaxRequest {
		w.Header().Set("Connection", "close")
		return nil, tooLarge()
	}
	conn := http.NewResponseController(w)
	// Where a test's writer has no deadlines, the server's own hold.
	_ = conn.SetReadDeadline(time.Now().Add(h.Limits.BodyTimeout))
	body, err := io.ReadAll(from)
	// Taken back, or the server's watch for a hang-up would end the request.
	_ = conn.SetReadDeadline(time.Time{})
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge()
	case errors.Is(err, errHeld):
		w.Header().Set("Connection", "close")
		return nil, busy().because(err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		w.Header().Set("Connection", "close")
		return nil, refuse(enroll.CodeTimeout, "the request did not arrive within %s", h.Limits.BodyTimeout).because(err)
	case err != nil:
		return nil, refuse(enroll.CodeBadRequest, "the request was cut short").because(err)
	}
	return body, nil
}

func tooLarge() *refusal {
	return refuse(enroll.CodeTooLarge, "the request is larger than %d KiB", enroll.MaxRequest>>10).
		remedy("the provider's token may be too large: ask the administrator to put fewer groups into it")
}

// decode reads the body as one message.
func decode[T any](c *call) (*T, error) {
	var m T
	if err := enroll.Decode(c.body, &m); err != nil {
		return nil, refuse(enroll.CodeBadRequest, "the request cannot be read: %s", plaintext.Clip(err.Error(), 200))
	}
	return &m, nil
}

func (h *Handler) answer(w http.ResponseWriter, status int, contentType string, reply any) {
	data, err := json.Marshal(reply)
	if err != nil {
		h.Logger.Error("encode an enrolment answer", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(h.Limits.BodyTimeout))
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(data) // a client that hung up asks again
}

// answerRefusal logs, audits where it matters, and tells the client. The same
// reference stands in all three.
func (h *Handler) answerRefusal(ctx context.Context, w http.ResponseWriter, c *call, r *refusal) {
	ref := h.recordRefusal(ctx, w, c, r)
	h.answer(w, statusOf(r.code), "application/problem+json", r.problem(ref))
}

// recordRefusal is answerRefusal without the answer.
func (h *Handler) recordRefusal(ctx context.Context, w http.ResponseWriter, c *call, r *refusal) (ref string) {
	ref = audit.NewReference()
	if audited(r.code) {
		ref = h.auditRefusal(ctx, c, r, ref)
	}
	level := slog.LevelInfo
	if statusOf(r.code) >= 500 {
		level = slog.LevelWarn
	}
	h.Logger.Log(ctx, level, "enrolment refused", "kind", c.kind, "code", r.code, "ref", ref,
		"remote", c.remote, "user", c.actor.User, "detail", r.detail, "cause", r.cause)
	h.Observe(c.kind, string(r.code))
	if r.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retry.Seconds()))))
	}
	return ref
}

// auditRefusal records a refusal. That the record could not be written makes it no
// less of a refusal.
func (h *Handler) auditRefusal(ctx context.Context, c *call, r *refusal, ref string) string {
	receipt, err := h.Audit.Append(ctx, audit.Record{
		// The condition tells refusals apart that are counted: noise must not cover a stolen token.
		Event: audit.EventEnrollRefused, Reference: ref, Actor: c.actor, Client: c.client,
		Condition: c.kind + "/" + string(r.code), Reason: string(r.code), Detail: c.kind + ": " + r.detail,
	})
	if err != nil {
		h.Logger.Error("audit a refused enrolment", "ref", ref, "error", err)
		return ref
	}
	if receipt.Reference != "" {
		return receipt.Reference
	}
	return ref
}

// addressOf is what one sender cannot easily have many of: an IPv4 address, or
// an IPv6 /64.
func addressOf(remote netip.AddrPort) addressKey {
	addr := remote.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return addressKey{} // no address at all: they share one limit
	}
	return prefix
}

type addressKey = netip.Prefix

// clientName is the enrolling program's own word about itself.
func clientName(c enroll.ClientInfo) string {
	name := "culvert " + c.Version
	if c.OS != "" {
		name += " " + c.OS + "/" + c.Arch
	}
	return strings.TrimSpace(plaintext.Clip(name, 96))
}
