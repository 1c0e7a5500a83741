package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// The bounds of one HTTPS request. Enrolment bodies are below 128 KiB and their
// handler waits for the provider, which has bounds of its own.
const (
	webReadHeader = 5 * time.Second
	webRead       = 20 * time.Second
	webWrite      = 60 * time.Second
	webIdle       = 60 * time.Second
	webMaxHeader  = 32 << 10
	webMaxStreams = 32 // HTTP/2 requests at once on a connection
)

// rootPage is what a person sees who opens the address in a browser.
const rootPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Culvert gateway</title>
<h1>Culvert gateway</h1>
<p>This is a Culvert gateway: it takes employees to the internal services that
they may reach. There is nothing to see here in a browser.</p>
<p>To log in, run this on your computer:</p>
<pre>culvert login https://THIS-ADDRESS</pre>
<p>Your administrator knows the address and gives you the program.</p>
</html>
`

// newWebServer serves the HTTPS side of the one port. Connections come with
// their handshake done.
func newWebServer(log *slog.Logger, handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: webReadHeader,
		ReadTimeout:       webRead,
		WriteTimeout:      webWrite,
		IdleTimeout:       webIdle,
		MaxHeaderBytes:    webMaxHeader,
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: webMaxStreams},
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// webHandler routes the HTTPS side: enrolment takes its own paths, the rest is
// health and a page that says what this is.
func webHandler(log *slog.Logger, h *health, enrolment http.Handler, panics func()) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/.well-known/culvert", enrolment)
	mux.Handle("/v1/", enrolment)
	mux.HandleFunc("GET /healthz", serveLive)
	mux.HandleFunc("GET /readyz", h.serveReady)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write([]byte(rootPage))
	})
	return guarded(log, panics, secured(mux))
}

// secured sets the headers that keep a browser from doing anything with an
// answer but show it.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header := w.Header()
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		next.ServeHTTP(w, req)
	})
}

// guarded turns a panic into a 500 and a log line: one bad request must not
// take the tunnels of everybody with it.
func guarded(log *slog.Logger, panics func(), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			panics()
			log.Error("panic in an HTTPS request", "path", req.URL.Path, "panic", v, "stack", string(debug.Stack()))
			http.Error(w, "internal error; the gateway's log has the cause", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, req)
	})
}

// A web is the HTTPS side: its server, the queue that feeds it, and the
// connections that it has.
type web struct {
	server *http.Server
	queue  *connQueue
	crowd  *crowd
	done   func() // told when a connection has gone

	mu      sync.Mutex
	members map[net.Conn]*member // by the connection that the server has
}

func newWeb(server *http.Server, addr net.Addr, crowd *crowd, done func()) *web {
	w := &web{server: server, queue: newConnQueue(addr), crowd: crowd, done: done, members: make(map[net.Conn]*member)}
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			w.release(conn)
			w.done()
		}
	}
	return w
}

// take hands a connection to the server; raw is the one below TLS, which is
// closed when a newer one takes its place. When it is false, the caller still owns
// the connection.
func (w *web) take(secure, raw net.Conn) bool {
	one := w.crowd.add(raw, addressKey(raw.RemoteAddr()))
	w.mu.Lock()
	w.members[secure] = one
	w.mu.Unlock()
	if !w.queue.push(secure) {
		w.release(secure)
		return false
	}
	return true
}

func (w *web) release(secure net.Conn) {
	w.mu.Lock()
	one := w.members[secure]
	delete(w.members, secure)
	w.mu.Unlock()
	if one != nil {
		w.crowd.done(one)
	}
}

// open is how many connections there are.
func (w *web) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.members)
}

// serve runs until shutdown or close.
func (w *web) serve() error {
	if err := w.server.Serve(w.queue); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// shutdown waits for running requests until ctx ends, then closes them.
func (w *web) shutdown(ctx context.Context) error {
	err := w.server.Shutdown(ctx)
	_ = w.queue.Close()
	if err != nil {
		_ = w.server.Close()
	}
	return err
}

// strictTransport tells browsers to stay with HTTPS. A self-issued certificate,
// perhaps for "localhost", must not do that.
func strictTransport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		next.ServeHTTP(w, req)
	})
}
