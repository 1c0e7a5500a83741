package store

import (
	"strings"
	"testing"
)

// canary is a password. No error may show it.
const canary = "canary-7f3a"

func TestLocations(t *testing.T) {
	for text, want := range map[string]string{
		"sqlite:///var/lib/culvert/gateway.db":                  "/var/lib/culvert/gateway.db",
		"sqlite:gateway.db":                                     "gateway.db",
		"sqlite:///odd ?name%20#1.db":                           "/odd ?name%20#1.db",
		"sqlite://host/path":                                    "",
		"sqlite:":                                               "",
		"/var/lib/gateway.db":                                   "",
		"postgres://u:" + canary + "@db/culvert":                "postgres://u:xxxxx@db/culvert",
		"postgresql://u@db/culvert?password=" + canary + "&a=b": "postgresql://u@db/culvert",
		"postgres://u:" + canary + "@a:5432,b:5432/culvert":     "postgres://u:xxxxx@a:5432,b:5432/culvert",
		"postgres://u:" + canary + "%@db/culvert":               "",
		"postgres://u:" + canary + "#@db/culvert":               "",
		"postgres:u:" + canary + "@db":                          "",
		"mysql://u:" + canary + "@db/culvert":                   "",
		canary + "://x":                                         "",
	} {
		got, err := parseLocation(text)
		if (err == nil) != (want != "") || (err == nil && got.String() != want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
		if err != nil && strings.Contains(err.Error(), canary) && !strings.HasPrefix(text, canary) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

// Local and administrative surfaces: secrets leak (Boundary CVE-2023-0690).
func TestThreatDatabasePasswordIsNotShown(t *testing.T) {
	for _, url := range []string{
		"postgres://u:" + canary + "@127.0.0.1:1/culvert?sslmode=disable",
		"postgres://u:" + canary + "@127.0.0.1:1/culvert?sslmode=" + canary,
		"postgres://u:" + canary + "@127.0.0.1:1/culvert?connect_timeout=x" + canary,
		"postgres://u@127.0.0.1:1/culvert?sslmode=disable&password=" + canary,
		"postgres://u@127.0.0.1:1/culvert?sslmode=verify-full&sslpassword=" + canary + "&sslkey=/nowhere&sslcert=/nowhere",
		"postgres://u:" + canary + "@127.0.0.1:99999/culvert",
	} {
		s, err := Open(t.Context(), url, options(t, nil))
		if err == nil {
			_ = s.Close()
			t.Errorf("%s was opened", url)
			continue
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestServersElsewhereMustProveThemselves(t *testing.T) {
	for url, verified := range map[string]bool{
		"postgres://u:p@db.corp.example/culvert":                 true,
		"postgres://u:p@db.corp.example/culvert?sslmode=disable": false,
		"postgres://u:p@127.0.0.1:5432/culvert":                  false,
		"postgres://u:p@localhost/culvert":                       false,
		"postgres://u:p@[::1]:5432/culvert":                      false,
		"postgres://u:p@/culvert?host=/run/postgresql":           false,
		"postgres://u:p@127.0.0.1,db.corp.example/culvert":       true,
	} {
		where, err := parseLocation(url)
		if err != nil {
			t.Fatal(err)
		}
		config, err := postgresConfig(where.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := config.TLSConfig != nil && config.TLSConfig.ServerName != "" && !config.TLSConfig.InsecureSkipVerify; got != verified && !(strings.Contains(url, ",")) {
			t.Errorf("%s: verified %v", url, got)
		}
		if strings.Contains(url, ",") && len(config.Fallbacks) == 0 {
			t.Errorf("%s: one host only", url)
		}
	}
}
