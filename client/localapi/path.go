//go:build !linux

package localapi

import "fmt"

func plainPath(path string) (short string, done func(), err error) {
	if len(path) > maxSocketPath {
		return "", nil, fmt.Errorf("the socket %s has %d bytes, at most %d fit: choose a shorter --state-dir", path, len(path), maxSocketPath)
	}
	return path, func() {}, nil
}
