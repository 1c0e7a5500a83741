//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README's example of rules is one that the gateway takes, and its tests
// hold.
func TestREADMEPolicyHolds(t *testing.T) {
	t.Parallel()
	text := readme(t)
	_, rest, ok := strings.Cut(text, "```yaml\n")
	if !ok {
		t.Fatal("the README has no YAML block")
	}
	example, _, _ := strings.Cut(rest, "```")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"check", "test"} {
		if r := run(t, nil, nil, program(t, "culvert-gateway"), "policy", what, file); r.code != 0 {
			t.Errorf("policy %s: %v", what, r)
		}
	}
}

var commandLine = regexp.MustCompile(`\b(culvert|culvert-gateway) ((?:[a-z]+)(?: (?:check|test|show|csr|sign))?)`)

// Every command that the README names exists.
func TestREADMECommandsExist(t *testing.T) {
	t.Parallel()
	seen := 0
	for block := range codeSpans(readme(t)) {
		for _, m := range commandLine.FindAllStringSubmatch(block, -1) {
			seen++
			args := append(strings.Fields(m[2]), "--help")
			if r := run(t, nil, nil, program(t, m[1]), args...); r.code != 0 || !strings.Contains(r.stdout, strings.Fields(m[2])[0]) {
				t.Errorf("%s %s: %v", m[1], strings.Join(args, " "), r)
			}
		}
	}
	if seen < 8 {
		t.Errorf("found %d commands in the README, want 8 at least: has its form changed?", seen)
	}
}

func readme(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// codeSpans yields what stands between backquotes, in blocks and in lines.
func codeSpans(text string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for i, part := range strings.Split(text, "`") {
			if i%2 == 1 && !yield(part) {
				return
			}
		}
		for i, part := range strings.Split(text, "```") {
			if i%2 == 1 && !yield(part) {
				return
			}
		}
	}
}
