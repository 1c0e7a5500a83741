package client

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/client/certstore"
	"github.com/culvert-vpn/culvert/client/keyring"
	"github.com/culvert-vpn/culvert/client/status"
)

func TestGatewayURL(t *testing.T) {
	for in, want := range map[string]string{
		"gw.example":                "https://gw.example",
		"GW.Example:8443":           "https://gw.example:8443",
		"https://gw.example/":       "https://gw.example",
		"https://[::1]:8443/a/b/":   "https://[::1]:8443/a/b",
		"http://gw.example":         "",
		"file:///etc/passwd":        "",
		"https://":                  "",
		"https://u:p@gw.example":    "",
		"https://gw.example?x=y":    "",
		"https://gw.example#f":      "",
		"https://gw.example\nHost:": "",
	} {
		got, err := GatewayURL(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("GatewayURL(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// What comes out must be taken again, unchanged, and must be https.
func FuzzGatewayURL(f *testing.F) {
	for _, seed := range []string{"gw.example", "https://gw.example:8443/x", "http://x", "https://[::1]", "//x", "a b", "https://x/%2e"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := GatewayURL(in)
		if err != nil {
			return
		}
		if !strings.HasPrefix(out, "https://") {
			t.Fatalf("GatewayURL(%q) = %q", in, out)
		}
		if again, err := GatewayURL(out); err != nil || again != out {
			t.Fatalf("GatewayURL(%q) = %q, then %q, %v", in, out, again, err)
		}
	})
}

// Many commands that find an expired login at the same time must not open many
// logins (pomerium/cli#160).
func TestOneLoginAtATime(t *testing.T) {
	profile := newLoopbackGateway(t).profile()
	lock, err := profile.LockLogin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = LogIn(t.Context(), Config{Profile: profile}, LogInOptions{Out: io.Discard})
	if !errors.Is(err, ErrLoginRunning) {
		t.Errorf("second login: %v, want ErrLoginRunning", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LogIn(ctx, Config{Profile: profile}, LogInOptions{Out: io.Discard}); errors.Is(err, ErrLoginRunning) {
		t.Errorf("a login without another one: %v", err)
	}
}

func TestPinsBelongToTheirGateway(t *testing.T) {
	profile := newLoopbackGateway(t).profile()
	known, err := profile.Peek()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		url    string
		domain string
	}{
		"the same gateway, unnamed": {"", "corp.example"},
		"the same gateway":          {known.Gateway, "corp.example"},
		"another one":               {"https://other.example", ""},
	} {
		record, err := startRecord(profile, LogInOptions{URL: c.url})
		if err != nil || string(record.TrustDomain) != c.domain {
			t.Errorf("%s: trust domain %q, %v; want %q", name, record.TrustDomain, err, c.domain)
		}
	}
}

// A login that the provider does not renew says so from its beginning, and when it ends.
func TestFaultNoRefreshToken(t *testing.T) {
	g := newLoopbackGateway(t)
	profile := g.profile()
	if s, err := Offline(profile, time.Now()); err != nil || s.Session.Deadline.Equal(s.Session.NotAfter) || len(s.Warnings) != 0 {
		t.Errorf("with a refresh token: %+v, %v", s, err)
	}
	record, err := profile.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	record.RefreshToken = certstore.Secret{}
	if err := profile.Save(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	s, err := Offline(profile, time.Now())
	if err != nil || !s.Session.Deadline.Equal(s.Session.NotAfter) || len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnNoRenewal {
		t.Errorf("%+v, %v; want the certificate's end and a warning", s, err)
	}
	c := startClient(t, Config{Profile: profile})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); len(s.Warnings) != 1 || s.Warnings[0].Code != status.WarnNoRenewal {
		t.Errorf("while it runs: %+v", s.Warnings)
	}
}

func TestNoRenewalNamesItsCause(t *testing.T) {
	const form = `{"settings":{"name":"corp","issuer":"https://idp.example","client_id":"c","scopes":[%s],"refresh_identity":"%s"},"granted":["openid"]}`
	for want, settings := range map[string]string{
		"does not renew logins":                   fmt.Sprintf(form, `"openid"`, "reauth"),
		"do not ask for the scope offline_access": fmt.Sprintf(form, `"openid"`, "id_token"),
		"did not grant the scope offline_access":  fmt.Sprintf(form, `"openid","offline_access"`, "id_token"),
	} {
		if got := noRenewal(certstore.Login{ProviderSettings: []byte(settings)}); !strings.Contains(got, want) {
			t.Errorf("%s: %q", want, got)
		}
	}
}

func TestOffline(t *testing.T) {
	profile := newLoopbackGateway(t).profile()
	now := time.Now()
	for want, at := range map[status.State]time.Time{status.Stopped: now, status.Expired: now.Add(13 * time.Hour)} {
		if s, err := Offline(profile, at); err != nil || s.State != want || s.User.Name != "Ada" {
			t.Errorf("Offline = %+v, %v; want %s", s, err, want)
		}
	}
	if err := profile.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := Offline(profile, now); err != nil || s.State != status.NotLoggedIn || s.Gateway.URL == "" {
		t.Errorf("after logout: %+v, %v", s, err)
	}
	if _, err := (&stored{cfg: Config{Profile: profile}}).Load(t.Context()); !errors.Is(err, ErrNotLoggedIn) || errors.Is(err, certstore.ErrNewer) {
		t.Errorf("load after logout: %v", err)
	}
}

// A device's key that nobody can open any more must not end every login to come, nor be replaced in silence.
func TestDeviceKeyThatNobodyCanOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	deviceKeyNow := func() (*ecdsa.PrivateKey, string) {
		sealer, err := keyring.New(keyring.Config{Dir: filepath.Join(dir, "keyring"), Use: keyring.KindFile})
		if err != nil {
			t.Fatal(err)
		}
		profile, err := certstore.Open(dir, "", certstore.Options{Keyring: sealer})
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		key, err := deviceKey(t.Context(), profile, &said)
		if err != nil {
			t.Fatal(err)
		}
		return key, said.String()
	}
	first, _ := deviceKeyNow()
	if again, said := deviceKeyNow(); !again.Equal(first) || said != "" {
		t.Errorf("the key changed, or something was said: %q", said)
	}
	if err := os.RemoveAll(filepath.Join(dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	second, said := deviceKeyNow()
	_, aside, _ := strings.Cut(strings.TrimSuffix(said, ".\n"), "kept as ")
	if _, err := os.Stat(aside); err != nil || second.Equal(first) {
		t.Errorf("said %q: %v", said, err)
	}
	if third, said := deviceKeyNow(); !third.Equal(second) || said != "" {
		t.Errorf("the new key does not stay: %q", said)
	}
}
