package store

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/schema.*.sql anew")

// What a database says of its own schema, in a form that can be compared.
const (
	dumpSQLite = `SELECT sql || ';' FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE '%goose%'
		AND name NOT LIKE 'sqlite_%' ORDER BY type DESC, name`
	dumpPostgres = `
		SELECT 'TABLE ' || c.relname || chr(10) || string_agg('    ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) ||
				CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || CASE a.attidentity WHEN '' THEN '' ELSE ' IDENTITY' END,
				chr(10) ORDER BY a.attnum)
			FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND c.relname NOT LIKE '%goose%'
			GROUP BY c.relname
		UNION ALL SELECT 'CONSTRAINT ' || conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
			FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND conrelid::regclass::text NOT LIKE '%goose%' AND contype <> 'n'
		UNION ALL SELECT 'INDEX ' || indexdef FROM pg_indexes WHERE schemaname = current_schema() AND tablename NOT LIKE '%goose%'
		ORDER BY 1`
)

// The schema that the migrations build from nothing is the one on record, so
// that a migration that was changed after it shipped is noticed.
func TestMigrationsRebuildTheSchemaFromZero(t *testing.T) { eachDatabase(t, testSchema) }

func testSchema(t *testing.T, db database) {
	s := db.open(t, nil)
	query := dumpSQLite
	if db.kind == "postgres" {
		query = dumpPostgres
	}
	got := strings.Join(mustRead(t, s, query), "\n\n") + "\n"
	golden := filepath.Join("testdata", "schema."+db.kind+".sql")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the schema differs from %s (-update writes it):\n%s", golden, diff)
	}
}

// mustRead reads a column of texts.
func mustRead(t *testing.T, s *Store, query string, args ...any) []string {
	t.Helper()
	list, err := all(context.Background(), s.read, readText, query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return list
}
