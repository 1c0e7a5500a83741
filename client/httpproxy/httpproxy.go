// Package httpproxy offers the tunnel to programs that speak to an HTTP proxy:
// CONNECT for any tcp service, and absolute-form requests for plain HTTP
// (RFC 9110, section 9.3.6; RFC 9112, section 3.2.2). It also serves a proxy
// auto-configuration file at /proxy.pac that sends a browser through the tunnel
// only where a service lies. Names are passed on as they are and resolved at the
// gateway. It listens on loopback only, caches nothing and adds no identity to
// requests: the gateway knows who asks from the certificate.
package httpproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A DialFunc opens a stream to target and returns only when the gateway said
// ok: a proxy must not report success before that. A refusal is a
// *wire.Refusal.
type DialFunc func(ctx context.Context, target wire.Target) (relay.Conn, error)

// Config describes an HTTP proxy.
type Config struct {
	// Listen is the loopback address; required.
	Listen string
	// Dial opens the streams; required.
	Dial DialFunc
	// Services returns what the proxy leads to, for /proxy.pac; required.
	Services func() []wire.Service
	// Logger is required.
	Logger *slog.Logger
	// OnRefused is called for each request that was not granted. Optional.
	OnRefused func(wire.Target, error)
}

// A Server is a listening HTTP proxy.
type Server struct {
	cfg       Config
	ln        net.Listener
	http      *http.Server
	transport *http.Transport
	forward   *httputil.ReverseProxy

	// net/http forgets a connection that is taken over for CONNECT, so those
	// are counted here.
	tunnels sync.WaitGroup
}

// Listen opens the port. Connections wait in the system's queue until Serve.
func Listen(cfg Config) (*Server, error) {
	if cfg.Dial == nil || cfg.Logger == nil || cfg.Services == nil {
		return nil, errors.New("httpproxy: Dial, Services and Logger are required")
	}
	ln, err := localnet.Listen(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("http proxy: %w", err)
	}
	s := &Server{cfg: cfg, ln: ln}
	s.transport = &http.Transport{
		DialContext:           s.dialAddr,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute,
		DisableCompression:    true, // bodies pass as they are
	}
	s.forward = &httputil.ReverseProxy{
		Rewrite:       rewrite,
		Transport:     s.transport,
		ErrorHandler:  s.failForward,
		FlushInterval: -1, // a stream of events must not wait in a buffer
	}
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    256 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
	}
	return s, nil
}

// Addr is where the proxy listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close closes the port of a Server that is not served.
func (s *Server) Close() error { return s.ln.Close() }

// baseKey finds the context of Serve in that of a request.
type baseKey struct{}

// Serve answers programs until ctx ends, then closes the port and every
// connection and waits for them.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	s.http.BaseContext = func(net.Listener) context.Context { return context.WithValue(ctx, baseKey{}, ctx) }
	shut := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(shut)
		s.shutdown()
	})
	err := s.http.Serve(s.ln)
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		err = nil
	} else {
		err = fmt.Errorf("http proxy on %s: %w", s.ln.Addr(), err)
	}
	cancel()
	<-shut
	s.tunnels.Wait()
	s.transport.CloseIdleConnections()
	return err
}

// shutdown waits for the handlers, which end with their context; a program
// that reads nothing of its answer is cut.
func (s *Server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
	}
}

// ServeHTTP tells the three kinds of requests apart.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		s.connect(w, r)
	case r.URL.IsAbs():
		s.absolute(w, r)
	default:
		s.own(w, r)
	}
}

// connect serves CONNECT HOST:PORT.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	target, err := connectTarget(r.Host)
	if err != nil {
		http.Error(w, "culvert: "+err.Error(), http.StatusBadRequest)
		return
	}
	remote, err := s.dial(r.Context(), target)
	if err != nil {
		s.fail(w, target, err)
		return
	}
	// Counted while net/http still knows the connection, so that Serve cannot
	// miss it between the two.
	s.tunnels.Add(1)
	defer s.tunnels.Done()
	local, err := hijack(w)
	if err != nil {
		remote.Abort(err)
		s.cfg.Logger.Warn("http proxy: cannot take a connection over", "error", err)
		return
	}
	if _, err := local.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err != nil {
		remote.Abort(err)
		_ = local.Close()
		return
	}
	// Not r.Context: net/http ends it when the program half-closes.
	base := r.Context().Value(baseKey{}).(context.Context)
	result := relay.Copy(base, local, remote, relay.Options{})
	s.cfg.Logger.Debug("proxied connection ended", "target", target.String(),
		"sent", result.AtoB, "received", result.BtoA, "cause", result.Cause)
}

