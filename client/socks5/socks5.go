// Package socks5 offers the tunnel to programs that speak SOCKS version 5
// (RFC 1928): CONNECT for tcp services and UDP ASSOCIATE for udp services, with
// names, IPv4 and IPv6. Names are passed on as they are and resolved at the
// gateway. It listens on loopback only, asks for no password and knows nothing
// of the tunnel beyond the function that opens streams. BIND is not offered: no
// service opens connections towards a desktop.
package socks5

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A DialFunc opens a stream to target and returns only when the gateway said
// ok: SOCKS must not report success before that. A refusal is a *wire.Refusal.
// For a udp target the stream keeps the boundaries of datagrams.
type DialFunc func(ctx context.Context, target wire.Target) (relay.Conn, error)

// Config describes a SOCKS server.
type Config struct {
	// Listen is the loopback address; required.
	Listen string
	// Dial opens the streams; required.
	Dial DialFunc
	// Logger is required.
	Logger *slog.Logger
	// HandshakeTimeout bounds the time until a program has said what it wants.
	// Default 30 s.
	HandshakeTimeout time.Duration
	// OnRefused is called for each request that was not granted. Optional.
	OnRefused func(wire.Target, error)
}

// A Server is a listening SOCKS server.
type Server struct {
	cfg Config
	ln  net.Listener
}

// Listen opens the port. Connections wait in the system's queue until Serve.
func Listen(cfg Config) (*Server, error) {
	if cfg.Dial == nil || cfg.Logger == nil {
		return nil, errors.New("socks5: Dial and Logger are required")
	}
	if cfg.HandshakeTimeout <= 0 {
		cfg.HandshakeTimeout = 30 * time.Second
	}
	ln, err := localnet.Listen(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("socks5: %w", err)
	}
	return &Server{cfg, ln}, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close closes the port of a Server that is not served.
func (s *Server) Close() error { return s.ln.Close() }

// Serve answers programs until ctx ends, then closes the port and every
// connection and waits for them.
func (s *Server) Serve(ctx context.Context) error {
	return localnet.Serve(ctx, s.ln, localnet.Options{Logger: s.cfg.Logger}, s.handle)
}

// Numbers of RFC 1928.
const (
	version = 5

	methodNone         = 0x00
	methodUnacceptable = 0xff

	commandConnect   = 1
	commandAssociate = 3

	addressIPv4 = 1
	addressName = 3
	addressIPv6 = 4
)

// A reply is the REP field (RFC 1928, section 6).
type reply byte

const (
	replySucceeded          reply = 0
	replyFailure            reply = 1
	replyNotAllowed         reply = 2
	replyNetworkUnreachable reply = 3
	replyHostUnreachable    reply = 4
	replyRefused            reply = 5
	replyTTLExpired         reply = 6
	replyNoCommand          reply = 7
	replyNoAddressType      reply = 8
)

// replies gives each code of a refusal the reply that a program understands
// best.
var replies = map[wire.Code]reply{
	wire.CodeDenied:         replyNotAllowed,
	wire.CodeStepUpRequired: replyNotAllowed,
	wire.CodeNoSuchService:  replyNotAllowed,
	wire.CodeRefused:        replyRefused,
	wire.CodeUnreachable:    replyHostUnreachable,
	wire.CodeTimedOut:       replyTTLExpired,
	wire.CodeExpired:        replyNotAllowed,
	wire.CodeUnavailable:    replyNetworkUnreachable,
	wire.CodeDraining:       replyNetworkUnreachable,
}

// replyFor returns the reply for a failed dial; what the gateway did not refuse
// did not reach it.
func replyFor(err error) reply {
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) {
		return replyNetworkUnreachable
	}
	if r, ok := replies[refusal.Code]; ok {
		return r
	}
	return replyFailure
}

// errReply is a handshake that ends with a reply.
type errReply struct {
	reply reply
	what  string
}

func (e *errReply) Error() string { return e.what }

// request is what a program asks for.
type request struct {
	command byte
	host    string // a name or an IP literal; may be unspecified for UDP ASSOCIATE
	port    uint16
}

