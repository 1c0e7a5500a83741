package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/policy"
	"github.com/culvert-vpn/culvert/server/store"
)

func editor(name string) Caller { return person(name, nil, adminapi.RoleEditor) }

func TestPolicyApply(t *testing.T) {
	w := newWorld(t)
	c := w.as(editor("ed"))
	applied := must[*adminapi.PolicyApplied](t)(c.PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(1), Expected: 1, Comment: "ticket 17"}))
	if applied.Number != 2 || applied.Author != "corp:ed@corp.example" || applied.Comment != "ticket 17" || applied.Source != "managed" || applied.Reference == "" {
		t.Errorf("%+v", applied)
	}
	r := w.lastAudited(audit.EventPolicyChanged)
	if r.Target != "version 2" || r.Detail != "ticket 17" || r.Reference != applied.Reference || r.Policy != applied.Digest || r.Admin.Object != "version 2" || r.Admin.Comment != "ticket 17" || r.Admin.Role != "editor" || r.Actor.Subject != "ed" {
		t.Errorf("%+v %+v", r, r.Admin)
	}
	inForce := must[*adminapi.PolicyDocument](t)(c.Policy(t.Context()))
	if inForce.Document != variant(1) || !inForce.InForce || inForce.Number != 2 {
		t.Errorf("%+v", inForce)
	}
	old := must[*adminapi.PolicyDocument](t)(c.PolicyVersion(t.Context(), 1))
	if old.Document != firstPolicy || old.InForce {
		t.Errorf("%+v", old)
	}
	// Based on what has been replaced: the answer says by whom and when.
	_, err := w.as(editor("late")).PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(2), Expected: 1})
	p := refused(t, err, adminapi.CodeConflict)
	if p.Current == nil || p.Current.Number != 2 || p.Current.Author != "corp:ed@corp.example" || p.Current.Accepted.IsZero() || !strings.Contains(p.Detail, "ed@corp.example") {
		t.Errorf("%+v", p)
	}
	// The same again is no new version.
	_, err = c.PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(1), Expected: 2})
	if p := refused(t, err, adminapi.CodeConflict); p.Current == nil || p.Current.Number != 2 {
		t.Errorf("%+v", p)
	}
	if n := len(w.audited(audit.EventPolicyChanged)); n != 1 {
		t.Errorf("%d changes were audited", n)
	}
	_, err = c.PolicyVersion(t.Context(), 99)
	refused(t, err, adminapi.CodeNotFound)
}

func TestPolicyThatDoesNotLoadIsNotApplied(t *testing.T) {
	w := newWorld(t)
	c := w.as(editor("ed"))
	for name, document := range map[string]string{
		"a fault": strings.Replace(firstPolicy, "allow: [wiki]", "allow: [wikki]", 1),
		"a test":  strings.Replace(firstPolicy, "deny: [payroll]", "deny: [wiki]", 1),
		"no YAML": "\t{",
	} {
		_, err := c.PolicyApply(t.Context(), adminapi.PolicyApply{Document: document, Expected: 1})
		p := refused(t, err, adminapi.CodePolicyInvalid)
		if p.Check == nil || p.Check.Valid || len(p.Check.Faults)+len(p.Check.Failures) == 0 {
			t.Errorf("%s: %+v", name, p)
		}
		check := must[*adminapi.PolicyCheck](t)(c.PolicyCheck(t.Context(), document))
		if check.Valid || check.Digest != policy.DigestOf([]byte(document)).String() {
			t.Errorf("%s: %+v", name, check)
		}
	}
	if _, err := w.api.load(strings.Repeat("#", adminapi.MaxDocument+1)); err == nil {
		t.Error("a policy of any size is loaded")
	}
	if w.head() != 1 || len(w.audited(audit.EventPolicyChanged)) != 0 {
		t.Error("a policy that does not load was applied")
	}
	check := must[*adminapi.PolicyCheck](t)(c.PolicyCheck(t.Context(), strings.Replace(firstPolicy, "deny: [payroll]", "deny: [wiki]", 1)))
	if len(check.Failures) != 1 || check.Failures[0].Line == 0 || check.Rules != 2 || check.Tests != 1 {
		t.Errorf("%+v", check)
	}
	if check = must[*adminapi.PolicyCheck](t)(c.PolicyCheck(t.Context(), firstPolicy)); !check.Valid || check.Services != 5 {
		t.Errorf("%+v", check)
	}
}

