package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"

	"github.com/culvert-vpn/culvert/internal/durable"
	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

var sqliteDialect = dialect{
	goose:             goose.DialectSQLite3,
	migrations:        "migrations/sqlite",
	countVersionTable: "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goose_db_version'",
	now:               "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
	unnumbered:        true,
}

// The result codes of SQLite for a damaged file.
const (
	sqliteCorrupt  = 11
	sqliteNotADB   = 26
	sqliteCantOpen = 14
)

// readers bounds the connections that only read.
const readers = 4

// openSQLite opens the file, with the checks that must come before anything
// writes to it.
func (s *Store) openSQLite(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := durable.MkdirPrivate(filepath.Dir(path)); err != nil {
		return err
	}
	if err := placeFile(path); err != nil {
		return err
	}
	if err := checkIntegrity(ctx, path); err != nil {
		return err
	}
	// FULL, not NORMAL: a redemption that a power cut forgets could be replayed.
	if s.write, err = openPool(path, 1, "journal_mode(WAL)", "synchronous(FULL)", "secure_delete(ON)",
		"temp_store(MEMORY)"); err != nil {
		return err
	}
	db, err := openPool(path, readers, "query_only(ON)")
	s.read = pool{DB: db, patience: patience, lists: make(chan struct{}, readers/2)}
	return err
}

// openPool opens a pool of n connections with the given pragmas, besides those
// that every connection has. A file that vanished is an error, never made anew.
func openPool(path string, n int, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"mode": {"rw"}, "_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)", "foreign_keys(ON)"}, pragmas...)}
	db, err := sql.Open("sqlite", dsn(path, q))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(n)
	db.SetMaxIdleConns(n)
	return db, nil
}

// dsn writes a file name that SQLite reads back as it is, whatever is in it.
func dsn(path string, q url.Values) string {
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: q.Encode()}
	return u.String()
}

// placeFile sees to it that a private file stands at path: the one that is there,
// if it is in order, or a new one with mode 0600, which the -wal and -shm files
// take over from it.
func placeFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return createFile(path)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file, and a link is not followed: name the file itself")
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others may read or write it (mode %04o): chmod 600 it", info.Mode().Perm())
	case info.Size() == 0:
		return errors.New("it is empty, so its sessions, locks and redeemed tokens are lost: restore a backup, or remove the file if this gateway never issued a certificate")
	}
	return nil
}

// createFile makes a new database, refusing where a journal says that there was
// one: SQLite would play an old journal into the new file.
func createFile(path string) error {
	for _, suffix := range []string{"-wal", "-journal"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return fmt.Errorf("it is missing, but its journal %s is there: restore the database, or remove the journal if this gateway never issued a certificate", path+suffix)
		}
	}
	return durable.CreateFile(path, emptyDatabase(), 0o600)
}

// emptyDatabase is a valid database of one page with no tables, as "PRAGMA
// user_version" on a new file would write it (the SQLite file format, section
// 1.3). Creating the file whole means that an empty file is never ours.
func emptyDatabase() []byte {
	const pageSize = 4096
	page := make([]byte, pageSize)
	copy(page, "SQLite format 3\x00")
	copy(page[16:], []byte{pageSize >> 8, pageSize & 0xff, 1, 1, 0, 64, 32, 32})
	page[27], page[31], page[47], page[59] = 1, 1, 4, 1 // change counter, size in pages, schema format, UTF-8
	page[95] = 1                                        // the change counter for which the size is valid
	page[100] = 13                                      // a table leaf: sqlite_schema, empty
	copy(page[105:], []byte{pageSize >> 8, pageSize & 0xff})
	return page
}

// checkIntegrity reads the whole file once, through a connection that cannot
// write to it.
func checkIntegrity(ctx context.Context, path string) error {
	if err := checkHeader(path); err != nil {
		return err
	}
	db, err := sql.Open("sqlite", dsn(path, url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", "query_only(ON)"}}))
	if err != nil {
		return err
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return explainSQLite(err)
	}
	if verdict != "ok" {
		return corrupt(verdict)
	}
	return nil
}

func checkHeader(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 16)
	if _, err := io.ReadFull(f, head); err != nil || string(head) != "SQLite format 3\x00" {
		return corrupt("it is not an SQLite file")
	}
	return nil
}

func corrupt(detail string) error {
	return fmt.Errorf("it is damaged (%s); nothing was changed in it: restore a backup, or move it away to start anew, after which everybody must log in again and all locks are gone", detail)
}

// explainSQLite turns the codes of a damaged file into that sentence.
func explainSQLite(err error) error {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return unavailable("read it", err)
	}
	switch e.Code() & 0xff {
	case sqliteCorrupt, sqliteNotADB:
		return corrupt(e.Error())
	case sqliteCantOpen:
		return fmt.Errorf("it cannot be opened, see the rights of the file and its folder: %w", err)
	}
	return unavailable("read it", err)
}
