package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Hour: "2h", 90 * time.Minute: "1h30m", 90 * time.Second: "1m30s", time.Minute: "1m", 0: "0s", 10 * time.Second: "10s",
		10 * time.Minute: "10m", time.Hour + time.Second: "1h0m1s",
	} {
		text, err := Duration(d).MarshalText()
		var back Duration
		if err != nil || string(text) != want || back.UnmarshalText(text) != nil || time.Duration(back) != d {
			t.Errorf("%s: %s, %v", d, text, back)
		}
	}
	var d Duration
	for _, bad := range []string{"", "2", "2 hours", "2d", "h"} {
		if d.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is a duration", bad)
		}
	}
}

func TestRoleIncludes(t *testing.T) {
	if _, err := ParseRole("root"); err == nil {
		t.Error("root is a role")
	}
	for _, have := range []Role{RoleViewer, RoleEditor, RoleApprover, RoleOwner} {
		if r, err := ParseRole(string(have)); err != nil || r != have || !have.Includes(RoleViewer) || !RoleOwner.Includes(have) {
			t.Errorf("%s", have)
		}
	}
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		text    string
		strict  bool
		lenient bool
	}{
		"a message":        {`{"kind":"group","target":"x"}`, true, true},
		"an unknown field": {`{"kind":"group","role":"owner"}`, false, true},
		"a repeated key":   {`{"kind":"group","kind":"user"}`, false, false},
		"in another case":  {`{"kind":"group","KIND":"user"}`, false, false},
		"two messages":     {`{"kind":"group"}{}`, false, false},
		"depth":            {strings.Repeat("[", 100) + strings.Repeat("]", 100), false, false},
		"another type":     {`{"kind":7}`, false, false},
		"cut short":        {`{"kind":"gr`, false, false},
		"nothing":          {``, false, false},
	} {
		var m LockAdd
		if err := Decode([]byte(c.text), &m, Strict); (err == nil) != c.strict {
			t.Errorf("%s, strict: %v", name, err)
		}
		if err := Decode([]byte(c.text), &m, Lenient); (err == nil) != c.lenient {
			t.Errorf("%s, lenient: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"group","target":"x","expires":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"kind":"group","kind":"x"}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m LockAdd
		if Decode(data, &m, Strict) != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is no JSON", data)
		}
		again, err := json.Marshal(m)
		var back LockAdd
		if err != nil || Decode(again, &back, Strict) != nil || !reflect.DeepEqual(m, back) && m.Expires.Equal(back.Expires) && m.Kind != back.Kind {
			t.Fatalf("%q became %q", data, again)
		}
	})
}

func TestQuery(t *testing.T) {
	at := time.Date(2026, 7, 14, 3, 0, 0, 5, time.FixedZone("", 3600))
	in := WhoQuery{Service: "wiki", At: at, All: true, List: List{Cursor: "a b&c", Limit: 7}}
	values := EncodeQuery(in)
	var out WhoQuery
	if err := DecodeQuery(values, &out); err != nil || !out.At.Equal(at) {
		t.Fatalf("%v: %+v, %v", values, out, err)
	}
	if out.At = in.At; out != in {
		t.Errorf("%+v became %+v", in, out)
	}
	if got := EncodeQuery(List{}); len(got) != 0 {
		t.Errorf("nothing is asked for as %v", got)
	}
	for _, bad := range []string{"", "service=", "service=a&service=b", "service=a&x=1", "service=a&limit=-1", "service=a&limit=1e9", "service=a&at=today", "service=a&all=1"} {
		values, err := url.ParseQuery(bad)
		if err != nil {
			t.Fatal(err)
		}
		if err := DecodeQuery(values, new(WhoQuery)); err == nil {
			t.Errorf("%q is a query", bad)
		}
	}
	if err := DecodeQuery(url.Values{"state": {"lost"}}, new(RequestQuery)); err == nil {
		t.Error("a state that does not exist")
	}
}

func FuzzQuery(f *testing.F) {
	f.Add("service=wiki&at=2026-07-14T03:00:00Z&all=true&limit=5&cursor=x")
	f.Add("service=a&service=b")
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		var q, again WhoQuery
		if DecodeQuery(values, &q) != nil {
			return
		}
		if err := DecodeQuery(EncodeQuery(q), &again); err != nil || !q.At.Equal(again.At) || q.Service != again.Service || q.List != again.List || q.All != again.All {
			t.Fatalf("%q: %+v became %+v: %v", text, q, again, err)
		}
	})
}

// answers makes a transport of a function.
type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func reply(status int, contentType, body string) answers {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), Request: r,
			Header: http.Header{"Content-Type": {contentType}, "Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(body)),
		}, nil
	}
}

