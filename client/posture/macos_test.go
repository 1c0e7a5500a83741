package posture

import "testing"

func TestFileVault(t *testing.T) {
	for text, want := range map[string]Answer{
		"FileVault is On.\n":  Yes,
		"FileVault is Off.\n": No,
		"FileVault is Off.\nDeferred enablement appears to be active for user 'ada'.\n": No,
		"FileVault is Off, but will be enabled after the next restart.\n":               No,
		"FileVault is On.\nEncryption in progress: Percent completed = 41.2\n":          Unknown,
		"FileVault is Off.\nDecryption in progress: Percent completed = 10\n":           Unknown,
		"FileVault is On, but needs to be restarted to finish.\n":                       Unknown,
		"":                              Unknown,
		"fdesetup: command not found\n": Unknown,
	} {
		if got := fileVault(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestMacFirewall(t *testing.T) {
	for text, want := range map[string]Answer{
		"Firewall is enabled. (State = 1)\n":                                         Yes,
		"Firewall is blocking all non-essential incoming connections. (State = 2)\n": Yes,
		"Firewall is disabled. (State = 0)\n":                                        No,
		"":                                                                           Unknown,
	} {
		if got := macFirewall(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

// power is what pmset prints, with the minutes until the display sleeps.
func power(minutes string) string {
	return `System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 hibernatefile        /var/vm/sleepimage
 powernap             1
 networkoversleep     0
 disksleep            10
 sleep                0 (sleep prevented by powerd)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         ` + minutes + `
 tcpkeepalive         1
`
}

func TestMacScreenLock(t *testing.T) {
	const stamp = "2026-09-21 20:50:02.423 sysadminctl[22746:23830390] "
	for name, c := range map[string]struct {
		lock, display string
		want          Answer
	}{
		"at once":              {stamp + "screenLock delay is immediate\n", power("10 (display sleep prevented by taurine)"), Yes},
		"after five seconds":   {stamp + "screenLock delay is 5 seconds\n", power("2"), Yes},
		"after four hours":     {stamp + "screenLock delay is 14400 seconds\n", power("10"), No},
		"dark after two hours": {stamp + "screenLock delay is immediate\n", power("120"), No},
		"off":                  {stamp + "screenLock is off\n", power("10"), No},
		"never dark":           {stamp + "screenLock delay is immediate\n", power("0"), Unknown},
		"no number":            {stamp + "screenLock delay is -1 seconds\n", power("10"), Unknown},
		"too large a number":   {stamp + "screenLock delay is 99999999999999999999 seconds\n", power("10"), Unknown},
		"nothing was printed":  {"", "", Unknown},
		"no display":           {stamp + "screenLock delay is immediate\n", "", Unknown},
	} {
		if got := macScreenLock(c.lock, c.display); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestReadMac(t *testing.T) {
	m := recorded{outputs: map[string]string{
		"fdesetup status":                 "FileVault is On.\n",
		"socketfilterfw --getglobalstate": "Firewall is disabled. (State = 0)\n",
		"sysadminctl -screenLock status":  "screenLock delay is immediate\n",
		"pmset -g":                        power("10"),
	}}
	if got, want := readMac(t.Context(), m), (facts{disk: Yes, firewall: No, screenLock: Yes}); got != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
	if got := readMac(t.Context(), recorded{}); got != (facts{}) {
		t.Errorf("read %+v where nothing runs", got)
	}
}
