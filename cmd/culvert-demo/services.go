package main

import (
	"context"
	"embed"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/internal/localnet"
)

//go:embed wiki.html
var wikiFiles embed.FS

// A page is one article of the demonstration's wiki.
type page struct {
	Title string
	Text  []string
}

var pages = map[string]page{
	"/": {"Welcome", []string{
		"This wiki listens on the loopback address of the machine that runs the demonstration, as a service inside a company would listen on its network.",
		"You see it because the gateway knows who you are from your certificate, and a rule lets your group in.",
	}},
	"/on-call": {"On call", []string{
		"When the pager rings: look at the dashboard, write down what you see, then act.",
		"A refusal by the gateway has a reference. The audit log has the same reference.",
	}},
	"/coffee": {"The coffee machine", []string{"Second floor. It is descaled on Fridays."}},
}

// wiki returns the handler of the small wiki.
func wiki() (http.Handler, error) {
	tmpl, err := template.ParseFS(wikiFiles, "wiki.html")
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = tmpl.Execute(w, map[string]any{"Page": p, "Pages": pages})
	}), nil
}

// A local is one of the demonstration's parts that listen on loopback.
type local struct {
	ln   net.Listener
	done chan error
}

// serveHTTP serves handler on a loopback port until ctx ends.
func serveHTTP(ctx context.Context, ln net.Listener, handler http.Handler, logger *slog.Logger) *local {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}
	l := &local{ln, make(chan error, 1)}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	go func() {
		err := srv.Serve(ln)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		l.done <- err
	}()
	return l
}

// serveEcho answers each connection with what it sends, until ctx ends.
func serveEcho(ctx context.Context, ln net.Listener, logger *slog.Logger) *local {
	l := &local{ln, make(chan error, 1)}
	go func() {
		l.done <- localnet.Serve(ctx, ln, localnet.Options{Logger: logger}, func(ctx context.Context, c net.Conn) {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			defer c.Close()
			_, _ = io.Copy(c, c)
		})
	}()
	return l
}
