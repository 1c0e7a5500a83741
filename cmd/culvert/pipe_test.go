package main

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// farStream is a stream whose other end a test plays.
type farStream struct {
	read    chan error // what Read returns, one after the other
	write   error
	done    chan struct{}
	once    sync.Once
	aborted error
	lost    chan func(error) // gets what OnAbort was given
}

func newFarStream() *farStream {
	return &farStream{read: make(chan error, 4), done: make(chan struct{}), lost: make(chan func(error), 1)}
}

// errHello has Read return something.
var errHello = errors.New("hello")

func (s *farStream) Read(p []byte) (int, error) {
	select {
	case err := <-s.read:
		if err == errHello {
			return copy(p, "hello"), nil
		}
		return 0, err
	case <-s.done:
		return 0, s.aborted
	}
}

func (s *farStream) Write(p []byte) (int, error) {
	if s.write != nil {
		return 0, s.write
	}
	return len(p), nil
}

func (s *farStream) CloseWrite() error { return nil }
func (s *farStream) Close() error      { return nil }

func (s *farStream) Abort(cause error) {
	s.once.Do(func() { s.aborted = cause; close(s.done) })
}

func (s *farStream) OnAbort(f func(error)) (stop func() bool) {
	s.lost <- f
	return func() bool { return true }
}

var _ relay.AbortNotifier = (*farStream)(nil)

// piped runs pipe, and fails the test when it does not return.
func piped(t *testing.T, ctx context.Context, s *farStream, in io.Reader, out io.Writer) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- pipe(ctx, s, in, out) }()
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("connect hangs")
		return nil
	}
}

// A connection that is lost behind the service's clean end ends connect, although stdin stays open.
func TestFaultConnectLosesTheStreamAfterItsEnd(t *testing.T) {
	s := newFarStream()
	in, stop := io.Pipe()
	defer stop.Close()
	s.read <- io.EOF
	go func() { (<-s.lost)(syscall.ECONNRESET) }()
	if err := piped(t, t.Context(), s, in, io.Discard); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// A signal ends connect while whoever reads its stdout does not read.
func TestFaultConnectStopsWhileStdoutIsFull(t *testing.T) {
	s := newFarStream()
	in, stop := io.Pipe()
	defer stop.Close()
	reader, out := io.Pipe() // nobody reads
	defer reader.Close()
	s.read <- errHello
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errStopped) })
	if err := piped(t, ctx, s, in, out); !errors.Is(err, errStopped) || s.aborted == nil {
		t.Errorf("%v, aborted with %v", err, s.aborted)
	}
}

var errStopped = errors.New("a signal")

// The reason of a refusal comes from reading; that a write failed before says nothing.
func TestFaultConnectTellsTheReasonOfALateRefusal(t *testing.T) {
	s := newFarStream()
	s.write = syscall.EPIPE
	in, words := io.Pipe()
	go words.Write([]byte("SSH-2.0-x"))
	time.AfterFunc(50*time.Millisecond, func() { s.read <- &wire.Refusal{Code: wire.CodeDenied} })
	var refusal *wire.Refusal
	if err := piped(t, t.Context(), s, in, io.Discard); !errors.As(err, &refusal) {
		t.Errorf("%v, want the refusal", err)
	}
}

// A stdin that cannot be read is no clean end of what was sent.
func TestFaultConnectCannotReadStdin(t *testing.T) {
	s := newFarStream()
	in, words := io.Pipe()
	words.CloseWithError(syscall.EIO)
	if err := piped(t, t.Context(), s, in, io.Discard); !errors.Is(err, syscall.EIO) || s.aborted == nil {
		t.Errorf("%v, aborted with %v", err, s.aborted)
	}
}
