package adminctl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/adminctl"
	"github.com/culvert-vpn/culvert/server/admin"
	"github.com/culvert-vpn/culvert/server/store"
)

// want checks an exit code and what must have been said, wherever.
func (w *world) want(r ran, code int, texts ...string) {
	w.t.Helper()
	all := r.out + r.err + r.hint
	if r.code != code {
		w.t.Errorf("exit %d, want %d:\n%s", r.code, code, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			w.t.Errorf("%q is missing in\n%s", text, all)
		}
	}
}

func (w *world) locks() []store.Lock {
	w.t.Helper()
	locks, err := w.store.Locks(w.t.Context())
	w.check(err)
	return locks
}

// A revocation says what it cuts, and only yes is yes.
func TestRevokeAsks(t *testing.T) {
	w := newWorld(t)
	w.terminal = true
	w.want(w.typed("no\n", "admin", "revoke", "ada@corp.example"), 1, "this cuts 1 session of corp:ada@corp.example", "3 open streams", "cut them off? [y/N]", "nothing was done")
	w.want(w.typed("", "admin", "revoke", "ada@corp.example"), 1, "nothing was done")
	w.want(w.typed("maybe yes\n", "admin", "revoke", "ada@corp.example"), 1, "nothing was done")
	if len(w.locks()) > 0 {
		t.Error("it locked without a yes")
	}
	w.want(w.typed("Yes\n", "admin", "revoke", "ada@corp.example", "--for", "1d"), 0, "locked out: user corp:ada@corp.example", "in 1d")
	locks := w.locks()
	if len(locks) != 1 || locks[0].Author != "corp:root-admin@corp.example" || !locks[0].Expires.Equal(night.Add(24*time.Hour)) {
		t.Errorf("locks %+v", locks)
	}
	w.terminal = false
	w.want(w.culvert("admin", "revoke", "bob@corp.example"), 2, "nobody sits at a terminal")
	if r := w.culvert("admin", "revoke", "ada@corp.example", "--dry-run"); strings.Contains(r.err, "cuts you off") {
		t.Errorf("root-admin is not ada: %s", r.err)
	}
	w.caller = w.person("ada", adminapi.RoleOwner)
	w.want(w.culvert("admin", "revoke", "ada@corp.example", "--dry-run"), 0, "warning: this cuts you off too")
	w.caller = w.person("root-admin", adminapi.RoleOwner)
}

// Every way to name what is locked reaches the store in its canonical form.
func TestRevokeByEveryName(t *testing.T) {
	w := newWorld(t)
	serial := string(w.serials["ada"])
	printed := strings.ToUpper(serial[:2] + ":" + serial[2:])
	for _, c := range []struct {
		args   []string
		kind   store.LockKind
		target string
	}{
		{[]string{"corp:sub:grace"}, store.LockUser, ""},
		{[]string{"--session", string(w.sessions["ada"])}, store.LockSession, string(w.sessions["ada"])},
		{[]string{"--device", string(device("ada"))[:8]}, store.LockDevice, string(device("ada"))},
		{[]string{"--certificate", printed}, store.LockCertificate, serial},
		{[]string{"--group", "corp/accounting"}, store.LockGroup, "corp/accounting"},
	} {
		w.want(w.culvert(append([]string{"admin", "revoke", "--yes"}, c.args...)...), 0, "locked out: "+string(c.kind), "this cuts")
		locks := w.locks()
		last := locks[len(locks)-1]
		if last.Kind != c.kind || c.target != "" && last.Target != c.target {
			t.Errorf("%q: lock %+v", c.args, last)
		}
	}
	for _, args := range [][]string{{"nobody@corp.example"}, {"--device", "zzzz"}, {"--session", "zzzz"}, {"--certificate", strings.Repeat("0", 32)}} {
		if r := w.culvert(append([]string{"admin", "revoke", "--yes"}, args...)...); r.code == 0 {
			t.Errorf("%q was locked: %s", args, r.out)
		}
	}
	for _, l := range w.locks() {
		w.want(w.culvert("admin", "locks", "remove", l.ID), 0, "is lifted")
	}
	w.want(w.culvert("admin", "locks"), 0, "nobody is locked out")
	w.want(w.culvert("admin", "locks", "add", "corp:sub:newcomer", "--relogin"), 0, "a new login is free")
}

