package adminctl

import (
	"fmt"
	"io"
	"os"

	"github.com/culvert-vpn/culvert/internal/adminapi"
)

// document reads a policy file, or stdin for "-". The name is for messages.
func (c *ctl) document(path string) (name, text string, err error) {
	if path == "-" {
		text, err = readBounded(c.In, "stdin")
		return "stdin", text, err
	}
	f, err := os.Open(path)
	if err != nil {
		return path, "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0 {
		return path, "", fmt.Errorf("%s is not a file", path)
	}
	text, err = readBounded(f, path)
	return path, text, err
}

func readBounded(r io.Reader, name string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, adminapi.MaxDocument+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read %s: %w", name, err)
	case len(data) > adminapi.MaxDocument:
		return "", fmt.Errorf("%s is larger than %s", name, size(adminapi.MaxDocument))
	case len(data) == 0:
		return "", fmt.Errorf("%s is empty", name)
	default:
		return string(data), nil
	}
}

// terminal reports whether v is one, as far as that can be told: a device of characters that is not the null device.
func terminal(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
