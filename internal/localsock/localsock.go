// Package localsock listens on Unix sockets that only their owner, and root, can use: the socket lies in a folder of
// mode 0700, has mode 0600 itself, and the kernel is asked who connected. A lock beside it tells a live owner from what a
// crash left.
//
// It knows no protocol: package client/localapi and the gateway's admin socket do.
package localsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// maxSocketPath is what every system takes in a sockaddr_un (macOS: 104 bytes
// with the final zero).
const maxSocketPath = 103

// ErrInUse reports a socket that a live process serves.
var ErrInUse = errors.New("another process serves this socket")

// Listener accepts connections of the owner and of root, and drops others. It is safe for concurrent use.
type Listener struct {
	net.Listener
	path string
	lock *durable.FileLock
	log  *slog.Logger
}

// Listen takes the socket at path, over the remains of a process that crashed if need be; the error wraps [ErrInUse] when a live
// one has it. The lock comes first: the operating system drops it with the process, so whoever holds it may remove a socket that
// a crash left. log is told of refused connections.
func Listen(path string, log *slog.Logger) (*Listener, error) {
	if err := durable.MkdirPrivate(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := durable.TryLock(path + ".lock")
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("listen on %s: %w", path, ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	listener, err := listenLocked(path)
	if err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	return &Listener{Listener: listener, path: path, lock: lock, log: log}, nil
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
	return listener, nil
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

// Close removes the socket before it stops listening, so that nobody finds one that refuses. The lock stays until Unlock.
func (l *Listener) Close() error {
	_ = os.Remove(l.path)
	return l.Listener.Close()
}

// Unlock gives the socket's path up. It comes last, when nothing is served any more.
func (l *Listener) Unlock() error { return l.lock.Unlock() }

// Accept waits for a connection of the owner or of root.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := PeerOf(conn)
		if err == nil {
			err = checkOwner(peer)
		}
		if err == nil {
			return conn, nil
		}
		l.log.Warn("connection to a local socket refused", "socket", l.path, "error", err)
		_ = conn.Close()
	}
}

// Dial connects to a socket. The error wraps fs.ErrNotExist, or ECONNREFUSED, where nobody listens.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	short, done, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer done()
	return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", short)
}

// dialTimeout bounds a connection on this machine.
const dialTimeout = 5 * time.Second

// A Peer is who connected, by the kernel's word. Where the system does not tell, Known is false, and the folder's access list
// alone decides who can connect.
type Peer struct {
	UID   uint32
	Known bool
}

// PeerOf asks the kernel who is at the other end of a connection.
func PeerOf(conn net.Conn) (Peer, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("%T is no connection of a Unix socket", conn)
	}
	return peerOf(unix)
}

// checkOwner is the rule: the same user, or root, who may do everything anyway.
func checkOwner(peer Peer) error { return checkUser(peer, uint32(os.Getuid())) }

func checkUser(peer Peer, own uint32) error {
	if peer.Known && peer.UID != own && peer.UID != 0 {
		return fmt.Errorf("the peer is user %d, not %d", peer.UID, own)
	}
	return nil
}
