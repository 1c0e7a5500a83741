//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/internal/pgtest"
	"github.com/culvert-vpn/culvert/internal/testenv"
)

func TestPsqlThroughForward(t *testing.T) {
	t.Parallel()
	psql := testenv.NeedTool(t, "psql")
	addr := pgtest.Start(t).Addr
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
