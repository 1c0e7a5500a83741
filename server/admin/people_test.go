package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

func TestUserNames(t *testing.T) {
	w := newWorld(t)
	ada, twin, bob := identity("corp", "ada"), identity("partner", "ada"), identity("corp", "bob")
	for _, id := range []auth.Identity{ada, twin, bob} {
		w.login(id)
	}
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	for text, want := range map[string]auth.UserID{
		"corp:ada@corp.example":    ada.UserID(),
		"corp:ADA@corp.example":    ada.UserID(),
		"partner:ada@corp.example": twin.UserID(),
		"partner:sub:ada":          twin.UserID(),
		"bob@corp.example":         bob.UserID(),
		string(bob.UserID()):       bob.UserID(),
	} {
		page := must[*adminapi.Page[adminapi.User]](t)(c.Users(t.Context(), adminapi.UserQuery{User: text}))
		if len(page.Items) != 1 || page.Items[0].ID != string(want) {
			t.Errorf("%s: %+v", text, page.Items)
		}
	}
	_, err := c.Users(t.Context(), adminapi.UserQuery{User: "ada@corp.example"})
	p := refused(t, err, adminapi.CodeAmbiguous)
	if len(p.Candidates) != 2 || p.Status != 409 || p.Candidates[0].ID == p.Candidates[1].ID {
		t.Errorf("%+v", p)
	}
	for _, text := range []string{"nobody@corp.example", "corp:nobody@corp.example", "nowhere:sub:ada", "corp:sub:nobody", "nobody", ":", "sub:ada"} {
		_, err := c.Users(t.Context(), adminapi.UserQuery{User: text})
		refused(t, err, adminapi.CodeNotFound)
	}
	list := collect(t, func(cursor string) (*adminapi.Page[adminapi.User], error) {
		return c.Users(t.Context(), adminapi.UserQuery{List: adminapi.List{Cursor: cursor, Limit: 1}})
	})
	if len(list) != 3 {
		t.Errorf("%+v", list)
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	var people []auth.Identity
	begin := w.now.now().Add(-time.Minute)
	for i := range 5 {
		id := identity("corp", fmt.Sprintf("p%d", i))
		w.login(id)
		people = append(people, id)
		if i < 3 {
			w.connect(id, uint64(7+10*i), begin.Add(time.Duration(i)*time.Second))
		}
	}
	w.connect(people[0], 8, begin.Add(30*time.Second)) // a second lane
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	list := func(q adminapi.SessionQuery) []adminapi.Session {
		t.Helper()
		return collect(t, func(cursor string) (*adminapi.Page[adminapi.Session], error) {
			q.Cursor, q.Limit = cursor, 2
			return c.Sessions(t.Context(), q)
		})
	}
	got := list(adminapi.SessionQuery{})
	if len(got) != 3 || got[0].ID != string(people[2].Session) || len(got[2].Connections) != 2 || got[0].User.Provider != "corp" || got[0].Connections[0].Open != nil {
		t.Errorf("%+v", got)
	}
	if got = list(adminapi.SessionQuery{User: "p1@corp.example"}); len(got) != 1 || got[0].User.Email != "p1@corp.example" {
		t.Errorf("%+v", got)
	}
	if got = list(adminapi.SessionQuery{Gateway: "gw2"}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	if got = list(adminapi.SessionQuery{Detached: true}); len(got) != 5 {
		t.Errorf("%+v", got)
	}
	if got = list(adminapi.SessionQuery{Detached: true, User: "p4@corp.example"}); len(got) != 1 || len(got[0].Connections) != 0 || got[0].Login != "login" {
		t.Errorf("%+v", got)
	}
	if got = list(adminapi.SessionQuery{Detached: true, Device: string(people[0].Device)}); len(got) != 1 || len(got[0].Connections) != 2 {
		t.Errorf("%+v", got)
	}
	one := must[*adminapi.SessionDetail](t)(c.Session(t.Context(), string(people[0].Session)))
	if len(one.Connections) != 2 || len(one.Certificates) != 1 || one.Client == "" {
		t.Fatalf("%+v", one)
	}
	if open := one.Connections[0].Open; len(open) != 1 || open[0].Service != "wiki" || open[0].Target != "wiki" {
		t.Errorf("%+v", open)
	}
	_, err := c.Session(t.Context(), "short")
	refused(t, err, adminapi.CodeBadRequest)
	_, err = c.Session(t.Context(), string(auth.NewSessionID()))
	refused(t, err, adminapi.CodeNotFound)

	ed := w.as(editor("ed"))
	ended := must[*adminapi.SessionEnded](t)(ed.EndSession(t.Context(), string(people[0].Session), "a lost laptop"))
	if ended.Ended.IsZero() || ended.EndReason != "a lost laptop" {
		t.Errorf("%+v", ended)
	}
	if r := w.lastAudited(audit.EventSessionEnded); r.Reason != "a lost laptop" || !strings.Contains(r.Admin.Object, string(people[0].Session)) || r.Reference != ended.Reference {
		t.Errorf("%+v", r)
	}
	_, err = ed.EndSession(t.Context(), string(people[0].Session), "again")
	refused(t, err, adminapi.CodeDecided)
	_, err = ed.EndSession(t.Context(), string(people[1].Session), " ")
	refused(t, err, adminapi.CodeBadRequest)
	if got = list(adminapi.SessionQuery{Detached: true}); len(got) != 4 {
		t.Errorf("%+v", got)
	}
}

func TestLocks(t *testing.T) {
	w := newWorld(t)
	ada := identity("corp", "ada", "engineering")
	w.login(ada)
	w.login(identity("partner", "bob"))
	w.login(identity("corp", "bob"))
	c := w.as(editor("ed"))
	add := func(m adminapi.LockAdd) *adminapi.LockAdded {
		t.Helper()
		return must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), m))
	}
	revoked := add(adminapi.LockAdd{Kind: "user", Target: "ada@corp.example", Message: "ask it-help", Existing: true, Expires: w.now.now().Add(time.Hour)})
	if revoked.Target != string(ada.UserID()) || !revoked.IssuedBefore.Equal(w.now.now().Truncate(time.Millisecond)) || revoked.Author != "corp:ed@corp.example" || revoked.User == nil || revoked.User.Email == "" {
		t.Errorf("%+v", revoked)
	}
	if r := w.lastAudited(audit.EventLockAdded); r.Reason != "ask it-help" || !strings.HasPrefix(r.Detail, "for what was issued by ") || !strings.Contains(r.Admin.Object, "user "+string(ada.UserID())+" (corp:ada@corp.example)") {
		t.Errorf("%+v", r)
	}
	w.now.advance(time.Second)
	// Somebody whom nobody has seen can be locked out before they come.
	early := add(adminapi.LockAdd{Kind: "user", Target: "corp:sub:new-here"})
	if early.Target != string(auth.NewUserID(issuers["corp"], "new-here")) || !early.IssuedBefore.IsZero() {
		t.Errorf("%+v", early)
	}
	add(adminapi.LockAdd{Kind: "device", Target: string(ada.Device)})
	add(adminapi.LockAdd{Kind: "session", Target: string(ada.Session)})
	add(adminapi.LockAdd{Kind: "group", Target: "partner/contractors"})
	serial := must[*adminapi.Page[adminapi.Certificate]](t)(c.Certificates(t.Context(), adminapi.CertificateQuery{User: "ada@corp.example"})).Items[0].Serial
	add(adminapi.LockAdd{Kind: "certificate", Target: serial})
	for name, bad := range map[string]struct {
		m    adminapi.LockAdd
		code adminapi.Code
	}{
		"a kind":          {adminapi.LockAdd{Kind: "login", Target: "x"}, adminapi.CodeBadRequest},
		"no kind":         {adminapi.LockAdd{Target: "x"}, adminapi.CodeBadRequest},
		"ambiguous":       {adminapi.LockAdd{Kind: "user", Target: "bob@corp.example"}, adminapi.CodeAmbiguous},
		"nobody":          {adminapi.LockAdd{Kind: "user", Target: "nobody@corp.example"}, adminapi.CodeNotFound},
		"device":          {adminapi.LockAdd{Kind: "device", Target: "laptop"}, adminapi.CodeBadRequest},
		"session":         {adminapi.LockAdd{Kind: "session", Target: string(auth.NewSessionID())}, adminapi.CodeNotFound},
		"certificate":     {adminapi.LockAdd{Kind: "certificate", Target: strings.Repeat("0", 32)}, adminapi.CodeNotFound},
		"serial":          {adminapi.LockAdd{Kind: "certificate", Target: "12"}, adminapi.CodeBadRequest},
		"group":           {adminapi.LockAdd{Kind: "group", Target: "engineering"}, adminapi.CodeBadRequest},
		"provider":        {adminapi.LockAdd{Kind: "group", Target: "nowhere/engineering"}, adminapi.CodeNotFound},
		"it is over":      {adminapi.LockAdd{Kind: "group", Target: "corp/x", Expires: w.now.now().Add(-time.Second)}, adminapi.CodeBadRequest},
		"a long provider": {adminapi.LockAdd{Kind: "group", Target: strings.Repeat("x", 600) + "/x"}, adminapi.CodeBadRequest},
	} {
		_, err := c.AddLock(t.Context(), bad.m)
		t.Log(name)
		refused(t, err, bad.code)
	}
	list := collect(t, func(cursor string) (*adminapi.Page[adminapi.Lock], error) {
		return c.Locks(t.Context(), adminapi.List{Cursor: cursor, Limit: 4})
	})
	if len(list) != 6 || list[0].ID != revoked.ID {
		t.Errorf("%+v", list)
	}
	must[*adminapi.Done](t)(c.RemoveLock(t.Context(), revoked.ID))
	if r := w.lastAudited(audit.EventLockRemoved); !strings.Contains(r.Admin.Object, revoked.ID) || !strings.Contains(r.Admin.Object, string(ada.UserID())) {
		t.Errorf("%+v", r.Admin)
	}
	_, err := c.RemoveLock(t.Context(), revoked.ID)
	refused(t, err, adminapi.CodeNotFound)
}

