// Package tunnel runs authenticated streams over a TLS connection: one hashicorp/yamux session per connection, a control
// stream with Hello and Welcome, and for every other stream a request that the gateway accepts or rejects with a reason.
//
// It makes a stream behave as a TCP connection does where yamux does not: a clean end, a half-close, a reset with a reason in
// both directions, deadlines that hold, memory that is bounded, and a peer that is gone noticed within seconds. docs/protocol.md
// is the normative text of what goes over the wire.
//
// It decides nothing: who the peer is comes from the TLS connection (package auth/mtls), what a stream may reach from the caller,
// and the service at its end is dialed by the caller too.
//
// From the socket up:
//
//	Socket          large reads; several TLS records in one system call
//	tls.Conn        dynamic record sizing off, so that every full record is 16 KiB
//	frameWriter     whole records as yamux frames; small ones overtake bulk; credit and resets of our own
//	frameReader     counts, bounds and answers; bodies go to their streams, flags to yamux
//	yamux.Session   stream numbers and states
//	Session/Stream  this package's surface; receive buffers, windows, deadlines
package tunnel

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Times of the protocol (docs/protocol.md, "Times").
const (
	handshakeTimeout = 10 * time.Second // TLS, Hello and Welcome, together
	requestTimeout   = 10 * time.Second // from a stream's SYN to its whole OpenRequest
	decisionTimeout  = 2 * time.Minute  // from OpenRequest to OpenReply; a step-up may take that long
	pingAfter        = 5 * time.Second  // without a received byte
	deadAfter        = 10 * time.Second // without a received byte: the connection is gone
	abortTimeout     = 5 * time.Second  // from our RST to the peer's
	lingerTimeout    = 60 * time.Second // from Close to the peer's end, as TCP's FIN-WAIT-2 of an orphan
	writeStall       = 60 * time.Second // one write to the socket without progress
	tick             = time.Second
)

// Sizes, in bytes.
const (
	initialWindow = 256 << 10 // of every stream, in both directions; fixed by yamux
	defaultWindow = 8 << 20
	defaultBudget = 32 << 20
	clientBudget  = 64 << 20        // a client has one session, and most bytes come down
	endReserve    = wire.HeaderSize // credit that is kept for the end record, so that an end never waits
)

// Default limits of a session.
const (
	DefaultMaxStreams   = 1024
	DefaultMaxUndecided = wire.MaxUndecided
)

// Limits bounds one session. Zero fields have the defaults.
type Limits struct {
	MaxStreams   int   // streams open at once; default DefaultMaxStreams
	MaxUndecided int   // of them, those without a reply; default and at most 64
	MaxWindow    int   // largest receive window of one stream in bytes; default 8 MiB, at least 256 KiB
	Budget       int64 // sum of receive windows beyond which none grows, in bytes; default 32 MiB, of a client 64 MiB
}

func (l Limits) withDefaults() Limits {
	if l.MaxStreams <= 0 {
		l.MaxStreams = DefaultMaxStreams
	}
	if l.MaxUndecided <= 0 || l.MaxUndecided > wire.MaxUndecided {
		l.MaxUndecided = DefaultMaxUndecided
	}
	if l.MaxWindow <= 0 {
		l.MaxWindow = defaultWindow
	}
	l.MaxWindow = max(l.MaxWindow, initialWindow)
	if l.Budget <= 0 {
		l.Budget = defaultBudget
	}
	return l
}

// Errors that callers branch on.
var (
	// ErrClosed is the end of a session, or of a stream, that was closed on this side.
	ErrClosed = errors.New("tunnel: closed")
	// ErrHandshake: a connection was there, and the TLS handshake on it failed.
	ErrHandshake = errors.New("tunnel handshake")
	// ErrLost is wrapped by the end of a session, and of its streams, whose connection broke without a word of the peer.
	ErrLost = errors.New("connection lost")
	// ErrDead is wrapped by the end of a session whose peer was not heard for 10 s, or took nothing for 60 s.
	ErrDead = errors.New("no answer from the peer")
	// ErrProtocol is wrapped by the end of a session whose peer broke the protocol.
	ErrProtocol = errors.New("the peer broke the tunnel protocol")
)

// AbortError is how a stream that the peer aborted ends. As the cause given to Stream.Abort it says what the peer is told.
type AbortError struct {
	Code   wire.AbortCode
	Reason string // for people and logs; travels to the peer
}

// Error returns code and reason in one line.
func (e *AbortError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("stream aborted (%s)", e.Code)
	}
	return fmt.Sprintf("stream aborted (%s): %s", e.Code, e.Reason)
}

// Is makes a reset of the far application what it would be on a plain connection (ECONNRESET), and a time-out a time-out.
func (e *AbortError) Is(target error) bool {
	switch e.Code {
	case wire.AbortTimeout:
		return target == os.ErrDeadlineExceeded
	default:
		return target == syscall.ECONNRESET
	}
}

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}
