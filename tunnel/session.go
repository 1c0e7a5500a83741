package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Session is one connection with its streams. Client and Server make it; it is safe for concurrent use.
//
//	handshake ── Hello, Welcome ──▶ open ── Draining ──▶ draining ── Terminated, or the connection is lost ──▶ ended
type Session struct {
	cfg    config
	server bool
	sock   *Socket
	tls    *tls.Conn
	log    *limitedLog
	out    *frameWriter
	mux    *yamux.Session
	ctl    *control
	flow   flowControl

	done   chan struct{}   // closed when the session has ended
	opens  chan struct{}   // client: one entry per stream without a reply
	fresh  chan *NewStream // server: streams whose request is there
	opened atomic.Int64    // streams so far

	opening sync.Mutex // yamux numbers a stream and then sends its SYN: two at once would arrive out of order

	// lifeMu may be taken with any other lock held.
	lifeMu sync.Mutex
	gone   bool // nothing new is started
	wg     sync.WaitGroup

	mu        sync.Mutex
	err       error // why done is closed
	local     error // set before the end by CloseWith: what Err will be
	timer     *time.Timer
	welcome   wire.Welcome
	draining  *wire.Draining
	streams   map[uint32]*Stream
	newborn   map[uint32]*Stream // registered, and not yet handed over by yamux
	lastID    uint32             // the newest stream number that the client used
	live      int                // streams that count against MaxStreams
	pending   int                // server: streams without a reply
	aborting  map[uint32]*Stream // we sent, or are about to send, an RST and have not seen the peer's
	lingering map[uint32]*Stream // refused; the peer's end is awaited
	refused   map[uint32]int     // server: streams that were reset at their SYN, and how much they sent since
	resets    []reset            // RSTs that wait for the control message in front of them
	settled   int64              // how much of the control stream was read
	pings     pings
	dead      int64 // bytes received for streams that were over
	stalled   int   // streams that stood at the last look
}

func newSession(sock *Socket, tc *tls.Conn, cfg config, server bool) (*Session, error) {
	s := &Session{
		cfg: cfg, server: server, sock: sock, tls: tc, log: newLimitedLog(cfg.log),
		done:      make(chan struct{}),
		opens:     make(chan struct{}, cfg.limits.MaxUndecided),
		fresh:     make(chan *NewStream, cfg.limits.MaxUndecided),
		streams:   make(map[uint32]*Stream),
		newborn:   make(map[uint32]*Stream),
		aborting:  make(map[uint32]*Stream),
		lingering: make(map[uint32]*Stream),
		refused:   make(map[uint32]int),
	}
	s.out = &frameWriter{dst: tc, sock: sock, run: s.start, fail: s.fail, done: s.done}
	sock.gather(s.start, s.out.room, s.out.broken)
	s.flow = flowControl{limits: cfg.limits, out: s.out}
	s.ctl = newControl(s)
	sock.lastRead.Store(sock.since())
	link := &muxLink{s: s, in: frameReader{src: tc, inspect: s.inspect}}
	// The multiplexer reads at once, and a connection that is lost at once must find the session whole.
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if server {
		s.mux, err = yamux.Server(link, s.muxConfig())
	} else {
		s.mux, err = yamux.Client(link, s.muxConfig())
	}
	if err != nil {
		return nil, fmt.Errorf("start the multiplexer: %w", err)
	}
	s.timer = time.AfterFunc(tick, s.housekeeping)
	return s, nil
}

// muxConfig turns off what this layer does itself: see the table in docs/protocol.md, "What is asked of the multiplexer".
func (s *Session) muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          2 * wire.MaxUndecided, // more than the opens that inspect lets through
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour,     // unused; yamux wants it positive
		ConnectionWriteTimeout: time.Hour,     // out of reach: after it, yamux's windows are wrong
		MaxStreamWindowSize:    initialWindow, // unused: data and credit do not pass through yamux
		StreamOpenTimeout:      0,             // would close the whole session
		StreamCloseTimeout:     0,             // would end a half-closed download with a clean EOF
		Logger:                 s.log,
	}
}

// start runs f on a goroutine that Close waits for. After the end it does nothing.
func (s *Session) start(f func()) {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if !s.gone {
		s.wg.Go(f)
	}
}

// muxLink is the connection that yamux sees. Only yamux's sending goroutine writes, a header and then its body.
type muxLink struct {
	s  *Session
	in frameReader
}

// Read implements io.Reader.
func (l *muxLink) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if err != nil {
		l.s.end(connectionLost(err))
	}
	return n, err
}

// Write implements io.Writer. yamux sends headers only: this layer sends all data itself.
func (l *muxLink) Write(p []byte) (int, error) {
	if len(p) != frameSize {
		return 0, fmt.Errorf("yamux wrote %d bytes instead of a header", len(p))
	}
	f, err := parseFrame(p)
	if err != nil {
		return 0, err
	}
	l.s.outbound(f)
	return len(p), nil
}

