package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

func wish(service string, lasts time.Duration) adminapi.RequestNew {
	return adminapi.RequestNew{Service: service, For: adminapi.Duration(lasts), Reason: "an outage"}
}

func TestRequests(t *testing.T) {
	w := newWorld(t)
	ada := person("ada", []string{"engineering"})
	mine := w.own(ada)
	made := must[*adminapi.RequestDecided](t)(mine.Ask(t.Context(), wish("db", 2*time.Hour)))
	if made.State != "pending" || made.User.ID != string(ada.user()) || time.Duration(made.For) != 2*time.Hour || made.Reference == "" || len(made.ID) != 9 {
		t.Errorf("%+v", made)
	}
	if r := w.lastAudited(audit.EventRequestCreated); r.Service != "db" || r.Reason != "an outage" || r.Actor.User != ada.user() {
		t.Errorf("%+v", r)
	}
	approver := w.as(person("it", []string{"it"}))
	approved := must[*adminapi.RequestDecided](t)(approver.ApproveRequest(t.Context(), made.ID, "take care"))
	if approved.State != "approved" || approved.DecidedBy != "corp:it@corp.example" || approved.Note != "take care" ||
		approved.Until.Sub(w.now.now()).Round(time.Second) != 2*time.Hour {
		t.Errorf("%+v", approved)
	}
	if r := w.lastAudited(audit.EventRequestApproved); r.Admin.Comment != "take care" || !strings.Contains(r.Admin.Object, made.ID) {
		t.Errorf("%+v", r.Admin)
	}
	_, err := approver.DenyRequest(t.Context(), made.ID, "")
	refused(t, err, adminapi.CodeDecided)
	ended := must[*adminapi.RequestDecided](t)(approver.EndRequest(t.Context(), made.ID, "enough"))
	if ended.State != "ended" {
		t.Errorf("%+v", ended)
	}
	_, err = approver.EndRequest(t.Context(), made.ID, "enough")
	refused(t, err, adminapi.CodeDecided)
	_, err = mine.Withdraw(t.Context(), made.ID)
	refused(t, err, adminapi.CodeDecided)

	second := must[*adminapi.RequestDecided](t)(mine.Ask(t.Context(), wish("db", time.Hour)))
	if denied := must[*adminapi.RequestDecided](t)(approver.DenyRequest(t.Context(), second.ID, "use the replica")); denied.State != "denied" {
		t.Errorf("%+v", denied)
	}
	third := must[*adminapi.RequestDecided](t)(mine.Ask(t.Context(), wish("db", time.Hour)))
	if withdrawn := must[*adminapi.RequestDecided](t)(mine.Withdraw(t.Context(), third.ID)); withdrawn.State != "withdrawn" {
		t.Errorf("%+v", withdrawn)
	}
	list := collect(t, func(cursor string) (*adminapi.Page[adminapi.Request], error) {
		return mine.OwnRequests(t.Context(), adminapi.OwnRequestQuery{List: adminapi.List{Cursor: cursor, Limit: 2}})
	})
	if len(list) != 3 {
		t.Errorf("%+v", list)
	}
	if page := must[*adminapi.Page[adminapi.Request]](t)(mine.OwnRequests(t.Context(), adminapi.OwnRequestQuery{State: "denied"})); len(page.Items) != 1 || page.Items[0].Note != "use the replica" {
		t.Errorf("%+v", page)
	}
	_, err = mine.OwnRequests(t.Context(), adminapi.OwnRequestQuery{State: "lost"})
	refused(t, err, adminapi.CodeBadRequest)
}

// A grant ends by itself, and its request says so.
func TestRequestEndsByItself(t *testing.T) {
	w := newWorld(t)
	ada := person("ada", nil)
	made := must[*adminapi.RequestDecided](t)(w.own(ada).Ask(t.Context(), wish("db", time.Hour)))
	must[*adminapi.RequestDecided](t)(w.as(root()).ApproveRequest(t.Context(), made.ID, ""))
	w.now.advance(time.Hour)
	r := must[*adminapi.Request](t)(w.as(root()).Request(t.Context(), made.ID))
	if r.State != "ended" || r.DecidedBy != "root via socket (uid 0)" {
		t.Errorf("%+v", r)
	}
}

func TestWishesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	engineer, contractor := w.own(person("ada", []string{"engineering"})), w.own(person("con", []string{"contractors"}))
	for name, c := range map[string]struct {
		who  *adminapi.Client
		m    adminapi.RequestNew
		code adminapi.Code
	}{
		"no such service":    {engineer, wish("nothing", time.Hour), adminapi.CodeNoService},
		"a hidden one":       {engineer, wish("vault", time.Hour), adminapi.CodeNoService},
		"a built-in one":     {engineer, wish("culvert-admin", time.Hour), adminapi.CodeNoService},
		"not on offer":       {engineer, wish("payroll", time.Hour), adminapi.CodeNotRequestable},
		"open already":       {engineer, wish("wiki", time.Hour), adminapi.CodeNotRequestable},
		"denied by a rule":   {contractor, wish("db", time.Hour), adminapi.CodeNotRequestable},
		"too long":           {engineer, wish("db", 4*time.Hour+time.Second), adminapi.CodeTooLong},
		"for no time":        {engineer, wish("db", 0), adminapi.CodeBadRequest},
		"for a negative one": {engineer, wish("db", -time.Hour), adminapi.CodeBadRequest},
		"without a reason":   {engineer, adminapi.RequestNew{Service: "db", For: adminapi.Duration(time.Hour)}, adminapi.CodeBadRequest},
		"several lines":      {engineer, adminapi.RequestNew{Service: "db", For: adminapi.Duration(time.Hour), Reason: "a\nb"}, adminapi.CodeBadRequest},
	} {
		_, err := c.who.Ask(t.Context(), c.m)
		t.Log(name)
		refused(t, err, c.code)
	}
	_, err := engineer.Ask(t.Context(), wish("db", 5*time.Hour))
	if r := refused(t, err, adminapi.CodeTooLong); r.Detail != "db can be had for 4h at most" {
		t.Errorf("%q", r.Detail)
	}
	// What is hidden answers exactly as what is not there.
	_, hidden := engineer.Ask(t.Context(), wish("vault", time.Hour))
	_, missing := engineer.Ask(t.Context(), wish("fault", time.Hour))
	h, m := refused(t, hidden, adminapi.CodeNoService), refused(t, missing, adminapi.CodeNoService)
	if strings.Replace(h.Detail, "vault", "fault", 1) != m.Detail || h.Remedy != m.Remedy {
		t.Errorf("%q and %q", h.Detail, m.Detail)
	}
	if n := len(w.audited(audit.EventRequestCreated)); n != 0 {
		t.Errorf("%d requests were made", n)
	}
}

// The policy of the moment of the approval counts: a service that is no longer on offer is not approved, and a limit that was
// lowered holds.
func TestApprovalGoesByThePolicyOfNow(t *testing.T) {
	w := newWorld(t)
	ada := person("ada", nil)
	id := w.ask(ada.Identity, "db", 4*time.Hour)
	owner := w.as(person("owner", nil, adminapi.RoleOwner))
	w.apply(strings.Replace(firstPolicy, ", requestable: {max: 4h, approvers: {groups: [corp/it]}}", "", 1))
	_, err := owner.ApproveRequest(t.Context(), id, "")
	refused(t, err, adminapi.CodeNotRequestable)
	w.apply(strings.Replace(firstPolicy, "max: 4h", "max: 1h", 1))
	approved := must[*adminapi.RequestDecided](t)(owner.ApproveRequest(t.Context(), id, ""))
	if approved.Until.Sub(w.now.now()).Round(time.Second) != time.Hour {
		t.Errorf("%+v", approved)
	}
}

