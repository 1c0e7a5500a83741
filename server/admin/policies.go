package admin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/strictconf"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

func versionOf(v store.PolicyVersion) adminapi.PolicyVersion {
	return adminapi.PolicyVersion{
		Number: v.Number, Digest: v.Digest, Source: v.Source, Author: v.Author, Comment: v.Comment, Accepted: v.Accepted,
	}
}

func (a *API) documentOf(v store.PolicyVersion) *adminapi.PolicyDocument {
	set := a.Policies.Set()
	return &adminapi.PolicyDocument{
		PolicyVersion: versionOf(v), Document: string(v.Document), InForce: set != nil && set.Version() == v.Digest,
	}
}

// policy returns the policy in force. In the moment in which another gateway has applied one, that is not the newest; where the
// policy is a file and the database was away, it is not in the store.
func (a *API) policy(ctx context.Context, _ *call) (*adminapi.PolicyDocument, error) {
	set := a.Policies.Set()
	if set == nil {
		return nil, refuse(adminapi.CodeNotFound, "there is no policy yet, so nothing is allowed")
	}
	v, err := a.Policies.Policy(ctx, set.Version())
	if errors.Is(err, store.ErrNotFound) {
		return nil, refuse(adminapi.CodeNotFound, "the policy in force, %s, is not in the database", set.Version()).
			remedy("it is the gateway's policy file")
	}
	if err != nil {
		return nil, err
	}
	return a.documentOf(v), nil
}

func (a *API) policyVersions(ctx context.Context, _ *call, q adminapi.List) (*adminapi.Page[adminapi.PolicyVersion], error) {
	var before int64
	if q.Cursor != "" {
		var err error
		if before, err = strconv.ParseInt(q.Cursor, 10, 64); err != nil || before <= 0 {
			return nil, badCursor()
		}
	}
	limit := limitOf(q)
	rows, err := a.Policies.PolicyHistory(ctx, before, limit+1)
	if err != nil {
		return nil, err
	}
	return pageOf(rows, limit, versionOf, func(v store.PolicyVersion) string { return strconv.FormatInt(v.Number, 10) }), nil
}

func (a *API) policyVersion(ctx context.Context, c *call) (*adminapi.PolicyDocument, error) {
	number, err := strconv.ParseInt(c.params["number"], 10, 64)
	if err != nil {
		return nil, refuse(adminapi.CodeBadRequest, "the number of a version counts from 1")
	}
	v, err := a.version(ctx, number)
	if err != nil {
		return nil, err
	}
	return a.documentOf(v), nil
}

func (a *API) version(ctx context.Context, number int64) (store.PolicyVersion, error) {
	v, err := a.Policies.PolicyByNumber(ctx, number)
	if errors.Is(err, store.ErrNotFound) {
		return v, refuse(adminapi.CodeNotFound, "there is no version %d of the policy", number)
	}
	return v, err
}

func (a *API) policyCheck(_ context.Context, _ *call, m adminapi.PolicyText) (*adminapi.PolicyCheck, error) {
	set, err := a.load(m.Document)
	return checkOf(m.Document, set, err), nil
}

// load loads a document, whose size is checked here and not only as a body's.
func (a *API) load(document string) (*policy.Set, error) {
	if len(document) > adminapi.MaxDocument {
		return nil, fmt.Errorf("the policy is larger than %d MiB", adminapi.MaxDocument>>20)
	}
	return a.Policies.Load([]byte(document))
}

// checkOf says what a load brought to light.
func checkOf(document string, set *policy.Set, err error) *adminapi.PolicyCheck {
	check := &adminapi.PolicyCheck{Valid: err == nil, Digest: policy.DigestOf([]byte(document)).String()}
	if set != nil {
		doc := set.Document()
		check.Services, check.Rules, check.Tests = len(doc.Services), len(doc.Rules), len(doc.Tests)
		check.Warnings = faultsOf(errors.Join(doc.Warnings...))
	}
	var failed *policy.TestError
	if !errors.As(err, &failed) {
		check.Faults = faultsOf(err)
		return check
	}
	for _, f := range failed.Failures {
		check.Failures = append(check.Failures, adminapi.Fault{Line: f.Pos.Line, Column: f.Pos.Column, Message: f.String()})
	}
	return check
}

// faultsOf takes joined errors apart.
func faultsOf(err error) []adminapi.Fault {
	var joined interface{ Unwrap() []error }
	var fault *strictconf.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		var list []adminapi.Fault
		for _, e := range joined.Unwrap() {
			list = append(list, faultsOf(e)...)
		}
		return list
	case errors.As(err, &fault):
		return []adminapi.Fault{{Line: fault.Line, Column: fault.Column, Message: fault.Msg}}
	}
	return []adminapi.Fault{{Message: err.Error()}}
}

