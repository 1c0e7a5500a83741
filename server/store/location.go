package store

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// A location is where the database is: path is that of an SQLite file, or url is
// a PostgreSQL server's.
type location struct {
	path string
	url  *url.URL
}

// String is for errors and logs: no password is in it.
func (l location) String() string {
	if l.url == nil {
		return l.path
	}
	return redacted(l.url)
}

// redacted writes a URL without its secrets, which may stand in its query too.
func redacted(u *url.URL) string {
	shown := *u
	shown.RawQuery, shown.Fragment = "", ""
	return shown.Redacted()
}

const locationForms = "write it as sqlite:///absolute/path or postgres://user:password@host/database"

// parseLocation reads the setting "database".
func parseLocation(text string) (location, error) {
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || rest == "" {
		return location{}, errors.New("the database has no scheme: " + locationForms)
	}
	switch scheme {
	case "sqlite":
		path, err := sqlitePath(rest)
		return location{path: path}, err
	case "postgres", "postgresql":
		u, err := url.Parse(text)
		if err != nil || u.Opaque != "" {
			// What url.Parse says may have a piece of the password in it.
			return location{}, errors.New("the database is not a URL (percent-encode odd characters of the password): " + locationForms)
		}
		return location{url: u}, nil
	}
	return location{}, fmt.Errorf("the database has the scheme %.20q: %s", scheme, locationForms)
}

// sqlitePath reads what follows "sqlite:". A path is taken as it is written, so
// that percent signs and question marks in it mean themselves.
func sqlitePath(rest string) (string, error) {
	if path, ok := strings.CutPrefix(rest, "//"); ok {
		if !strings.HasPrefix(path, "/") {
			return "", fmt.Errorf("the database sqlite:%s has a host: write it with three slashes, sqlite:///absolute/path", rest)
		}
		rest = path
	}
	return rest, nil
}
