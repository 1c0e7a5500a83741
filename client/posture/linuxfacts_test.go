package posture

import (
	"maps"
	"strings"
	"testing"
)

func TestLinuxVersion(t *testing.T) {
	for file, want := range map[string]string{"debian.os-release": "12", "fedora.os-release": "41", "arch.os-release": ""} {
		m := recorded{files: map[string]string{"/etc/os-release": testdata(t, file), "/usr/lib/os-release": "VERSION_ID=1\n"}}
		if got := linuxVersion(m); got != want {
			t.Errorf("%s: version %q, want %q", file, got, want)
		}
	}
	if got := linuxVersion(recorded{files: map[string]string{"/usr/lib/os-release": "VERSION_ID='24.04'\n"}}); got != "24.04" {
		t.Errorf("version %q, want that of the second file", got)
	}
	if got := linuxVersion(recorded{}); got != "" {
		t.Errorf("version %q of a system without the file", got)
	}
}

func TestLinuxFirewall(t *testing.T) {
	const (
		units = "systemctl show --property=Id,ActiveState firewalld.service ufw.service"
		ufwOn = "Id=firewalld.service\nActiveState=inactive\n\nId=ufw.service\nActiveState=active\n"
	)
	deny := map[string]string{"/etc/ufw/ufw.conf": "# /etc/ufw/ufw.conf\n#\n\nENABLED=yes\nLOGLEVEL=low\n",
		"/etc/default/ufw": "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\nDEFAULT_OUTPUT_POLICY=\"ACCEPT\"\n"}
	with := func(path, text string) map[string]string {
		changed := maps.Clone(deny)
		changed[path] = text
		return changed
	}
	for name, c := range map[string]struct {
		states string
		files  map[string]string
		want   Answer
	}{
		"firewalld runs":          {"Id=firewalld.service\nActiveState=active\n\nId=ufw.service\nActiveState=inactive\n", nil, Yes},
		"ufw runs":                {ufwOn, deny, Yes},
		"ufw's unit does nothing": {ufwOn, with("/etc/ufw/ufw.conf", "ENABLED=no\n"), Unknown},
		"ufw lets everything in":  {ufwOn, with("/etc/default/ufw", `DEFAULT_INPUT_POLICY="ACCEPT"`), Unknown},
		"ufw cannot be read":      {ufwOn, nil, Unknown},
		"ufw did not start":       {strings.Replace(ufwOn, "=active", "=failed", 1), deny, Unknown},
		"neither":                 {"Id=firewalld.service\nActiveState=inactive\n\nId=ufw.service\nActiveState=inactive\n", deny, Unknown},
		"no systemd":              {"", deny, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			m := recorded{files: c.files, outputs: map[string]string{units: c.states}}
			if c.states == "" {
				m.outputs = nil
			}
			if got := linuxFirewall(t.Context(), m); got != c.want {
				t.Errorf("firewall: %d, want %d", got, c.want)
			}
		})
	}
}

func TestGNOMEScreenLock(t *testing.T) {
	recordedHere := testdata(t, "gnome.gsettings")
	for name, c := range map[string]struct {
		from, to string
		want     Answer
	}{
		"as installed":                  {"", "", Yes},
		"switched off":                  {"lock-enabled true", "lock-enabled false", No},
		"forbidden":                     {"disable-lock-screen false", "disable-lock-screen true", No},
		"never dark":                    {"idle-delay uint32 300", "idle-delay uint32 0", No},
		"dark after two hours":          {"idle-delay uint32 300", "idle-delay uint32 7200", No},
		"an hour between dark and lock": {"lock-delay uint32 0", "lock-delay uint32 3600", No},
		"a minute between the two":      {"lock-delay uint32 0", "lock-delay uint32 60", Yes},
		"an older GNOME":                {"org.gnome.desktop.session idle-delay", "org.gnome.desktop.session idle", Unknown},
		"no number":                     {"idle-delay uint32 300", "idle-delay uint32 many", Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(recordedHere, c.from, c.to, 1)
			if c.from != "" && changed == recordedHere {
				t.Fatalf("%q is not in the recording", c.from)
			}
			if got := gnomeScreenLock(changed); got != c.want {
				t.Errorf("screen lock: %d, want %d", got, c.want)
			}
		})
	}
}

