package adminctl_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

var update = flag.Bool("update", false, "write testdata/screens.txt and the guide anew, to be read before they are committed")

// reference is a made-up one of the API, which differs at each run.
var reference = regexp.MustCompile(`\b[0-9a-z]{4}-[0-9a-z]{4}\b`)

// screens are what an administrator sees of every command, in an order in which later ones show what earlier ones did.
func screens(w *world, file string) [][]string {
	ada := string(w.sessions["ada"])
	return [][]string{
		{"admin", "whoami"},
		{"admin", "users"},
		{"admin", "users", "ada@corp.example"},
		{"admin", "gateways"},
		{"admin", "sessions"},
		{"admin", "sessions", "--detached"},
		{"admin", "sessions", "show", ada},
		{"admin", "devices", "--user", "ada@corp.example"},
		{"admin", "certificates", "--user", "ada@corp.example"},
		{"admin", "certificates", "--session", ada},
		{"admin", "audit", "--since", "1d"},
		{"admin", "audit", "--event", "stream.denied", "--user", "bob@corp.example"},
		{"admin", "audit", "show", "p2wx-77ab"},
		{"admin", "policy", "show"},
		{"admin", "policy", "history"},
		{"admin", "policy", "check", file},
		{"admin", "policy", "test", file},
		{"admin", "policy", "check", "broken.yaml"},
		{"admin", "policy", "test", "failing.yaml"},
		{"admin", "policy", "diff", file},
		{"admin", "policy", "diff", file, "--since", "30d"},
		{"admin", "policy", "explain", "--as", "ada@corp.example", "wiki"},
		{"admin", "policy", "explain", "--as", "ada@corp.example", "--auth-age", "2h", "--policy", file, "wiki"},
		{"admin", "policy", "explain", "--as", "bob@corp.example", "--device", "os=linux", "payroll"},
		{"admin", "policy", "explain", "--as", "bob@corp.example", "--groups", "accounting", "--device", "disk_encrypted=true", "payroll"},
		{"admin", "policy", "who", "payroll", "--all"},
		{"admin", "policy", "what", "corp:ada@corp.example"},
		{"admin", "policy", "apply", file, "--comment", "fresh logins for the wiki", "--expect", "1"},
		{"admin", "policy", "apply", "failing.yaml", "--comment", "x"},
		{"admin", "policy", "apply", file, "--comment", "fresh logins for the wiki"},
		{"admin", "policy", "rollback", "1"},
		{"admin", "policy", "history"},
		{"request", "db", "--for", "2h", "--reason", "ticket 4711: move the table of invoices"},
		{"request", "list"},
		{"admin", "requests"},
		{"admin", "revoke", "ada@corp.example", "--for", "2h", "--dry-run"},
		{"admin", "revoke", "ada@corp.example", "--for", "2h", "--message", "Call the help desk, extension 12.", "--yes"},
		{"admin", "revoke", "--device", "g5pxuzpujodp", "--message", "Reported as stolen.", "--yes"},
		{"admin", "revoke", "--group", "contractors", "--relogin", "--yes"},
		{"admin", "locks"},
		{"admin", "sessions", "end", string(w.sessions["bob"]), "--reason", "The laptop was found in a train."},
		{"admin", "sessions", "show", string(w.sessions["bob"])},
		{"admin", "users", "nobody@corp.example"},
		{"admin", "audit", "show", "zzzz-zzzz"},
	}
}

const brokenPolicy = "version: 1\nservices:\n  wiki: {adress: \"wiki.internal:8080\"}\nrules: []\n"

