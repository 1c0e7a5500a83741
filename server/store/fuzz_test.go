package store

import (
	"strings"
	"testing"
)

// Whatever stands in the setting, its password is in no error and no log.
func FuzzLocation(f *testing.F) {
	for _, text := range []string{"sqlite:///var/lib/x.db", "sqlite:x", "postgres://u:%s@db/culvert?sslmode=disable", "postgresql://u@[::1]:5/x?password=%s", "x:%s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ReplaceAll(text, "%s", canary)
		where, err := parseLocation(text)
		scheme, _, _ := strings.Cut(text, ":")
		if strings.Contains(scheme, canary) {
			return
		}
		if err != nil {
			if strings.HasPrefix(scheme, "postgres") && strings.Contains(err.Error(), canary) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if where.url == nil {
			return
		}
		if password, ok := where.url.User.Password(); ok && password == canary && strings.Contains(where.String(), canary) &&
			!strings.Contains(strings.Replace(text, ":"+canary+"@", "", 1), canary) {
			t.Errorf("%q is shown as %s", text, where)
		}
		_, _ = postgresConfig(where.url)
	})
}

func FuzzAuditCursor(f *testing.F) {
	for _, text := range []string{"", "1-2", "x", "-1-2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseAuditCursor(text)
		if err == nil && c.String() != text {
			t.Errorf("%q is read as %q", text, c)
		}
	})
}