func TestPolicyRollback(t *testing.T) {
	w := newWorld(t)
	w.apply(variant(1))
	// A version that was fine once, whose test fails by now.
	broken := strings.Replace(firstPolicy, "deny: [payroll]", "deny: [wiki]", 1)
	must[store.PolicyVersion](t)(w.store.PutPolicy(t.Context(), store.PolicyVersion{Digest: policy.DigestOf([]byte(broken)).String(), Source: "managed", Document: []byte(broken)}, 2))
	w.apply(variant(3))
	c := w.as(editor("ed"))
	applied := must[*adminapi.PolicyApplied](t)(c.PolicyRollback(t.Context(), adminapi.PolicyRollback{Number: 2, Expected: 4, Comment: "it was better"}))
	if applied.Number != 5 || applied.Comment != "rollback to version 2: it was better" {
		t.Errorf("%+v", applied)
	}
	if doc := must[*adminapi.PolicyDocument](t)(c.Policy(t.Context())); doc.Document != variant(1) {
		t.Errorf("%+v", doc)
	}
	if r := w.lastAudited(audit.EventPolicyRolledBack); r.Admin.Object != "version 5, the document of version 2" {
		t.Errorf("%+v", r.Admin)
	}
	for name, c2 := range map[string]struct {
		m    adminapi.PolicyRollback
		code adminapi.Code
	}{
		"an old expectation": {adminapi.PolicyRollback{Number: 1, Expected: 4}, adminapi.CodeConflict},
		"failing tests":      {adminapi.PolicyRollback{Number: 3, Expected: 5}, adminapi.CodePolicyInvalid},
		"no such version":    {adminapi.PolicyRollback{Number: 77, Expected: 5}, adminapi.CodeNotFound},
		"what is in force":   {adminapi.PolicyRollback{Number: 5, Expected: 5}, adminapi.CodeConflict},
	} {
		_, err := c.PolicyRollback(t.Context(), c2.m)
		t.Log(name)
		refused(t, err, c2.code)
	}
	list := collect(t, func(cursor string) (*adminapi.Page[adminapi.PolicyVersion], error) {
		return c.PolicyVersions(t.Context(), adminapi.List{Cursor: cursor, Limit: 2})
	})
	if len(list) != 5 || list[0].Number != 5 || list[4].Number != 1 {
		t.Errorf("%+v", list)
	}
}

// Where the policy is a file, it is changed there; questions are answered all the same.
func TestPolicyIsAFile(t *testing.T) {
	w := newWorldWith(t, options{file: true})
	owner := w.as(person("owner", nil, adminapi.RoleOwner))
	_, err := owner.PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(1), Expected: 1})
	refused(t, err, adminapi.CodePolicyFile)
	_, err = owner.PolicyRollback(t.Context(), adminapi.PolicyRollback{Number: 1, Expected: 1})
	refused(t, err, adminapi.CodePolicyFile)
	must[*adminapi.PolicyCheck](t)(owner.PolicyCheck(t.Context(), variant(1)))
	must[*adminapi.DiffResult](t)(owner.PolicyDiff(t.Context(), adminapi.PolicyDiff{Document: variant(1)}, nil))
	must[*adminapi.Explanation](t)(owner.PolicyExplain(t.Context(), adminapi.PolicyExplain{Target: "wiki"}))
	if me := must[*adminapi.Whoami](t)(owner.Whoami(t.Context())); me.Policy != "file" {
		t.Errorf("%+v", me)
	}
	if w.head() != 1 {
		t.Error("a policy was applied")
	}
}

