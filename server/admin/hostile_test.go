package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// raw sends bytes as they are and returns the answer. The connection is closed with the test.
func raw(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	// A server that refuses may close before it has read everything.
	go func() { _, _ = io.WriteString(conn, request) }()
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%.80q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// wantRaw checks the status and the code of a raw answer.
func wantRaw(t *testing.T, address, request string, status int, code adminapi.Code) *http.Response {
	t.Helper()
	resp, body := raw(t, address, request)
	if resp.StatusCode != status || !strings.Contains(body, fmt.Sprintf("%q", code)) {
		t.Errorf("%.120q: %s\n%s", request, resp.Status, body)
	}
	return resp
}

// Class: local API rebinding (Tailscale CVE-2022-41924), CSRF (Go CVE-2025-47910). Only the client speaks to the handler, and
// that is no browser: what a web page sends is refused, for reads too, and so is another Host.
func TestThreatAdminForeignOrigin(t *testing.T) {
	w := newWorld(t)
	owner := person("owner", nil, adminapi.RoleOwner)
	address := w.serve(w.api.Admin(), &owner)
	const line = "GET /v1/whoami HTTP/1.1\r\n"
	for _, headers := range []string{
		"Host: culvert-admin\r\nOrigin: https://evil.example\r\n",
		"Host: culvert-admin\r\nOrigin: http://culvert-admin\r\n",
		"Host: culvert-admin\r\nOrigin: null\r\n",
		"Host: culvert-admin\r\nOrigin:\r\n",
		"Host: culvert-admin\r\nReferer: https://evil.example/\r\n",
		"Host: culvert-admin\r\nSec-Fetch-Site: none\r\n",
		"Host: culvert-admin\r\nSec-Fetch-Mode: navigate\r\n",
		"Host: evil.example\r\n",
		"Host: culvert-self\r\n",
		"Host: culvert-admin.evil.example\r\n",
		"Host: culvert-admin:80\r\n",
		"Host: localhost\r\n",
		"Host:\r\n",
	} {
		wantRaw(t, address, line+headers+"\r\n", http.StatusForbidden, adminapi.CodeForeign)
	}
	wantRaw(t, address, "GET http://evil.example/v1/whoami HTTP/1.1\r\nHost: culvert-admin\r\n\r\n", http.StatusForbidden, adminapi.CodeForeign)
	if resp, body := raw(t, address, line+"Host: culvert-admin\r\n\r\n"); resp.StatusCode != http.StatusOK {
		t.Errorf("the client itself: %s %s", resp.Status, body)
	}
	if len(w.audited(audit.EventAdminDenied)) == 0 {
		t.Error("nothing was audited")
	}
}

// Class: body before authentication (OpenZiti GHSA-q8g9). Whoever may not ask is answered before their body is read, whatever
// its size; a permitted one is bounded in size, depth and time.
func TestThreatAdminBodies(t *testing.T) {
	w := newWorldWith(t, options{timeout: 200 * time.Millisecond})
	nobody, viewer, editor := person("nobody", nil), person("viewer", nil, adminapi.RoleViewer), person("editor", nil, adminapi.RoleEditor)
	post := func(path, headers, body string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: culvert-admin\r\nContent-Type: application/json\r\n" + headers + "\r\n" + body
	}
	waiting := post("/v1/locks", "Content-Length: 60000\r\n", "{")
	chunked := post("/v1/locks", "Transfer-Encoding: chunked\r\n", "1\r\n{\r\n")
	if resp := wantRaw(t, w.serve(w.api.Admin(), nil), waiting, http.StatusUnauthorized, adminapi.CodeUnauthenticated); !resp.Close {
		t.Error("the connection stays open for a body that nobody wants")
	}
	for _, caller := range []Caller{nobody, viewer} {
		address := w.serve(w.api.Admin(), &caller)
		for _, request := range []string{waiting, chunked} {
			if resp := wantRaw(t, address, request, http.StatusForbidden, adminapi.CodeForbidden); !resp.Close {
				t.Error("the connection stays open for a body that nobody wants")
			}
		}
	}
	address := w.serve(w.api.Admin(), &editor)
	wantRaw(t, address, post("/v1/locks", "Content-Length: 100000000\r\n", ""), http.StatusRequestEntityTooLarge, adminapi.CodeTooLarge)
	wantRaw(t, address, post("/v1/policy/apply", "Content-Length: 100000000\r\n", ""), http.StatusRequestEntityTooLarge, adminapi.CodeTooLarge)
	wantRaw(t, address, post("/v1/locks", "Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n", 100_000, strings.Repeat(" ", 100_000))),
		http.StatusRequestEntityTooLarge, adminapi.CodeTooLarge)
	wantRaw(t, address, waiting, http.StatusRequestTimeout, adminapi.CodeTimeout)
	deep := strings.Repeat("[", 10_000)
	wantRaw(t, address, post("/v1/locks", fmt.Sprintf("Content-Length: %d\r\n", len(deep)), deep), http.StatusBadRequest, adminapi.CodeBadRequest)
	wantRaw(t, address, "POST /v1/locks HTTP/1.1\r\nHost: culvert-admin\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", http.StatusUnsupportedMediaType, adminapi.CodeMediaType)
	wantRaw(t, address, "POST /v1/locks HTTP/1.1\r\nHost: culvert-admin\r\nContent-Length: 2\r\n\r\n{}", http.StatusUnsupportedMediaType, adminapi.CodeMediaType)
	wantRaw(t, address, "GET /v1/whoami HTTP/1.1\r\nHost: culvert-admin\r\nContent-Length: 2\r\n\r\n{}", http.StatusBadRequest, adminapi.CodeBadRequest)
}

