package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// attempt is a call that succeeds for who may make it, as often as it is made.
type attempt func(ctx context.Context, c *adminapi.Client) error

// got drops a reply.
func got[T any](_ T, err error) error { return err }

// attempts has one attempt for each route. What each changes it makes anew.
func attempts(w *world) map[adminapi.RouteID]attempt {
	ada := identity("corp", "ada", "engineering")
	user := string(w.login(ada))
	w.connect(ada, 7, w.now.now())
	w.check(w.store.IndexBatch(w.t.Context(), "gw1", "p", []store.AuditRow{
		{Gateway: "gw1", Log: "l", Seq: 1, Time: w.now.now(), Event: "stream.denied", Reference: "k7qw-3m9p", User: ada.UserID(), Service: "wiki"},
	}))
	all := readAttempts(w, string(ada.Session), user)
	for id, a := range changeAttempts(w) {
		all[id] = a
	}
	return all
}

func readAttempts(w *world, session, user string) map[adminapi.RouteID]attempt {
	request := w.ask(identity("corp", "zoe"), "db", time.Hour)
	return map[adminapi.RouteID]attempt{
		adminapi.RouteOpenAPI: func(ctx context.Context, c *adminapi.Client) error { return got(c.OpenAPI(ctx)) },
		adminapi.RouteWhoami:  func(ctx context.Context, c *adminapi.Client) error { return got(c.Whoami(ctx)) },
		adminapi.RoutePolicy:  func(ctx context.Context, c *adminapi.Client) error { return got(c.Policy(ctx)) },
		adminapi.RoutePolicyVersions: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.PolicyVersions(ctx, adminapi.List{}))
		},
		adminapi.RoutePolicyVersion: func(ctx context.Context, c *adminapi.Client) error { return got(c.PolicyVersion(ctx, 1)) },
		adminapi.RoutePolicyCheck:   func(ctx context.Context, c *adminapi.Client) error { return got(c.PolicyCheck(ctx, "version: 2")) },
		adminapi.RoutePolicyDiff: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.PolicyDiff(ctx, adminapi.PolicyDiff{Document: variant(99), Since: w.now.now().Add(-time.Hour)}, nil))
		},
		adminapi.RoutePolicyExplain: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.PolicyExplain(ctx, adminapi.PolicyExplain{Target: "wiki", User: user}))
		},
		adminapi.RoutePolicyWho: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.PolicyWho(ctx, adminapi.WhoQuery{Service: "wiki", All: true}))
		},
		adminapi.RoutePolicyWhat: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.PolicyWhat(ctx, adminapi.WhatQuery{User: user}))
		},
		adminapi.RouteSessions: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.Sessions(ctx, adminapi.SessionQuery{}))
		},
		adminapi.RouteSession: func(ctx context.Context, c *adminapi.Client) error { return got(c.Session(ctx, session)) },
		adminapi.RouteLocks:   func(ctx context.Context, c *adminapi.Client) error { return got(c.Locks(ctx, adminapi.List{})) },
		adminapi.RouteRequests: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.Requests(ctx, adminapi.RequestQuery{}))
		},
		adminapi.RouteRequest: func(ctx context.Context, c *adminapi.Client) error { return got(c.Request(ctx, request)) },
		adminapi.RouteAudit:   func(ctx context.Context, c *adminapi.Client) error { return got(c.Audit(ctx, adminapi.AuditQuery{})) },
		adminapi.RouteAuditReference: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.AuditReference(ctx, "k7qw-3m9p"))
		},
		adminapi.RouteDevices: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.Devices(ctx, adminapi.DeviceQuery{}))
		},
		adminapi.RouteCertificates: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.Certificates(ctx, adminapi.CertificateQuery{Session: session}))
		},
		adminapi.RouteGateways: func(ctx context.Context, c *adminapi.Client) error { return got(c.Gateways(ctx, adminapi.List{})) },
		adminapi.RouteUsers:    func(ctx context.Context, c *adminapi.Client) error { return got(c.Users(ctx, adminapi.UserQuery{})) },
	}
}