func TestKDEScreenLock(t *testing.T) {
	const own, system = "/home/ada/.config/kscreenlockerrc", "/etc/xdg/kscreenlockerrc"
	for name, c := range map[string]struct {
		files map[string]string
		want  Answer
	}{
		"nothing was changed": {nil, Yes},
		"later": {map[string]string{own: "[$Version]\nupdate_info=kscreenlocker.upd:0.1-autolock\n\n[Daemon]\nLockGrace=60\nTimeout=15\n\n" +
			"[Greeter][Wallpaper][org.kde.image][General]\nImage[$e]=file:///usr/share/wallpapers/Next/\nTimeout=0\n"}, Yes},
		"switched off":         {map[string]string{own: "[Daemon]\nAutolock=false\nLockOnResume=false\nTimeout=0\n"}, No},
		"never":                {map[string]string{own: "[Daemon]\nTimeout=0\n"}, No},
		"too late":             {map[string]string{own: "[Daemon]\nTimeout=90\n"}, No},
		"without a password":   {map[string]string{own: "[Daemon]\nRequirePassword=false\n"}, No},
		"off by the system":    {map[string]string{system: "[Daemon]\nAutolock=false\n"}, No},
		"and on by the person": {map[string]string{system: "[Daemon]\nAutolock=false\n", own: "[Daemon]\nAutolock=true\n"}, Yes},
		"fixed by the system":  {map[string]string{system: "[Daemon][$i]\nAutolock=true\n", own: "[Daemon]\nAutolock=false\n"}, Unknown},
		"computed":             {map[string]string{own: "[Daemon]\nTimeout[$e]=$MINUTES\n"}, Unknown},
		"no number":            {map[string]string{own: "[Daemon]\nTimeout=soon\n"}, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			m := recorded{files: c.files, vars: map[string]string{"HOME": "/home/ada", "XDG_CURRENT_DESKTOP": "KDE"}}
			if got := linuxScreenLock(t.Context(), m); got != c.want {
				t.Errorf("screen lock: %d, want %d", got, c.want)
			}
		})
	}
}

// Which desktop is asked, and what none is asked about.
func TestLinuxScreenLockByDesktop(t *testing.T) {
	list := "gsettings list-recursively org.gnome.desktop."
	outputs := map[string]string{list + "screensaver": testdata(t, "gnome.gsettings"), list + "session": "", list + "lockdown": ""}
	for desktop, want := range map[string]Answer{"GNOME": Yes, "ubuntu:GNOME": Yes, "KDE": Yes, "": Unknown, "sway": Unknown, "XFCE": Unknown} {
		m := recorded{outputs: outputs, vars: map[string]string{"HOME": "/home/ada", "XDG_CURRENT_DESKTOP": desktop}}
		if got := linuxScreenLock(t.Context(), m); got != want {
			t.Errorf("%q: %d, want %d", desktop, got, want)
		}
	}
	if got := linuxScreenLock(t.Context(), recorded{vars: map[string]string{"XDG_CURRENT_DESKTOP": "GNOME"}}); got != Unknown {
		t.Errorf("without gsettings: %d", got)
	}
}

func TestReadLinux(t *testing.T) {
	m := machineOf(lvm + "\nmount: 30 1 252:1 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw")
	m.files["/etc/os-release"] = testdata(t, "debian.os-release")
	m.vars["XDG_CURRENT_DESKTOP"] = "KDE"
	if got, want := readLinux(t.Context(), m), (facts{version: "12", disk: Yes, screenLock: Yes}); got != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
}
