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
	options := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true)}
	if s.dialect.locker != nil {
		options = append(options, goose.WithSessionLocker(s.dialect.locker))
	}
	return goose.NewProvider(s.dialect.goose, s.write, dir, options...)
}

// schemaVersion is the schema's number; 0 in a new database.
func (s *Store) schemaVersion(ctx context.Context) (int64, error) {
	n, err := one(ctx, s.read, readNumber, s.dialect.countVersionTable)
	if err != nil {
		return 0, fmt.Errorf("look for the schema: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	version, err := one(ctx, s.read, readNumber, selectVersion)
	if err != nil {
		return 0, fmt.Errorf("look for the schema's version: %w", err)
	}
	return version, nil
}

// migrate brings the schema up to date and refuses one from the future, whose
// meaning this program cannot know. Of several processes one migrates, and the
// others find it done.
func (s *Store) migrate(ctx context.Context) error {
	p, err := s.migrator()
	if err != nil {
		return fmt.Errorf("read the migrations: %w", err)
	}
	if err := s.refuseNewer(ctx, p); err != nil {
		return err
	}
	done, err := p.Up(ctx)
	if err != nil {
		return unavailable("migrate", err)
	}
	for _, m := range done {
		s.log.Info("database migrated", "to", m.Source.Version, "took", m.Duration)
	}
	// Somebody newer may have migrated while this one waited.
	return s.refuseNewer(ctx, p)
}

func (s *Store) refuseNewer(ctx context.Context, p *goose.Provider) error {
	have, err := s.schemaVersion(ctx)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if want := sources[len(sources)-1].Version; have > want {
		return fmt.Errorf("a newer culvert-gateway wrote it (schema %d, this program knows up to %d): start the newer program again, or restore the backup from before the upgrade", have, want)
	}
	return nil
}
