package admin

import (
	"cmp"
	"context"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
)

// changeTimeout bounds a change that has begun; who asked for it may have hung up.
const changeTimeout = 30 * time.Second

// change writes down what is about to happen and then lets it happen: what is not on the disk is not done. When it fails, a
// second record under the same reference says so. It returns the reference.
func (a *API) change(ctx context.Context, c *call, r audit.Record, effect func(context.Context) error) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
	defer cancel()
	r.Reference, r.Actor = audit.NewReference(), c.caller.actor()
	// The database's index has these two fields of a record, and not those of its administration.
	r.Target, r.Detail = r.Admin.Object, cmp.Or(r.Detail, r.Admin.Comment)
	if _, err := a.Audit.Append(ctx, r); err != nil {
		return "", refuse(adminapi.CodeAuditUnavailable, "the audit log cannot be written, so nothing was changed").
			remedy("the gateway's operator must see to its disk").because(err)
	}
	err := effect(ctx)
	if err == nil {
		a.Logger.Info("administration", "event", r.Event, "object", r.Admin.Object, "caller", c.caller.name(), "via", c.caller.Via, "ref", r.Reference)
		return r.Reference, nil
	}
	refused := asRefusal(err)
	r.Condition, r.Reason = string(refused.problem.Code), "not done: "+refused.problem.Detail
	// The effect may have used up the time.
	again, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
	defer cancel()
	if _, auditErr := a.Audit.Append(again, r); auditErr != nil {
		a.Logger.Error("audit that a change was not done", "event", r.Event, "ref", r.Reference, "error", auditErr)
	}
	return "", refused
}
