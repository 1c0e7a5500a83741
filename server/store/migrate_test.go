package store

import (
	"context"
	"database/sql"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/pressly/goose/v3"
)

func TestMigrationsOnlyGoForward(t *testing.T) {
	err := fs.WalkDir(migrations, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(migrations, path)
		if strings.Contains(string(data), "+goose Down") {
			t.Errorf("%s has a way back", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Several gateways that start at once on an empty database: one migrates, and the
// others wait for it.
func TestGatewaysMigrateOnce(t *testing.T) {
	db := newDatabase(t, "postgres")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			s, err := Open(context.Background(), db.location, options(t, nil))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Ping(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := db.open(t, nil)
	applied := mustRead(t, s, "SELECT CAST(version_id AS TEXT) FROM goose_db_version ORDER BY id")
	if strings.Join(applied, " ") != "0 1" {
		t.Errorf("migrated: %q", applied)
	}
	if limits := mustRead(t, s, "SELECT current_setting('statement_timeout') || current_setting('lock_timeout')"); limits[0] != "65s6s" {
		t.Errorf("the limits after migrating: %q", limits)
	}
	if left := mustRead(t, s, "SELECT objid::text FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"); len(left) != 0 {
		t.Errorf("locks are left: %q", left)
	}
}

// Of two installations that start at once on one empty database, one gets it.
func TestOneInstallationGetsTheDatabase(t *testing.T) {
	db := newDatabase(t, "postgres")
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() {
			o := options(t, nil)
			o.TrustDomain = auth.TrustDomain([]string{"corp.example", "other.example"}[i%2])
			s, err := Open(context.Background(), db.location, o)
			if errs[i] = err; err == nil {
				_ = s.Close()
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if (err == nil) != (errs[i%2] == nil) || (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("%v", errs)
		}
		if err != nil && !strings.Contains(err.Error(), "belongs to the trust domain") {
			t.Error(err)
		}
	}
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) { eachDatabase(t, testOpenRefuses) }

func testOpenRefuses(t *testing.T, db database) {
	s := db.open(t, nil)
	refused := func(o Options, want string) {
		t.Helper()
		s, err := Open(t.Context(), db.location, o)
		if err == nil {
			_ = s.Close()
			t.Fatalf("opened; want %q", want)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	other := options(t, nil)
	other.TrustDomain = "other.example"
	refused(other, `belongs to the trust domain "corp.example"`)
	other = options(t, nil)
	other.PolicySource = "managed"
	refused(other, `set policy.source back to "file"`)
	if _, err := s.write.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, $1)`, true); err != nil {
		t.Fatal(err)
	}
	refused(options(t, nil), "start the newer program again")
}

// What the version before wrote: the schema of the first migration, with a row
// in each table.
const versionOne = `
INSERT INTO meta VALUES ('trust_domain', 'corp.example'), ('policy_source', 'file'), ('changes', '7');
INSERT INTO users VALUES ('u', 'https://idp', 'ada', 'corp', 'Ada', 'ada@corp.example', 1000, 2000);
INSERT INTO sessions VALUES ('s', 'u', 'd', 'corp', 'login', 'key', 'n', 'culvert 1', 1000, 2000, 99000000000000, 3000, 0, '', 5);
INSERT INTO certificates VALUES ('00', 'client', 's', 'spiffe://corp.example/user/u', 'f', 1000, 1000, 2000, x'');
INSERT INTO redemptions VALUES ('token', 'key', 's', '00', 1000, 2000);
INSERT INTO challenges VALUES ('h', '00', 1000, 2000);
INSERT INTO device_grants VALUES ('g', 'corp', x'01', 'd', 'culvert 1', x'02', x'', '', '', 5000, 1000, 1000, 2000);
INSERT INTO locks VALUES ('l', 'user', 'u', '', 'stolen laptop', 'root-admin', 1000, 900, 0);
INSERT INTO policy_versions VALUES (1, 'digest', 'file', '', 1000, x'61');
`

func TestUpgradeKeepsTheRows(t *testing.T) {
	path := newPath(t)
	writeVersionOne(t, path)
	s := open(t, path, nil)
	ctx := t.Context()
	session, err := s.Session(ctx, "s")
	if err != nil || session.Subject != "ada" || session.Nonce != "n" || session.ProviderSID != "" || session.TokenIssuedAt.UnixMilli() != 3000 {
		t.Errorf("%+v, %v", session, err)
	}
	if u, err := s.User(ctx, "u"); err != nil || u.Email != "ada@corp.example" || u.GroupsKnown || u.EmailTrusted || u.Groups != nil {
		t.Errorf("%+v, %v", u, err)
	}
	if locks, err := s.Locks(ctx); err != nil || len(locks) != 1 || locks[0].Message != "stolen laptop" {
		t.Errorf("%+v, %v", locks, err)
	}
	if p, err := s.HeadPolicy(ctx); err != nil || p.Digest != "digest" || string(p.Document) != "a" || p.Comment != "" {
		t.Errorf("%+v, %v", p, err)
	}
	if g, err := s.Grant(ctx, "g"); err != nil || g.Device != "d" {
		t.Errorf("%+v, %v", g, err)
	}
	if n, err := s.Changes(ctx); err != nil || n != 7 {
		t.Errorf("%d changes, %v", n, err)
	}
	for _, table := range []string{"certificates", "redemptions", "challenges"} {
		if rows := mustRead(t, s, "SELECT 'x' FROM "+table); len(rows) != 1 {
			t.Errorf("%s has %d rows", table, len(rows))
		}
	}
}

// writeVersionOne makes a database as the first version left it.
func writeVersionOne(t *testing.T, path string) {
	t.Helper()
	if err := durable.MkdirPrivate(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := durable.CreateFile(path, emptyDatabase(), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := fs.ReadFile(migrations, "migrations/sqlite/00001_first.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectSQLite3, db, fstest.MapFS{"00001_first.sql": {Data: first}}, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(versionOne); err != nil {
		t.Fatal(err)
	}
}
