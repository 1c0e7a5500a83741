package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Server makes a session of a client's connection: tc is the TLS connection over sock, its handshake done by the caller with
// DynamicRecordSizingDisabled set, and who the client is known from it. Server reads Hello, asks cfg.Admit, and answers. ctx bounds
// that, and it ends after 10 s anyway. The connection is closed on an error, and otherwise with the session.
func Server(ctx context.Context, sock *Socket, tc *tls.Conn, cfg ServerConfig) (*Session, error) {
	if cfg.Admit == nil {
		_ = sock.Close()
		return nil, fmt.Errorf("tunnel server: no Admit: nobody is admitted")
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	s, err := newSession(sock, tc, cfg.common(), true)
	if err != nil {
		_ = sock.Close()
		return nil, err
	}
	s.start(s.acceptLoop)
	if err := s.admit(ctx, cfg.Admit); err != nil {
		_ = s.CloseWith(*asTermination(err))
		return nil, err
	}
	s.probe()
	return s, nil
}

// admit reads Hello and answers it.
func (s *Session) admit(ctx context.Context, decide func(wire.Hello) (wire.Welcome, error)) error {
	hello, err := s.readHello(ctx)
	if err != nil {
		return err
	}
	version, err := hello.SelectVersion(wire.ProtocolVersion)
	if err != nil {
		return err
	}
	welcome, err := decide(*hello)
	if err != nil {
		return fmt.Errorf("client not admitted: %w", err)
	}
	welcome.Version = version
	welcome.Limits = wire.Limits{
		MaxStreams: s.cfg.limits.MaxStreams, MaxUndecided: s.cfg.limits.MaxUndecided, MaxWindow: s.cfg.limits.MaxWindow,
	}
	if welcome.ServerTime.IsZero() {
		welcome.ServerTime = time.Now()
	}
	s.mu.Lock()
	s.welcome = welcome
	s.mu.Unlock()
	return s.ctl.send(&welcome)
}

func (s *Session) readHello(ctx context.Context) (*wire.Hello, error) {
	select {
	case m := <-s.ctl.first:
		hello, ok := m.(*wire.Hello)
		if !ok {
			return nil, protocolError("it began with %s instead of hello", m.Type())
		}
		return hello, nil
	case <-s.done:
		return nil, fmt.Errorf("wait for hello: %w", s.Err())
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for hello: %w", context.Cause(ctx))
	}
}

// asTermination is what a client is told of an error at its admission.
func asTermination(err error) *wire.Termination {
	var why *wire.Termination
	switch {
	case errors.As(err, &why):
		return why
	case errors.Is(err, ErrProtocol):
		return &wire.Termination{Code: wire.TerminateProtocol, Reason: err.Error()}
	}
	return &wire.Termination{Code: wire.TerminateUnavailable, Reason: "the gateway cannot admit anybody at the moment"}
}

// acceptLoop takes streams from yamux. It waits for nothing else: each request is read on a goroutine of its own, of which there
// are as many as streams may be undecided.
func (s *Session) acceptLoop() {
	control := true
	for {
		mux, err := s.mux.AcceptStream()
		if err != nil {
			return // the session has ended
		}
		st := s.takeNew(mux)
		if control {
			control = false
			s.adoptControl(st)
			continue
		}
		s.start(func() { s.readRequest(st) })
	}
}

func (s *Session) readRequest(st *Stream) {
	_ = st.SetReadDeadline(time.Now().Add(requestTimeout))
	m, err := st.readMessage()
	if err != nil {
		st.Abort(err)
		return
	}
	req, ok := m.(*wire.OpenRequest)
	if !ok {
		_ = st.violated(fmt.Errorf("%s instead of a request", m.Type()))
		return
	}
	_ = st.SetReadDeadline(time.Time{})
	st.request = *req
	select {
	case s.fresh <- &NewStream{Request: *req, st: st}:
	case <-st.dead:
	}
}

// Accept waits for the next stream that the client asks for. Its error is the session's end, or the context's.
func (s *Session) Accept(ctx context.Context) (*NewStream, error) {
	for {
		select {
		case n := <-s.fresh:
			if n.st.Err() == nil {
				return n, nil
			}
		case <-s.done:
			return nil, s.Err()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// NewStream is a stream that waits for the gateway's decision. Exactly one of Accept and Reject is called, within 2 min.
type NewStream struct {
	Request wire.OpenRequest
	st      *Stream
}

// ID is the stream's number within its session.
func (n *NewStream) ID() uint32 { return n.st.id }

// Done is closed when the client has given up, or the session has ended.
func (n *NewStream) Done() <-chan struct{} { return n.st.dead }

// Accept tells the client that the stream is open, and as which service it was decided.
func (n *NewStream) Accept(service string) (*Stream, error) {
	if err := n.reply(&wire.OpenReply{Code: wire.CodeOK, Service: service}); err != nil {
		return nil, fmt.Errorf("accept stream to %s: %w", n.Request.Target, err)
	}
	return n.st, nil
}

// Reject tells the client why the stream is not opened. What it sent early is dropped.
func (n *NewStream) Reject(why *wire.Refusal) error {
	if why == nil {
		why = &wire.Refusal{}
	}
	if err := n.reply(why.Reply()); err != nil {
		return fmt.Errorf("reject stream to %s: %w", n.Request.Target, err)
	}
	n.st.endRefused(why)
	return nil
}

var errAnswered = errors.New("the stream has its reply already")

func (n *NewStream) reply(m *wire.OpenReply) error {
	frame, err := wire.Marshal(m)
	if err != nil {
		n.st.Abort(&AbortError{Code: wire.AbortInternal})
		return err
	}
	st := n.st
	st.s.mu.Lock()
	again := !st.undecided
	st.s.decidedLocked(st)
	st.s.mu.Unlock()
	if err := st.Err(); err != nil {
		return err
	}
	if again {
		return errAnswered
	}
	st.service = m.Service
	close(st.decided)
	return st.failed(st.sendMessage(frame, false))
}
