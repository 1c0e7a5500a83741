package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/culvert-vpn/culvert/internal/adminapi"
	"github.com/culvert-vpn/culvert/internal/plaintext"
)

// Bounds of people's texts, in bytes.
const (
	maxName = 512  // of anything that names something
	maxText = 1000 // of a reason, a comment, a message
)

// handler is what answers a route, with the types that it takes and gives.
type handler struct {
	query, request, reply reflect.Type // nil: none
	serve                 serveFunc
}

// newService binds every route of a service to its handler. That each has one, of the types which the document
// tells, is checked here and not at the first request.
func newService(a *API, name string, handlers map[adminapi.RouteID]handler) (*service, error) {
	s := &service{api: a, name: name}
	for _, r := range adminapi.Routes() {
		if r.Service != name {
			continue
		}
		h, ok := handlers[r.ID]
		if !ok {
			return nil, fmt.Errorf("the route %s has no handler", r.ID)
		}
		for _, t := range []struct {
			what     string
			declared any
			bound    reflect.Type
		}{{"query", r.Query, h.query}, {"request", r.Request, h.request}, {"reply", r.Reply, h.reply}} {
			if reflect.TypeOf(t.declared) != t.bound {
				return nil, fmt.Errorf("the route %s has the %s %T, and its handler %v", r.ID, t.what, t.declared, t.bound)
			}
		}
		s.routes = append(s.routes, &bound{Route: r, segments: strings.Split(r.Path, "/"), serve: h.serve})
	}
	return s, nil
}

// plain is a handler without parameters and body.
func plain[R any](f func(context.Context, *call) (*R, error)) handler {
	return handler{reply: typeOf[R](), serve: func(ctx context.Context, c *call) (any, error) {
		if len(c.query) > 0 {
			return nil, refuse(adminapi.CodeBadRequest, "this request takes no parameters")
		}
		return result(f(ctx, c))
	}}
}

// query is a handler with parameters.
func query[Q, R any](f func(context.Context, *call, Q) (*R, error)) handler {
	return handler{query: reflect.TypeFor[Q](), reply: typeOf[R](), serve: func(ctx context.Context, c *call) (any, error) {
		var q Q
		for _, values := range c.query {
			for _, v := range values {
				if !plainText(v) {
					return nil, refuse(adminapi.CodeBadRequest, "a parameter is longer than %d bytes or has control characters", maxName)
				}
			}
		}
		if err := adminapi.DecodeQuery(c.query, &q); err != nil {
			return nil, refuse(adminapi.CodeBadRequest, "%s", plaintext.Clip(err.Error(), 200))
		}
		return result(f(ctx, c, q))
	}}
}

// message is a handler with a body.
func message[M, R any](f func(context.Context, *call, M) (*R, error)) handler {
	return handler{request: reflect.TypeFor[M](), reply: typeOf[R](), serve: func(ctx context.Context, c *call) (any, error) {
		if len(c.query) > 0 {
			return nil, refuse(adminapi.CodeBadRequest, "this request takes no parameters")
		}
		var m M
		if err := adminapi.Decode(c.body, &m, adminapi.Strict); err != nil {
			return nil, refuse(adminapi.CodeBadRequest, "the request cannot be read: %s", plaintext.Clip(err.Error(), 200))
		}
		return result(f(ctx, c, m))
	}}
}

// typeOf is the reply's type; any JSON has none.
func typeOf[R any]() reflect.Type {
	if t := reflect.TypeFor[R](); t != reflect.TypeFor[json.RawMessage]() {
		return t
	}
	return nil
}

// result keeps a nil pointer from becoming an answer.
func result[R any](reply *R, err error) (any, error) {
	if err != nil || reply == nil {
		return nil, err
	}
	return reply, nil
}

// plainText reports whether a name can be asked for: databases refuse some characters, and terminals obey others.
func plainText(s string) bool {
	return len(s) <= maxName && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) })
}

// checkText checks what a person wrote: one line that a terminal can show. Where it is required, it must say something.
func checkText(what, text string, required bool) error {
	switch {
	case required && strings.TrimSpace(text) == "":
		return refuse(adminapi.CodeBadRequest, "a %s is missing", what)
	case len(text) > maxText:
		return refuse(adminapi.CodeBadRequest, "the %s is longer than %d bytes", what, maxText)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsGraphic(r) }):
		return refuse(adminapi.CodeBadRequest, "the %s must be one line, without control characters", what)
	}
	return nil
}