// Nobody decides their own request: not with a role, not as the policy's approver, not with another account of the same address.
// Over the socket nobody asks.
func TestThreatNobodyDecidesTheirOwn(t *testing.T) {
	w := newWorld(t)
	asked := identity("corp", "ada", "it")
	id := w.ask(asked, "db", time.Hour)
	elsewhere := identity("partner", "ada-again", "it")
	elsewhere.Email, elsewhere.EmailTrusted = "ADA@corp.example", false
	renamed := asked
	renamed.Email, renamed.Name = "other@corp.example", "Somebody Else"
	for name, caller := range map[string]Caller{
		"owner":             {Identity: asked, Roles: Roles{adminapi.RoleOwner}, Via: ViaTunnel},
		"approver":          {Identity: asked, Roles: Roles{adminapi.RoleApprover}, Via: ViaTunnel},
		"by the policy":     {Identity: asked, Via: ViaTunnel},
		"another provider":  {Identity: elsewhere, Roles: Roles{adminapi.RoleApprover}, Via: ViaTunnel},
		"a new address":     {Identity: renamed, Roles: Roles{adminapi.RoleOwner}, Via: ViaTunnel},
		"by the new e-mail": {Identity: renamed, Via: ViaTunnel},
	} {
		before := len(w.audited(audit.EventAdminDenied))
		_, err := w.as(caller).ApproveRequest(t.Context(), id, "I need it")
		t.Log(name)
		refused(t, err, adminapi.CodeOwnRequest)
		_, err = w.as(caller).DenyRequest(t.Context(), id, "")
		refused(t, err, adminapi.CodeOwnRequest)
		if len(w.audited(audit.EventAdminDenied)) != before+2 {
			t.Errorf("%s: not audited", name)
		}
	}
	_, err := w.own(root()).Ask(t.Context(), wish("db", time.Hour))
	refused(t, err, adminapi.CodeForbidden)
	if r := must[store.Request](t)(w.store.Request(t.Context(), id)); r.State != store.RequestPending {
		t.Errorf("%+v", r)
	}
	other := w.as(person("grace", []string{"it"}))
	must[*adminapi.RequestDecided](t)(other.ApproveRequest(t.Context(), id, ""))
}

// Who approves by the policy sees and decides the requests of those services, and does nothing else.
func TestApproverByThePolicy(t *testing.T) {
	w := newWorld(t)
	db, safe := w.ask(identity("corp", "ada"), "db", time.Hour), w.ask(identity("corp", "ada"), "safe", time.Hour)
	it, security := person("it", []string{"it"}), person("sec", []string{"security"})
	c := w.as(it)
	page := must[*adminapi.Page[adminapi.Request]](t)(c.Requests(t.Context(), adminapi.RequestQuery{State: "pending"}))
	if len(page.Items) != 1 || page.Items[0].ID != db {
		t.Errorf("%+v", page.Items)
	}
	_, err := c.Request(t.Context(), safe)
	refused(t, err, adminapi.CodeNotFound)
	_, err = c.ApproveRequest(t.Context(), safe, "")
	refused(t, err, adminapi.CodeNotFound)
	must[*adminapi.RequestDecided](t)(w.as(security).ApproveRequest(t.Context(), safe, ""))
	_, err = c.EndRequest(t.Context(), safe, "")
	refused(t, err, adminapi.CodeNotFound)
	// A viewer sees all, and as the policy's approver decides some.
	it.Roles = Roles{adminapi.RoleViewer}
	c = w.as(it)
	must[*adminapi.Request](t)(c.Request(t.Context(), safe))
	_, err = c.EndRequest(t.Context(), safe, "")
	refused(t, err, adminapi.CodeForbidden)
	must[*adminapi.RequestDecided](t)(c.ApproveRequest(t.Context(), db, ""))
	// Groups that the provider did not tell make nobody an approver.
	unknown := person("it2", []string{"it"})
	unknown.Identity.GroupsKnown, unknown.Identity.Groups = false, nil
	if w.api.MayEnter(unknown) || !w.api.MayEnter(security) || w.api.MayEnter(person("ada", []string{"engineering"})) || w.api.MayEnter(Caller{}) {
		t.Error("who may enter")
	}
}

