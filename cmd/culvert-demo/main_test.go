package main

import (
	"context"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A shell in which an operator works is no reason to touch their gateway's database.
func TestDemonstrationForgetsTheGateway(t *testing.T) {
	t.Setenv(server.EnvPrefix+"DATABASE", "postgres://culvert@db.example/culvert")
	t.Setenv("CULVERT_OTHER", "stays")
	forgetGateway()
	if _, set := os.LookupEnv(server.EnvPrefix + "DATABASE"); set || os.Getenv("CULVERT_OTHER") != "stays" {
		t.Errorf("the environment: %q", os.Environ())
	}
}

// The first command of the README, once: each step happens as it should, and
// nothing is left running.
func TestDemonstrationOnce(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs strings.Builder
	if code := run(ctx, []string{"--once"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), errs.String())
	}
	for _, want := range []string{
		`ok +logs in .* authorization code with PKCE`,
		`ok +has a certificate .* serial [0-9a-f]{32}`,
		`ok +opens the tunnel .* TLS 1\.3, X25519MLKEM768`,
		`ok +reads the wiki .* 200 OK`,
		`ok +is refused the echo .* denied: Engineers have echoes enough`,
		`reference [0-9a-z]{4}-[0-9a-z]{4}`,
		`ok +is refused the wiki`,
		`ok +approves it `,
		`ok +reads the wiki after all .* 200 OK`,
		`allowed by request [0-9a-z]{4}-[0-9a-z]{4}`,
		`ok +cuts bob off`,
		`an open stream ended [0-9.]+m?s after the command began: .*Laptop was lost`,
		`[0-9]+ records in a Merkle tree, none changed`,
		`23 steps, 0 failed`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("the output lacks %s\n%s", want, out.String())
		}
	}
}

// What does not happen as it should makes the demonstration fail.
func TestAFailedStepIsCountedAndShown(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.step("ada", "does", func() (string, error) { return "well", nil })
	if r.step("ada", "does not", func() (string, error) { return "", context.Canceled }) {
		t.Error("a failed step is reported as well done")
	}
	r.summary()
	if r.failed != 1 || !strings.Contains(out.String(), "FAILED") || !strings.Contains(out.String(), "2 steps, 1 failed") {
		t.Errorf("failed %d\n%s", r.failed, out.String())
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"--bogus"}, {"bogus"}, {"idp", "--bogus"}, {"idp", "extra"}} {
		var out, errs strings.Builder
		if code := run(context.Background(), args, &out, &errs); code != 2 {
			t.Errorf("%v: exit code %d, want 2\n%s%s", args, code, out.String(), errs.String())
		}
	}
}

func TestWikiPages(t *testing.T) {
	handler, err := wiki()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/": 200, "/on-call": 200, "/coffee": 200, "/none": 404} {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want {
			t.Errorf("GET %s: %d, want %d", path, w.Code, want)
		}
	}
}
