package strictconf

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

type sample struct {
	Listen  string            `yaml:"listen"`
	TTL     time.Duration     `yaml:"ttl"`
	Count   int               `yaml:"count"`
	On      bool              `yaml:"on"`
	Names   []string          `yaml:"names"`
	Limits  struct{ Max int } `yaml:"limits"`
	Free    map[string]int    `yaml:"free"`
	Raw     yaml.Node         `yaml:"raw"`
	Pointer *struct {
		Host string `yaml:"host"`
	} `yaml:"pointer"`
}

func TestDecode(t *testing.T) {
	var s sample
	err := Decode("c.yaml", []byte("listen: ':8443'\nttl: 90s\ncount: 3\non: true\nnames: [a, b]\nlimits:\n  max: 4\nfree: {x: 1}\nraw: [1, {y: 2}]\npointer: {host: h}\n"), &s)
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != ":8443" || s.TTL != 90*time.Second || s.Count != 3 || !s.On || len(s.Names) != 2 || s.Limits.Max != 4 || s.Free["x"] != 1 || s.Pointer.Host != "h" {
		t.Errorf("decoded %+v", s)
	}
	if s.Raw.Line != 9 {
		t.Errorf("raw node stands in line %d, want 9", s.Raw.Line)
	}
}

func TestDecodeFaultsHaveAPlaceAndAHint(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"unknown key", "lisen: x\n", `c.yaml:1:1: unknown key "lisen" (did you mean "listen"?)`},
		{"unknown nested key", "limits:\n  mx: 1\n", `c.yaml:2:3: unknown key "mx" (did you mean "max"?)`},
		{"nothing near", "zzzzzz: 1\n", `c.yaml:1:1: unknown key "zzzzzz"`},
		{"twice", "count: 1\ncount: 2\n", `c.yaml:2:1: "count" stands here a second time (first in line 1)`},
		{"twice in raw", "raw:\n  a: 1\n  a: 2\n", `c.yaml:3:3: "a" stands here a second time (first in line 2)`},
		{"number", "count: many\n", `c.yaml:1:8: "many" is not a number`},
		{"bool", "on: 3\n", `c.yaml:1:5: "3" is not true or false`},
		{"duration", "ttl: 90\n", `c.yaml:1:6: "90" is no duration`},
		{"list", "names: a\n", `c.yaml:1:8: want a list here, got a plain value`},
		{"section", "limits: [1]\n", `c.yaml:1:9: want a section with keys here, got a list`},
		{"text", "listen: [1]\n", `c.yaml:1:9: want text here, got a list`},
		{"alias", "names: &x [a]\nfree: *x\n", `c.yaml:1:8: anchors and aliases are not accepted`},
		{"second document", "count: 1\n---\ncount: 2\n", `c.yaml:2:1: a second document starts here`},
		{"syntax", "count: [1\nlisten: x\n", `c.yaml:`},
		{"merge", "free:\n  <<: {a: 1}\n", `c.yaml:2:3: a key must be plain text`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var s sample
			err := Decode("c.yaml", []byte(tt.in), &s)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
}

func TestDecodeReportsAllFaults(t *testing.T) {
	var s sample
	err := Decode("c.yaml", []byte("lisen: x\ncuont: 1\n"), &s)
	if err == nil || strings.Count(err.Error(), "c.yaml:") != 2 {
		t.Errorf("want both faults, got %v", err)
	}
}

func TestDecodeEmptyKeepsDefaults(t *testing.T) {
	for _, in := range []string{"", "# only a comment\n", "---\n"} {
		s := sample{Count: 7}
		if err := Decode("c.yaml", []byte(in), &s); err != nil || s.Count != 7 {
			t.Errorf("Decode(%q): %v, count %d", in, err, s.Count)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("listen: x\nraw: {a: [1, 2]}\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var s sample
		_ = Decode("c.yaml", in, &s) // must neither panic nor hang
	})
}
