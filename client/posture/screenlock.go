package posture

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// longestIdle is how long a screen may stay open with nobody before it; a lock after that is none.
const longestIdle = time.Hour

// locksWithin is whether a screen that locks after an idle time and a grace locks soon enough. An idle time of 0 is never, everywhere.
func locksWithin(idle, grace time.Duration) Answer {
	return answer(idle > 0 && grace >= 0 && idle <= longestIdle && grace <= longestIdle && idle+grace <= longestIdle)
}

// linuxScreenLock asks the desktop that this process runs in. Others than GNOME and KDE's Plasma are not known here, and a process that was
// started outside of a desktop knows of none.
func linuxScreenLock(ctx context.Context, m machine) Answer {
	desktop := strings.Split(m.env("XDG_CURRENT_DESKTOP"), ":")
	switch {
	case slices.Contains(desktop, "GNOME"):
		return gnomeScreenLock(gnomeSettings(ctx, m))
	case slices.Contains(desktop, "KDE"):
		return kdeScreenLock(kdeSettings(m))
	}
	return Unknown
}

// gnomeSettings returns what gsettings prints, "SCHEMA KEY VALUE" in each line.
func gnomeSettings(ctx context.Context, m machine) string {
	schemas := []string{"org.gnome.desktop.screensaver", "org.gnome.desktop.session", "org.gnome.desktop.lockdown"}
	printed := make([]string, len(schemas))
	var work sync.WaitGroup
	for i, schema := range schemas {
		work.Go(func() { printed[i], _ = m.run(ctx, "gsettings", "list-recursively", schema) })
	}
	work.Wait()
	return strings.Join(printed, "\n")
}

func gnomeScreenLock(settings string) Answer {
	values := make(map[string]string)
	for line := range strings.Lines(settings) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			values[strings.TrimPrefix(fields[0], "org.gnome.desktop.")+" "+fields[1]] = fields[len(fields)-1] // "uint32 300", "true"
		}
	}
	enabled, forbidden := values["screensaver lock-enabled"], values["lockdown disable-lock-screen"]
	idle, idleOK := seconds(values["session idle-delay"])
	grace, graceOK := seconds(values["screensaver lock-delay"])
	switch {
	case enabled == "false" || forbidden == "true":
		return No
	case enabled == "true" && forbidden == "false" && idleOK && graceOK:
		return locksWithin(idle, grace)
	}
	return Unknown
}

func seconds(text string) (time.Duration, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return time.Duration(n) * time.Second, err == nil
}

// kdeSettings returns the texts of kscreenlockerrc in the order of KDE's cascade: the system's, then the person's. It is not ok when one of
// them fixes settings against later ones ("[$i]") or has them computed: what counts then is for KDE to say.
func kdeSettings(m machine) (cascade []string, ok bool) {
	own := m.env("XDG_CONFIG_HOME")
	if own == "" && m.home() != "" {
		own = path.Join(m.home(), ".config")
	}
	system := m.env("XDG_CONFIG_DIRS")
	if system == "" {
		system = "/etc/xdg"
	}
	dirs := strings.Split(system, ":")
	slices.Reverse(dirs) // the first one is the most important
	for _, dir := range append(dirs, own) {
		if !path.IsAbs(dir) {
			continue
		}
		text, there := m.file(path.Join(dir, "kscreenlockerrc"))
		if strings.Contains(text, "[$i]") || strings.Contains(group(text, "[Daemon]"), "[$") {
			return nil, false
		}
		if there {
			cascade = append(cascade, text)
		}
	}
	return cascade, true
}

// kdeScreenLock decides by the [Daemon] group. What stands nowhere has KDE's own values: locked after 5 minutes, with 5 seconds of grace.
func kdeScreenLock(cascade []string, ok bool) Answer {
	if !ok {
		return Unknown
	}
	set := map[string]string{"Autolock": "true", "Timeout": "5", "LockGrace": "5", "RequirePassword": "true"}
	for _, text := range cascade {
		for line := range strings.Lines(group(text, "[Daemon]")) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
				set[name] = value
			}
		}
	}
	minutes, err := strconv.ParseUint(set["Timeout"], 10, 16)
	grace, graceOK := seconds(set["LockGrace"])
	switch {
	case set["Autolock"] == "false" || set["RequirePassword"] == "false":
		return No
	case set["Autolock"] != "true" || set["RequirePassword"] != "true" || err != nil || !graceOK:
		return Unknown
	}
	return locksWithin(time.Duration(minutes)*time.Minute, grace)
}

// group returns the lines of a group of a file in KDE's form.
func group(text, header string) string {
	var lines strings.Builder
	inside := false
	for line := range strings.Lines(text) {
		if trimmed := strings.TrimSpace(line); strings.HasPrefix(trimmed, "[") {
			inside = trimmed == header
		} else if inside {
			lines.WriteString(line)
		}
	}
	return lines.String()
}