// Class: role field, another's id in a message. Nothing in a request says who asks: such fields do not exist, and a request
// that has one is refused as a whole.
func TestThreatAdminForgedFields(t *testing.T) {
	w := newWorld(t)
	ada, bob := person("ada", []string{"engineering"}), person("bob", []string{"engineering"})
	w.login(bob.Identity)
	editor := person("editor", nil, adminapi.RoleEditor)
	admin, self := w.serve(w.api.Admin(), &editor), w.serve(w.api.Self(), &ada)
	theirs := w.ask(bob.Identity, "db", time.Hour)
	post := func(host, path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nX-Forwarded-User: root\r\nAuthorization: Bearer owner\r\nContent-Length: %d\r\n\r\n%s", path, host, len(body), body)
	}
	for _, body := range []string{
		`{"kind":"group","target":"corp/x","role":"owner"}`,
		`{"kind":"group","target":"corp/x","author":"somebody else"}`,
		`{"kind":"group","target":"corp/x","id":"my-own"}`,
		`{"kind":"group","target":"corp/x","target":"corp/y"}`,
		`{"kind":"group","target":"corp/x","Target":"corp/y"}`,
		`{"kind":"group","target":"corp/x"} {}`,
		`{"kind":"group","target":["corp/x"]}`,
		`[]`, `null garbage`, ``, `"x"`, "\xff\xfe",
	} {
		wantRaw(t, admin, post(adminapi.ServiceAdmin, "/v1/locks", body), http.StatusBadRequest, adminapi.CodeBadRequest)
	}
	for _, body := range []string{
		fmt.Sprintf(`{"service":"db","for":"1h","reason":"x","user":%q}`, bob.user()),
		`{"service":"db","for":"1h","reason":"x","state":"approved"}`,
		`{"service":"db","for":"1h","reason":"x","until":"2030-01-01T00:00:00Z"}`,
	} {
		wantRaw(t, self, post(adminapi.ServiceSelf, "/v1/own/requests", body), http.StatusBadRequest, adminapi.CodeBadRequest)
	}
	wantRaw(t, admin, post(adminapi.ServiceAdmin, "/v1/requests/"+theirs+"/approve", `{"note":"x"}`), http.StatusForbidden, adminapi.CodeForbidden)
	_, err := w.own(ada).Withdraw(t.Context(), theirs)
	refused(t, err, adminapi.CodeNotFound)
	if denied := w.lastAudited(audit.EventAdminDenied); denied.Admin.Object != "request "+theirs || denied.Actor.User != ada.user() {
		t.Errorf("%+v", denied)
	}
	if r := must[store.Request](t)(w.store.Request(t.Context(), theirs)); r.State != store.RequestPending {
		t.Errorf("the request of somebody else is %s", r.State)
	}
	list := must[*adminapi.Page[adminapi.Request]](t)(w.own(ada).OwnRequests(t.Context(), adminapi.OwnRequestQuery{}))
	if len(list.Items) != 0 {
		t.Errorf("somebody else's requests: %+v", list.Items)
	}
	if locks := must[[]store.Lock](t)(w.store.Locks(t.Context())); len(locks) != 0 {
		t.Errorf("%+v", locks)
	}
}