func changeAttempts(w *world) map[adminapi.RouteID]attempt {
	n := 0
	// fresh is a request of somebody new, in the state.
	fresh := func(approved bool) string {
		n++
		id := w.ask(identity("corp", fmt.Sprintf("asks%d", n)), "db", time.Hour)
		if approved {
			must[store.Request](w.t)(w.store.DecideRequest(w.t.Context(), id, true, "x", "", "", time.Hour))
		}
		return id
	}
	decide := func(approved bool, f func(*adminapi.Client, context.Context, string) error) attempt {
		return func(ctx context.Context, c *adminapi.Client) error { return f(c, ctx, fresh(approved)) }
	}
	return map[adminapi.RouteID]attempt{
		adminapi.RoutePolicyApply: func(ctx context.Context, c *adminapi.Client) error {
			n++
			return got(c.PolicyApply(ctx, adminapi.PolicyApply{Document: variant(n), Expected: w.head()}))
		},
		adminapi.RoutePolicyRollback: func(ctx context.Context, c *adminapi.Client) error {
			n++
			number := w.apply(variant(n))
			return got(c.PolicyRollback(ctx, adminapi.PolicyRollback{Number: number - 1, Expected: number}))
		},
		adminapi.RouteSessionEnd: func(ctx context.Context, c *adminapi.Client) error {
			n++
			id := identity("corp", fmt.Sprintf("ends%d", n))
			w.login(id)
			return got(c.EndSession(ctx, string(id.Session), "a lost laptop"))
		},
		adminapi.RouteLockAdd: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.AddLock(ctx, adminapi.LockAdd{Kind: "group", Target: "corp/interns", Message: "ask it-help"}))
		},
		adminapi.RouteLockRemove: func(ctx context.Context, c *adminapi.Client) error {
			l := must[store.Lock](w.t)(w.store.AddLock(ctx, store.Lock{ID: audit.NewReference(), Kind: store.LockGroup, Target: "corp/interns"}))
			return got(c.RemoveLock(ctx, l.ID))
		},
		adminapi.RouteRequestApprove: decide(false, func(c *adminapi.Client, ctx context.Context, id string) error {
			return got(c.ApproveRequest(ctx, id, "fine"))
		}),
		adminapi.RouteRequestDeny: decide(false, func(c *adminapi.Client, ctx context.Context, id string) error {
			return got(c.DenyRequest(ctx, id, "no"))
		}),
		adminapi.RouteRequestEnd: decide(true, func(c *adminapi.Client, ctx context.Context, id string) error {
			return got(c.EndRequest(ctx, id, "over"))
		}),
		adminapi.RouteOwnRequestNew: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.Ask(ctx, adminapi.RequestNew{Service: "db", For: adminapi.Duration(time.Hour), Reason: "an outage"}))
		},
		adminapi.RouteOwnRequests: func(ctx context.Context, c *adminapi.Client) error {
			return got(c.OwnRequests(ctx, adminapi.OwnRequestQuery{}))
		},
		adminapi.RouteOwnRequestLeave: func(ctx context.Context, c *adminapi.Client) error {
			r, err := c.Ask(ctx, adminapi.RequestNew{Service: "db", For: adminapi.Duration(time.Hour), Reason: "an outage"})
			if err != nil {
				return err
			}
			return got(c.Withdraw(ctx, r.ID))
		},
	}
}

