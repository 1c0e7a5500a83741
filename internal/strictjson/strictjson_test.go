package strictjson

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":1,"b":[{"a":1},{"a":2}],"c":{"a":3}}`: "",
		`"text"`:                                 "",
		`1e400`:                                  "", // whoever decodes it knows the field
		`{"a":1,"a":2}`:                          "twice",
		`{"a":1,"A":2}`:                          "twice",
		`{"x":{"a":{},"a":[]}}`:                  "twice",
		`{"a":1} {}`:                             "follows",
		`{"a":1}]`:                               "follows",
		``:                                       "not JSON",
		`[`:                                      "not JSON",
		`{"a"`:                                   "not JSON",
		strings.Repeat("[", 100_000):             "deeper",
		`{"a":` + strings.Repeat(`{"a":`, 50000): "deeper",
	} {
		if err := Check([]byte(text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":null}],"A":1}`))
	f.Add([]byte(`[[[]]] x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if Check(data) == nil && !json.Valid(data) {
			t.Errorf("%q is no JSON", data)
		}
	})
}
