// Package pgtest starts a real PostgreSQL for tests: the programs that are
// installed, on a loopback port of its own, with its data in a temporary folder,
// as the user postgres where the test runs as root (PostgreSQL refuses to be
// root). A test skips where the programs are missing.
//
// It knows nothing of Culvert. The password of its only user, postgres, is
// "secret".
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/jackc/pgx/v5"
)

// patience bounds every wait. Nothing waits that long unless it fails.
const patience = 60 * time.Second

// Shared is the one server of a test program, started when the first test wants a
// database. The zero value is ready. Safe for concurrent use.
type Shared struct {
	mu     sync.Mutex
	server *Server
}

// Database gives the URL of a new, empty database, which is dropped after the
// test.
func (s *Shared) Database(t testing.TB) string {
	t.Helper()
	return s.get(t).Database(t)
}

func (s *Shared) get(t testing.TB) *Server {
	t.Helper()
	need(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		server, err := create()
		if err != nil {
			t.Fatalf("start PostgreSQL: %v", err)
		}
		s.server = server
	}
	return s.server
}

// Close stops the server. TestMain calls it after the last test.
func (s *Shared) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	return s.server.remove()
}

// Server is a PostgreSQL. Stop, Kill, Suspend and the like are for one goroutine.
type Server struct {
	dir  string
	data string
	// Addr is its host and port. It stays the same after a restart.
	Addr string
	as   account

	mu    sync.Mutex // guards what follows
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
	names int
}

// Start runs a server for one test, which may stop and start it.
func Start(t testing.TB) *Server {
	t.Helper()
	need(t)
	s, err := create()
	if err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Errorf("remove PostgreSQL: %v", err)
		}
	})
	return s
}

// need ends the test where something is missing.
func need(t testing.TB) {
	t.Helper()
	testenv.NeedTool(t, "initdb")
	testenv.NeedTool(t, "postgres")
	if _, err := findAccount(); err != nil {
		testenv.Missing(t, "PostgreSQL is installed, but cannot be run: %v", err)
	}
}

// create makes the data and starts a server on it.
func create() (*Server, error) {
	as, err := findAccount()
	if err != nil {
		return nil, err
	}
	// Not t.TempDir: its parents are closed to other users, and the path of a
	// socket is short.
	dir, err := os.MkdirTemp("", "culvert-pg-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, data: filepath.Join(dir, "data"), as: as}
	if err := s.initialize(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := s.place(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

func (s *Server) initialize() error {
	password := filepath.Join(s.dir, "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o644); err != nil {
		return err
	}
	if err := s.as.own(s.dir); err != nil {
		return err
	}
	out, err := s.command("initdb", "--pgdata", s.data, "--username", "postgres", "--auth", "scram-sha-256",
		"--pwfile", password, "--no-sync", "--encoding", "UTF8", "--locale", "C").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// place finds a free port. Somebody else may take it before PostgreSQL does.
func (s *Server) place() error {
	var err error
	for range 5 {
		if s.Addr, err = freePort(); err != nil {
			return err
		}
		if err = s.Start(); err == nil {
			return nil
		}
	}
	return err
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// command is one of PostgreSQL's programs, run as its user.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(programPath(name), args...)
	cmd.Dir = s.dir
	s.as.run(cmd)
	return cmd
}

// programPath is where need found the program.
func programPath(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return name
	}
	return found[len(found)-1]
}

// Start starts a server that was stopped or killed, and waits until it answers.
func (s *Server) Start() error {
	_, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command("postgres", "-D", s.data, "-c", "listen_addresses=127.0.0.1", "-c", "port="+port,
		"-c", "unix_socket_directories="+s.dir, "-c", "fsync=off", "-c", "max_connections=200")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	s.mu.Lock()
	s.cmd, s.ended = cmd, ended
	s.mu.Unlock()
	if err := s.ready(ended); err != nil {
		return errors.Join(err, s.Kill())
	}
	return nil
}

// ready waits until the server answers, or has ended.
func (s *Server) ready(ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.exec(ctx, "SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("it ended at once:\n%s", text)
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// Stop ends the server as its operator would: connections are cut, and it can be
// started again.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

// Kill ends the server as a crash would.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

func (s *Server) end(sig syscall.Signal) error {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(sig) // of one that has ended, nothing
	select {
	case <-ended:
		return nil
	case <-time.After(patience):
		return errors.Join(errors.New("PostgreSQL does not end"), cmd.Process.Kill())
	}
}

// remove stops the server for good.
func (s *Server) remove() error {
	return errors.Join(s.Kill(), os.RemoveAll(s.dir))
}

// URL is how to connect to a database of the server.
func (s *Server) URL(database string) string {
	return "postgres://postgres:secret@" + s.Addr + "/" + database + "?sslmode=disable"
}

// Database makes an empty database and gives its URL. It is dropped after the
// test, with whatever connections are left.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	s.mu.Lock()
	s.names++
	name := fmt.Sprintf("test%d", s.names)
	s.mu.Unlock()
	s.Exec(t, "CREATE DATABASE "+name+" TEMPLATE template0")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = s.exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)") // the test may have stopped the server
	})
	return s.URL(name)
}

// Exec runs a statement as the server's administrator.
func (s *Server) Exec(t testing.TB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.exec(ctx, statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *Server) exec(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	return err
}

// CutConnections ends the connections to a database, as a fail-over does.
func (s *Server) CutConnections(t testing.TB) {
	t.Helper()
	s.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
}