// An approver by the policy has no role, and learns of nobody but those who ask.
func TestThreatApproverLooksPeopleUp(t *testing.T) {
	w := newWorld(t)
	w.login(identity("corp", "bob"))
	w.login(identity("partner", "bob"))
	id := w.ask(identity("corp", "ada"), "db", time.Hour)
	c := w.as(person("it", []string{"it"}))
	for _, nobody := range []string{"bob@corp.example", "corp:bob@corp.example", "nobody@corp.example", "corp:sub:bob"} {
		page := must[*adminapi.Page[adminapi.Request]](t)(c.Requests(t.Context(), adminapi.RequestQuery{User: nobody}))
		if len(page.Items) != 0 {
			t.Errorf("%s: %+v", nobody, page.Items)
		}
	}
	for _, ada := range []string{"ada@corp.example", "corp:ADA@corp.example", string(identity("corp", "ada").UserID())} {
		page := must[*adminapi.Page[adminapi.Request]](t)(c.Requests(t.Context(), adminapi.RequestQuery{User: ada}))
		if len(page.Items) != 1 || page.Items[0].ID != id {
			t.Errorf("%s: %+v", ada, page.Items)
		}
	}
}

// Nobody fills the list of requests, or the audit log with them.
func TestThreatRequestFlood(t *testing.T) {
	w := newWorld(t)
	ada := w.own(person("ada", nil))
	made := 0
	for {
		_, err := ada.Ask(t.Context(), wish("db", time.Hour))
		if err != nil {
			refused(t, err, adminapi.CodeTooMany)
			break
		}
		if made++; made > 1000 {
			t.Fatal("there is no bound")
		}
	}
	if made > 20 {
		t.Errorf("%d requests wait", made)
	}
	w.now.advance(time.Hour)
	for i := 0; ; i++ {
		list := must[*adminapi.Page[adminapi.Request]](t)(ada.OwnRequests(t.Context(), adminapi.OwnRequestQuery{State: "pending"}))
		_, err := ada.Withdraw(t.Context(), list.Items[0].ID)
		if err == nil {
			_, err = ada.Ask(t.Context(), wish("db", time.Hour))
		}
		if err != nil {
			if p := refused(t, err, adminapi.CodeTooMany); p.RetryAfter <= 0 {
				t.Errorf("%+v", p)
			}
			break
		}
		if i > 100 {
			t.Fatal("there is no bound of the rate")
		}
	}
	must[*adminapi.RequestDecided](t)(w.own(person("bob", nil)).Ask(t.Context(), wish("db", time.Hour)))
}

// What runs at once is bounded for everybody and for each; leaving gives the place back.
func TestGate(t *testing.T) {
	g := gate{most: 3, each: 2}
	for _, step := range []struct {
		user auth.UserID
		want bool
	}{{"ada", true}, {"ada", true}, {"ada", false}, {"bob", true}, {"carol", false}} {
		if g.enter(step.user) != step.want {
			t.Errorf("%s: not %v", step.user, step.want)
		}
	}
	g.leave("ada")
	if !g.enter("carol") {
		t.Error("the place is not given back")
	}
	for _, u := range []auth.UserID{"ada", "bob", "carol"} {
		g.leave(u)
	}
	if g.inside != 0 || len(g.by) != 0 {
		t.Errorf("%d inside, %v", g.inside, g.by)
	}
}

func TestRates(t *testing.T) {
	c := &clock{at: time.Unix(1_800_000_000, 0)}
	r := rates{perMinute: 2, now: c.now}
	for i := range maxRated + 10 {
		if r.take(auth.UserID(strings.Repeat("x", i%50)+string(rune('a'+i%26))+time.Duration(i).String())) != 0 {
			t.Fatal("a first one waits")
		}
	}
	if len(r.people) > maxRated {
		t.Errorf("%d people are remembered", len(r.people))
	}
	r.take("ada")
	r.take("ada")
	if wait := r.take("ada"); wait <= 0 || wait > time.Minute {
		t.Errorf("%s", wait)
	}
	c.advance(30 * time.Second)
	if wait := r.take("ada"); wait != 0 {
		t.Errorf("%s", wait)
	}
}
