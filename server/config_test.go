package server

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/spf13/pflag"

	"github.com/culvert-vpn/culvert/auth/oidc"
)

// writeConfig writes text as a configuration into a folder of its own.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), ConfigFile)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const minimal = "hostname: vpn.corp.example\ntrust_domain: corp.example\n"

func TestLoadConfigTakesTheFileThenTheEnvironmentThenFlags(t *testing.T) {
	path := writeConfig(t, minimal+"listen: ':1'\nlog: {level: warn}\nlimits: {https: 7}\ndrain_timeout: 5s\n")
	t.Setenv("CULVERT_GATEWAY_LISTEN", ":2")
	t.Setenv("CULVERT_GATEWAY_LIMITS_HTTPS", "8")
	t.Setenv("CULVERT_GATEWAY_GROUPS_KEEP", "eng-*, data")
	t.Setenv("CULVERT_GATEWAY_TLS_ACME_AGREE_TERMS", "true")
	t.Setenv("CULVERT_GATEWAY_DRAIN_TIMEOUT", "6s")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("listen", "", "")
	flags.String("log-level", "", "")
	if err := flags.Parse([]string{"--listen", ":3"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(path, map[string]*pflag.Flag{"listen": flags.Lookup("listen"), "log.level": flags.Lookup("log-level")})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != ":3" || cfg.Log.Level != "warn" || cfg.Limits.HTTPS != 8 || !cfg.TLS.ACME.AgreeTerms || cfg.DrainTimeout != 6*time.Second {
		t.Errorf("listen %q, level %q, https %d, agree %v, drain %s", cfg.Listen, cfg.Log.Level, cfg.Limits.HTTPS, cfg.TLS.ACME.AgreeTerms, cfg.DrainTimeout)
	}
	if diff := cmp.Diff([]string{"eng-*", "data"}, cfg.Groups.Keep); diff != "" {
		t.Error(diff)
	}
	for key, want := range map[string]string{"listen": "flag --listen", "limits.https": "environment CULVERT_GATEWAY_LIMITS_HTTPS",
		"log.level": path + ":4:7", "tls.mode": ""} {
		if got := cfg.origins[key]; got != want {
			t.Errorf("origin of %s is %q, want %q", key, got, want)
		}
	}
	if want := filepath.Join(filepath.Dir(path), "state"); cfg.StateDir != want {
		t.Errorf("state_dir is %q, want %q beside the file", cfg.StateDir, want)
	}
}

func TestLoadConfigKeepsTheCaseOfProvidersKeys(t *testing.T) {
	cfg, err := LoadConfig(writeConfig(t, minimal+`providers:
  - {name: corp, issuer: "https://idp.example.com/", client_id: c, extra_auth_params: {Prompt.Mode: Consent}}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Providers[0].ExtraAuthParams["Prompt.Mode"] != "Consent" {
		t.Errorf("extra_auth_params are %v", cfg.Providers[0].ExtraAuthParams)
	}
}

func TestLoadConfigTakesAClientSecretFromTheEnvironment(t *testing.T) {
	t.Setenv("CULVERT_GATEWAY_PROVIDER_MY_CORP_CLIENT_SECRET", "canary")
	cfg, err := LoadConfig(writeConfig(t, minimal+`providers:
  - {name: my-corp, issuer: "https://idp.example.com/", client_id: c, token_auth: post}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Providers[0].ClientSecret.Reveal() != "canary" {
		t.Error("the secret was not taken")
	}
}

func TestLoadConfigRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		env        map[string]string
		want       []string
	}{
		{"unknown key", minimal + "lisen: x\n", nil, []string{`gateway.yaml:3:1: unknown key "lisen" (did you mean "listen"?)`}},
		{"unknown nested key", minimal + "tls:\n  moed: self\n", nil, []string{`gateway.yaml:4:3: unknown key "moed" (did you mean "mode"?)`}},
		{"key twice", minimal + "hostname: a\n", nil, []string{"gateway.yaml:3:1:", "second time"}},
		{"wrong type", minimal + "limits: {https: many}\n", nil, []string{`gateway.yaml:3:17: "many" is not a number`}},
		{"unknown variable", minimal, map[string]string{"CULVERT_GATEWAY_LISTN": "x"},
			[]string{`environment CULVERT_GATEWAY_LISTN: no setting has this name (did you mean "CULVERT_GATEWAY_LISTEN"?)`}},
		{"secret of nobody", minimal, map[string]string{"CULVERT_GATEWAY_PROVIDER_X_CLIENT_SECRET": "s"},
			[]string{"environment CULVERT_GATEWAY_PROVIDER_X_CLIENT_SECRET: no provider of that name"}},
		{"bad number in a variable", minimal, map[string]string{"CULVERT_GATEWAY_LIMITS_HTTPS": "many"},
			[]string{`environment CULVERT_GATEWAY_LIMITS_HTTPS: "many" is not a whole number`}},
		{"bad value in a variable", minimal, map[string]string{"CULVERT_GATEWAY_TLS_MODE": "none"},
			[]string{`environment CULVERT_GATEWAY_TLS_MODE: tls.mode: "none" is not one of self, files, acme`}},
		{"nothing is set", "", nil, []string{"hostname: is missing", "trust_domain: is missing"}},
		{"all faults at once", "hostname: UPPER\ntrust_domain: a b\nlisten: nowhere\ntls: {mode: files}\ncertificates: {ttl: 1s}\nlog: {level: loud}\n", nil,
			[]string{"gateway.yaml:1:1: hostname:", "gateway.yaml:2:1: trust_domain:", "gateway.yaml:3:1: listen:", "tls.certificate: is missing",
				"tls.key: is missing", "gateway.yaml:5:16: certificates.ttl: 1s is not between 1m0s and 24h0m0s", "gateway.yaml:6:7: log.level:"}},
		{"metrics for everybody", minimal + "metrics: {listen: '0.0.0.0:9464'}\n", nil, []string{"metrics.listen", "not a loopback address", "unsafe"}},
		{"provider", minimal + "providers:\n  - {name: corp, issuer: 'http://idp.example.com', client_id: c}\n", nil, []string{"gateway.yaml:4:5: providers[0]"}},
		{"acme without terms", minimal + "tls: {mode: acme}\n", nil, []string{"agree_terms"}},
		{"acme for an address", "hostname: 10.0.0.1\ntrust_domain: a.example\ntls: {mode: acme, acme: {agree_terms: true}}\n", nil, []string{"acme needs a DNS name"}},
		{"another database", minimal + "database: mysql://db/x\n", nil, []string{"database: is of no known kind: write sqlite:///"}},
		{"database without a name", minimal + "database: postgres://db/\n", nil, []string{"database: cannot be read"}},
		{"everybody a balancer", minimal + "proxy_protocol: {from: [\"0.0.0.0/0\"]}\n", nil, []string{"proxy_protocol.from:", "is everybody"}},
		{"unknown role", minimal + "admin:\n  roles:\n    - {role: root, groups: [it]}\n", nil, []string{`gateway.yaml:5:7: admin.roles[0]: role "root" is not one of viewer`}},
		{"role of nobody", minimal + "admin: {roles: [{role: owner}]}\n", nil, []string{"nobody has this role"}},
		{"role of everybody", minimal + "admin: {roles: [{role: owner, users: [\"*\"]}]}\n", nil, []string{"is everybody"}},
		{"export without a place", minimal + "audit: {export: [{name: siem, kind: syslog, address: siem}]}\n", nil, []string{"audit.export[0]: address"}},
		{"two exports of a name", minimal + "audit: {export: [{name: a, kind: stdout}, {name: a, kind: stdout}]}\n", nil, []string{"another export has it too"}},
		{"public url", minimal + "public_url: http://x/y\n", nil, []string{"public_url:"}},
		{"no limit", minimal + "limits: {handshakes: 0}\n", nil, []string{"limits.handshakes: 0 is no limit"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			_, err := LoadConfig(writeConfig(t, tt.text), nil)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q:\n%v", want, err)
				}
			}
		})
	}
}