// Of administrators who change the same version at the same time, at one gateway or at two, one wins; the others learn who it was.
func TestOneOfTwoApplies(t *testing.T) {
	w := newWorld(t)
	// A second gateway on the same database.
	second := w.api.Config
	second.Policies = &policies{Store: w.store, set: w.policies.Set()}
	other, err := New(second)
	w.check(err)
	first := w.api
	const each = 4
	var all sync.WaitGroup
	errs := make(chan error, 2*each)
	begin := make(chan struct{})
	for i := range 2 * each {
		w.api = []*API{first, other}[i%2]
		c := w.as(editor(fmt.Sprintf("ed%d", i)))
		all.Go(func() {
			<-begin
			_, err := c.PolicyApply(context.Background(), adminapi.PolicyApply{Document: variant(i), Expected: 1})
			errs <- err
		})
	}
	close(begin)
	all.Wait()
	close(errs)
	won := 0
	for err := range errs {
		var p *adminapi.Problem
		switch {
		case err == nil:
			won++
		case !errors.As(err, &p):
			t.Error(err)
		case p.Code == adminapi.CodeTooMany: // more at once than a gateway takes
		case p.Code != adminapi.CodeConflict || p.Current == nil || p.Current.Number != 2:
			t.Errorf("%+v", p)
		}
	}
	if won != 1 || w.head() != 2 {
		t.Errorf("%d won, and the newest version is %d", won, w.head())
	}
}

// Somebody at another gateway is quicker between the check and the change: what was announced in the audit log is taken back.
func TestConflictAfterTheRecord(t *testing.T) {
	w := newWorld(t)
	w.policies.beforePut = func() {
		w.policies.beforePut = nil
		w.apply(variant(7))
	}
	_, err := w.as(editor("ed")).PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(1), Expected: 1})
	if p := refused(t, err, adminapi.CodeConflict); p.Current.Number != 2 || p.Current.Author != "somebody" {
		t.Errorf("%+v", p)
	}
	records := w.audited(audit.EventPolicyChanged)
	if len(records) != 2 || records[0].Reference != records[1].Reference || records[1].Condition != "conflict" {
		t.Errorf("%+v", records)
	}
}

func TestPolicyDiff(t *testing.T) {
	w := newWorld(t)
	ada := identity("corp", "ada", "engineering")
	w.login(ada)
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	next := strings.Replace(firstPolicy, "allow: [wiki]", "allow: [payroll]", 1)
	next = next[:strings.Index(next, "tests:")]
	var progress []adminapi.DiffProgress
	since := w.now.now().Add(-time.Hour)
	d := must[*adminapi.DiffResult](t)(c.PolicyDiff(t.Context(), adminapi.PolicyDiff{Document: next, Since: since}, func(p adminapi.DiffProgress) {
		progress = append(progress, p)
	}))
	if len(progress) != 2 || progress[1] != (adminapi.DiffProgress{Done: 10, Total: 10}) {
		t.Errorf("%+v", progress)
	}
	if d.From != w.policies.Set().Version() || d.Preview == nil || d.Preview.Changed != 1 || len(d.Difference.Rules) != 1 || len(d.Difference.Users) != 1 {
		t.Fatalf("%+v", d)
	}
	if u := d.Difference.Users[0]; u.User != string(ada.UserID()) || len(u.Grants) != 2 {
		t.Errorf("%+v", u)
	}
	same := must[*adminapi.DiffResult](t)(c.PolicyDiff(t.Context(), adminapi.PolicyDiff{Document: variant(1)}, nil))
	if same.Preview != nil || len(same.Difference.Services)+len(same.Difference.Rules)+len(same.Difference.Groups)+len(same.Difference.Users) != 0 {
		t.Errorf("%+v", same)
	}
	_, err := c.PolicyDiff(t.Context(), adminapi.PolicyDiff{Document: "nonsense"}, nil)
	refused(t, err, adminapi.CodePolicyInvalid)
	_, err = c.PolicyDiff(t.Context(), adminapi.PolicyDiff{}, nil)
	refused(t, err, adminapi.CodeBadRequest)
}