// TestScreens holds what is printed, so that a change of it is seen and read.
func TestScreens(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{"new.yaml": secondPolicy, "broken.yaml": brokenPolicy, "failing.yaml": failingPolicy} {
		w.check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	var b strings.Builder
	for _, args := range screens(w, "new.yaml") {
		r := w.culvert(args...)
		fmt.Fprintf(&b, "$ culvert%s\n%s", typed(args), r.screen)
		if r.hint != "" {
			fmt.Fprintf(&b, "! hint: %s\n", r.hint)
		}
		if r.reference != "" {
			fmt.Fprintf(&b, "! reference: %s\n", r.reference)
		}
		if r.code != 0 {
			fmt.Fprintf(&b, "(exit %d)\n", r.code)
		}
		b.WriteByte('\n')
	}
	got := reference.ReplaceAllStringFunc(b.String(), func(s string) string {
		if s == "p2wx-77ab" || s == "zzzz-zzzz" {
			return s
		}
		return "xxxx-xxxx"
	})
	for line := range strings.Lines(got) {
		prose := strings.HasPrefix(line, "!") || strings.HasPrefix(line, "$") || strings.HasPrefix(line, "  - {") || strings.Contains(line, ".yaml:")
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 && !prose {
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
	compareScreens(t, got)
}

func typed(args []string) string {
	text := ""
	for _, a := range args {
		if strings.ContainsAny(a, " :") {
			a = fmt.Sprintf("%q", a)
		}
		text += " " + a
	}
	return text
}

func compareScreens(t *testing.T, got string) {
	t.Helper()
	path := filepath.Join(sourceDir, "testdata", "screens.txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("the screens differ (-stored +now); read them, and store them with -update:\n%s", diff)
	}
}

// guideScreen is a command with its output in the guide.
var guideScreen = regexp.MustCompile("(?s)```console\n\\$ (.*?)```")

// TestGuideIsWhatIsPrinted compares the administrator's guide with the screens: what it shows is what there is. With -update, after
// TestScreens, it puts the present ones there.
func TestGuideIsWhatIsPrinted(t *testing.T) {
	path := filepath.Join(sourceDir, "..", "..", "docs", "administration.md")
	guide, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	known := knownScreens(t)
	if *update {
		guide = guideScreen.ReplaceAllFunc(guide, func(block []byte) []byte {
			line, _, _ := strings.Cut(string(guideScreen.FindSubmatch(block)[1]), "\n")
			return []byte("```console\n$ " + known[line] + "\n```")
		})
		if err := os.WriteFile(path, guide, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	blocks := guideScreen.FindAllStringSubmatch(string(guide), -1)
	if len(blocks) < 10 {
		t.Errorf("the guide has %d screens only", len(blocks))
	}
	for _, b := range blocks {
		line, _, _ := strings.Cut(b[1], "\n")
		if diff := cmp.Diff(strings.TrimSpace(b[1]), known[line]); diff != "" {
			t.Errorf("the guide shows %q as it is not printed (-guide +printed):\n%s", line, diff)
		}
	}
}

// knownScreens are the stored screens by their command line, as a reader sees them.
func knownScreens(t *testing.T) map[string]string {
	text, err := os.ReadFile(filepath.Join(sourceDir, "testdata", "screens.txt"))
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]string)
	exits := regexp.MustCompile(`\n\(exit \d\)`)
	for screen := range strings.SplitSeq(strings.ReplaceAll("\n"+string(text), "\n! ", "\n"), "\n$ ") {
		line, _, _ := strings.Cut(screen, "\n")
		if _, twice := known[line]; !twice {
			known[line] = strings.TrimSpace(exits.ReplaceAllString(screen, ""))
		}
	}
	return known
}

// With --json every list and report is the API's own answer.
func TestJSONIsTheAPIs(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{
		{"whoami"}, {"users"}, {"users", "ada@corp.example"}, {"gateways"}, {"sessions"}, {"sessions", "show", string(w.sessions["ada"])}, {"devices"},
		{"certificates", "--user", "ada@corp.example"}, {"audit"}, {"audit", "show", "p2wx-77ab"}, {"locks"}, {"requests"}, {"policy", "show"},
		{"policy", "history"}, {"policy", "explain", "--as", "ada@corp.example", "wiki"}, {"policy", "who", "wiki"}, {"policy", "what", "ada@corp.example"},
		{"revoke", "ada@corp.example", "--dry-run"}, {"revoke", "ada@corp.example", "--yes"},
	} {
		r := w.culvert(append([]string{"admin", "--json"}, args...)...)
		var into map[string]any
		if r.code != 0 || adminapi.Decode([]byte(r.out), &into, adminapi.Lenient) != nil {
			t.Errorf("admin --json %q: exit %d, printed %s%s", args, r.code, r.out, r.err)
		}
		if strings.ContainsAny(r.out, "\x1b\u009b") {
			t.Errorf("admin --json %q prints control characters: %q", args, r.out)
		}
	}
}