func TestInventory(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		id := identity("corp", fmt.Sprintf("p%d", i))
		w.login(id)
		w.connect(id, uint64(i), w.now.now())
		w.now.advance(time.Second)
		w.check(w.store.IndexBatch(t.Context(), "gw1", "p", []store.AuditRow{
			{Gateway: "gw1", Log: "l", Seq: uint64(i + 1), Time: w.now.now(), Event: "stream.denied", Reference: fmt.Sprintf("k7qw-3m9%d", i), User: id.UserID(), Provider: "corp", Service: "wiki"},
		}))
	}
	c := w.as(person("viewer", nil, adminapi.RoleViewer))
	devices := collect(t, func(cursor string) (*adminapi.Page[adminapi.DeviceEntry], error) {
		return c.Devices(t.Context(), adminapi.DeviceQuery{List: adminapi.List{Cursor: cursor, Limit: 2}})
	})
	if len(devices) != 3 || devices[0].Sessions != 1 || devices[0].User.Email == "" {
		t.Errorf("%+v", devices)
	}
	records := collect(t, func(cursor string) (*adminapi.Page[adminapi.AuditRecord], error) {
		return c.Audit(t.Context(), adminapi.AuditQuery{Event: "stream.denied", Since: w.now.now().Add(-time.Hour), List: adminapi.List{Cursor: cursor, Limit: 2}})
	})
	if len(records) != 3 || records[0].Seq != 3 || records[0].User == nil || records[0].User.Email != "p2@corp.example" {
		t.Errorf("%+v", records)
	}
	if page := must[*adminapi.Page[adminapi.AuditRecord]](t)(c.Audit(t.Context(), adminapi.AuditQuery{User: "p1@corp.example"})); len(page.Items) != 1 || page.Items[0].Reference != "k7qw-3m91" {
		t.Errorf("%+v", page)
	}
	if one := must[*adminapi.AuditReference](t)(c.AuditReference(t.Context(), "K7QW-3M92")); len(one.Records) != 1 {
		t.Errorf("%+v", one)
	}
	_, err := c.AuditReference(t.Context(), "none-none")
	refused(t, err, adminapi.CodeNotFound)
	gateways := must[*adminapi.Page[adminapi.Gateway]](t)(c.Gateways(t.Context(), adminapi.List{}))
	if len(gateways.Items) != 1 || !gateways.Items[0].Alive {
		t.Errorf("%+v", gateways)
	}
	w.now.advance(time.Minute)
	if gateways = must[*adminapi.Page[adminapi.Gateway]](t)(c.Gateways(t.Context(), adminapi.List{})); gateways.Items[0].Alive {
		t.Errorf("%+v", gateways)
	}
	for _, q := range []adminapi.CertificateQuery{{}, {User: "p0@corp.example", Serial: "x"}, {Serial: "x"}} {
		_, err := c.Certificates(t.Context(), q)
		refused(t, err, adminapi.CodeBadRequest)
	}
	_, err = c.Certificates(t.Context(), adminapi.CertificateQuery{Serial: strings.Repeat("0", 32)})
	refused(t, err, adminapi.CodeNotFound)
	cert := must[*adminapi.Page[adminapi.Certificate]](t)(c.Certificates(t.Context(), adminapi.CertificateQuery{User: "p0@corp.example"})).Items[0]
	again := must[*adminapi.Page[adminapi.Certificate]](t)(c.Certificates(t.Context(), adminapi.CertificateQuery{Serial: strings.ToUpper(cert.Serial)}))
	if len(again.Items) != 1 || again.Items[0] != cert || len(cert.Fingerprint) != 64 {
		t.Errorf("%+v %+v", cert, again)
	}
}