func TestUnsafeMetricsListenIsAccepted(t *testing.T) {
	if _, err := LoadConfig(writeConfig(t, minimal+"metrics: {unsafe_listen: '0.0.0.0:9464'}\n"), nil); err != nil {
		t.Error(err)
	}
}

// uncomment turns the settings that the template shows into settings.
var uncomment = regexp.MustCompile(`(?m)^(\s*)#(\S)`)

// The template is the reference that operators read: with every setting that it
// shows switched on, it must say exactly what the code's defaults are, and leave
// nothing out.
func TestTemplateShowsEverySettingWithItsDefault(t *testing.T) {
	opts := InitOptions{Hostname: "vpn.corp.example", TrustDomain: "corp.example", Listen: ":443"}
	opts, err := opts.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	text, err := opts.config()
	if err != nil {
		t.Fatal(err)
	}
	shown := uncomment.ReplaceAllString(string(text), "$1$2")
	cfg, err := parseConfig(ConfigFile, []byte(shown))
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	for _, s := range settingsOf(reflect.ValueOf(cfg).Elem(), "") {
		if cfg.origins[s.key] == "" {
			t.Errorf("the template does not show %s", s.key)
		}
	}
	want := DefaultConfig()
	want.Hostname, want.TrustDomain = "vpn.corp.example", "corp.example"
	if diff := cmp.Diff(want, *cfg, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the template's values differ from the defaults (-default +template):\n%s", diff)
	}
}