func TestProblems(t *testing.T) {
	c := &Client{HTTP: &http.Client{Transport: reply(409, TypeProblem, `{"code":"conflict","detail":"by \u001b[2Jada","current":{"number":7,"digest":"d","source":"managed"},"new":1}`)}}
	_, err := c.PolicyApply(t.Context(), PolicyApply{})
	var p *Problem
	if !errors.As(err, &p) || !errors.Is(err, &Problem{Code: CodeConflict}) || p.Current.Number != 7 || p.Status != 409 || p.RetryAfter != 7*time.Second || strings.Contains(p.Detail, "\x1b") {
		t.Errorf("%+v", p)
	}
	for name, transport := range map[string]answers{
		"a web page":      reply(200, "text/html", "<html>"),
		"another error":   reply(502, "text/plain", "bad gateway"),
		"a broken one":    reply(400, TypeProblem, `{"code":`),
		"one of nothing":  reply(400, TypeProblem, `{}`),
		"a redirect":      reply(302, TypeJSON, `{}`),
		"no content type": reply(200, "", `{}`),
	} {
		c.HTTP.Transport = transport
		if _, err := c.Whoami(t.Context()); !errors.Is(err, &Problem{Code: CodeForeignAnswer}) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := c.PolicyDiff(t.Context(), PolicyDiff{}, nil); !errors.Is(err, &Problem{Code: CodeForeignAnswer}) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.HTTP.Transport = reply(200, TypeJSON, `{"name":"x"`)
	if _, err := c.Whoami(t.Context()); err == nil {
		t.Error("half a message")
	}
	if _, err := (&Client{}).Whoami(t.Context()); err == nil {
		t.Error("something was asked without a connection")
	}
}

func TestDiffLines(t *testing.T) {
	c := &Client{HTTP: &http.Client{}}
	for name, want := range map[string]struct {
		body string
		err  error
	}{
		"a result":    {`{"progress":{"done":1,"total":2}}` + "\n" + `{"result":{"from":"a","to":"b"}}` + "\n", nil},
		"a problem":   {`{"progress":{"done":1,"total":2}}` + "\n" + `{"problem":{"code":"store_unavailable"}}` + "\n", &Problem{Code: CodeStoreUnavailable}},
		"cut short":   {`{"progress":{"done":1,"total":2}}` + "\n", io.ErrUnexpectedEOF},
		"half a line": {`{"result":{"from":`, io.ErrUnexpectedEOF},
		"nothing":     {"", io.ErrUnexpectedEOF},
	} {
		c.HTTP.Transport = reply(200, TypeLines, want.body)
		_, err := c.PolicyDiff(t.Context(), PolicyDiff{}, func(DiffProgress) {})
		if want.err == nil != (err == nil) || want.err != nil && !errors.Is(err, want.err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every method of the client asks a route that is in the table, in the way that the table says.
func TestClientFollowsTheRoutes(t *testing.T) {
	asked := make(map[string]*http.Request)
	bodies := make(map[string][]byte)
	c := &Client{HTTP: &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
		key := r.Method + " " + r.URL.Host + r.URL.Path
		asked[key] = r
		if r.Body != nil {
			bodies[key], _ = io.ReadAll(r.Body)
		}
		return nil, io.EOF
	})}}
	client := reflect.ValueOf(c)
	for i := range client.NumMethod() {
		method := client.Type().Method(i)
		args := []reflect.Value{reflect.ValueOf(t.Context())}
		for j := 2; j < method.Type.NumIn(); j++ {
			switch in := method.Type.In(j); in.Kind() {
			case reflect.String:
				args = append(args, reflect.ValueOf("x"))
			default:
				args = append(args, reflect.Zero(in))
			}
		}
		client.Method(i).Call(args)
	}
	for _, route := range Routes() {
		pattern := regexp.MustCompile("^" + route.Method + " " + route.Service + regexp.MustCompile(`\{[a-z]+\}`).ReplaceAllString(route.Path, "[^/]+") + "$")
		found := false
		for key, req := range asked {
			if !pattern.MatchString(key) {
				continue
			}
			found = true
			if withBody := route.Request != nil; withBody != (len(bodies[key]) > 0) || withBody != (req.Header.Get("Content-Type") == TypeJSON) {
				t.Errorf("%s has a body: %v", key, withBody)
			}
		}
		if !found {
			t.Errorf("no method of the client asks %s", route.ID)
		}
	}
	if len(asked) != len(Routes()) {
		t.Errorf("%d requests for %d routes", len(asked), len(Routes()))
	}
}

// The document has every route once, with its schemas, and every reference in it leads somewhere.
func TestDocument(t *testing.T) {
	data, err := Document("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	again, err := Document("1.2.3")
	if err != nil || !bytes.Equal(data, again) {
		t.Error("the document is another one each time")
	}
	var doc struct {
		OpenAPI string                                `json:"openapi"`
		Raw     map[string]map[string]json.RawMessage `json:"paths"`
		Comps   struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" {
		t.Error(doc.OpenAPI)
	}
	ids := make(map[string]bool)
	for _, route := range Routes() {
		var op struct {
			ID          string         `json:"operationId"`
			Summary     string         `json:"summary"`
			Role        string         `json:"x-culvert-role"`
			RequestBody map[string]any `json:"requestBody"`
			Parameters  []struct {
				Name string `json:"name"`
			} `json:"parameters"`
		}
		if err := json.Unmarshal(doc.Raw[route.Path][strings.ToLower(route.Method)], &op); err != nil {
			t.Errorf("%s: %v", route.ID, err)
			continue
		}
		if op.ID != string(route.ID) || ids[op.ID] || op.Summary == "" || op.Role == "" || (op.RequestBody != nil) != (route.Request != nil) {
			t.Errorf("%s: %+v", route.ID, op)
		}
		ids[op.ID] = true
		want := strings.Count(route.Path, "{")
		if route.Query != nil {
			want += len(parameters(reflect.ValueOf(route.Query)))
		}
		if len(op.Parameters) != want {
			t.Errorf("%s has %d parameters, want %d", route.ID, len(op.Parameters), want)
		}
	}
	count := 0
	for _, item := range doc.Raw {
		for method := range item {
			if method != "servers" {
				count++
			}
		}
	}
	if count != len(Routes()) {
		t.Errorf("%d operations for %d routes", count, len(Routes()))
	}
	for _, ref := range regexp.MustCompile(`"#/components/schemas/([A-Za-z]+)"`).FindAllSubmatch(data, -1) {
		if doc.Comps.Schemas[string(ref[1])] == nil {
			t.Errorf("there is no schema %s", ref[1])
		}
	}
}
