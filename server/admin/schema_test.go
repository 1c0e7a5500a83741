package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// checker holds replies against the OpenAPI document. It knows the part of JSON Schema that the document uses, and takes a
// field that the schema does not have for a fault.
type checker struct {
	t       *testing.T
	paths   map[string]map[string]operation
	schemas map[string]*schema

	mu   sync.Mutex
	seen map[string]int // operation → good replies
}

type operation struct {
	ID        string `json:"operationId"`
	Responses map[string]struct {
		Ref     string           `json:"$ref"`
		Content map[string]media `json:"content"`
	} `json:"responses"`
	RequestBody struct {
		Content map[string]media `json:"content"`
	} `json:"requestBody"`
	Parameters []struct {
		Name   string  `json:"name"`
		In     string  `json:"in"`
		Schema *schema `json:"schema"`
	} `json:"parameters"`
}

type media struct {
	Schema *schema `json:"schema"`
}

type schema struct {
	Ref         string             `json:"$ref"`
	Type        string             `json:"type"`
	Format      string             `json:"format"`
	Pattern     string             `json:"pattern"`
	Minimum     *float64           `json:"minimum"`
	Enum        []string           `json:"enum"`
	Items       *schema            `json:"items"`
	Properties  map[string]*schema `json:"properties"`
	Required    []string           `json:"required"`
	Description string             `json:"description"`
}

func newChecker(t *testing.T, document []byte) *checker {
	t.Helper()
	var doc struct {
		Paths      map[string]map[string]json.RawMessage `json:"paths"`
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		t.Fatal(err)
	}
	c := &checker{t: t, paths: make(map[string]map[string]operation), schemas: doc.Components.Schemas, seen: make(map[string]int)}
	for path, item := range doc.Paths {
		c.paths[path] = make(map[string]operation)
		for method, raw := range item {
			if method == "servers" {
				continue
			}
			var op operation
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			c.paths[path][method] = op
		}
	}
	return c
}

// operationFor finds the operation of a request: of the templates that match, the one with the fewest parameters.
func (c *checker) operationFor(method, path string) (found operation, ok bool) {
	fewest := len(path)
	for template, item := range c.paths {
		op, has := item[strings.ToLower(method)]
		pattern := parameter.ReplaceAllString(template, `[^/]+`)
		n := strings.Count(template, "{")
		if has && n < fewest && regexp.MustCompile("^"+pattern+"$").MatchString(path) {
			found, ok, fewest = op, true, n
		}
	}
	return found, ok
}

var parameter = regexp.MustCompile(`\{[a-z]+\}`)

// reply checks one reply; it returns what is wrong with it.
func (c *checker) reply(req *http.Request, status int, contentType string, body []byte) error {
	op, ok := c.operationFor(req.Method, req.URL.Path)
	if !ok {
		if contentType == adminapi.TypeProblem {
			return c.one(&schema{Ref: "#/components/schemas/Problem"}, body)
		}
		return fmt.Errorf("the document does not have %s %s", req.Method, req.URL.Path)
	}
	if status != http.StatusOK {
		if op.Responses["default"].Ref != "#/components/responses/problem" || contentType != adminapi.TypeProblem {
			return fmt.Errorf("%d %s is no problem", status, contentType)
		}
		return c.one(&schema{Ref: "#/components/schemas/Problem"}, body)
	}
	declared, ok := op.Responses["200"].Content[contentType]
	if !ok {
		return fmt.Errorf("the document does not give %s for %s", contentType, op.ID)
	}
	bodies := [][]byte{body}
	if contentType == adminapi.TypeLines {
		bodies = bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	}
	for _, b := range bodies {
		if err := c.one(declared.Schema, b); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[op.ID]++
	return nil
}

func (c *checker) one(s *schema, body []byte) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	return c.value(s, v, "$")
}

func (c *checker) value(s *schema, v any, at string) error {
	if s.Ref != "" {
		name, _ := strings.CutPrefix(s.Ref, "#/components/schemas/")
		if s = c.schemas[name]; s == nil {
			return fmt.Errorf("%s: there is no schema %s", at, name)
		}
	}
	switch s.Type {
	case "": // anything
		return nil
	case "object":
		return c.object(s, v, at)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %T is no array", at, v)
		}
		for i, e := range list {
			if err := c.value(s.Items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	case "boolean":
		if _, ok := v.(bool); !ok {
			return fmt.Errorf("%s: %T is no boolean", at, v)
		}
		return nil
	case "integer":
		n, ok := v.(json.Number)
		if !ok || strings.ContainsAny(n.String(), ".eE") || s.Minimum != nil && strings.HasPrefix(n.String(), "-") {
			return fmt.Errorf("%s: %v is no such integer", at, v)
		}
		return nil
	case "string":
		return text(s, v, at)
	}
	return fmt.Errorf("%s: a schema of type %q", at, s.Type)
}

func text(s *schema, v any, at string) error {
	str, ok := v.(string)
	if !ok {
		return fmt.Errorf("%s: %T is no string", at, v)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, str) {
		return fmt.Errorf("%s: %q is none of %v", at, str, s.Enum)
	}
	if s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(str) {
		return fmt.Errorf("%s: %q does not match %s", at, str, s.Pattern)
	}
	if s.Format == "date-time" {
		at, err := time.Parse(time.RFC3339Nano, str)
		if err != nil || at.IsZero() {
			return fmt.Errorf("%v: %q is no time", at, str)
		}
	}
	return nil
}

func (c *checker) object(s *schema, v any, at string) error {
	fields, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %T is no object", at, v)
	}
	for _, name := range s.Required {
		if _, there := fields[name]; !there {
			return fmt.Errorf("%s: %s is missing", at, name)
		}
	}
	for name, value := range fields {
		property, known := s.Properties[name]
		if !known {
			return fmt.Errorf("%s: the document does not have %s", at, name)
		}
		if err := c.value(property, value, at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

// checkedTransport checks every reply that a test gets.
type checkedTransport struct {
	checker *checker
	next    http.RoundTripper
}

func (c *checkedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	if err := c.checker.reply(req, resp.StatusCode, resp.Header.Get("Content-Type"), body); err != nil {
		c.checker.t.Errorf("%s %s: %v\n%s", req.Method, req.URL.Path, err, body)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