func (s *Server) handle(ctx context.Context, conn net.Conn) {
	local := relay.TCP(conn.(*net.TCPConn))
	defer local.Close()
	_ = conn.SetDeadline(time.Now().Add(s.cfg.HandshakeTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	req, err := negotiate(conn)
	if err != nil {
		s.cfg.Logger.Debug("socks: a request was not understood", "error", err)
		var withReply *errReply
		if errors.As(err, &withReply) {
			_ = writeReply(conn, withReply.reply, netip.AddrPort{})
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if ctx.Err() != nil {
		return
	}
	if req.command == commandAssociate {
		s.associate(ctx, conn, req)
		return
	}
	s.connect(ctx, local, conn, req)
}

// connect serves CONNECT. The dial ends early when the program hangs up.
func (s *Server) connect(ctx context.Context, local relay.Conn, conn net.Conn, req request) {
	target := wire.HostTarget(wire.KindTCP, req.host, req.port)
	remote, early, err := s.dialWatched(ctx, conn, target)
	if err != nil {
		_ = writeReply(conn, replyFor(err), netip.AddrPort{})
		return
	}
	if len(early) > 0 {
		local = &prefixed{Conn: local, early: early}
	}
	if err := writeReply(conn, replySucceeded, netip.AddrPort{}); err != nil {
		remote.Abort(err)
		return
	}
	result := relay.Copy(ctx, local, remote, relay.Options{})
	s.cfg.Logger.Debug("socks connection ended", "target", target.String(),
		"sent", result.AtoB, "received", result.BtoA, "cause", result.Cause)
}

var errHungUp = errors.New("the program hung up")

// dialWatched is dial until the program hangs up. What the program says before the reply is early.
func (s *Server) dialWatched(ctx context.Context, conn net.Conn, target wire.Target) (remote relay.Conn, early []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	said := make(chan []byte, 1)
	go func() {
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			cancel(errHungUp)
		}
		said <- buf[:n]
	}()
	remote, err = s.dial(ctx, target)
	_ = conn.SetReadDeadline(time.Unix(1, 0))
	early = <-said
	_ = conn.SetReadDeadline(time.Time{})
	return remote, early, err
}

// prefixed reads some bytes before those of the connection. Read is called by
// one goroutine, as relay.Copy does.
type prefixed struct {
	relay.Conn
	early []byte
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		p.early = p.early[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

func (s *Server) dial(ctx context.Context, target wire.Target) (relay.Conn, error) {
	err := target.Validate()
	if err != nil {
		err = &wire.Refusal{Code: wire.CodeNoSuchService, Reason: err.Error()}
	} else if err = target.CheckOffered(); err == nil {
		var remote relay.Conn
		if remote, err = s.cfg.Dial(ctx, target); err == nil {
			return remote, nil
		}
	}
	if context.Cause(ctx) == errHungUp {
		return nil, errHungUp // nobody is left to tell
	}
	s.cfg.Logger.Info("socks request was not granted", "target", target.String(), "error", err)
	if s.cfg.OnRefused != nil {
		s.cfg.OnRefused(target, err)
	}
	return nil, err
}

// negotiate reads the method selection and the request (RFC 1928, sections 3
// and 4).
func negotiate(rw io.ReadWriter) (request, error) {
	var head [2]byte
	if _, err := io.ReadFull(rw, head[:]); err != nil {
		return request{}, fmt.Errorf("read methods: %w", err)
	}
	if head[0] != version {
		return request{}, fmt.Errorf("version %d, want 5; the program speaks another protocol", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(rw, methods); err != nil {
		return request{}, fmt.Errorf("read methods: %w", err)
	}
	chosen := byte(methodUnacceptable)
	for _, m := range methods {
		if m == methodNone {
			chosen = methodNone
		}
	}
	if _, err := rw.Write([]byte{version, chosen}); err != nil {
		return request{}, fmt.Errorf("write method: %w", err)
	}
	if chosen == methodUnacceptable {
		return request{}, errors.New("the program insists on a password; this proxy has none")
	}
	return readRequest(rw)
}

func readRequest(r io.Reader) (request, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return request{}, fmt.Errorf("read request: %w", err)
	}
	if head[0] != version || head[2] != 0 {
		return request{}, &errReply{replyFailure, "the request's version or reserved byte is wrong"}
	}
	host, port, err := readAddress(r, head[3])
	if err != nil {
		return request{}, err
	}
	req := request{head[1], host, port}
	if req.command != commandConnect && req.command != commandAssociate {
		return request{}, &errReply{replyNoCommand, fmt.Sprintf("command %d is not offered", req.command)}
	}
	return req, nil
}

// readAddress reads an address of the given type and a port (RFC 1928, section
// 5).
func readAddress(r io.Reader, kind byte) (host string, port uint16, err error) {
	var size [1]byte
	switch kind {
	case addressIPv4:
		size[0] = 4
	case addressIPv6:
		size[0] = 16
	case addressName:
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return "", 0, fmt.Errorf("read name: %w", err)
		}
	default:
		return "", 0, &errReply{replyNoAddressType, fmt.Sprintf("address type %d is unknown", kind)}
	}
	buf := make([]byte, int(size[0])+2)
	if _, err := io.ReadFull(r, buf); err != nil {
		return "", 0, fmt.Errorf("read address: %w", err)
	}
	addr, port := buf[:size[0]], binary.BigEndian.Uint16(buf[size[0]:])
	if kind == addressName {
		return string(addr), port, nil
	}
	ip, _ := netip.AddrFromSlice(addr)
	return ip.Unmap().String(), port, nil
}

// appendAddress is the opposite of readAddress with the type byte in front; an
// invalid address is written as 0.0.0.0:0.
func appendAddress(b []byte, ap netip.AddrPort) []byte {
	addr := ap.Addr().Unmap()
	switch {
	case addr.Is6():
		b = append(append(b, addressIPv6), addr.AsSlice()...)
	case addr.Is4():
		b = append(append(b, addressIPv4), addr.AsSlice()...)
	default:
		b = append(b, addressIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

func writeReply(w io.Writer, r reply, bound netip.AddrPort) error {
	_, err := w.Write(appendAddress([]byte{version, byte(r), 0}, bound))
	return err
}
