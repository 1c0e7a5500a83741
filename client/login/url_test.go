package login

import (
	"errors"
	"strings"
	"testing"
)

// Class: strings from the gateway executed (CVE-2022-41924): file:, UNC, newline URLs.
func TestThreatAddressesToOpen(t *testing.T) {
	for _, good := range []string{
		"https://idp.example/auth?x=1&y=%0a", "https://idp.example:8443/", "http://127.0.0.1:9400/authorize", "http://[::1]:1/",
		"http://localhost:9400/",
	} {
		if err := CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "file:///etc/passwd", "file://server/share/x.exe", `\\server\share\x.exe`, "//server/share", `https:\\server\share`,
		"http://idp.example/", "http://127.0.0.1.evil.example/", "http://10.0.0.1/", "javascript:alert(1)", "ms-msdt:/id",
		"https://idp.example/\nhttps://evil.example", "https://idp.example/\r\n", "https://idp.example/ --flag", "https://idp.example/\t",
		"https://idp.example/\x00", "https://user:pw@idp.example/", "https:idp.example", "https:///path", "-flag", "calc.exe",
		`https://idp.example/" & calc`, "https://idp.example/\u202e", "HTTPS://", "https://idp.example/" + strings.Repeat("a", maxURL),
	} {
		if err := CheckURL(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
		if err := openSystemBrowser(bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://idp.example/?a=b", "http://127.0.0.1:1/", "file:///x", `\\x\y`, "https://a\nb"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if CheckURL(address) != nil {
			return
		}
		lower := strings.ToLower(address)
		if !strings.HasPrefix(lower, "https://") && !strings.HasPrefix(lower, "http://127.") &&
			!strings.HasPrefix(lower, "http://[") && !strings.HasPrefix(lower, "http://localhost") {
			t.Fatalf("%q was accepted", address)
		}
		if strings.ContainsAny(address, " \r\n\t\"\\\x00") {
			t.Fatalf("%q was accepted", address)
		}
	})
}

func TestCanOpen(t *testing.T) {
	for name, test := range map[string]struct {
		goos string
		env  map[string]string
		tool string
		want bool
	}{
		"windows":        {"windows", nil, "", true},
		"macOS":          {"darwin", nil, "", true},
		"X11":            {"linux", map[string]string{"DISPLAY": ":0"}, "", true},
		"Wayland":        {"linux", map[string]string{"WAYLAND_DISPLAY": "wayland-0"}, "", true},
		"WSL":            {"linux", map[string]string{"WSL_DISTRO_NAME": "Debian"}, "wslview", true},
		"WSL, no opener": {"linux", map[string]string{"WSL_DISTRO_NAME": "Debian"}, "", false},
		"ssh":            {"linux", map[string]string{"SSH_CONNECTION": "x"}, "", false},
	} {
		lookPath := func(tool string) (string, error) {
			if tool == test.tool {
				return "/usr/bin/" + tool, nil
			}
			return "", errors.New("not found")
		}
		if err := canOpen(test.goos, func(key string) string { return test.env[key] }, lookPath); (err == nil) != test.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
