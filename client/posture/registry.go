package posture

import (
	"strconv"
	"time"
)

// A registry is that of Windows, as a program without privilege sees it. Keys begin with HKLM or HKCU.
type registry interface {
	// number returns a REG_DWORD.
	number(key, name string) (uint64, bool)
	// text returns a REG_SZ.
	text(key, name string) (string, bool)
}

// readRegistry reads a Windows system but for its version. Whether BitLocker encrypts the disk is for administrators to ask.
func readRegistry(r registry) facts {
	return facts{firewall: windowsFirewall(r), screenLock: windowsScreenLock(r)}
}

const (
	keyFirewall       = `HKLM\SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\`
	keyFirewallPolicy = `HKLM\SOFTWARE\Policies\Microsoft\WindowsFirewall\`
	keyFirewallRuns   = `HKLM\SYSTEM\CurrentControlSet\Services\MpsSvc`

	startDisabled = 4 // SERVICE_DISABLED
)

// windowsFirewall is whether Windows' own firewall is on for domain, private and public networks. A policy of the domain counts before
// what is set here. It is unknown where the firewall is switched off: another product may have taken its place.
func windowsFirewall(r registry) Answer {
	start, ok := r.number(keyFirewallRuns, "Start")
	if !ok || start == startDisabled {
		return Unknown
	}
	for _, profile := range []string{"DomainProfile", "StandardProfile", "PublicProfile"} { // Standard: private
		if !firewallOn(r, profile) {
			return Unknown
		}
	}
	return Yes
}

func firewallOn(r registry, profile string) bool {
	policies := []string{keyFirewallPolicy + profile, keyFirewall + `Mdm\` + profile}
	if profile == "StandardProfile" {
		policies = append(policies, keyFirewallPolicy+"PrivateProfile")
	}
	forced := false
	for _, key := range policies {
		on, ok := r.number(key, "EnableFirewall")
		if ok && on != 1 {
			return false
		}
		forced = forced || ok
	}
	on, ok := r.number(keyFirewall+profile, "EnableFirewall")
	return forced || ok && on == 1
}

const (
	keySystemPolicy  = `HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System`
	keyDesktop       = `HKCU\Control Panel\Desktop`
	keyDesktopPolicy = `HKCU\Software\Policies\Microsoft\Windows\Control Panel\Desktop`
)

// windowsScreenLock is Yes when the machine's inactivity limit or a screen saver with a password locks it in time. It is never No: a machine that
// goes to sleep asks for a password as well.
func windowsScreenLock(r registry) Answer {
	if limit, ok := r.number(keySystemPolicy, "InactivityTimeoutSecs"); ok && locksWithin(wait(limit), 0) == Yes {
		return Yes
	}
	idle, err := strconv.ParseUint(desktopSetting(r, "ScreenSaveTimeOut"), 10, 31)
	if err == nil && desktopSetting(r, "ScreenSaveActive") == "1" && desktopSetting(r, "ScreenSaverIsSecure") == "1" &&
		desktopSetting(r, "SCRNSAVE.EXE") != "" && locksWithin(wait(idle), 0) == Yes {
		return Yes
	}
	return Unknown
}

// wait is a number of seconds, and never an overflow.
func wait(n uint64) time.Duration { return time.Duration(min(n, 1<<31)) * time.Second }

// desktopSetting is a setting of the person's desktop; a policy's comes first.
func desktopSetting(r registry, name string) string {
	if text, ok := r.text(keyDesktopPolicy, name); ok {
		return text
	}
	text, _ := r.text(keyDesktop, name)
	return text
}
