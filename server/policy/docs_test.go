package policy

import (
	"os"
	"strings"
	"testing"
)

// The examples of docs/policy.md load, and their tests hold.
func TestDocsExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for rest := string(text); ; {
		_, after, found := strings.Cut(rest, "```yaml\n")
		if !found {
			break
		}
		example, after, _ := strings.Cut(after, "```")
		examples, rest = append(examples, example), after
	}
	if len(examples) < 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, example := range examples {
		s, err := Load("docs/policy.md", []byte(example), Options{Providers: []string{"corp"}})
		if err != nil {
			t.Errorf("%v\n%s", err, example)
			continue
		}
		if doc := s.Document(); len(doc.Tests) == 0 || len(doc.Warnings) > 0 {
			t.Errorf("%d tests, warnings %v", len(doc.Tests), doc.Warnings)
		}
	}
	for _, name := range factNames {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("%s is not documented", name)
		}
	}
}
