//go:build linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// startPostgres runs a PostgreSQL of its own, as the user that the package
// made, since it refuses to run as root. The password is "secret".
func startPostgres(t testing.TB) (addr string) {
	t.Helper()
	testenv.NeedRoot(t)
	initdb, postgres := testenv.NeedTool(t, "initdb"), testenv.NeedTool(t, "postgres")
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("PostgreSQL is installed, its user is not: %v", err)
	}
	uid, _ := strconv.Atoi(account.Uid)
	gid, _ := strconv.Atoi(account.Gid)
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}

	// Not t.TempDir: its parents are closed to other users.
	dir, err := os.MkdirTemp("", "culvert-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	cmd := exec.Command(initdb, "--pgdata", data, "--username", "postgres", "--auth", "scram-sha-256",
		"--pwfile", password, "--no-sync", "--encoding", "UTF8", "--locale", "C")
	cmd.SysProcAttr, cmd.Dir = as, dir
	commandOutput(t, cmd)

	addr = freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	cmd = exec.Command(postgres, "-D", data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+port,
		"-c", "unix_socket_directories="+dir, "-c", "fsync=off")
	cmd.SysProcAttr, cmd.Dir = as, dir
	startCmd(t, nil, cmd).expect("database system is ready to accept connections")
	return addr
}

func TestPsqlThroughForward(t *testing.T) {
	t.Parallel()
	psql := testenv.NeedTool(t, "psql")
	addr := startPostgres(t)
	p := startProvider(t, "userinfo")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, providers: "    groups_source: userinfo\n", policy: fmt.Sprintf(`version: 1
services:
  database: {address: %q}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [database]}
`, addr)})
	d := newDesktop(t)
	d.login(g, "ada")
	forward := d.start("forward", "database")
	local := forward.expect(`127\.0\.0\.1:(\d+)`)

	url := "postgres://postgres:secret@" + local[0] + "/postgres?sslmode=disable"
	query := "select count(*), sum(n), md5(string_agg(n::text, ',')) from generate_series(1, 200000) n"
	r := run(t, nil, nil, psql, "--no-psqlrc", "--tuples-only", "--no-align", "--command", query, url)
	if want := "200000|20000100000|"; r.code != 0 || !strings.HasPrefix(r.stdout, want) {
		t.Errorf("psql: %v; want %s…", r, want)
	}
	// A large result comes whole.
	r = run(t, nil, nil, psql, "--no-psqlrc", "--tuples-only", "--no-align", "--command", "select repeat('x', 20000000)", url)
	if r.code != 0 || len(strings.TrimSpace(r.stdout)) != 20000000 {
		t.Errorf("psql: exit code %d, %d bytes, want 20000000\n%s", r.code, len(strings.TrimSpace(r.stdout)), r.stderr)
	}
	// Saved settings of other programs stay right: the port is the same each time.
	forward.stop()
	again := d.start("forward", "database").expect(`127\.0\.0\.1:(\d+)`)
	if again[1] != local[1] {
		t.Errorf("forwarded on port %s, and on %s the next time", local[1], again[1])
	}
}
