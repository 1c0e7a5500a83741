//go:build unix && !darwin

package keyring

import (
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A bus that accepts connections and never says a word, as a stopped daemon does, through the real library.
func TestASilentBusDoesNotHangUs(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	})
	defer func() {
		l.Close()
		wg.Wait()
		for _, conn := range conns {
			conn.Close() // lets the library's goroutine end
		}
	}()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+path)
	k, err := New(Config{Dir: dir, Timeout: 100 * time.Millisecond, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if data := seal(t, k, "token", "x"); kindOf(data) != KindFile {
		t.Errorf("sealed by %q", kindOf(data))
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestSessionBus(t *testing.T) {
	for _, c := range []struct {
		name, address, dir string
		socket             bool
		want               bool
	}{
		{"desktop", "unix:path=/run/user/1000/bus", "/run/user/1000", true, true},
		{"address alone", "unix:path=/x", "", false, true},
		{"socket alone", "", "/run/user/1000", true, true},
		{"server", "", "", false, false},
		{"server with a run folder", "", "/run/user/0", false, false},
		{"autolaunch", "autolaunch:", "", false, false},
		{"switched off", "disabled:", "", false, false},
	} {
		env := func(key string) string {
			return map[string]string{"DBUS_SESSION_BUS_ADDRESS": c.address, "XDG_RUNTIME_DIR": c.dir}[key]
		}
		isSocket := func(path string) bool { return c.socket && path == c.dir+"/bus" }
		if got := sessionBus(env, isSocket) == nil; got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
