package posture

import (
	"maps"
	"testing"
)

// exported is a registry: numbers and texts by KEY\NAME.
type exported map[string]any

func (e exported) number(key, name string) (uint64, bool) {
	n, ok := e[key+`\`+name].(int)
	return uint64(n), ok
}

func (e exported) text(key, name string) (string, bool) {
	s, ok := e[key+`\`+name].(string)
	return s, ok
}

func TestWindowsFirewall(t *testing.T) {
	installed := exported{
		keyFirewallRuns + `\Start`:                     2,
		keyFirewall + `DomainProfile\EnableFirewall`:   1,
		keyFirewall + `StandardProfile\EnableFirewall`: 1,
		keyFirewall + `PublicProfile\EnableFirewall`:   1,
	}
	for name, c := range map[string]struct {
		changes exported
		want    Answer
	}{
		"as installed":                  {nil, Yes},
		"off in public networks":        {exported{keyFirewall + `PublicProfile\EnableFirewall`: 0}, Unknown},
		"off by the domain":             {exported{keyFirewallPolicy + `DomainProfile\EnableFirewall`: 0}, Unknown},
		"off by the domain at home":     {exported{keyFirewallPolicy + `PrivateProfile\EnableFirewall`: 0}, Unknown},
		"off by the management":         {exported{keyFirewall + `Mdm\PublicProfile\EnableFirewall`: 0}, Unknown},
		"on by the domain all the same": {exported{keyFirewall + `PublicProfile\EnableFirewall`: 0, keyFirewallPolicy + `PublicProfile\EnableFirewall`: 1}, Yes},
		"the service does not start":    {exported{keyFirewallRuns + `\Start`: startDisabled}, Unknown},
		"a text":                        {exported{keyFirewall + `PublicProfile\EnableFirewall`: "1"}, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			r := maps.Clone(installed)
			maps.Copy(r, c.changes)
			if got := windowsFirewall(r); got != c.want {
				t.Errorf("firewall: %d, want %d", got, c.want)
			}
		})
	}
	if got := windowsFirewall(exported{}); got != Unknown {
		t.Errorf("firewall of an empty registry: %d", got)
	}
}

func TestWindowsScreenLock(t *testing.T) {
	saver := exported{keyDesktop + `\ScreenSaveActive`: "1", keyDesktop + `\ScreenSaverIsSecure`: "1", keyDesktop + `\ScreenSaveTimeOut`: "600",
		keyDesktop + `\SCRNSAVE.EXE`: `C:\Windows\System32\scrnsave.scr`}
	limit := keySystemPolicy + `\InactivityTimeoutSecs`
	for name, c := range map[string]struct {
		base, changes exported
		want          Answer
	}{
		"nothing is set":                 {nil, nil, Unknown},
		"the machine's limit":            {exported{limit: 900}, nil, Yes},
		"no limit":                       {exported{limit: 0}, nil, Unknown},
		"too late a limit":               {exported{limit: 599940}, nil, Unknown},
		"a screen saver":                 {saver, nil, Yes},
		"one without a password":         {saver, exported{keyDesktop + `\ScreenSaverIsSecure`: "0"}, Unknown},
		"a password by the domain":       {saver, exported{keyDesktop + `\ScreenSaverIsSecure`: "0", keyDesktopPolicy + `\ScreenSaverIsSecure`: "1"}, Yes},
		"no password by the domain":      {saver, exported{keyDesktopPolicy + `\ScreenSaverIsSecure`: "0"}, Unknown},
		"none is chosen":                 {saver, exported{keyDesktop + `\SCRNSAVE.EXE`: ""}, Unknown},
		"it comes too late":              {saver, exported{keyDesktop + `\ScreenSaveTimeOut`: "36000"}, Unknown},
		"it comes at an unreadable time": {saver, exported{keyDesktop + `\ScreenSaveTimeOut`: "soon"}, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			r := exported{}
			maps.Copy(r, c.base)
			maps.Copy(r, c.changes)
			if got := windowsScreenLock(r); got != c.want {
				t.Errorf("screen lock: %d, want %d", got, c.want)
			}
		})
	}
}

func TestReadRegistry(t *testing.T) {
	if got := readRegistry(exported{keySystemPolicy + `\InactivityTimeoutSecs`: 900}); got != (facts{screenLock: Yes}) {
		t.Errorf("read %+v", got)
	}
}
