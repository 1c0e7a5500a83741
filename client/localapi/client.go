package localapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/localsock"
	"github.com/culvert-vpn/culvert/internal/neterr"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Client talks to a running client. It is safe for concurrent use and holds
// nothing open between calls.
type Client struct {
	path     string
	http     *http.Client
	patience time.Duration // for an answer that needs nobody else
}

// defaultPatience is far more than a client that is well needs to say how it is.
const defaultPatience = 10 * time.Second

// NewClient returns a client for the socket at path. Every call returns an
// error that wraps ErrNotRunning when nobody listens there.
func NewClient(path string) *Client {
	c := &Client{path: path, patience: defaultPatience}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return c
}

// Running reports whether somebody listens on the socket.
func (c *Client) Running(ctx context.Context) bool {
	conn, err := c.dial(ctx)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if _, err := os.Lstat(c.path); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	conn, err := localsock.Dial(ctx, c.path)
	if neterr.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning // what a crash left behind
	}
	if err != nil {
		return nil, fmt.Errorf("ask the running client: %w", err)
	}
	return conn, nil
}

// ErrSilent says that the running client took the question and gave no answer.
var ErrSilent = errors.New("the running client does not answer; stop it and start it again")

// promptly is call for what is answered at once.
func (c *Client) promptly(ctx context.Context, method, path string, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience, ErrSilent)
	defer cancel()
	err := c.call(ctx, method, path, into)
	if err != nil && errors.Is(context.Cause(ctx), ErrSilent) {
		return ErrSilent
	}
	return err
}

// Status returns the snapshot of now.
func (c *Client) Status(ctx context.Context) (status.Status, error) {
	var s status.Status
	err := c.promptly(ctx, http.MethodGet, "/v1/status", &s)
	return s, err
}

// Watch yields the snapshot of now and then one after each change. An error is
// the last thing that it yields; ErrNotRunning tells that the client ended.
func (c *Client) Watch(ctx context.Context) iter.Seq2[status.Status, error] {
	return func(yield func(status.Status, error) bool) {
		reply, err := c.request(ctx, http.MethodGet, "/v1/status?watch=1")
		if err != nil {
			yield(status.Status{}, err)
			return
		}
		defer reply.Body.Close()
		for decoder := json.NewDecoder(reply.Body); ; {
			var s status.Status
			if err := decoder.Decode(&s); err != nil {
				yield(s, watchError(ctx, err))
				return
			}
			if !yield(s, nil) {
				return
			}
		}
	}
}

func watchError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), neterr.Is(err, syscall.ECONNRESET):
		return ErrNotRunning
	default:
		return fmt.Errorf("watch the running client: %w", err)
	}
}

// Services returns what the gateway announced last.
func (c *Client) Services(ctx context.Context) ([]wire.Service, error) {
	var msg servicesMessage
	if err := c.promptly(ctx, http.MethodGet, "/v1/services", &msg); err != nil {
		return nil, err
	}
	list := make([]wire.Service, 0, len(msg.Services))
	for _, s := range msg.Services {
		list = append(list, s.wireService())
	}
	return list, nil
}

// Ping measures one round trip from the running client to its gateway.
func (c *Client) Ping(ctx context.Context) (time.Duration, error) {
	var msg pingMessage
	err := c.call(ctx, http.MethodPost, "/v1/ping", &msg)
	return msg.RTT, err
}

// Reload says that the stored login changed.
func (c *Client) Reload(ctx context.Context) error {
	return c.promptly(ctx, http.MethodPost, "/v1/reload", nil)
}

// Down stops the running client and returns when it is gone.
func (c *Client) Down(ctx context.Context) error {
	if err := c.promptly(ctx, http.MethodPost, "/v1/down", nil); err != nil {
		return err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for c.Running(ctx) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the client to stop: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return nil
}

// Open opens a stream through the running client; see Backend.Open. A refusal
// is a *wire.Refusal, a client that is not connected a *status.Error.
func (c *Client) Open(ctx context.Context, target wire.Target, wait bool) (*Stream, error) {
	return c.stream(ctx, "/v1/open", openMessage{target.Kind, target.Service, target.Host, target.Port, wait}, target.Kind)
}

// OpenBuiltIn opens a stream to a service inside the gateway; see Backend.OpenBuiltIn. Errors are those of Open.
func (c *Client) OpenBuiltIn(ctx context.Context, name string) (*Stream, error) {
	return c.stream(ctx, "/v1/builtin", builtInMessage{name}, wire.KindTCP)
}

func (c *Client) stream(ctx context.Context, path string, msg any, kind wire.Kind) (*Stream, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	in, err := upgrade(conn, path, msg)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return newStream(conn, in, kind), nil
}

// upgrade sends the request and reads the answer; what it returns holds the
// stream's first bytes, if they came along.
func upgrade(conn net.Conn, path string, msg any) (*bufio.Reader, error) {
	body, err := json.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+Host+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", upgradeName)
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the running client: %w", err)
	}
	in := bufio.NewReaderSize(conn, readBuffer)
	reply, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, fmt.Errorf("answer of the running client: %w", err)
	}
	if reply.StatusCode != http.StatusSwitchingProtocols {
		defer reply.Body.Close()
		return nil, replyError(reply)
	}
	return in, nil
}

func (c *Client) call(ctx context.Context, method, path string, into any) error {
	reply, err := c.request(ctx, method, path)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(reply.Body, 16<<20)).Decode(into); err != nil {
		return fmt.Errorf("answer of the running client: %w", err)
	}
	return nil
}

// request returns an answer that is 2xx, or the failure as an error.
func (c *Client) request(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+Host+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := c.http.Do(req)
	if err != nil {
		if errors.Is(err, ErrNotRunning) {
			return nil, ErrNotRunning
		}
		return nil, fmt.Errorf("ask the running client: %w", err)
	}
	if reply.StatusCode/100 != 2 {
		defer reply.Body.Close()
		return nil, replyError(reply)
	}
	return reply, nil
}

func replyError(reply *http.Response) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(reply.Body, 1<<20)).Decode(&f); err != nil {
		return fmt.Errorf("the running client answered %s", reply.Status)
	}
	return f.err()
}
