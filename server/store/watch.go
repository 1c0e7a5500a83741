package store

import "context"

// Watch calls changed whenever another process may have changed something that
// [Store.Changes] counts, until ctx ends. It is quick where the database can
// tell; polling Changes stays the truth. On SQLite it only waits for ctx.
func (s *Store) Watch(ctx context.Context, changed func()) error {
	<-ctx.Done()
	return ctx.Err()
}
