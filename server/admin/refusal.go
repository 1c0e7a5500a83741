package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// refusal is an answer that is not what was asked for. Its cause is for the log only.
type refusal struct {
	problem adminapi.Problem
	cause   error
	denied  bool // by who asks: the audit log has it, too
	object  string
}

func (r *refusal) Error() string { return r.problem.Error() }
func (r *refusal) Unwrap() error { return r.cause }

func refuse(code adminapi.Code, format string, args ...any) *refusal {
	return &refusal{problem: adminapi.Problem{Code: code, Detail: fmt.Sprintf(format, args...)}}
}

func (r *refusal) remedy(s string) *refusal           { r.problem.Remedy = s; return r }
func (r *refusal) because(err error) *refusal         { r.cause = err; return r }
func (r *refusal) retryIn(d time.Duration) *refusal   { r.problem.RetryAfter = d; return r }
func (r *refusal) denial() *refusal                   { r.denied = true; return r }
func (r *refusal) about(object string) *refusal       { r.object = object; return r }
func (r *refusal) among(p []adminapi.Person) *refusal { r.problem.Candidates = p; return r }

// current names the version that stands against a change.
func (r *refusal) current(v store.PolicyVersion) *refusal {
	version := versionOf(v)
	r.problem.Current = &version
	return r
}

// asRefusal turns what a backend says into an answer. Details of what failed stay in the log.
func asRefusal(err error) *refusal {
	var r *refusal
	switch {
	case errors.As(err, &r):
		return r
	case errors.Is(err, store.ErrNotFound):
		return refuse(adminapi.CodeNotFound, "there is no such thing").because(err)
	case errors.Is(err, context.Canceled):
		return refuse(adminapi.CodeTimeout, "the request was given up").because(err)
	case errors.Is(err, store.ErrUnavailable):
		return refuse(adminapi.CodeStoreUnavailable, "the gateway's database does not answer").
			remedy("try again in a moment").retryIn(5 * time.Second).because(err)
	}
	return refuse(adminapi.CodeInternal, "the gateway failed; its log has the reference").because(err)
}

// statusOf maps codes to HTTP. What is not listed is the gateway's own failure.
func statusOf(code adminapi.Code) int {
	switch code {
	case adminapi.CodeBadRequest:
		return http.StatusBadRequest
	case adminapi.CodeUnauthenticated:
		return http.StatusUnauthorized
	case adminapi.CodeForbidden, adminapi.CodeForeign, adminapi.CodeOwnRequest:
		return http.StatusForbidden
	case adminapi.CodeNotFound, adminapi.CodeNoService:
		return http.StatusNotFound
	case adminapi.CodeMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case adminapi.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case adminapi.CodeTimeout:
		return http.StatusRequestTimeout
	case adminapi.CodeMediaType:
		return http.StatusUnsupportedMediaType
	case adminapi.CodeAmbiguous, adminapi.CodeConflict, adminapi.CodeDecided, adminapi.CodePolicyFile:
		return http.StatusConflict
	case adminapi.CodePolicyInvalid, adminapi.CodeNotRequestable, adminapi.CodeTooLong:
		return http.StatusUnprocessableEntity
	case adminapi.CodeTooMany:
		return http.StatusTooManyRequests
	case adminapi.CodeStoreUnavailable, adminapi.CodeAuditUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse logs, audits what was denied, and tells the caller. The same reference stands in all three.
func (a *API) refuse(ctx context.Context, c *call, err error) {
	p := a.problem(ctx, c, asRefusal(err))
	if p.RetryAfter > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	if c.body == nil {
		// A body may be waiting that nobody has asked for.
		c.w.Header().Set("Connection", "close")
	}
	a.write(c.w, p.Status, adminapi.TypeProblem, p)
}

// problem completes a refusal, and writes it down.
func (a *API) problem(ctx context.Context, c *call, r *refusal) *adminapi.Problem {
	p := r.problem
	p.Type, p.Status = "about:blank", statusOf(p.Code)
	p.Title = http.StatusText(p.Status)
	p.Reference = audit.NewReference()
	if r.denied {
		p.Reference = a.auditDenial(ctx, c, r, p.Reference)
	}
	level := slog.LevelInfo
	if p.Status >= 500 {
		level = slog.LevelWarn
	}
	a.Logger.Log(ctx, level, "administration refused", "call", c.path, "code", p.Code, "ref", p.Reference,
		"caller", c.caller.name(), "via", c.caller.Via, "detail", p.Detail, "cause", r.cause)
	return &p
}

// auditDenial records that somebody was not permitted something. That the record could not be written makes it no less of
// a denial.
func (a *API) auditDenial(ctx context.Context, c *call, r *refusal, ref string) string {
	receipt, err := a.Audit.Append(context.WithoutCancel(ctx), audit.Record{
		// Target and condition are of few values each, so that repetitions are counted and nobody fills the log.
		Event: audit.EventAdminDenied, Reference: ref, Actor: c.caller.actor(), Target: c.target(),
		Condition: string(r.problem.Code), Reason: r.problem.Detail, Admin: c.facts(r.object),
	})
	if err != nil {
		a.Logger.Error("audit a denial", "ref", ref, "error", err)
		return ref
	}
	if receipt.Reference != "" {
		return receipt.Reference
	}
	return ref
}

// target is the operation that was asked for; what is denied before that is known goes by one name.
func (c *call) target() string {
	if c.route == nil {
		return "unknown"
	}
	return string(c.route.ID)
}
