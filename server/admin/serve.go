package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/audit"
)

// service is one of the two built-in services.
type service struct {
	api    *API
	name   string
	routes []*bound
}

// bound is a route with what answers it.
type bound struct {
	adminapi.Route
	segments []string
	serve    serveFunc
}

// serveFunc answers a call whose caller may make it. A nil reply means that it has answered already.
type serveFunc func(ctx context.Context, c *call) (reply any, err error)

// call is one request on its way.
type call struct {
	route  *bound
	caller Caller
	path   string // as audited
	params map[string]string
	query  url.Values
	body   []byte
	w      http.ResponseWriter
}

// ServeHTTP answers with JSON, or with problem details (RFC 9457).
func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{path: r.Method + " " + plaintext.Clip(r.URL.EscapedPath(), 128), w: w}
	reply, err := s.answer(r.Context(), c, r)
	if err != nil {
		s.api.refuse(r.Context(), c, err)
		return
	}
	if reply != nil {
		s.api.write(w, http.StatusOK, adminapi.TypeJSON, reply)
	}
}

// answer does the checks that cost least first, and reads the body when nothing else is left to refuse.
func (s *service) answer(ctx context.Context, c *call, r *http.Request) (any, error) {
	var known bool
	if c.caller, known = callerOf(ctx); !known {
		return nil, refuse(adminapi.CodeUnauthenticated, "nobody is known to ask this")
	}
	if err := s.checkOrigin(r); err != nil {
		return nil, err
	}
	if s.name == adminapi.ServiceAdmin && !s.api.MayEnter(c.caller) {
		return nil, refuse(adminapi.CodeForbidden, "you have no role at this gateway").
			remedy("an administrator gives roles in the gateway's configuration").denial()
	}
	if err := s.match(c, r); err != nil {
		return nil, err
	}
	if err := s.api.authorize(c); err != nil {
		return nil, err
	}
	if err := s.api.breakGlass(ctx, c); err != nil {
		return nil, err
	}
	leave, err := s.api.gates.enter(c)
	if err != nil {
		return nil, err
	}
	defer leave()
	if c.body, err = s.api.readBody(c, r); err != nil {
		return nil, err
	}
	if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		return nil, refuse(adminapi.CodeBadRequest, "the query cannot be read")
	}
	return c.route.serve(ctx, c)
}

// checkOrigin refuses what a web page sends: nothing but the client speaks to this handler, and that sends none of these.
// Whoever resolves a name of their own to something that leads here has another Host.
func (s *service) checkOrigin(r *http.Request) error {
	for _, name := range []string{"Origin", "Referer", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
		if _, there := r.Header[name]; there {
			return refuse(adminapi.CodeForeign, "requests from web pages are refused (%s)", name).denial()
		}
	}
	if r.Host != s.name || r.URL.Host != "" && r.URL.Host != s.name {
		return refuse(adminapi.CodeForeign, "this is %s, and not the host that the request names", s.name).denial()
	}
	return nil
}

// match finds the route. Paths are compared as they were sent: nothing is cleaned, nothing redirects.
func (s *service) match(c *call, r *http.Request) error {
	var allow []string
	for _, route := range s.routes {
		params, ok := route.match(r.URL.EscapedPath())
		if !ok {
			continue
		}
		if route.Method == r.Method {
			c.route, c.params, c.path = route, params, r.Method+" "+route.Path
			return nil
		}
		allow = append(allow, route.Method)
	}
	if len(allow) > 0 {
		c.w.Header().Set("Allow", strings.Join(allow, ", "))
		return refuse(adminapi.CodeMethodNotAllowed, "this path takes %s only", strings.Join(allow, ", "))
	}
	return refuse(adminapi.CodeNotFound, "there is nothing at %s", plaintext.Clip(r.URL.EscapedPath(), 128)).
		remedy("the program may be newer than the gateway")
}

func (b *bound) match(path string) (map[string]string, bool) {
	segments := strings.Split(path, "/")
	if len(segments) != len(b.segments) {
		return nil, false
	}
	params := make(map[string]string)
	for i, want := range b.segments {
		if name, ok := strings.CutPrefix(want, "{"); ok {
			value, err := url.PathUnescape(segments[i])
			if err != nil || value == "" || !plainText(value) {
				return nil, false
			}
			params[strings.TrimSuffix(name, "}")] = value
		} else if segments[i] != want {
			return nil, false
		}
	}
	return params, true
}

// authorize holds the caller's roles against the route's. What it does not permit is denied.
func (a *API) authorize(c *call) error {
	switch r := c.route; r.Admission {
	case adminapi.ByLogin:
		if c.caller.Via == ViaTunnel {
			return nil
		}
		return refuse(adminapi.CodeForbidden, "requests are made by people, not over the gateway's socket").denial()
	case adminapi.ByAnyRole:
		return nil // MayEnter was asked
	case adminapi.ByApproval:
		if a.approvesAny(&c.caller) {
			return nil // and the handler looks at the service
		}
	case adminapi.ByRole:
	}
	if c.route.Role != "" && c.caller.Roles.Permit(c.route.Role) {
		return nil
	}
	return refuse(adminapi.CodeForbidden, "this needs the role %s", c.route.Role).
		remedy("an administrator gives roles in the gateway's configuration").denial()
}

// role is the one that permits the call, for the record.
func (c *call) role() string {
	for _, have := range c.caller.Roles {
		if c.route != nil && c.route.Role != "" && have.Includes(c.route.Role) {
			return string(have)
		}
	}
	return ""
}

// breakGlass records every call over the socket. A reader is let through although the log cannot be written: somebody has
// to look at what is wrong. A change is refused by its own record.
func (a *API) breakGlass(ctx context.Context, c *call) error {
	if c.caller.Via != ViaSocket {
		return nil
	}
	_, err := a.Audit.Append(ctx, audit.Record{Event: audit.EventAdminBreakGlass, Actor: c.caller.actor(), Admin: c.facts("")})
	switch {
	case err == nil:
		return nil
	case c.route.Writes:
		return refuse(adminapi.CodeAuditUnavailable, "the audit log cannot be written, so nothing is changed").because(err)
	}
	a.Logger.Error("audit a call over the socket", "call", c.path, "uid", c.caller.UID, "error", err)
	return nil
}

// facts says in a record what the call is.
func (c *call) facts(object string) *audit.AdminFacts {
	method, path, _ := strings.Cut(c.path, " ")
	return &audit.AdminFacts{
		Via: c.caller.Via, Role: c.role(), Method: method, Path: path, Object: object, UID: c.caller.UID,
	}
}

func (a *API) write(w http.ResponseWriter, status int, contentType string, reply any) {
	data, err := json.Marshal(reply)
	if err != nil {
		a.Logger.Error("encode an answer", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	// Where a test's writer has no deadlines, there is nobody slow.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout(len(data))))
	setHeaders(w, contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // who hung up asks again
}

// writeTimeout bounds how long somebody may take to read n bytes: they hold a place as long.
func writeTimeout(n int) time.Duration {
	return 30*time.Second + time.Duration(n/slowest)*time.Second
}

// slowest is how many bytes a second a reader takes at least.
const slowest = 64 << 10

func setHeaders(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
}
