//go:build linux

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// startSSHD runs OpenSSH's server on a loopback port and returns it with the
// options that a client needs, but for how to reach it.
func startSSHD(t testing.TB) (addr string, options []string) {
	t.Helper()
	testenv.NeedRoot(t)
	sshd, keygen := testenv.NeedTool(t, "sshd"), testenv.NeedTool(t, "ssh-keygen")
	dir := t.TempDir()
	host, user := filepath.Join(dir, "host"), filepath.Join(dir, "user")
	for _, key := range []string{host, user} {
		if r := run(t, nil, nil, keygen, "-q", "-t", "ed25519", "-N", "", "-f", key); r.code != 0 {
			t.Fatalf("ssh-keygen: %v", r)
		}
	}
	// Privilege separation wants this folder, which a service manager would make.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	addr = freePort(t)
	_, port, _ := net.SplitHostPort(addr)
	config := filepath.Join(dir, "sshd_config")
	text := fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s.pub\nPidFile none\n"+
		"UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n", port, host, user)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, sshd, "-D", "-e", "-f", config)
	p.expect(`Server listening on`)
	return addr, []string{"-F", "none", "-i", user, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known"), "-o", "StrictHostKeyChecking=accept-new"}
}

// OpenSSH through ProxyCommand, as an employee uses it: commands, their exit
// codes, and 200 MiB each way whose checksum holds.
func TestOpenSSHThroughProxyCommand(t *testing.T) {
	t.Parallel()
	ssh, scp := testenv.NeedTool(t, "ssh"), testenv.NeedTool(t, "scp")
	addr, options := startSSHD(t)
	p := startProvider(t, "id_token")
	g := startGateway(t, gatewayConfig{issuer: p.issuer, policy: fmt.Sprintf(`version: 1
services:
  build: {description: Build machine, address: %q}
rules:
  - {name: engineers, subjects: {groups: [engineering]}, allow: [build]}
`, addr)})
	d := newDesktop(t)
	d.login(g, "ada")
	options = append(options, "-o", "ProxyCommand="+program(t, "culvert")+" connect build")

	sshRun := func(args ...string) result {
		return run(t, d.env, nil, ssh, append(append([]string{}, options...), append([]string{"root@build"}, args...)...)...)
	}
	if r := sshRun("echo out; echo err >&2; exit 7"); r.code != 7 || r.stdout != "out\n" || !bytes.Contains([]byte(r.stderr), []byte("err\n")) {
		t.Errorf("ssh: %v; want exit code 7", r)
	}

	dir := t.TempDir()
	local, remote, back := filepath.Join(dir, "local"), filepath.Join(dir, "remote"), filepath.Join(dir, "back")
	data := randomBytes(t, 200<<20)
	if err := os.WriteFile(local, data, 0o600); err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(data)
	for _, c := range []struct{ from, to, file string }{{local, "root@build:" + remote, remote}, {"root@build:" + remote, back, back}} {
		if r := run(t, d.env, nil, scp, append(append([]string{"-q"}, options...), c.from, c.to)...); r.code != 0 {
			t.Fatalf("scp %s %s: %v", c.from, c.to, r)
		}
		got, err := os.ReadFile(c.file)
		if err != nil || sha256.Sum256(got) != want {
			t.Errorf("scp to %s: %d bytes (%v), the checksum does not hold", c.to, len(got), err)
		}
	}

	// The same through a running `up`, which `connect` finds and uses.
	d.up("--socks", "127.0.0.1:0")
	opened := func() float64 { return d.status()["traffic"].(map[string]any)["opened"].(float64) }
	before := opened()
	if r := sshRun("echo through up"); r.code != 0 || r.stdout != "through up\n" {
		t.Errorf("ssh with a running client: %v", r)
	}
	if n := opened() - before; n != 1 {
		t.Errorf("the running client opened %v streams, want 1: connect did not use it", n)
	}

	// What the rules do not allow ends with a reason and its own exit code.
	bob := newDesktop(t)
	bob.login(g, "bob")
	if r := bob.culvert("connect", "build"); r.code != 4 || !bytes.Contains([]byte(r.stderr), []byte("denied")) {
		t.Errorf("bob's connect: %v; want exit code 4 and a reason", r)
	}
}
