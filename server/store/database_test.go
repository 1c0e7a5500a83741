package store

import (
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/pgtest"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"go.uber.org/goleak"
)

// postgres is the server of all tests here, but for those that stop one.
var postgres pgtest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := postgres.Close(); err != nil {
		fmt.Fprintf(os.Stderr, "store: %v\n", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintf(os.Stderr, "store: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// A database is one that a test may open several times.
type database struct {
	kind     string // sqlite or postgres
	location string
}

// eachDatabase runs a test over both databases, each time a new one.
func eachDatabase(t *testing.T, test func(*testing.T, database)) {
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) { test(t, newDatabase(t, kind)) })
	}
}

func newDatabase(t *testing.T, kind string) database {
	t.Helper()
	if kind == "postgres" {
		return database{kind, postgres.Database(t)}
	}
	return database{kind, "sqlite:" + newPath(t)}
}

// fresh is another one of the same kind.
func (db database) fresh(t *testing.T) database {
	t.Helper()
	return newDatabase(t, db.kind)
}

func (db database) open(t *testing.T, clock *testClock) *Store {
	t.Helper()
	s, err := Open(t.Context(), db.location, options(t, clock))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// open opens an SQLite file.
func open(t *testing.T, path string, clock *testClock) *Store {
	t.Helper()
	return database{location: "sqlite:" + path}.open(t, clock)
}

// testClock is a clock that tests move.
type testClock struct{ t time.Time }

func (c *testClock) now() time.Time          { return c.t }
func (c *testClock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newClock() *testClock { return &testClock{time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)} }

func benchmarkOptions() Options {
	return Options{TrustDomain: "corp.example", Logger: slog.New(slog.DiscardHandler)}
}

func options(t *testing.T, clock *testClock) Options {
	o := Options{TrustDomain: "corp.example", PolicySource: "file", Logger: testenv.Logger(t)}
	if clock != nil {
		o.Clock = clock.now
	}
	return o
}