// A role that is missing is exit code 4 and says whose business it is.
func TestExitCodesOfRefusals(t *testing.T) {
	w := newWorld(t)
	w.caller = w.person("eve", adminapi.RoleViewer)
	w.want(w.culvert("admin", "revoke", "ada@corp.example", "--yes"), 4)
	w.want(w.culvert("admin", "sessions", "end", string(w.sessions["ada"]), "--reason", "x"), 4)
	w.want(w.culvert("admin", "sessions"), 0)
	w.caller = w.person("mallory")
	w.want(w.culvert("admin", "sessions"), 4)
	w.caller = admin.Caller{}
	w.want(w.culvert("admin", "whoami"), 4)
	w.caller = w.person("root-admin", adminapi.RoleOwner)
	w.want(w.culvert("admin", "sessions", "show", "nonsense"), 2)
	w.want(w.culvert("admin", "policy", "show", "99"), 1)
	w.want(w.culvert("admin", "policy", "what", "nobody@corp.example"), 1)
	w.want(w.culvert("admin", "policy", "who", "nosuch"), 1)
}

// Two people of two providers with one address are told apart.
func TestAmbiguousUser(t *testing.T) {
	w := newWorld(t)
	w.loginAs("https://idp.partner.example/", "partner", "ada", "ada@corp.example", "guests")
	r := w.culvert("admin", "policy", "what", "ada@corp.example")
	w.want(r, 2, "corp:ada@corp.example", "partner:ada@corp.example")
	w.want(w.culvert("admin", "policy", "what", "partner:ada@corp.example"), 0, "wiki")
}

// Two administrators cannot overwrite each other, and the slower one reads who was faster and why.
func TestPolicyConflict(t *testing.T) {
	w := newWorld(t)
	file := filepath.Join(t.TempDir(), "new.yaml")
	w.check(os.WriteFile(file, []byte(secondPolicy), 0o600))
	w.want(w.culvert("admin", "policy", "apply", file, "--comment", "mine", "--expect", "1"), 1,
		"yours is based on version 1, and version 2 is in force, by corp:ada@corp.example", "culvert admin policy show 2", "--expect 2")
	w.want(w.culvert("admin", "policy", "rollback", "1", "--expect", "1"), 1, "version 2 is in force")
	w.want(w.typed(secondPolicy, "admin", "policy", "apply", "-", "--comment", "mine"), 0, "based on version 2 by corp:ada@corp.example", "version 3 is in force")
	w.want(w.culvert("admin", "policy", "history"), 0, "mine")
	w.want(w.culvert("admin", "policy", "rollback", "1"), 0, "version 4 is in force")
	r := w.culvert("admin", "policy", "show", "3")
	if r.out != secondPolicy {
		t.Errorf("version 3 is not what was applied:\n%s", r.out)
	}
}

// Where the policy is a file, the commands that change it say so.
func TestPolicyIsAFile(t *testing.T) {
	w := newWorld(t)
	w.serve(false)
	w.want(w.typed(secondPolicy, "admin", "policy", "apply", "-", "--comment", "x"), 1, "file")
	w.want(w.culvert("admin", "whoami"), 0, "a file at each gateway")
}

// From the request to its end, by those who may.
func TestRequests(t *testing.T) {
	w := newWorld(t)
	w.caller = w.person("ada")
	r := w.culvert("request", "db", "--for", "2h", "--reason", "ticket 4711", "--json")
	var made adminapi.RequestDecided
	if err := adminapi.Decode([]byte(r.out), &made, adminapi.Lenient); err != nil || made.ID == "" {
		t.Fatalf("%v: %s%s", err, r.out, r.err)
	}
	w.want(w.culvert("request", "db", "--for", "9h", "--reason", "longer"), 1)
	w.want(w.culvert("request", "wiki", "--for", "1h", "--reason", "x"), 1)
	w.want(w.culvert("request", "list"), 0, made.ID, "db", "pending")

	w.caller = w.person("ada", adminapi.RoleOwner)
	w.want(w.culvert("admin", "requests", "approve", made.ID), 4) // nobody approves their own
	w.caller = w.person("root-admin", adminapi.RoleApprover)
	w.want(w.culvert("admin", "requests", "--state", "pending"), 0, made.ID, "corp:ada@corp.example", "ticket 4711")
	w.want(w.culvert("admin", "requests", "approve", made.ID, "--note", "until the migration is done"), 0, "approved, until 2026-07-14 05:00:0", "CEST (in 2h)")
	w.want(w.culvert("admin", "requests", "deny", made.ID), 1)
	w.want(w.culvert("admin", "requests", "show", made.ID), 0, "until the migration is done", "approved")
	w.want(w.culvert("admin", "requests"), 0, "approved, ends in 2h")
	w.want(w.culvert("admin", "requests", "end", made.ID), 0, "ended")

	w.caller = w.person("ada")
	w.want(w.culvert("request", "list"), 0, made.ID, "ended", "root-admin")
	w.want(w.culvert("request", "withdraw", made.ID), 1)
	w.want(w.culvert("request", "list", "--state", "pending"), 0)
}

