package localapi

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// maxSocketPath is what every system takes in a sockaddr_un (macOS: 104 bytes
// with the final zero).
const maxSocketPath = 103

// listen takes the lock beside the socket first. The operating system drops it
// with the process, so whoever holds it may remove a socket that a crash left.
func listen(path string) (*durable.FileLock, net.Listener, error) {
	if err := durable.MkdirPrivate(filepath.Dir(path)); err != nil {
		return nil, nil, err
	}
	lock, err := durable.TryLock(path + ".lock")
	if errors.Is(err, durable.ErrLocked) {
		return nil, nil, fmt.Errorf("listen on %s: %w", path, ErrRunning)
	}
	if err != nil {
		return nil, nil, err
	}
	listener, err := listenLocked(path)
	if err != nil {
		_ = lock.Unlock()
		return nil, nil, err
	}
	return lock, listener, nil
}

func listenLocked(path string) (net.Listener, error) {
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Its own clean-up would go by the short name, which ends with this function.
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &socketListener{Listener: listener, path: path}, nil
}

// removeSocket removes a stale socket, and nothing else that may stand there.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	if info.Mode().IsRegular() || info.IsDir() || info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is in the way: it is no socket", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	return nil
}

type socketListener struct {
	net.Listener
	path string
}

// Close removes the socket before it stops listening, so that nobody finds one
// that refuses.
func (l *socketListener) Close() error {
	_ = os.Remove(l.path)
	return l.Listener.Close()
}

// ownerListener drops connections of other users.
type ownerListener struct {
	net.Listener
	log *slog.Logger
}

func (l *ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		unix, ok := conn.(*net.UnixConn)
		if !ok {
			return conn, nil
		}
		if err := checkPeer(unix); err != nil {
			l.log.Warn("local API: connection refused", "error", err)
			_ = conn.Close()
			continue
		}
		return conn, nil
	}
}

// checkOwner is the rule: the same user, or root, who may do everything anyway.
func checkOwner(peer, own uint32) error {
	if peer != own && peer != 0 {
		return fmt.Errorf("the peer is user %d, not %d", peer, own)
	}
	return nil
}
