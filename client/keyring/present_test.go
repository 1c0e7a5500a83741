//go:build unix && !darwin

package keyring

import "testing"

func TestSessionBus(t *testing.T) {
	for _, c := range []struct {
		name, address, dir string
		socket             bool
		want               bool
	}{
		{"desktop", "unix:path=/run/user/1000/bus", "/run/user/1000", true, true},
		{"address alone", "unix:path=/x", "", false, true},
		{"socket alone", "", "/run/user/1000", true, true},
		{"server", "", "", false, false},
		{"server with a run folder", "", "/run/user/0", false, false},
		{"autolaunch", "autolaunch:", "", false, false},
		{"switched off", "disabled:", "", false, false},
	} {
		env := func(key string) string {
			return map[string]string{"DBUS_SESSION_BUS_ADDRESS": c.address, "XDG_RUNTIME_DIR": c.dir}[key]
		}
		isSocket := func(path string) bool { return c.socket && path == c.dir+"/bus" }
		if got := sessionBus(env, isSocket) == nil; got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
