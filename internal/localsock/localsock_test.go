package localsock

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// threats.md, "Local and administrative surfaces": a privileged pipe open to
// others (CVE-2024-24974).
func TestThreatOtherUserRefused(t *testing.T) {
	if err := checkUser(Peer{1001, true}, 1000); err == nil {
		t.Error("another user was let in")
	}
	for _, peer := range []uint32{1000, 0} {
		if err := checkUser(Peer{peer, true}, 1000); err != nil {
			t.Errorf("user %d was refused: %v", peer, err)
		}
	}
}

func TestOwnerConnects(t *testing.T) {
	for _, dir := range []string{"s", strings.Repeat("long", 40)} { // Linux takes paths that fit into no socket address
		path := filepath.Join(t.TempDir(), dir, "x.sock")
		l, err := Listen(path, slog.New(slog.DiscardHandler))
		if err != nil {
			if len(path) > maxSocketPath {
				t.Logf("a long path: %v", err)
				continue
			}
			t.Fatal(err)
		}
		if _, err := Listen(path, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrInUse) {
			t.Errorf("a second listener: %v, want ErrInUse", err)
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v, %v", info, err)
		}
		conn, err := Dial(context.Background(), path)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if peer, err := PeerOf(server); err != nil || peer.Known && peer.UID != uint32(os.Getuid()) {
			t.Errorf("peer %v, %v", peer, err)
		}
		_, _ = conn.Close(), server.Close()
		if err := errors.Join(l.Close(), l.Unlock()); err != nil {
			t.Error(err)
		}
		if _, err := Dial(context.Background(), path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Close: %v", err)
		}
	}
}
