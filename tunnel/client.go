package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/hashicorp/yamux"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Client makes a session over raw, a connection to a gateway: TLS handshake with conf, Hello, Welcome. conf decides what the
// gateway must prove (package auth/mtls); it is cloned. ctx bounds the handshake, which ends after 10 s anyway. raw is closed on
// an error, and otherwise with the session. An error wraps a *wire.Termination when the gateway gave a reason.
func Client(ctx context.Context, raw net.Conn, conf *tls.Config, cfg ClientConfig) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	sock := NewSocket(raw)
	conf = conf.Clone()
	conf.DynamicRecordSizingDisabled = true
	tc := tls.Client(sock, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = sock.Close()
		return nil, fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	s, err := newSession(sock, tc, cfg.common(), false)
	if err != nil {
		_ = sock.Close()
		return nil, err
	}
	if err := s.greet(ctx, cfg.Hello); err != nil {
		s.fail(err)
		s.wg.Wait()
		return nil, err
	}
	s.probe()
	return s, nil
}

// greet opens the control stream, says Hello and waits for the Welcome.
func (s *Session) greet(ctx context.Context, hello wire.Hello) error {
	if len(hello.Versions) == 0 {
		hello.Versions = []int{wire.ProtocolVersion}
	}
	mux, err := s.mux.OpenStream()
	if err != nil {
		return fmt.Errorf("open the control stream: %w", connectionLost(err))
	}
	s.adoptControl(s.takeNew(mux))
	s.out.lazily(frame{kind: frameWindow, flags: flagSYN, id: mux.StreamID()})
	if err := s.ctl.send(&hello); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	select {
	case m := <-s.ctl.first:
		return s.welcomed(m)
	case <-s.done:
		return fmt.Errorf("wait for the welcome: %w", s.Err())
	case <-ctx.Done():
		return fmt.Errorf("wait for the welcome: %w", context.Cause(ctx))
	}
}

func (s *Session) welcomed(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Termination:
		return m
	case *wire.Welcome:
		if m.Version != wire.ProtocolVersion {
			return &wire.Termination{Code: wire.TerminateVersion, Reason: fmt.Sprintf(
				"the gateway chose protocol version %d, the client speaks %d", m.Version, wire.ProtocolVersion)}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.welcome = *m
		if theirs := m.Limits.MaxUndecided; theirs > 0 && theirs < cap(s.opens) {
			s.opens = make(chan struct{}, theirs)
		}
		return nil
	default:
		return protocolError("it answered hello with %s", m.Type())
	}
}

// OpenOptions are optional.
type OpenOptions struct {
	// Wait makes Open return only after the gateway's reply. Without it, Open returns at once, up to 64 KiB may be written before
	// the reply is there, and a refusal comes from Read and Write.
	Wait bool
	// TraceID joins the logs of both ends.
	TraceID string
}

// Open opens a stream to target. A refusal of the gateway, or of this side because of a limit or because the gateway is draining,
// is a *wire.Refusal in the error. When ctx ends before the gateway's reply, the stream is aborted; afterwards ctx has no meaning.
func (s *Session) Open(ctx context.Context, target wire.Target, opts OpenOptions) (*Stream, error) {
	st, err := s.open(ctx, wire.OpenRequest{Target: target, TraceID: opts.TraceID, Wait: opts.Wait})
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", target, err)
	}
	return st, nil
}

func (s *Session) open(ctx context.Context, req wire.OpenRequest) (*Stream, error) {
	if s.server {
		return nil, fmt.Errorf("a gateway opens no streams")
	}
	frame, err := wire.Marshal(&req)
	if err != nil {
		return nil, err
	}
	if err := s.mayOpen(); err != nil {
		return nil, err
	}
	select {
	case s.opens <- struct{}{}:
	case <-s.done:
		return nil, s.Err()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	st, err := s.startStream(frame, req)
	if err != nil {
		if st == nil {
			<-s.opens
		}
		return nil, err
	}
	if !req.Wait {
		s.start(func() { _ = st.awaitDecision(ctx) })
		return st, nil
	}
	if err := st.awaitDecision(ctx); err != nil {
		return nil, err
	}
	return st, nil
}

// mayOpen is a refusal that needs no round trip.
func (s *Session) mayOpen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.cfg.limits.MaxStreams
	if theirs := s.welcome.Limits.MaxStreams; theirs > 0 {
		limit = min(limit, theirs)
	}
	switch {
	case s.err != nil:
		return s.err
	case s.draining != nil:
		return &wire.Refusal{Code: wire.CodeDraining, Reason: s.draining.Reason}
	case s.live >= limit:
		return &wire.Refusal{Code: wire.CodeLimit, Reason: fmt.Sprintf("%d streams are open, which is the limit", s.live)}
	}
	return nil
}

// startStream sends SYN and OpenRequest, as one TLS record if nothing else is being sent.
func (s *Session) startStream(request []byte, req wire.OpenRequest) (*Stream, error) {
	s.opening.Lock()
	defer s.opening.Unlock()
	mux, err := s.mux.OpenStream()
	if err != nil {
		return nil, connectionLost(err)
	}
	st := s.takeNew(mux)
	st.request = req
	if err := st.sendMessage(request, true); err != nil {
		return st, st.failed(err)
	}
	return st, nil
}

// takeNew joins what inspect or outbound registered with yamux's stream.
func (s *Session) takeNew(mux *yamux.Stream) *Stream {
	s.mu.Lock()
	st := s.newborn[mux.StreamID()]
	delete(s.newborn, mux.StreamID())
	end := s.err
	s.mu.Unlock()
	st.mux = mux
	if end != nil { // it was registered too late to be told
		st.finish(end)
	}
	return st
}

// awaitDecision reads the OpenReply.
func (st *Stream) awaitDecision(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { st.Abort(context.Cause(ctx)) })
	reply, err := st.readReply()
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return st.decide(reply)
}

func (st *Stream) readReply() (*wire.OpenReply, error) {
	m, err := st.readMessage()
	if err != nil {
		return nil, err
	}
	reply, ok := m.(*wire.OpenReply)
	if !ok {
		return nil, st.violated(fmt.Errorf("%s instead of a reply", m.Type()))
	}
	return reply, nil
}

// decide notes the gateway's reply. After a refusal, both sides end the stream in the ordinary way; what was sent early is dropped
// by the gateway.
func (st *Stream) decide(reply *wire.OpenReply) error {
	refusal := reply.Refusal()
	st.mu.Lock()
	st.refusal, st.service = refusal, reply.Service
	close(st.decided)
	st.mu.Unlock()
	st.s.mu.Lock()
	st.s.decidedLocked(st)
	st.s.mu.Unlock()
	if refusal == nil {
		return nil
	}
	st.endRefused(refusal)
	return refusal
}
