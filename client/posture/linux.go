package posture

import (
	"context"
	"strings"
	"sync"
)

// readLinux reads a Linux system.
func readLinux(ctx context.Context, m machine) facts {
	var f facts
	var work sync.WaitGroup
	work.Go(func() { f.version = linuxVersion(m) })
	work.Go(func() { f.disk = linuxDisk(m) })
	work.Go(func() { f.firewall = linuxFirewall(ctx, m) })
	work.Go(func() { f.screenLock = linuxScreenLock(ctx, m) })
	work.Wait()
	return f
}

// linuxVersion is the distribution's VERSION_ID, such as "12" or "24.04" (os-release(5)). Distributions that roll have none.
func linuxVersion(m machine) string {
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if text, ok := m.file(path); ok {
			return assignments(text)["VERSION_ID"]
		}
	}
	return ""
}

// assignments reads lines of the form NAME=value as shells do, with or without quotes, as far as the files that are read here go. Of a
// name that stands there twice the last one counts.
func assignments(text string) map[string]string {
	found := make(map[string]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		value = strings.TrimSpace(value)
		if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
			value = value[1 : n-1]
		}
		found[name] = value
	}
	return found
}

// linuxFirewall is Yes when ufw or firewalld is in force. It is never No: the kernel's own tables, which a script, nftables.service or a
// container engine may have filled, can be read by root alone.
func linuxFirewall(ctx context.Context, m machine) Answer {
	states, ok := m.run(ctx, "systemctl", "show", "--property=Id,ActiveState", "firewalld.service", "ufw.service")
	if !ok {
		return Unknown
	}
	active := activeUnits(states)
	switch {
	case active["firewalld.service"]:
		return Yes
	case active["ufw.service"]:
		return ufw(m)
	}
	return Unknown
}

// activeUnits reads what `systemctl show --property=Id,ActiveState` prints: a block of lines for each unit, with an empty line between two.
func activeUnits(text string) map[string]bool {
	active := make(map[string]bool)
	for block := range strings.SplitSeq(text, "\n\n") {
		unit := assignments(block)
		active[unit["Id"]] = unit["ActiveState"] == "active"
	}
	return active
}

// ufw is asked only when its unit ran at the boot: the file says whether that did anything, and what becomes of connections that no rule
// names.
func ufw(m machine) Answer {
	conf, _ := m.file("/etc/ufw/ufw.conf")
	defaults, _ := m.file("/etc/default/ufw")
	input := assignments(defaults)["DEFAULT_INPUT_POLICY"]
	if strings.EqualFold(assignments(conf)["ENABLED"], "yes") && (input == "DROP" || input == "REJECT") {
		return Yes
	}
	return Unknown
}