// Lists go on over the API's pages until there is enough, and say when there is more.
func TestListsArePaged(t *testing.T) {
	w := newWorld(t)
	w.want(w.culvert("admin", "users", "--limit", "2"), 0, "these are the first 2 users", "--limit 0")
	r := w.culvert("admin", "users", "--limit", "0")
	w.want(r, 0, "ada", "bob", "grace")
	if strings.Contains(r.err, "there are more") {
		t.Error(r.err)
	}
}

// What nobody answers to is exit code 5.
func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	for _, address := range []string{"hangs up", "talks nonsense"} {
		w.address = w.impostor(address)
		r := w.culvert("admin", "whoami")
		w.want(r, adminctl.ExitGateway)
		if strings.Contains(r.err, "Get ") || strings.Contains(r.err, "culvert-admin") {
			t.Errorf("%s: net/http's words in %q", address, r.err)
		}
	}
}

// threats.md, "Local and administrative surfaces": log injection, here from a person's name, a reason or a policy into the
// administrator's terminal.
func TestThreatTerminalIsNotWritten(t *testing.T) {
	w := newWorld(t)
	w.check(w.store.PutLive(t.Context(), "gw1", []store.Live{{
		Gateway: "gw1", ID: 8, User: "x", Name: "a\x1b]0;gone\x07\u202e", Email: "e\x1b[2J\r\nadmin@corp.example", Session: "s\x1b[1A", Remote: "r\u009b2J",
		Client: "c\x1b[8m", Since: night, NotAfter: night, Deadline: night,
	}}))
	w.check(w.store.IndexBatch(t.Context(), "gw1", "q", []store.AuditRow{{
		Gateway: "gw1", Log: "l\x1b[1A", Seq: 13, Time: night, Event: "stream.denied", Reference: "p2wx-77ab", Service: "s\x1b[1A", Target: "t\r", Rule: "r\u009b",
		Reason: "\x1b]0;gone\x07", Detail: "d\u202e", Remote: "\x1b[2J",
	}}))
	for _, args := range [][]string{{"sessions"}, {"sessions", "--json"}, {"audit"}, {"audit", "show", "p2wx-77ab"}, {"audit", "--json"}, {"users"}} {
		r := w.culvert(append([]string{"admin"}, args...)...)
		if strings.ContainsAny(r.out+r.err, "\x1b\x07\r\u009b\u202e") {
			t.Errorf("%q prints control characters: %q", args, r.out+r.err)
		}
	}
}

// A word that no record has would give an empty list, which looks like an answer.
func TestUnknownEventsAreSaid(t *testing.T) {
	w := newWorld(t)
	w.want(w.culvert("admin", "audit", "--event", "lock.add"), 0, `no event is called "lock.add"`, "lock.added", "no record")
	if r := w.culvert("admin", "audit", "--event", "stream.denied"); strings.Contains(r.err, "no event") {
		t.Errorf("%s", r.err)
	}
}

func TestCompletion(t *testing.T) {
	w := newWorld(t)
	w.want(w.culvert("__complete", "admin", "revoke", "corp:a"), 0, "corp:ada@corp.example")
	w.want(w.culvert("__complete", "admin", "policy", "explain", "--as", "bo"), 0, "bob@corp.example")
	w.want(w.culvert("__complete", "admin", "policy", "who", "pay"), 0, "payroll")
	w.want(w.culvert("__complete", "admin", "audit", "--event", "policy."), 0, "policy.changed")
	w.address = "127.0.0.1:1" // nobody
	w.want(w.culvert("__complete", "admin", "revoke", "corp:a"), 0)
}

// Each change is in the audit log under the name of who asked, and over the socket as break-glass.
func TestBreakGlass(t *testing.T) {
	w := newWorld(t)
	w.caller = admin.Caller{Via: admin.ViaSocket, UID: 0}
	w.want(w.culvert("admin", "whoami"), 0, "break-glass", "root via socket")
	w.want(w.culvert("admin", "revoke", "ada@corp.example", "--yes"), 0)
	said := false
	for _, r := range w.audited {
		said = said || strings.Contains(string(r.Event), "break_glass")
	}
	if !said {
		t.Errorf("no record of it in %+v", w.audited)
	}
}
