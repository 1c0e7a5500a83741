//go:build !linux && !darwin

package localsock

import "net"

// peerOf has nobody to ask here: the folder's access list decides alone.
func peerOf(*net.UnixConn) (Peer, error) { return Peer{}, nil }

func shortPath(path string) (short string, done func(), err error) { return plainPath(path) }
