package archtest

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/culvert-vpn/culvert/"

// floors gives each package its floor; a package imports only lower ones. A
// new package must be entered here, which is the moment to think where it
// belongs.
var floors = map[string]int{
	"internal/neterr":                -1,
	"auth":                           0,
	"tunnel/wire":                    0,
	"tunnel/relay":                   0,
	"tunnel/relay/relaytest":         0,
	"internal/archtest":              0,
	"internal/backoff":               0,
	"internal/buildinfo":             0,
	"internal/durable":               0,
	"internal/localnet":              0,
	"internal/plaintext":             0,
	"internal/strictconf":            0,
	"internal/strictjson":            0,
	"internal/testenv":               0,
	"auth/ca":                        1,
	"auth/oidc":                      1,
	"client/forward":                 1,
	"client/httpproxy":               1,
	"client/keyring":                 1,
	"client/posture":                 1,
	"client/status":                  1,
	"client/socks5":                  1,
	"internal/adminapi":              1,
	"internal/localsock":             1,
	"internal/localnet/localnettest": 1,
	"internal/pgtest":                1,
	"server/policy":                  1,
	"auth/enroll":                    2,
	"auth/mtls":                      2,
	"server/audit":                   2,
	"server/dialer":                  2,
	"server/session":                 2,
	"server/store":                   2,
	"tunnel":                         2,
	"client/certstore":               3,
	"client/localapi":                3,
	"client/login":                   3,
	"server/admin":                   3,
	"server/enroll":                  3,
	"server/gateway":                 3,
	"server/preview":                 3,
	"client":                         4,
	"internal/adminctl":              4,
	"internal/devidp":                4,
	"server":                         4,
	"cmd/culvert":                    5,
	"cmd/culvert-demo":               5,
	"cmd/culvert-gateway":            5,
	"internal/e2e":                   5,
}

type listed struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
}

// packages lists the module's packages as the given system builds them.
func packages(t *testing.T, goos string) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,GoFiles", module+"...")
	cmd.Env = append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list for %s: %v\n%s", goos, err, stderr.String())
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImportsGoDown(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, p := range packages(t, goos) {
			name := strings.TrimPrefix(p.ImportPath, module)
			floor, ok := floors[name]
			if !ok {
				t.Errorf("%s has no floor; enter it in this test", name)
				continue
			}
			for _, imported := range p.Imports {
				lower, own := strings.CutPrefix(imported, module)
				if own && floors[lower] >= floor {
					t.Errorf("%s (floor %d) imports %s (floor %d); imports go down only", name, floor, lower, floors[lower])
				}
			}
		}
	}
}

// The client must not know the server's code, nor the server the client's:
// what both need is the protocol, and that stands in tunnel and auth.
func TestClientAndServerAreStrangers(t *testing.T) {
	side := func(name string) string {
		for _, s := range []string{"client", "server"} {
			if name == s || strings.HasPrefix(name, s+"/") {
				return s
			}
		}
		return ""
	}
	for _, p := range packages(t, "linux") {
		from := side(strings.TrimPrefix(p.ImportPath, module))
		for _, imported := range p.Imports {
			to := side(strings.TrimPrefix(imported, module))
			if from != "" && to != "" && strings.HasPrefix(imported, module) && from != to {
				t.Errorf("%s imports %s", p.ImportPath, imported)
			}
		}
	}
}

func TestOnePackageCommentPerPackage(t *testing.T) {
	for _, p := range packages(t, "linux") {
		name := filepath.Base(p.ImportPath)
		opening := "Package " + strings.ReplaceAll(name, "-", "") + " "
		if strings.HasPrefix(strings.TrimPrefix(p.ImportPath, module), "cmd/") {
			opening = "Command " + name + " "
		}
		var docs []string
		for file, doc := range comments(t, p.Dir) {
			docs = append(docs, file)
			if !strings.HasPrefix(doc, opening) {
				t.Errorf("%s: the package comment opens %.40q, want %q", file, doc, opening)
			}
		}
		if len(docs) != 1 {
			t.Errorf("%s has a package comment in %d files %v, want exactly one", p.ImportPath, len(docs), docs)
		}
	}
}

// comments returns the package comments in dir by file, whatever system the
// files are for.
func comments(t *testing.T, dir string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		var parsed *ast.File
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		if parsed.Doc != nil {
			found[file] = parsed.Doc.Text()
		}
	}
	return found
}

// No package may be a drawer for everything.
func TestNoDrawerPackages(t *testing.T) {
	drawers := map[string]bool{"util": true, "utils": true, "common": true, "model": true, "models": true, "types": true, "helpers": true, "misc": true}
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && drawers[d.Name()] {
			t.Errorf("%s: name the package after what it does", path)
		}
		if d != nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

// The threat model names a test for each of its rows. A test that is renamed
// or removed must not leave a promise behind that nothing holds, and a test of
// a threat that the page does not have is a promise that nobody reads.
func TestThreatModelNamesTests(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "threat-model.md"))
	if err != nil {
		t.Fatal(err)
	}
	promised := make(map[string]bool)
	for _, name := range testName.FindAllString(string(page), -1) {
		promised[name] = true
	}
	defined := testsOfModule(t)
	for name := range promised {
		if !defined[name] {
			t.Errorf("docs/threat-model.md names %s, which no package defines", name)
		}
	}
	for name := range defined {
		threat := strings.HasPrefix(name, "TestThreat") || strings.HasPrefix(name, "TestFault") && !strings.HasPrefix(name, "TestFaults")
		if threat && !promised[name] && name != t.Name() {
			t.Errorf("docs/threat-model.md does not name %s", name)
		}
	}
}

// testsOfModule returns the names of all test functions, whatever system they
// are for.
func testsOfModule(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names[fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The floors of docs/architecture.md are those of this test. Packages for tests only, and this one, stand in a
// sentence below the picture.
func TestFloorsAreAsDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]int{}
	for _, line := range regexp.MustCompile(`(?m)^F(-?\d) +(.+)$`).FindAllStringSubmatch(string(page), -1) {
		floor, err := strconv.Atoi(line[1])
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range strings.Fields(line[2]) {
			prefix, list, _ := strings.Cut(strings.TrimSuffix(entry, "}"), "{")
			for name := range strings.SplitSeq(list, ",") {
				documented[prefix+name] = floor
			}
		}
	}
	for name, floor := range floors {
		onPage, ok := documented[name]
		if !ok && (name == "internal/archtest" || strings.HasSuffix(name, "test")) {
			ok, onPage = strings.Contains(string(page), "`"+name+"` (F"+strconv.Itoa(floor)+")"), floor
		}
		if !ok || onPage != floor {
			t.Errorf("docs/architecture.md does not show %s on floor %d", name, floor)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/architecture.md shows %s, which has no floor", name)
	}
}
