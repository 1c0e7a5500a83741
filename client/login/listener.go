package login

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/neterr"
)

const (
	maxWrongHits = 20
	answerTime   = 90 * time.Second // exchange and enrolment, while the person looks at the page
	closeTime    = 3 * time.Second
)

// listener waits for the one callback of one login. The first callback that has the state takes it; others are
// told off and change nothing.
type listener struct {
	redirectURI string
	host        string // what the Host header must be
	path        string
	state       [sha256.Size]byte
	server      *http.Server
	hits        chan hit
	failed      chan error

	mu    sync.Mutex
	taken bool
	wrong int

	serving sync.WaitGroup
}

// hit is the callback and the way to its page.
type hit struct {
	callback oidc.Callback
	outcome  chan error
}

// answer shows the person how it ended.
func (h hit) answer(err error) { h.outcome <- err }

// listen opens the loopback listener of a redirect. For localhost, which may resolve to either, both loopback
// addresses are taken, so that no other program can have the other one.
func listen(ctx context.Context, redirect oidc.Redirect, state string) (*listener, error) {
	sockets, port, err := openSockets(ctx, redirect)
	if err != nil {
		return nil, err
	}
	l := &listener{
		host: net.JoinHostPort(redirect.Host, strconv.Itoa(port)), path: redirect.Path,
		state: sha256.Sum256([]byte(state)),
		hits:  make(chan hit, 1), failed: make(chan error, len(sockets)+1),
	}
	l.redirectURI = "http://" + l.host + l.path
	l.server = &http.Server{
		Handler: l, ReadTimeout: 10 * time.Second, WriteTimeout: answerTime + 10*time.Second,
		MaxHeaderBytes: 32 << 10, ErrorLog: log.New(io.Discard, "", 0),
	}
	l.server.SetKeepAlivesEnabled(false)
	for _, socket := range sockets {
		l.serving.Go(func() {
			if err := l.server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
				l.failed <- fmt.Errorf("listen for the login's answer: %w", err)
			}
		})
	}
	return l, nil
}

func openSockets(ctx context.Context, redirect oidc.Redirect) ([]net.Listener, int, error) {
	ports := redirect.Ports
	if len(ports) == 0 {
		ports = []int{0}
	}
	var errs []error
	for _, port := range ports {
		sockets, err := openPort(ctx, redirect.Host, port)
		if err == nil {
			return sockets, sockets[0].Addr().(*net.TCPAddr).Port, nil
		}
		errs = append(errs, err)
	}
	return nil, 0, fmt.Errorf("no port for the login's answer is free: %w", errors.Join(errs...))
}

func openPort(ctx context.Context, host string, port int) ([]net.Listener, error) {
	first := host
	if host == "localhost" {
		first = "127.0.0.1"
	}
	var config net.ListenConfig
	socket, err := config.Listen(ctx, "tcp", net.JoinHostPort(first, strconv.Itoa(port)))
	if err != nil || host != "localhost" {
		return []net.Listener{socket}, err
	}
	port = socket.Addr().(*net.TCPAddr).Port
	second, err := config.Listen(ctx, "tcp", net.JoinHostPort("::1", strconv.Itoa(port)))
	switch {
	case err == nil:
		return []net.Listener{socket, second}, nil
	case neterr.Is(err, syscall.EADDRINUSE): // and not a machine without IPv6
		return nil, errors.Join(err, socket.Close())
	}
	return []net.Listener{socket}, nil // no IPv6 here
}

// wait returns the callback that has the state, or why there is none.
func (l *listener) wait(ctx context.Context) (hit, error) {
	select {
	case h := <-l.hits:
		return h, nil
	case err := <-l.failed:
		return hit{}, err
	case <-ctx.Done():
		return hit{}, context.Cause(ctx)
	}
}

// close stops listening, lets a page that is being answered finish, and waits for the goroutines.
func (l *listener) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if l.server.Shutdown(ctx) != nil {
		_ = l.server.Close()
	}
	l.serving.Wait()
}

// ServeHTTP takes the callback. What is not exactly it is refused before it is looked at: another Host is a web
// page that has a name resolve to this machine (DNS rebinding).
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Host != l.host:
		showPage(w, http.StatusMisdirectedRequest, outcome{Title: "Not here", Text: "This address is only for a login's answer."})
	case r.URL.Path != l.path:
		showPage(w, http.StatusNotFound, outcome{Title: "Nothing here", Text: "This address is only for a login's answer."})
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		showPage(w, http.StatusMethodNotAllowed, outcome{Title: "Not like this", Text: "The login's answer comes as a GET request."})
	default:
		l.callback(w, r)
	}
}

func (l *listener) callback(w http.ResponseWriter, r *http.Request) {
	cb, err := oidc.ParseCallback(r.URL.RawQuery)
	if err != nil || !l.stateMatches(cb.State) {
		l.countWrong()
		showPage(w, http.StatusBadRequest, outcome{Title: "Not this login", Text: "This answer does not belong to the login that is waiting. If you started a new one, use its page."})
		return
	}
	if !l.take() {
		showPage(w, http.StatusConflict, outcome{Title: "Already used", Text: "This login's answer was already taken. You can close this page."})
		return
	}
	h := hit{callback: cb, outcome: make(chan error, 1)}
	l.hits <- h
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case err := <-h.outcome:
		showPage(w, statusOf(err), outcomeOf(err))
	case <-timer.C:
		showPage(w, http.StatusGatewayTimeout, outcome{Title: "Still working", Text: "The login takes long. See the terminal for how it ends."})
	case <-r.Context().Done(): // the person closed the page; the login goes on
	}
}

// stateMatches compares hashes, so that neither content nor length shows in the time.
func (l *listener) stateMatches(state string) bool {
	got := sha256.Sum256([]byte(state))
	return subtle.ConstantTimeCompare(got[:], l.state[:]) == 1
}

func (l *listener) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.taken
	l.taken = true
	return first
}

// countWrong ends the login when something on this machine keeps guessing. A stray page of an older login must
// not: with a configured port its answers come here too.
func (l *listener) countWrong() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrong++; l.wrong == maxWrongHits {
		l.failed <- errors.New("too many wrong answers came in for this login; something on this machine interferes")
	}
}

// remoteHint helps who sits at another machine: the answer must reach this one's loopback address.
func (l *listener) remoteHint(stepUp bool) string {
	if os.Getenv("SSH_CONNECTION") == "" {
		return ""
	}
	_, port, _ := net.SplitHostPort(l.host)
	instead := "use --device-code, or "
	if stepUp {
		instead = ""
	}
	return fmt.Sprintf("From another machine: %sforward the port first with `ssh -L %s:127.0.0.1:%s`.\n", instead, port, port)
}
