package posture

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sys/windows"
	winreg "golang.org/x/sys/windows/registry"
)

func read(context.Context) facts {
	f := readRegistry(thisRegistry{})
	v := windows.RtlGetVersion() // the true one: programs without a manifest are told an older version elsewhere
	f.version = fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	return f
}

// thisRegistry is the registry of this machine and person.
type thisRegistry struct{}

func (thisRegistry) number(key, name string) (uint64, bool) {
	k, err := openKey(key)
	if err != nil {
		return 0, false
	}
	defer k.Close()
	n, _, err := k.GetIntegerValue(name)
	return n, err == nil
}

func (thisRegistry) text(key, name string) (string, bool) {
	k, err := openKey(key)
	if err != nil {
		return "", false
	}
	defer k.Close()
	s, _, err := k.GetStringValue(name)
	return s, err == nil
}

func openKey(key string) (winreg.Key, error) {
	root, path, _ := strings.Cut(key, `\`)
	from := winreg.LOCAL_MACHINE
	if root == "HKCU" {
		from = winreg.CURRENT_USER
	}
	return winreg.OpenKey(from, path, winreg.QUERY_VALUE|winreg.WOW64_64KEY)
}