// The whole of who may do what, written out: v(iewer), e(ditor), a(pprover), o(wner), s(ocket), p: approver of db by the policy
// without a role, n: logged in and nothing else. The table says it apart from adminapi.Routes, so that a slip there shows.
var permitted = map[adminapi.RouteID]string{
	adminapi.RouteOpenAPI:         "veaosp",
	adminapi.RouteWhoami:          "veaosp",
	adminapi.RoutePolicy:          "veaos",
	adminapi.RoutePolicyVersions:  "veaos",
	adminapi.RoutePolicyVersion:   "veaos",
	adminapi.RoutePolicyCheck:     "veaos",
	adminapi.RoutePolicyApply:     "eos",
	adminapi.RoutePolicyRollback:  "eos",
	adminapi.RoutePolicyDiff:      "veaos",
	adminapi.RoutePolicyExplain:   "veaos",
	adminapi.RoutePolicyWho:       "veaos",
	adminapi.RoutePolicyWhat:      "veaos",
	adminapi.RouteSessions:        "veaos",
	adminapi.RouteSession:         "veaos",
	adminapi.RouteSessionEnd:      "eos",
	adminapi.RouteLocks:           "veaos",
	adminapi.RouteLockAdd:         "eos",
	adminapi.RouteLockRemove:      "eos",
	adminapi.RouteRequests:        "veaosp",
	adminapi.RouteRequest:         "veaosp",
	adminapi.RouteRequestApprove:  "aosp",
	adminapi.RouteRequestDeny:     "aosp",
	adminapi.RouteRequestEnd:      "aosp",
	adminapi.RouteAudit:           "veaos",
	adminapi.RouteAuditReference:  "veaos",
	adminapi.RouteDevices:         "veaos",
	adminapi.RouteCertificates:    "veaos",
	adminapi.RouteGateways:        "veaos",
	adminapi.RouteUsers:           "veaos",
	adminapi.RouteOwnRequestNew:   "veaopn",
	adminapi.RouteOwnRequests:     "veaopn",
	adminapi.RouteOwnRequestLeave: "veaopn",
}

func callers() map[rune]Caller {
	return map[rune]Caller{
		'v': person("viewer", nil, adminapi.RoleViewer),
		'e': person("editor", nil, adminapi.RoleEditor),
		'a': person("approver", nil, adminapi.RoleApprover),
		'o': person("owner", nil, adminapi.RoleOwner),
		's': root(),
		'p': person("policy-approver", []string{"it"}),
		'n': person("nobody", []string{"engineering"}),
	}
}

// Class: admin without authorization (OpenZiti GHSA-6v5r, NetBird GHSA-rxmp). Every route times every role, deny by default,
// and every denial is audited.
func TestThreatAdminRoutesByRole(t *testing.T) {
	w := newWorldWith(t, options{changes: 1000})
	all := attempts(w)
	routes := adminapi.Routes()
	if len(routes) != len(permitted) || len(routes) != len(all) {
		t.Fatalf("%d routes, %d in the table, %d attempts", len(routes), len(permitted), len(all))
	}
	for who, caller := range callers() {
		clients := map[string]*adminapi.Client{adminapi.ServiceAdmin: w.as(caller), adminapi.ServiceSelf: w.own(caller)}
		for _, route := range routes {
			t.Run(fmt.Sprintf("%c/%s", who, route.ID), func(t *testing.T) {
				denials := len(w.audited(audit.EventAdminDenied))
				err := all[route.ID](t.Context(), clients[route.Service])
				if strings.ContainsRune(permitted[route.ID], who) {
					if err != nil {
						t.Fatalf("denied: %v", err)
					}
					return
				}
				refused(t, err, adminapi.CodeForbidden)
				if len(w.audited(audit.EventAdminDenied)) != denials+1 {
					t.Error("the denial was not audited")
				}
			})
		}
	}
	for _, route := range routes {
		if w.checker.seen[string(route.ID)] == 0 {
			t.Errorf("no reply of %s was held against the document", route.ID)
		}
	}
}

// Without a caller nothing is answered, whatever the route.
func TestThreatAdminWithoutCaller(t *testing.T) {
	w := newWorld(t)
	forged := map[string]Caller{
		"nobody":                       {},
		"roles without anybody":        {Roles: Roles{adminapi.RoleOwner}},
		"a tunnel without an identity": {Via: ViaTunnel, Roles: Roles{adminapi.RoleOwner}},
		"a way that does not exist":    {Via: "internet", Identity: identity("corp", "ada"), Roles: Roles{adminapi.RoleOwner}},
		"a socket with an identity":    {Via: ViaSocket, Identity: identity("corp", "ada")},
	}
	for name, caller := range forged {
		_, err := w.as(caller).Whoami(t.Context())
		if p := refused(t, err, adminapi.CodeUnauthenticated); p.Status != http.StatusUnauthorized {
			t.Errorf("%s: %+v", name, p)
		}
	}
	for _, h := range []http.Handler{w.api.Admin(), w.api.Self()} {
		for _, route := range adminapi.Routes() {
			c := w.client(h, nil, route.Service)
			req, err := http.NewRequestWithContext(t.Context(), route.Method, c.Base+strings.NewReplacer("{", "", "}", "").Replace(route.Path), nil)
			w.check(err)
			resp, err := c.HTTP.Do(req)
			w.check(err)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s %s: %s", route.Method, route.Path, resp.Status)
			}
		}
	}
}

