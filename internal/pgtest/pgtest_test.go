package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestServerStopsAndComesBack(t *testing.T) {
	s := Start(t)
	url := s.Database(t)
	ctx := t.Context()
	write := func(statement string) {
		t.Helper()
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	write("CREATE TABLE kept (n INTEGER)")
	for name, end := range map[string]func() error{"stop": s.Stop, "kill": s.Kill} {
		if err := end(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if conn, err := pgx.Connect(ctx, url); err == nil {
			_ = conn.Close(ctx)
			t.Fatalf("it answers after %s", name)
		}
		if err := s.Start(); err != nil {
			t.Fatalf("start after %s: %v", name, err)
		}
		write("INSERT INTO kept VALUES (1)")
	}
}

func TestDatabasesAreApart(t *testing.T) {
	var shared Shared
	defer func() {
		if err := shared.Close(); err != nil {
			t.Error(err)
		}
	}()
	a, b := shared.Database(t), shared.Database(t)
	if a == b {
		t.Errorf("both are %s", a)
	}
}
