//go:build !linux

package localsock

import "fmt"

func plainPath(path string) (short string, done func(), err error) {
	if len(path) > maxSocketPath {
		return "", nil, fmt.Errorf("the socket %s has %d bytes, at most %d fit: choose a shorter folder", path, len(path), maxSocketPath)
	}
	return path, func() {}, nil
}