func TestShowHidesSecretsAndNamesOrigins(t *testing.T) {
	t.Setenv("CULVERT_GATEWAY_LOG_LEVEL", "debug")
	cfg, err := LoadConfig(writeConfig(t, minimal+`providers:
  - {name: corp, issuer: "https://idp.example.com/", client_id: c, token_auth: post, client_secret: canary}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := cfg.ShowYAML()
	if err != nil {
		t.Fatal(err)
	}
	js, err := cfg.ShowJSON()
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{string(text), string(js)} {
		if strings.Contains(shown, "canary") || !strings.Contains(shown, "[secret]") {
			t.Errorf("the secret is not hidden:\n%s", shown)
		}
		if !strings.Contains(shown, "environment CULVERT_GATEWAY_LOG_LEVEL") {
			t.Errorf("the origin of log.level is not shown:\n%s", shown)
		}
	}
	if cfg.Providers[0].ClientSecret != oidc.Secret("canary") {
		t.Error("showing changed the configuration")
	}
}

func TestFaultsCanBeInspected(t *testing.T) {
	cfg := DefaultConfig()
	err := cfg.Validate()
	var fault *Fault
	if !errors.As(err, &fault) || fault.Key != "hostname" {
		t.Errorf("got %v", err)
	}
}

func TestNoPasswordIsShown(t *testing.T) {
	for _, location := range []string{
		"postgres://culvert:canary@db.internal/culvert",
		"postgres://culvert@db.internal/culvert?sslmode=verify-full&password=canary&sslpassword=canary",
		"postgresql://culvert:canary@db:%zz/culvert",
	} {
		cfg := DefaultConfig()
		cfg.Database = location
		text, err := cfg.ShowYAML()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "canary") || !strings.Contains(string(text), "database: ") {
			t.Errorf("%s is shown as:\n%s", location, text)
		}
	}
}

// An owner by an address that does not count is no owner, and the operator hears of it before they need one.
func TestRolesThatNobodyHasAreDoubted(t *testing.T) {
	cfg := Config{
		Providers: []oidc.ProviderConfig{{Name: "corp", EmailDomains: []string{"corp.example"}}, {Name: "partner"}},
		Admin: AdminConfig{Roles: []RoleConfig{
			{Role: "owner", Users: []string{"corp:ada@Corp.Example", "corp:sub:a@b", "corp:*"}, Groups: []string{"corp/admins"}},
			{Role: "viewer", Users: []string{"partner:eve@corp.example", "bob@other.example"}},
		}},
	}
	doubts := cfg.Doubts()
	if len(doubts) != 2 || !strings.Contains(doubts[0], `admin.roles[1]: "partner:eve@corp.example" gives nobody the role viewer`) || !strings.Contains(doubts[1], "other.example") {
		t.Errorf("%q", doubts)
	}
}