// A preview that fails before its first line is a problem like others; later, the last line is one.
func TestPolicyDiffFails(t *testing.T) {
	w := newWorld(t)
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	for _, lines := range []int{0, 3} {
		w.preview = func(_ context.Context, _, _ *policy.Set, _ time.Time, progress func(done, total int64)) (*adminapi.Preview, error) {
			for i := range lines {
				progress(int64(i), 10)
			}
			return nil, fmt.Errorf("%w: gone", store.ErrUnavailable)
		}
		_, err := c.PolicyDiff(t.Context(), adminapi.PolicyDiff{Document: variant(1), Since: w.now.now()}, nil)
		refused(t, err, adminapi.CodeStoreUnavailable)
	}
}

// Whoever hangs up ends the work.
func TestPolicyDiffIsCancelled(t *testing.T) {
	w := newWorld(t)
	viewer := person("viewer", nil, adminapi.RoleViewer)
	c := w.as(viewer)
	c.HTTP.Transport = c.HTTP.Transport.(*checkedTransport).next // which reads lines as they come
	ended := make(chan error, 1)
	w.preview = func(ctx context.Context, _, _ *policy.Set, _ time.Time, progress func(done, total int64)) (*adminapi.Preview, error) {
		progress(1, 10_000_000)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.PolicyDiff(ctx, adminapi.PolicyDiff{Document: variant(1), Since: w.now.now()}, func(adminapi.DiffProgress) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the preview goes on for nobody")
	}
}

func TestPolicyExplain(t *testing.T) {
	w := newWorld(t)
	ada := identity("corp", "ada", "engineering")
	w.login(ada)
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	explain := func(m adminapi.PolicyExplain) *adminapi.Explanation {
		t.Helper()
		return must[*adminapi.Explanation](t)(c.PolicyExplain(t.Context(), m))
	}
	e := explain(adminapi.PolicyExplain{Target: "wiki", User: "ada@corp.example"})
	if !e.Answer.Allowed || e.Answer.Rule != "engineers" || e.Subject == nil || e.Subject.ID != string(ada.UserID()) || len(e.Rules) == 0 || e.Rules[0].Line == 0 {
		t.Errorf("%+v", e)
	}
	none := []string{}
	if e = explain(adminapi.PolicyExplain{Target: "wiki", User: "corp:ada@corp.example", Groups: &none}); e.Answer.Allowed || e.Answer.Code != "denied" {
		t.Errorf("%+v", e)
	}
	groups := []string{"engineering"}
	if e = explain(adminapi.PolicyExplain{Target: "wiki", User: "corp:new@corp.example", Groups: &groups}); !e.Answer.Allowed || e.Subject != nil {
		t.Errorf("somebody who is new: %+v", e)
	}
	groups = []string{"corp/engineering"}
	if e = explain(adminapi.PolicyExplain{Target: "wiki", Groups: &groups}); !e.Answer.Allowed {
		t.Errorf("nobody in particular: %+v", e)
	}
	groups = []string{"partner/engineering"}
	if e = explain(adminapi.PolicyExplain{Target: "wiki", User: "ada@corp.example", Groups: &groups}); e.Answer.Allowed {
		t.Errorf("the group of another provider: %+v", e)
	}
	if e = explain(adminapi.PolicyExplain{Target: "192.0.2.5:53/udp", User: "ada@corp.example"}); e.Answer.Allowed {
		t.Errorf("%+v", e)
	}
	if e = explain(adminapi.PolicyExplain{Target: "nothing"}); e.Answer.Code != "no_such_service" {
		t.Errorf("%+v", e)
	}
	age, yes := adminapi.Duration(time.Hour), true
	other := strings.Replace(firstPolicy, "    allow: [wiki]\n  -", "    allow: [wiki]\n    reauth_within: 15m\n    when: device.disk_encrypted && auth.login == \"device\"\n  -", 1)
	other = other[:strings.Index(other, "tests:")]
	e = explain(adminapi.PolicyExplain{
		Target: "wiki", User: "ada@corp.example", Document: other, Client: "192.0.2.1",
		Device: &adminapi.Device{OS: "linux", DiskEncrypted: &yes}, Auth: &adminapi.Auth{Age: &age, Login: "device"},
	})
	if e.Answer.Code != "step_up_required" || time.Duration(e.Answer.StepUp) != 15*time.Minute || e.Policy == w.policies.Set().Version() {
		t.Errorf("%+v", e)
	}
	for name, bad := range map[string]adminapi.PolicyExplain{
		"no target": {}, "a port": {Target: "wiki:http"}, "a client": {Target: "wiki", Client: "home"}, "a login": {Target: "wiki", Auth: &adminapi.Auth{Login: "magic"}},
	} {
		_, err := c.PolicyExplain(t.Context(), bad)
		t.Log(name)
		refused(t, err, adminapi.CodeBadRequest)
	}
	_, err := c.PolicyExplain(t.Context(), adminapi.PolicyExplain{Target: "wiki", User: "nobody@corp.example"})
	refused(t, err, adminapi.CodeNotFound)
	_, err = c.PolicyExplain(t.Context(), adminapi.PolicyExplain{Target: "wiki", Document: "nonsense"})
	refused(t, err, adminapi.CodePolicyInvalid)
}

func TestWhoAndWhat(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		groups := []string{"sales"}
		if i%2 == 0 {
			groups = []string{"engineering"}
		}
		w.login(identity("corp", fmt.Sprintf("p%d", i), groups...))
	}
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	who := func(all bool) []adminapi.Access {
		return collect(t, func(cursor string) (*adminapi.Page[adminapi.Access], error) {
			return c.PolicyWho(t.Context(), adminapi.WhoQuery{Service: "wiki", All: all, List: adminapi.List{Cursor: cursor, Limit: 2}})
		})
	}
	if got := who(false); len(got) != 4 || got[0].Grant == "" || !got[0].Decision.Allowed {
		t.Errorf("%+v", got)
	}
	if got := who(true); len(got) != 7 {
		t.Errorf("%+v", got)
	}
	what := collect(t, func(cursor string) (*adminapi.Page[adminapi.Access], error) {
		return c.PolicyWhat(t.Context(), adminapi.WhatQuery{User: "p0@corp.example", List: adminapi.List{Cursor: cursor, Limit: 2}})
	})
	if len(what) != 5 || what[0].Service != "wiki" || !what[0].Decision.Allowed || what[1].Decision.Allowed {
		t.Errorf("%+v", what)
	}
	_, err := c.PolicyWho(t.Context(), adminapi.WhoQuery{Service: "wikki"})
	if p := refused(t, err, adminapi.CodeNoService); !strings.Contains(p.Detail, "wiki") {
		t.Errorf("%+v", p)
	}
	_, err = c.PolicyWho(t.Context(), adminapi.WhoQuery{})
	refused(t, err, adminapi.CodeBadRequest)
	_, err = c.PolicyWhat(t.Context(), adminapi.WhatQuery{User: "p0@corp.example", List: adminapi.List{Cursor: "-1"}})
	refused(t, err, adminapi.CodeBadRequest)
}

// What fits into a body is what the policy package takes.
func TestDocumentLimit(t *testing.T) {
	if adminapi.MaxDocument != policy.MaxFileSize {
		t.Errorf("%d and %d", adminapi.MaxDocument, policy.MaxFileSize)
	}
}
