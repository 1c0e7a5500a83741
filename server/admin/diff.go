package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/policy"
)

// maxKnown bounds the people for whom a difference is worked out.
const maxKnown = 20_000

// policyDiff answers with lines: progress while the preview runs, and the result or a problem as the last one. Refusals that are
// known before are answered like everywhere else.
func (a *API) policyDiff(ctx context.Context, c *call, m adminapi.PolicyDiff) (*adminapi.DiffLine, error) {
	if m.Document == "" {
		return nil, refuse(adminapi.CodeBadRequest, "a document is missing")
	}
	set, err := a.setFor(m.Document)
	if err != nil {
		return nil, err
	}
	old := a.Policies.Set()
	known, cut, err := a.people(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &lines{w: c.w, cancel: cancel}
	diff := policy.Diff(old, set, known, a.Now())
	result := &adminapi.DiffResult{
		To: set.Version(), Difference: differenceOf(diff), UsersCut: cut || diff.Cut,
		Warnings: faultsOf(errors.Join(set.Document().Warnings...)),
	}
	if old != nil {
		result.From = old.Version()
	}
	if !m.Since.IsZero() {
		result.Preview, err = a.Preview(ctx, old, set, m.Since, func(done, total int64) {
			out.write(adminapi.DiffLine{Progress: &adminapi.DiffProgress{Done: done, Total: total}})
		})
		if err != nil && !out.begun {
			return nil, err
		}
	}
	if err != nil {
		out.write(adminapi.DiffLine{Problem: a.problem(ctx, c, asRefusal(err))})
		return nil, nil
	}
	out.write(adminapi.DiffLine{Result: result})
	return nil, nil
}

// lines writes an answer line by line. When nobody reads any more, it cancels the work.
type lines struct {
	w      http.ResponseWriter
	cancel context.CancelFunc
	begun  bool
	failed bool
}

func (l *lines) write(line adminapi.DiffLine) {
	if l.failed {
		return
	}
	data, err := json.Marshal(line)
	if err == nil {
		conn := http.NewResponseController(l.w)
		// Where a test's writer has no deadlines and no buffer, there is nothing to do.
		_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout(len(data))))
		if !l.begun {
			setHeaders(l.w, adminapi.TypeLines)
			l.begun = true
		}
		if _, err = l.w.Write(append(data, '\n')); err == nil {
			if err = conn.Flush(); errors.Is(err, http.ErrNotSupported) {
				err = nil
			}
		}
	}
	if err != nil {
		l.failed = true
		l.cancel()
	}
}

// people returns who has been seen, as the policy sees them, and whether there are more.
func (a *API) people(ctx context.Context) (list []*policy.Subject, cut bool, err error) {
	for after := auth.UserID(""); len(list) < maxKnown; {
		page, err := a.Inventory.Users(ctx, after, adminapi.MaxLimit)
		if err != nil {
			return nil, false, err
		}
		for _, u := range page {
			list = append(list, a.subjectOf(u))
			after = u.ID
		}
		if len(page) < adminapi.MaxLimit {
			return list, false, nil
		}
	}
	return list, true, nil
}

func differenceOf(d policy.Difference) adminapi.Difference {
	reply := adminapi.Difference{
		Services: []adminapi.NamedChange{}, Rules: []adminapi.NamedChange{}, Groups: subjectsOf(d.Groups), Users: subjectsOf(d.Users),
	}
	for _, s := range d.Services {
		reply.Services = append(reply.Services, adminapi.NamedChange{Name: s.Name, Change: string(s.Change), Fields: fieldsOf(s.Fields)})
	}
	for _, r := range d.Rules {
		reply.Rules = append(reply.Rules, adminapi.NamedChange{Name: r.Name, Change: string(r.Change), Was: r.Was, Fields: fieldsOf(r.Fields)})
	}
	return reply
}

func fieldsOf(list []policy.FieldChange) []adminapi.FieldChange {
	var reply []adminapi.FieldChange
	for _, f := range list {
		reply = append(reply, adminapi.FieldChange{Field: f.Field, Old: f.Old, New: f.New})
	}
	return reply
}

func subjectsOf(list []policy.SubjectChange) []adminapi.SubjectChange {
	reply := make([]adminapi.SubjectChange, 0, len(list))
	for _, s := range list {
		change := adminapi.SubjectChange{Kind: string(s.Kind), Name: s.Name, User: string(s.User), Grants: []adminapi.GrantChange{}}
		for _, g := range s.Grants {
			change.Grants = append(change.Grants, adminapi.GrantChange{Service: g.Service, Change: string(g.Change), Old: g.Old, New: g.New})
		}
		reply = append(reply, change)
	}
	return reply
}
