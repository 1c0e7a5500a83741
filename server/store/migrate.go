package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations
var migrations embed.FS

// migrator gives goose's provider for this database. It keeps no state of its
// own, so it is made anew when needed.
func (s *Store) migrator() (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, s.dialect.migrations)
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(s.dialect.goose, s.write, dir, goose.WithDisableGlobalRegistry(true))
}

// schemaVersion is the schema's number; 0 in a new database.
func (s *Store) schemaVersion(ctx context.Context) (int64, error) {
	var n int64
	if err := s.read.QueryRowContext(ctx, s.dialect.countVersionTable).Scan(&n); err != nil {
		return 0, unavailable("read the schema", err)
	}
	if n == 0 {
		return 0, nil
	}
	var version int64
	err := s.read.QueryRowContext(ctx, selectVersion).Scan(&version)
	return version, unavailable("read the schema's version", err)
}

// migrate brings the schema up to date and refuses one from the future, whose
// meaning this program cannot know.
func (s *Store) migrate(ctx context.Context) error {
	p, err := s.migrator()
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	want := sources[len(sources)-1].Version
	if have > want {
		return fmt.Errorf("a newer culvert-gateway wrote it (schema %d, this program knows up to %d): start the newer program again, or restore the backup from before the upgrade", have, want)
	}
	done, err := p.Up(ctx)
	if err != nil {
		return unavailable("migrate", err)
	}
	for _, m := range done {
		s.log.Info("database migrated", "to", m.Source.Version, "took", m.Duration)
	}
	return nil
}