// Close implements io.Closer. yamux closes when it is told to, and when it gives up.
func (l *muxLink) Close() error {
	l.s.fail(fmt.Errorf("%w: the multiplexer gave up", ErrLost))
	return l.s.sock.Close()
}

func connectionLost(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the peer closed it", ErrLost)
	}
	if errors.Is(err, ErrProtocol) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// fail ends the session with err, unless it has ended. It does not wait, and may be called from anywhere.
func (s *Session) fail(err error) {
	if !s.leave() {
		return
	}
	s.mu.Lock()
	if s.local != nil {
		err = s.local
	}
	s.err = err
	s.timer.Stop()
	s.cfg.stalls.change(-s.stalled)
	s.stalled = 0
	streams := make([]*Stream, 0, len(s.streams)+len(s.resets))
	for _, st := range s.streams {
		streams = append(streams, st)
	}
	for _, r := range s.resets { // their reason does not come any more
		streams = append(streams, r.st)
	}
	s.mu.Unlock()

	// The socket first: tls.Conn.Close would wait for a write that is blocked in it.
	_ = s.sock.Close()
	close(s.done)
	s.out.close(err)
	for _, st := range streams {
		st.finish(err)
	}
	s.log.note(err)
}

// end is fail, and tells a peer that broke the protocol so. It may wait for as long as a farewell.
func (s *Session) end(err error) {
	if errors.Is(err, ErrProtocol) {
		s.ctl.sendNow(&wire.Termination{Code: wire.TerminateProtocol, Reason: err.Error()}, farewell/2)
	}
	s.fail(err)
}

// leave lets nothing new start but the end of the multiplexer, and reports whether it was the first to do so.
func (s *Session) leave() bool {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.gone {
		return false
	}
	s.gone = true
	s.wg.Go(func() {
		<-s.done // first the reason, then the consequences
		_ = s.mux.Close()
	})
	return true
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives. Afterwards it is why it ended: a *wire.Termination when the peer said so, ErrClosed when it
// was closed here, and otherwise what went wrong.
func (s *Session) Err() error {
	select {
	case <-s.done:
	default:
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and all its streams, tells the peer, and waits until nothing of it runs any more. Closing again does
// nothing.
func (s *Session) Close() error {
	return s.CloseWith(wire.Termination{Code: wire.TerminateShutdown})
}

// farewell bounds how long CloseWith waits for the peer to read why.
const farewell = time.Second

// CloseWith is Close with what the peer is told.
func (s *Session) CloseWith(why wire.Termination) error {
	s.mu.Lock()
	first := s.local == nil && s.err == nil
	if first {
		s.local = ErrClosed
	}
	s.mu.Unlock()
	if first {
		s.sayFarewell(why)
		s.fail(ErrClosed)
	}
	s.wg.Wait()
	return nil
}

// sayFarewell sends Terminated, and leaves the peer time to read it and to close: closing first, with bytes of the peer unread,
// would reset the connection and take the message with it (RFC 9293 section 3.10.4).
func (s *Session) sayFarewell(why wire.Termination) {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if err := s.ctl.send(&why); err != nil {
		return
	}
	select {
	case <-s.done:
	case <-ctx.Done():
	}
}

// State is the TLS connection's state.
func (s *Session) State() tls.ConnectionState { return s.tls.ConnectionState() }

// LocalAddr and RemoteAddr are the connection's addresses.
func (s *Session) LocalAddr() net.Addr { return s.sock.LocalAddr() }

// RemoteAddr is the peer's address.
func (s *Session) RemoteAddr() net.Addr { return s.sock.RemoteAddr() }

// Welcome is what the gateway answered to Hello, with the times of the newest renewal.
func (s *Session) Welcome() wire.Welcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.welcome
}

// Draining is the gateway's announcement that it takes no more streams, and whether there was one.
func (s *Session) Draining() (wire.Draining, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining == nil {
		return wire.Draining{}, false
	}
	return *s.draining, true
}

// Stats are the numbers of a session.
type Stats struct {
	Received, Sent int64     // bytes on the socket, with all overhead
	Streams        int       // open now
	Opened         int64     // opened so far
	LastReceived   time.Time // when the last byte came
	RTT            time.Duration
	Discarded      int64 // bytes that came for streams that were over
}

// Stats returns the numbers of this moment. RTT is the smallest round trip measured within about a minute, 0 before the first.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Received: s.sock.readBytes.Load(), Sent: s.sock.sentBytes.Load(),
		Streams: s.live, Opened: s.opened.Load(), Discarded: s.dead,
		LastReceived: time.Now().Add(-s.sock.quiet()),
		RTT:          s.flow.minRTT(),
	}
}
