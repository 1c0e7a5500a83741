//go:build unix && !darwin

package keyring

import (
	"errors"
	"os"
	"path/filepath"
)

// present looks for a session bus before the library does: without one the library would try to start a bus daemon
// of its own, which on a server takes long and leaves a process behind.
func present() error {
	return sessionBus(os.Getenv, func(path string) bool {
		info, err := os.Stat(path)
		return err == nil && info.Mode()&os.ModeSocket != 0
	})
}

// sessionBus decides whether there is a session bus, by the two places where D-Bus looks for one.
func sessionBus(env func(string) string, isSocket func(string) bool) error {
	if address := env("DBUS_SESSION_BUS_ADDRESS"); address != "" && address != "autolaunch:" && address != "disabled:" {
		return nil
	}
	if dir := env("XDG_RUNTIME_DIR"); dir != "" && isSocket(filepath.Join(dir, "bus")) {
		return nil
	}
	return errors.New("there is no D-Bus session bus")
}
