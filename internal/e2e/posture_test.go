//go:build linux

package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// postureWorld is a gateway whose rules ask for facts of the device, and a desktop of KDE's that runs with the given settings.
func postureWorld(t *testing.T, environment ...string) (*gateway, *desktop) {
	t.Helper()
	idp := startDevIDP(t)
	g := startGateway(t, gatewayConfig{issuer: idp.Issuer(), policy: fmt.Sprintf(`version: 1
services:
  here: {address: %q}
  elsewhere: {address: %q}
  locked: {address: %q}
rules:
  - {name: this system, subjects: {users: ["*"]}, allow: [here], when: 'device.os == "linux" && device.arch == "%s"'}
  - {name: another system, subjects: {users: ["*"]}, allow: [elsewhere], when: 'device.os == "plan9"'}
  - {name: with a screen lock, subjects: {users: ["*"]}, allow: [locked], when: device.screen_lock}
`, echo(t), echo(t), echo(t), runtime.GOARCH)})
	d := newDesktop(t)
	d.env = append(d.env, environment...)
	d.loginDev(g, "ada")
	return g, d
}

// A rule that asks for the system and the architecture lets this one in; one that asks for a fact that cannot be read here does not,
// and both ends say what was missing.
func TestRulesAskForTheDevice(t *testing.T) {
	t.Parallel()
	_, d := postureWorld(t, "XDG_CURRENT_DESKTOP=")
	if r := d.culvert("explain", "here"); r.code != 0 {
		t.Errorf("here, without a running culvert up: %v", r)
	}
	p := d.up("-L", "here")
	say(t, dial(t, p.expect(`(127\.0\.0\.1:\d+) leads to here`)[1]), "from this system")
	for service, want := range map[string][]string{
		"locked":    {"device.screen_lock is unknown", "with a screen lock", "this device: linux", "screen lock unknown"},
		"elsewhere": {"device.os", "does not hold", "another system", "this device: linux"},
	} {
		r := d.culvert("explain", service)
		if r.code != 4 {
			t.Errorf("explain %s: %v; want exit code 4", service, r)
		}
		for _, part := range want {
			if !strings.Contains(r.stdout, part) {
				t.Errorf("explain %s does not say %q:\n%s", service, part, r.stdout)
			}
		}
	}
	var why struct {
		Device map[string]string `json:"device"`
	}
	if r := d.culvert("explain", "locked", "--json"); json.Unmarshal([]byte(r.stdout), &why) != nil || why.Device["arch"] != runtime.GOARCH {
		t.Errorf("explain --json: %v", r)
	}
	device, _ := d.status()["device"].(map[string]any)
	if device["os"] != "linux" || device["arch"] != runtime.GOARCH || device["hardware_key"] != "false" || device["screen_lock"] != nil {
		t.Errorf("status --json: device %v", device)
	}
	if text := d.must("status"); !strings.Contains(text, "screen lock unknown, key not in hardware\n") {
		t.Errorf("status:\n%s", text)
	}
}

// Somebody switches the lock of their screen off: the stream that relied on it is cut, and opens again when it is back on.
func TestChangedDeviceCutsStreams(t *testing.T) {
	t.Parallel()
	config := t.TempDir()
	screenLock := func(settings string) {
		if err := os.WriteFile(filepath.Join(config, "kscreenlockerrc"), []byte("[Daemon]\n"+settings+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	screenLock("Autolock=true\nTimeout=5")
	g, d := postureWorld(t, "XDG_CURRENT_DESKTOP=KDE", "XDG_CONFIG_HOME="+config, "XDG_CONFIG_DIRS="+config)
	own := d.start("connect", "locked") // its own connection: the very first stream knows the device
	fmt.Fprintln(own.stdin, "with the first stream")
	own.expect("with the first stream")
	p := d.up("-L", "locked")
	address := p.expect(`(127\.0\.0\.1:\d+) leads to locked`)[1]
	conn := dial(t, address)
	say(t, conn, "with a screen lock")

	screenLock("Autolock=false")
	if r := d.culvert("explain", "elsewhere"); r.code != 4 { // a refusal has the device looked at
		t.Errorf("explain elsewhere: %v", r)
	}
	changed := time.Now()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := bufio.NewReader(conn).ReadString('\n')
	var slow net.Error
	if err == nil || errors.As(err, &slow) && slow.Timeout() {
		t.Fatalf("the stream is still open: %v", err)
	}
	t.Logf("cut %v after a refusal: %v", time.Since(changed).Round(time.Millisecond), err)
	if r := d.culvert("explain", "locked"); r.code != 4 || !strings.Contains(r.stdout, "screen lock off") {
		t.Errorf("explain locked: %v", r)
	}
	told := false
	for _, r := range g.audit() {
		subject, _ := r["subject"].(map[string]any)
		facts, _ := subject["posture"].(map[string]any)
		told = told || r["event"] == "session.posture" && facts["screen_lock"] == "false"
	}
	if !told {
		t.Error("the audit log does not say that the device changed")
	}

	screenLock("Autolock=true")
	eventually(t, "the service is open again", func() bool { return d.culvert("explain", "locked").code == 0 })
	say(t, dial(t, address), "with a screen lock again")
}