// The gateway's configuration is the only place where roles come from: a role that is unknown permits nothing.
func TestRolesPermit(t *testing.T) {
	for _, c := range []struct {
		have, need adminapi.Role
		want       bool
	}{
		{adminapi.RoleOwner, adminapi.RoleEditor, true},
		{adminapi.RoleOwner, adminapi.RoleApprover, true},
		{adminapi.RoleEditor, adminapi.RoleApprover, false},
		{adminapi.RoleApprover, adminapi.RoleEditor, false},
		{adminapi.RoleViewer, adminapi.RoleEditor, false},
		{adminapi.RoleEditor, adminapi.RoleOwner, false},
		{"admin", adminapi.RoleViewer, false},
		{"", adminapi.RoleViewer, false},
		{adminapi.RoleOwner, "", false},
		{adminapi.RoleOwner, "superuser", false},
	} {
		if got := (Roles{c.have}).Permit(c.need); got != c.want {
			t.Errorf("%q permits what %q does: %v", c.have, c.need, got)
		}
	}
	if (Roles)(nil).Permit(adminapi.RoleViewer) {
		t.Error("no role permits something")
	}
}

// A configuration in which something is missing is refused, and does not become an API that lets things through.
func TestNewRefusesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	for name, spoil := range map[string]func(*Config){
		"policies": func(c *Config) { c.Policies = nil }, "preview": func(c *Config) { c.Preview = nil },
		"sessions": func(c *Config) { c.Sessions = nil }, "locks": func(c *Config) { c.Locks = nil },
		"requests": func(c *Config) { c.Requests = nil }, "index": func(c *Config) { c.Index = nil },
		"inventory": func(c *Config) { c.Inventory = nil }, "audit": func(c *Config) { c.Audit = nil },
	} {
		cfg := w.api.Config
		spoil(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("without %s there is an API", name)
		}
	}
}

// Over the socket everything may be done, and every call of it is in the audit log.
func TestBreakGlassIsAudited(t *testing.T) {
	w := newWorld(t)
	caller := Caller{Via: ViaSocket, UID: 1000}
	c := w.as(caller)
	me := must[*adminapi.Whoami](t)(c.Whoami(t.Context()))
	if me.Name != "root via socket (uid 1000)" || me.Via != ViaSocket || len(me.Roles) != 1 || me.Roles[0] != adminapi.RoleOwner || me.User != "" {
		t.Errorf("%+v", me)
	}
	must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/interns"}))
	calls := w.audited(audit.EventAdminBreakGlass)
	if len(calls) != 2 || calls[1].Admin.Path != "/v1/locks" || calls[1].Admin.Method != http.MethodPost || calls[1].Admin.UID != 1000 || calls[1].Admin.Via != ViaSocket {
		t.Errorf("%+v", calls)
	}
	added := w.lastAudited(audit.EventLockAdded)
	if added.Actor.Name != me.Name || added.Admin.Via != ViaSocket || added.Admin.Role != "owner" {
		t.Errorf("%+v %+v", added.Actor, added.Admin)
	}
	w.breakAudit(errors.New("disk full"))
	must[*adminapi.Page[adminapi.Lock]](t)(c.Locks(t.Context(), adminapi.List{}))
	_, err := c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/others"})
	refused(t, err, adminapi.CodeAuditUnavailable)
	if !strings.Contains(w.logs.String(), "audit a call over the socket") {
		t.Error("a read that could not be audited left no trace")
	}
}