// Class: odd spellings of a path. A route is reached by one spelling and one method only; nothing is cleaned or redirected,
// and no header changes the method.
func TestThreatAdminPaths(t *testing.T) {
	w := newWorld(t)
	viewer := person("viewer", nil, adminapi.RoleViewer)
	address := w.serve(w.api.Admin(), &viewer)
	for _, path := range []string{
		"/", "/v1", "/v1/", "/v1/whoami/", "//v1/whoami", "/v1//whoami", "/v1/./whoami", "/v1/x/../whoami", "/v1/%77hoami", "/V1/whoami",
		"/v1/sessions/", "/v1/sessions/%00", "/v1/sessions/a%2fend", "/v1/locks/%1b[2J", "/v2/whoami", "/v1/whoami;x=1", "/v1/policy/apply%20",
		"/v1/own/requests", "/v1/sessions/" + strings.Repeat("a", 600), "/debug/pprof/", "/metrics",
	} {
		resp, body := raw(t, address, "GET "+path+" HTTP/1.1\r\nHost: culvert-admin\r\n\r\n")
		if resp.StatusCode != http.StatusNotFound && resp.StatusCode != http.StatusBadRequest || strings.Contains(body, "\x1b") {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	for _, method := range []string{"HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "DELETE", "POST", "get", "CONNECT"} {
		request := method + " /v1/whoami HTTP/1.1\r\nHost: culvert-admin\r\nContent-Length: 0\r\n\r\n"
		if resp, _ := raw(t, address, request); resp.StatusCode == http.StatusOK {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	wantRaw(t, address, "GET /v1/locks/x HTTP/1.1\r\nHost: culvert-admin\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", http.StatusMethodNotAllowed, adminapi.CodeMethodNotAllowed)
	for _, query := range []string{"x=1", "limit=1&limit=2", "limit=-1", "limit=x", "cursor=%00", "cursor=garbage", "cursor=%zz"} {
		wantRaw(t, address, "GET /v1/locks?"+query+" HTTP/1.1\r\nHost: culvert-admin\r\n\r\n", http.StatusBadRequest, adminapi.CodeBadRequest)
	}
	wantRaw(t, address, "GET /v1/whoami?role=owner HTTP/1.1\r\nHost: culvert-admin\r\n\r\n", http.StatusBadRequest, adminapi.CodeBadRequest)
}

// Class: log injection (Go CVE-2025-58189). What people are called and what they write forges no line, and the actor of a record
// is the certificate's.
func TestThreatAdminLogInjection(t *testing.T) {
	w := newWorld(t)
	hostile := person("eve", nil, adminapi.RoleEditor)
	hostile.Identity.Name = "eve\r\n{\"event\":\"lock.removed\"}\x1b[2J\u202e"
	hostile.Identity.Email, hostile.Identity.Subject = "eve\n@corp.example", "eve\x1b]0;x\x07"
	c := w.as(hostile)
	for _, text := range []string{"a\nb", "a\rb", "a\x1b[2Jb", "a\x00b", "a\u202eb", strings.Repeat("a", 1001)} {
		_, err := c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/x", Message: text})
		refused(t, err, adminapi.CodeBadRequest)
		_, err = c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/" + text})
		refused(t, err, adminapi.CodeBadRequest)
		_, err = c.AddLock(t.Context(), adminapi.LockAdd{Kind: "user", Target: text})
		if err == nil {
			t.Errorf("locked %q", text)
		}
		_, err = c.PolicyApply(t.Context(), adminapi.PolicyApply{Document: variant(1), Expected: 1, Comment: text})
		refused(t, err, adminapi.CodeBadRequest)
	}
	l := must[*adminapi.LockAdded](t)(c.AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/x", Message: "grüße 🦉"}))
	if strings.ContainsFunc(l.Author, unicode.IsControl) {
		t.Errorf("%q", l.Author)
	}
	if r := w.lastAudited(audit.EventLockAdded); r.Actor.User != hostile.user() || r.Actor.Subject != hostile.Identity.Subject {
		t.Errorf("%+v", r.Actor)
	}
	w.check(w.log.Close())
	for _, line := range strings.Split(strings.TrimSuffix(w.auditText(), "\n"), "\n") {
		if !strings.HasPrefix(line, `{"seq":`) || strings.ContainsFunc(line, func(r rune) bool { return unicode.IsControl(r) || r == '\u202e' }) {
			t.Errorf("%q", line)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(w.logs.String(), "\n"), "\n") {
		if !strings.HasPrefix(line, "time=") || strings.ContainsRune(line, '\x1b') {
			t.Errorf("%q", line)
		}
	}
}

// auditText is what the audit log has on the disk.
func (w *world) auditText() string {
	w.t.Helper()
	var text strings.Builder
	files, err := filepath.Glob(filepath.Join(w.auditDir, "*.jsonl"))
	w.check(err)
	if len(files) == 0 {
		w.t.Fatal("there is no audit log")
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		w.check(err)
		text.Write(data)
	}
	return text.String()
}

// Class: secrets leak (Boundary CVE-2023-0690). What the store keeps for itself of a session is in no answer.
func TestThreatAdminSecrets(t *testing.T) {
	w := newWorld(t)
	ada := identity("corp", "ada", "engineering")
	w.login(ada)
	s := must[store.Session](t)(w.store.Session(t.Context(), ada.Session))
	owner := person("owner", nil, adminapi.RoleOwner)
	address := w.serve(w.api.Admin(), &owner)
	for _, path := range []string{
		"/v1/sessions/" + string(ada.Session), "/v1/sessions?detached=true", "/v1/devices", "/v1/certificates?session=" + string(ada.Session), "/v1/users",
	} {
		resp, body := raw(t, address, "GET "+path+" HTTP/1.1\r\nHost: culvert-admin\r\n\r\n")
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
		// The nonce of the fixture is the session's id, which is no secret.
		for _, secret := range []string{string(s.Key), "nonce", "token"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s: %q is in %s", path, secret, body)
			}
		}
		if resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
}

// Fault: the audit log cannot be written. No change happens, whichever it is, and the answer says why.
func TestFaultAdminAuditDown(t *testing.T) {
	w := newWorldWith(t, options{changes: 1000})
	all := attempts(w)
	owner := person("owner", nil, adminapi.RoleOwner)
	clients := map[string]*adminapi.Client{adminapi.ServiceAdmin: w.as(owner), adminapi.ServiceSelf: w.own(owner)}
	for _, route := range adminapi.Routes() {
		if !route.Writes {
			continue
		}
		w.breakAudit(audit.ErrNoSpace)
		before := w.state()
		err := all[route.ID](t.Context(), clients[route.Service])
		refused(t, err, adminapi.CodeAuditUnavailable)
		if after := w.state(); after != before {
			t.Errorf("%s: changed\n%s\n%s", route.ID, before, after)
		}
	}
}

// state sums up what routes change; attempts put what they need behind it.
func (w *world) state() string {
	ctx := w.t.Context()
	locks := must[[]store.Lock](w.t)(w.store.Locks(ctx))
	pending := must[[]store.Request](w.t)(w.store.Requests(ctx, store.RequestFilter{State: store.RequestDenied}, 100))
	ended := must[[]store.Request](w.t)(w.store.Requests(ctx, store.RequestFilter{State: store.RequestEnded}, 100))
	dead := must[[]string](w.t)(func() ([]string, error) {
		var ids []string
		list, err := w.store.EndedSessions(ctx)
		for _, id := range list {
			ids = append(ids, string(id))
		}
		return ids, err
	}())
	history := must[[]store.PolicyVersion](w.t)(w.store.PolicyHistory(ctx, 0, 1000))
	byAPI := 0
	for _, v := range history {
		if v.Author != "somebody" {
			byAPI++
		}
	}
	return fmt.Sprintf("%d policies, %d denied, %d ended, %v ended sessions, locks by the API %d", byAPI, len(pending), len(ended), dead, locksBy(locks, "owner"))
}

func locksBy(locks []store.Lock, author string) int {
	n := 0
	for _, l := range locks {
		if strings.Contains(l.Author, author) {
			n++
		}
	}
	return n
}

// Fault: what was audited could not be done. A second record under the same reference says so.
func TestFaultAdminChangeNotDone(t *testing.T) {
	w := newWorld(t)
	w.api.Locks = brokenLocks{w.store}
	_, err := w.as(person("editor", nil, adminapi.RoleEditor)).AddLock(t.Context(), adminapi.LockAdd{Kind: "group", Target: "corp/x"})
	refused(t, err, adminapi.CodeStoreUnavailable)
	records := w.audited(audit.EventLockAdded)
	if len(records) != 2 || records[0].Reference == "" || records[0].Reference != records[1].Reference ||
		records[0].Condition != "" || records[1].Condition != string(adminapi.CodeStoreUnavailable) || !strings.HasPrefix(records[1].Reason, "not done: ") {
		t.Errorf("%+v", records)
	}
}

type brokenLocks struct{ *store.Store }

func (brokenLocks) AddLock(context.Context, store.Lock) (store.Lock, error) {
	return store.Lock{}, fmt.Errorf("%w: %w", store.ErrUnavailable, errors.New("connection refused"))
}
