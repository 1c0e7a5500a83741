package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

// DialFunc opens a plain connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// ProxyFunc returns the outbound proxy for a URL, nil for none.
type ProxyFunc func(*url.URL) (*url.URL, error)

// EnvironmentProxy reads HTTPS_PROXY and NO_PROXY (also in lower case), as curl
// and Go's HTTP client do. Loopback addresses are never proxied.
func EnvironmentProxy() ProxyFunc { return httpproxy.FromEnvironment().ProxyFunc() }

// dialTimeout bounds one TCP connection. It is short, since a connection that
// was begun while the gateway was away must not delay the one that works.
const dialTimeout = 5 * time.Second

// proxyTimeout bounds the dialog with an outbound proxy.
const proxyTimeout = 15 * time.Second

// dialer reaches the tunnel's address, through an outbound proxy where one is
// configured.
type dialer struct {
	dial  DialFunc
	proxy ProxyFunc
	// proxyTLS verifies an https:// proxy; nil means the system's roots.
	proxyTLS *tls.Config
}

// ProxyError says that the outbound proxy, and not the gateway, is the trouble.
type ProxyError struct {
	Proxy  string // host:port
	Status int    // of its answer to CONNECT; 0 when there was none
	Err    error
}

func (e *ProxyError) Error() string {
	switch {
	case e.Status == http.StatusProxyAuthRequired:
		return fmt.Sprintf("the proxy %s wants a user name and password", e.Proxy)
	case e.Status != 0:
		return fmt.Sprintf("the proxy %s refused the connection: %d %s", e.Proxy, e.Status, http.StatusText(e.Status))
	default:
		return fmt.Sprintf("the proxy %s: %v", e.Proxy, e.Err)
	}
}

func (e *ProxyError) Unwrap() error { return e.Err }

// proxyFor returns the proxy for an address, nil for none.
func (d *dialer) proxyFor(address string) (*url.URL, error) {
	if d.proxy == nil {
		return nil, nil
	}
	u, err := d.proxy(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, fmt.Errorf("read the proxy settings: %w", err)
	}
	return u, nil
}

// shownProxy names the proxy for an address without its password; empty for none.
func (d *dialer) shownProxy(address string) string {
	via, err := d.proxyFor(address)
	if err != nil || via == nil {
		return ""
	}
	return via.Redacted()
}

// connect returns a connection to address; bytes on it reach the gateway.
func (d *dialer) connect(ctx context.Context, address string) (net.Conn, error) {
	via, err := d.proxyFor(address)
	if err != nil {
		return nil, err
	}
	if via == nil {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return d.dial(ctx, "tcp", address)
	}
	ctx, cancel := context.WithTimeout(ctx, proxyTimeout)
	defer cancel()
	conn, err := d.through(ctx, via, address)
	var known *ProxyError
	if err != nil && !errors.As(err, &known) {
		err = &ProxyError{Proxy: proxyAddress(via), Err: err}
	}
	return conn, err
}

func (d *dialer) through(ctx context.Context, via *url.URL, address string) (net.Conn, error) {
	switch via.Scheme {
	case "socks5", "socks5h":
		return d.throughSOCKS(ctx, via, address)
	case "http", "https", "":
	default:
		return nil, fmt.Errorf("unknown kind of proxy %q; http, https and socks5 work", via.Scheme)
	}
	conn, err := d.dial(ctx, "tcp", proxyAddress(via))
	if err != nil {
		return nil, err
	}
	if via.Scheme == "https" {
		conn = tls.Client(conn, d.tlsFor(via))
	}
	tunnel, err := connectThrough(ctx, conn, via, address)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return tunnel, nil
}

func (d *dialer) throughSOCKS(ctx context.Context, via *url.URL, address string) (net.Conn, error) {
	socks, err := proxy.FromURL(via, forwardDialer(d.dial))
	if err != nil {
		return nil, err
	}
	return socks.(proxy.ContextDialer).DialContext(ctx, "tcp", address)
}

// forwardDialer is a DialFunc in the form that x/net/proxy takes.
type forwardDialer DialFunc

func (f forwardDialer) Dial(network, address string) (net.Conn, error) {
	return f(context.Background(), network, address)
}

func (f forwardDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return f(ctx, network, address)
}

func (d *dialer) tlsFor(via *url.URL) *tls.Config {
	conf := &tls.Config{}
	if d.proxyTLS != nil {
		conf = d.proxyTLS.Clone()
	}
	conf.ServerName = via.Hostname()
	conf.NextProtos = []string{"http/1.1"}
	return conf
}

// proxyAddress adds the port that the scheme implies.
func proxyAddress(via *url.URL) string {
	if via.Port() != "" {
		return via.Host
	}
	port := map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[via.Scheme]
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(via.Hostname(), port)
}

// maxProxyAnswer bounds what a proxy may say before the tunnel is there.
const maxProxyAnswer = 64 << 10

// connectThrough asks for a tunnel (RFC 9110 section 9.3.6). ctx bounds it.
func connectThrough(ctx context.Context, conn net.Conn, via *url.URL, address string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	req.Header.Set("User-Agent", "culvert")
	if user := via.User; user != nil {
		password, _ := user.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(io.LimitReader(conn, maxProxyAnswer), 4096)
	reply, err := http.ReadResponse(in, req)
	if err != nil {
		return nil, fmt.Errorf("its answer to CONNECT: %w", err)
	}
	if reply.StatusCode/100 != 2 {
		_ = reply.Body.Close()
		return nil, &ProxyError{Proxy: proxyAddress(via), Status: reply.StatusCode}
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if in.Buffered() > 0 {
		return &leftoverConn{Conn: conn, in: in}, nil
	}
	return conn, nil
}

// leftoverConn returns first what arrived together with the proxy's answer. In
// TLS the client speaks first, so that this is rare.
type leftoverConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *leftoverConn) Read(p []byte) (int, error) {
	if c.in.Buffered() > 0 {
		return c.in.Read(p[:min(len(p), c.in.Buffered())])
	}
	return c.Conn.Read(p)
}
