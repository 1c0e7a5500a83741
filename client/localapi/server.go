package localapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/localsock"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Config tells a Server what to serve, and where.
type Config struct {
	// Path is the socket. Required; its folder is made with mode 0700 if it is missing.
	Path string
	// Backend does what is asked. Required.
	Backend Backend
	// Logger is optional; by default nothing is logged.
	Logger *slog.Logger
}

// Server serves the local API on its socket. Make it with Listen.
type Server struct {
	cfg      Config
	listener *localsock.Listener
	http     *http.Server
	ctx      context.Context // the root of everything that requests start
	cancel   context.CancelCauseFunc
	closing  sync.Once
	closed   error
	requests sync.WaitGroup // with the streams that they became
}

var errClosing = errors.New("the client is stopping")

// Listen takes the socket, over the remains of a process that crashed if need
// be. It returns ErrRunning when a live process has it. Close releases it.
func Listen(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	listener, err := localsock.Listen(cfg.Path, cfg.Logger)
	if errors.Is(err, localsock.ErrInUse) {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Path, ErrRunning)
	}
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, listener: listener}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Serve answers requests until Close; then it returns nil.
func (s *Server) Serve() error {
	err := s.http.Serve(s.listener)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the local API: %w", err)
}

// Close ends every request and stream, removes the socket and returns when
// nothing runs any more. It may be called again.
func (s *Server) Close() error {
	s.closing.Do(func() {
		s.cancel(errClosing)
		s.closed = s.http.Close()
		_ = s.listener.Close() // where Serve was never called
		s.requests.Wait()
		// The lock last: whoever holds it has the socket to itself.
		s.closed = errors.Join(s.closed, s.listener.Unlock())
	})
	return s.closed
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/services", s.services)
	mux.HandleFunc("POST /v1/ping", s.ping)
	mux.HandleFunc("POST /v1/open", s.open)
	mux.HandleFunc("POST /v1/builtin", s.openBuiltIn)
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		s.cfg.Backend.Reload()
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST /v1/down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush() // before Stop takes the connection away
		s.cfg.Backend.Stop()
	})
	return s.count(onlyLocal(mux))
}

// count lets Close wait for requests, also for those whose connection became a stream.
func (s *Server) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		defer s.requests.Done()
		next.ServeHTTP(w, r)
	})
}

// onlyLocal refuses what no client of this package sends: a page in a browser
// that reached the socket through somebody's port forwarder gives itself away
// by its Host (DNS rebinding) or its Origin.
func onlyLocal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header
		if r.Host != Host || h.Get("Origin") != "" || h.Get("Referer") != "" || h.Get("Sec-Fetch-Site") != "" {
			writeFailure(w, http.StatusForbidden, errors.New("the local API is not for web pages"))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		next.ServeHTTP(w, r)
	})
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") == "" {
		writeJSON(w, s.cfg.Backend.Status())
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	encoder, flush := json.NewEncoder(w), http.NewResponseController(w)
	for snapshot := range s.cfg.Backend.Watch(r.Context()) {
		if encoder.Encode(snapshot) != nil || flush.Flush() != nil {
			return
		}
	}
}

func (s *Server) services(w http.ResponseWriter, _ *http.Request) {
	if st := s.cfg.Backend.Status(); !st.Works() {
		f := &status.Error{Status: st}
		writeFailure(w, failureOf(f).httpStatus(), f)
		return
	}
	writeJSON(w, servicesMessage{ServicesFromWire(s.cfg.Backend.Services())})
}

func (s *Server) ping(w http.ResponseWriter, r *http.Request) {
	rtt, err := s.cfg.Backend.Ping(r.Context())
	if err != nil {
		writeFailure(w, failureOf(err).httpStatus(), err)
		return
	}
	writeJSON(w, pingMessage{rtt})
}

func (s *Server) open(w http.ResponseWriter, r *http.Request) {
	var msg openMessage
	if err := json.NewDecoder(r.Body).Decode(&msg); err != nil {
		writeFailure(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	target := msg.target()
	if err := target.Validate(); err != nil {
		writeFailure(w, http.StatusBadRequest, err)
		return
	}
	s.openStream(w, r, target, func(ctx context.Context) (relay.Conn, error) {
		if err := target.CheckOffered(); err != nil {
			return nil, err
		}
		return s.cfg.Backend.Open(ctx, target, msg.Wait)
	})
}

func (s *Server) openBuiltIn(w http.ResponseWriter, r *http.Request) {
	var msg builtInMessage
	if err := json.NewDecoder(r.Body).Decode(&msg); err != nil {
		writeFailure(w, http.StatusBadRequest, fmt.Errorf("read the request: %w", err))
		return
	}
	s.openStream(w, r, wire.ServiceTarget(wire.KindTCP, msg.Service), func(ctx context.Context) (relay.Conn, error) {
		return s.cfg.Backend.OpenBuiltIn(ctx, msg.Service)
	})
}

func (s *Server) openStream(w http.ResponseWriter, r *http.Request, target wire.Target, open func(context.Context) (relay.Conn, error)) {
	if r.Header.Get("Upgrade") != upgradeName {
		writeFailure(w, http.StatusUpgradeRequired, errors.New("a stream needs Upgrade: "+upgradeName))
		return
	}
	remote, err := open(r.Context())
	if err != nil {
		writeFailure(w, failureOf(err).httpStatus(), err)
		return
	}
	s.upgrade(w, target, remote)
}

// upgrade turns the connection into a stream and relays it. It returns when the
// stream is over.
func (s *Server) upgrade(w http.ResponseWriter, target wire.Target, remote relay.Conn) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		remote.Abort(err)
		writeFailure(w, http.StatusInternalServerError, err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+upgradeName+"\r\n\r\n")
	if err != nil {
		remote.Abort(err)
		_ = conn.Close()
		return
	}
	local := newStream(conn, bufio.NewReaderSize(rw.Reader, readBuffer), target.Kind)
	if target.Kind == wire.KindUDP {
		relay.CopyPackets(s.ctx, local, remote, relay.Options{IdleTimeout: relay.PacketIdle(target.Port)})
		return
	}
	result := relay.Copy(s.ctx, local, remote, relay.Options{})
	s.cfg.Logger.Debug("local stream ended", "target", target.String(), "sent", result.AtoB, "received", result.BtoA, "cause", result.Cause)
}

// readBuffer holds one full record with its header.
const readBuffer = 64<<10 + 4096

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the peer went away: nobody is left to tell
}

func writeFailure(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(failureOf(err)) // as above
}
