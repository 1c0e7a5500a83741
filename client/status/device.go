package status

import (
	"slices"
	"strings"
)

// Device is what the gateway is told of this device, under the names that conditions of the policy have for it: "os", "os_version", "arch",
// "client_version" and, each "true" or "false", "disk_encrypted", "firewall", "screen_lock", "hardware_key". What is not there is unknown.
type Device map[string]string

// String returns the facts as people say them: "linux 12, amd64, disk encrypted, firewall unknown, screen lock on, key not in hardware".
func (d Device) String() string {
	if len(d) == 0 {
		return ""
	}
	said := func(key, yes, no, unknown string) string {
		switch d[key] {
		case "true":
			return yes
		case "false":
			return no
		}
		return unknown
	}
	parts := []string{
		strings.TrimSpace(d["os"] + " " + d["os_version"]), d["arch"],
		said("disk_encrypted", "disk encrypted", "disk not encrypted", "disk encryption unknown"),
		said("firewall", "firewall on", "firewall off", "firewall unknown"),
		said("screen_lock", "screen lock on", "screen lock off", "screen lock unknown"),
		said("hardware_key", "key in hardware", "key not in hardware", "key in hardware unknown"),
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ", ")
}