// invalid refuses a policy that does not load.
func invalid(check *adminapi.PolicyCheck) *refusal {
	r := refuse(adminapi.CodePolicyInvalid, "the policy does not load")
	if len(check.Failures) > 0 {
		r = refuse(adminapi.CodePolicyInvalid, "the policy's own tests fail")
	}
	r.problem.Check = check
	return r.remedy("nothing was changed: the policy in force stays")
}

func (a *API) policyApply(ctx context.Context, c *call, m adminapi.PolicyApply) (*adminapi.PolicyApplied, error) {
	if err := a.mayChangePolicy(m.Comment); err != nil {
		return nil, err
	}
	a.applying.Lock()
	defer a.applying.Unlock()
	head, err := a.checkHead(ctx, m.Expected)
	if err != nil {
		return nil, err
	}
	r := audit.Record{Event: audit.EventPolicyChanged, Admin: c.facts(fmt.Sprintf("version %d", m.Expected+1))}
	return a.apply(ctx, c, r, head, m.Document, m.Comment)
}

// policyRollback applies an old document like a new one: it must load today, and its tests must hold.
func (a *API) policyRollback(ctx context.Context, c *call, m adminapi.PolicyRollback) (*adminapi.PolicyApplied, error) {
	if err := a.mayChangePolicy(m.Comment); err != nil {
		return nil, err
	}
	old, err := a.version(ctx, m.Number)
	if err != nil {
		return nil, err
	}
	a.applying.Lock()
	defer a.applying.Unlock()
	head, err := a.checkHead(ctx, m.Expected)
	if err != nil {
		return nil, err
	}
	r := audit.Record{
		Event: audit.EventPolicyRolledBack,
		Admin: c.facts(fmt.Sprintf("version %d, the document of version %d", m.Expected+1, m.Number)),
	}
	comment := strings.TrimSuffix(fmt.Sprintf("rollback to version %d: %s", m.Number, m.Comment), ": ")
	return a.apply(ctx, c, r, head, string(old.Document), comment)
}

func (a *API) mayChangePolicy(comment string) error {
	if !a.Managed {
		return refuse(adminapi.CodePolicyFile, "the policy of this gateway is a file: change it there").
			remedy("check and diff work here; policy.source: managed in the gateways' configuration lets this API change it")
	}
	return checkText("comment", comment, false)
}

// apply loads a document and puts it into force as the version after head.
func (a *API) apply(ctx context.Context, c *call, r audit.Record, head store.PolicyVersion, document, comment string) (*adminapi.PolicyApplied, error) {
	set, err := a.load(document)
	if err != nil {
		return nil, invalid(checkOf(document, set, err))
	}
	if head.Digest == set.Version() {
		same := refuse(adminapi.CodeConflict, "this very policy is version %d already", head.Number)
		return nil, same.current(head)
	}
	v := store.PolicyVersion{
		Digest: set.Version(), Source: a.source(), Author: c.caller.name(), Comment: comment, Document: []byte(document),
	}
	r.Policy, r.Admin.Comment = v.Digest, comment
	ref, err := a.change(ctx, c, r, func(ctx context.Context) (err error) {
		v, err = a.Policies.Apply(ctx, set, v, head.Number)
		var conflict *store.ConflictError
		if errors.As(err, &conflict) {
			return a.conflict(ctx, head.Number, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &adminapi.PolicyApplied{PolicyVersion: versionOf(v), Warnings: faultsOf(errors.Join(set.Document().Warnings...)), Reference: ref}, nil
}

// checkHead returns the newest version, and refuses a change that is based on another one.
func (a *API) checkHead(ctx context.Context, expected int64) (store.PolicyVersion, error) {
	head, err := a.Policies.HeadPolicy(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return head, err
	}
	if head.Number != expected {
		return head, conflictWith(head, expected)
	}
	return head, nil
}

func (a *API) conflict(ctx context.Context, expected int64, cause error) error {
	head, err := a.Policies.HeadPolicy(ctx)
	if err != nil {
		return fmt.Errorf("look at the policy that was quicker: %w", err)
	}
	return conflictWith(head, expected).because(cause)
}

func conflictWith(head store.PolicyVersion, expected int64) *refusal {
	if head.Number == 0 {
		return refuse(adminapi.CodeConflict, "the change is for version %d, and there is no policy yet", expected)
	}
	return refuse(adminapi.CodeConflict, "the change is for version %d, and the newest is version %d, by %s", expected, head.Number, orSource(head)).
		remedy("look at what changed, and apply to the newest version").current(head)
}

func orSource(v store.PolicyVersion) string {
	who := v.Author
	if who == "" {
		who = v.Source
	}
	return who + " at " + v.Accepted.UTC().Format("2006-01-02 15:04:05Z")
}
