package posture

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorded is a machine as it was found once. Folders are those that its files and links lie in.
type recorded struct {
	files   map[string]string
	links   map[string]string
	outputs map[string]string // by program and arguments
	vars    map[string]string
	touched *[]string // links that were asked for; may be nil
}

func (r recorded) file(path string) (string, bool) {
	text, ok := r.files[path]
	return text, ok
}

func (r recorded) entries(dir string) []string {
	var names []string
	for _, tree := range []map[string]string{r.files, r.links} {
		for path := range tree {
			if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
				name, _, _ := strings.Cut(rest, "/")
				names = append(names, name)
			}
		}
	}
	return names
}

func (r recorded) link(path string) string {
	if r.touched != nil {
		*r.touched = append(*r.touched, path)
	}
	return r.links[path]
}

func (r recorded) run(_ context.Context, program string, args ...string) (string, bool) {
	text, ok := r.outputs[strings.Join(append([]string{program}, args...), " ")]
	return text, ok
}

func (r recorded) env(name string) string { return r.vars[name] }
func (r recorded) home() string           { return r.vars["HOME"] }

func testdata(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestValues(t *testing.T) {
	for name, c := range map[string]struct {
		of   Program
		is   facts
		want map[string]string
	}{
		"nothing is known": {want: map[string]string{}},
		"everything": {
			Program{Version: "1.4.0", HardwareKey: No}, facts{version: "12", disk: Yes, firewall: No, screenLock: Yes},
			map[string]string{"os_version": "12", "client_version": "1.4.0", "disk_encrypted": "true", "firewall": "false",
				"screen_lock": "true", "hardware_key": "false"},
		},
		"a version that is none": {of: Program{Version: strings.Repeat("x", 65)}, is: facts{version: "12\x1b[2J\n"},
			want: map[string]string{"os_version": "12 [2J"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := values(c.of, c.is)
			if got["os"] != runtime.GOOS || got["arch"] != runtime.GOARCH {
				t.Errorf("system: %v", got)
			}
			delete(got, "os")
			delete(got, "arch")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAll(t *testing.T) {
	for _, c := range []struct {
		parts []Answer
		want  Answer
	}{
		{nil, Unknown}, {[]Answer{Yes}, Yes}, {[]Answer{Yes, Yes}, Yes}, {[]Answer{Yes, Unknown}, Unknown},
		{[]Answer{Unknown, No}, No}, {[]Answer{No, Yes}, No},
	} {
		if got := all(c.parts); got != c.want {
			t.Errorf("all(%v) = %v, want %v", c.parts, got, c.want)
		}
	}
}

// This machine, whatever it is: a reading ends in time, and says nothing that a gateway does not take.
func TestReadHere(t *testing.T) {
	begun := time.Now()
	told := Read(t.Context(), Program{Version: "1.4.0", HardwareKey: No})
	took := time.Since(begun)
	t.Logf("%v in %s", told, took)
	if took > Limit+5*time.Second { // a machine under load; the programs are ended at Limit
		t.Errorf("took %s", took)
	}
	if told["os"] != runtime.GOOS || told["arch"] != runtime.GOARCH || told["client_version"] != "1.4.0" || told["hardware_key"] != "false" {
		t.Errorf("told %v", told)
	}
	for _, key := range []string{"disk_encrypted", "firewall", "screen_lock"} {
		if value, ok := told[key]; ok && value != "true" && value != "false" {
			t.Errorf("%s = %q", key, value)
		}
	}
}

// Without time, what needs programs is unknown, and the rest is there.
func TestReadWithoutTime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	told := Read(ctx, Program{})
	if told["os"] != runtime.GOOS || told["firewall"] != "" && runtime.GOOS != "windows" {
		t.Errorf("told %v", told)
	}
}