func connectTarget(hostport string) (wire.Target, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return wire.Target{}, fmt.Errorf("CONNECT %q: want HOST:PORT", hostport)
	}
	return target(host, port)
}

func target(host, port string) (wire.Target, error) {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return wire.Target{}, fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	t := wire.HostTarget(wire.KindTCP, host, uint16(n))
	if err := t.Validate(); err != nil {
		return wire.Target{}, err
	}
	return t, nil
}

func (s *Server) dial(ctx context.Context, t wire.Target) (relay.Conn, error) {
	err := t.CheckOffered()
	if err == nil {
		var remote relay.Conn
		if remote, err = s.cfg.Dial(ctx, t); err == nil {
			return remote, nil
		}
	}
	s.cfg.Logger.Info("proxy request was not granted", "target", t.String(), "error", err)
	if s.cfg.OnRefused != nil {
		s.cfg.OnRefused(t, err)
	}
	return nil, err
}

// absolute forwards a plain HTTP request. net/http has parsed it and writes it
// anew, so that the service sees one request with one length whatever the
// program sent.
func (s *Server) absolute(w http.ResponseWriter, r *http.Request) {
	if r.URL.Scheme != "http" {
		http.Error(w, fmt.Sprintf("culvert: scheme %q cannot be forwarded in the open; use CONNECT", r.URL.Scheme), http.StatusBadRequest)
		return
	}
	defer resetOnAbort(r)
	s.forward.ServeHTTP(w, r)
}

// connKey finds the program's connection in the context of a request.
type connKey struct{}

// resetOnAbort makes the end of the connection a reset where the answer was cut:
// to a program of HTTP/1.0 an end would say that the body is whole.
func resetOnAbort(r *http.Request) {
	cut := recover()
	if cut == nil {
		return
	}
	if conn, ok := r.Context().Value(connKey{}).(*net.TCPConn); ok {
		_ = conn.SetLinger(0)
	}
	panic(cut) // http.ErrAbortHandler: net/http closes the connection
}

func rewrite(p *httputil.ProxyRequest) {
	// The target is the request's own; a Host header that differs from it is
	// not believed (RFC 9112, section 3.2.2), and nothing about the desktop
	// is added.
	p.Out.Host = p.In.URL.Host
	p.Out.Header["User-Agent"] = p.In.Header["User-Agent"]
}

// dialAddr is what the transport dials with. What it is given is the host as
// the program wrote it; no name is resolved here.
func (s *Server) dialAddr(ctx context.Context, _, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	t, err := target(host, port)
	if err != nil {
		return nil, &wire.Refusal{Code: wire.CodeNoSuchService, Reason: err.Error()}
	}
	conn, err := s.dial(ctx, t)
	if err != nil {
		return nil, &dialError{t, err}
	}
	return streamConn{conn}, nil
}

// dialError carries the target through the transport to failForward.
type dialError struct {
	target wire.Target
	err    error
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func (s *Server) failForward(w http.ResponseWriter, r *http.Request, err error) {
	t := wire.Target{Kind: wire.KindTCP, Host: r.URL.Hostname()}
	var dialed *dialError
	if errors.As(err, &dialed) {
		t = dialed.target
	}
	s.fail(w, t, err)
}

// streamConn gives a stream the methods of net.Conn that a transport needs.
// Streams that have them already are used as they are.
type streamConn struct{ relay.Conn }

func (c streamConn) LocalAddr() net.Addr  { return tunnelAddr{} }
func (c streamConn) RemoteAddr() net.Addr { return tunnelAddr{} }

func (c streamConn) SetDeadline(t time.Time) error {
	if d, ok := c.Conn.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return nil
}

func (c streamConn) SetReadDeadline(t time.Time) error {
	if d, ok := c.Conn.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return nil
}

func (c streamConn) SetWriteDeadline(t time.Time) error {
	if d, ok := c.Conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		return d.SetWriteDeadline(t)
	}
	return nil
}

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "culvert" }
func (tunnelAddr) String() string  { return "tunnel" }

// hijack takes the connection of a CONNECT over, with what the program has
// sent behind its request already.
func hijack(w http.ResponseWriter) (relay.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("connection is a %T", conn)
	}
	local := relay.TCP(tcp)
	n := buffered.Reader.Buffered()
	if n == 0 {
		return local, nil
	}
	early, _ := buffered.Reader.Peek(n)
	return &prefixed{Conn: local, early: append([]byte(nil), early...)}, nil
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

// ownHost reports whether a Host header names this proxy itself by address or
// as localhost. Any other name means that a web page was made to ask through
// a name that it controls (DNS rebinding).
func ownHost(host string, ln net.Addr) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil || port != strconv.Itoa(ln.(*net.TCPAddr).Port) {
		return false
	}
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}
