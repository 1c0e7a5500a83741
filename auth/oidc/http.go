package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	httpTimeout   = 15 * time.Second
	maxBody       = 1 << 20
	maxHeader     = 64 << 10
	maxRedirects  = 3
	idleTimeout   = 30 * time.Second
	handshakeTime = 10 * time.Second
)

// errTooLarge ends the reading of a body that is larger than any answer of a provider needs to be.
var errTooLarge = fmt.Errorf("the answer is larger than %d KiB", maxBody>>10)

// HTTPOptions are the optional parts of [NewHTTPClient].
type HTTPOptions struct {
	// RootCAs verify the provider's certificate. Default: the system's.
	RootCAs *x509.CertPool
	// Resolver looks names up. Default: net.DefaultResolver.
	Resolver *net.Resolver
	// Proxy chooses an outbound proxy. Default: http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
}

// NewHTTPClient returns a client for the provider at issuer. A request takes at most 15 s, a body has at most
// 1 MiB after decompression, a header 64 KiB. At most 3 redirects are followed, never from https to http, never
// with a body or credentials.
//
// No connection is made to a loopback, private, link-local or metadata address, unless the issuer itself is at
// that kind of address. That is checked on the address being dialed, after resolution, so that a name cannot
// change its meaning in between. Which kind is the issuer's own is learned once, from its first connection.
// Link-local and metadata addresses are reached only by an issuer that names them literally.
// Through an outbound proxy names are resolved by the proxy; then only literal addresses can be checked.
func NewHTTPClient(issuer string, opts HTTPOptions) *http.Client {
	g := newGuard(issuer, opts)
	transport := &http.Transport{
		Proxy:                  g.chooseProxy,
		DialContext:            g.dial,
		TLSClientConfig:        &tls.Config{RootCAs: opts.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTime,
		ResponseHeaderTimeout:  httpTimeout,
		MaxResponseHeaderBytes: maxHeader,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    4,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport:     &cappedTransport{inner: transport},
		Timeout:       httpTimeout,
		CheckRedirect: checkRedirect,
	}
}

// withoutRedirects is the same client for requests that carry a code, a token or a secret.
func withoutRedirects(c *http.Client) *http.Client {
	clone := *c
	clone.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &clone
}

func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("refused the redirect from https to %s", cleanText(req.URL.Scheme, 20))
	case req.URL.Scheme != "https" && req.URL.Scheme != "http":
		return fmt.Errorf("refused the redirect to %s", cleanText(req.URL.Scheme, 20))
	}
	return nil
}

// cappedTransport bounds what can be read from a body.
type cappedTransport struct{ inner *http.Transport }

func (t *cappedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.inner.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > maxBody {
		_ = resp.Body.Close()
		return nil, errTooLarge
	}
	resp.Body = &cappedBody{inner: resp.Body, left: maxBody}
	return resp, nil
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (t *cappedTransport) CloseIdleConnections() { t.inner.CloseIdleConnections() }

// cappedBody fails once more than left bytes were read: cutting in silence could leave valid JSON.
type cappedBody struct {
	inner io.ReadCloser
	left  int
}

func (b *cappedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.inner.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

func (b *cappedBody) Close() error { return b.inner.Close() }

// addressKind is what an address means for a server that is told where to connect.
type addressKind int

const (
	kindPublic addressKind = iota
	kindPrivate
	kindLoopback
	kindForbidden // link-local, metadata, unspecified, multicast
)

func (k addressKind) String() string {
	return [...]string{"public", "private", "loopback", "link-local or metadata"}[k]
}

// metadataAddrs are the cloud metadata services outside of link-local: Alibaba, AWS over IPv6, Oracle, and
// Azure's wire server.
var metadataAddrs = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("fd00:ec2::254"),
	netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("168.63.129.16"),
}

var (
	sharedRange = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	siteLocal   = netip.MustParsePrefix("fec0::/10")
	nat64       = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	nat64Local  = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour   = netip.MustParsePrefix("2002::/16")
)

// kindOf looks through the IPv6 forms of an IPv4 address.
func kindOf(addr netip.Addr) addressKind {
	addr = embedded(addr.Unmap().WithZone(""))
	for _, meta := range metadataAddrs {
		if addr == meta {
			return kindForbidden
		}
	}
	switch {
	case addr.IsLoopback():
		return kindLoopback
	case addr.IsLinkLocalUnicast(), addr.IsMulticast(), addr.IsUnspecified(), !addr.IsValid(),
		thisNetwork.Contains(addr), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return kindForbidden
	case addr.IsPrivate(), sharedRange.Contains(addr), siteLocal.Contains(addr), nat64Local.Contains(addr):
		return kindPrivate
	}
	return kindPublic
}

func embedded(addr netip.Addr) netip.Addr {
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixToFour.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

// guard decides which addresses the client of one issuer may connect to. Safe for concurrent use.
type guard struct {
	issuerHost string
	proxy      func(*http.Request) (*url.URL, error)
	dialer     net.Dialer

	mu      sync.Mutex
	learned bool
	own     addressKind
	proxies map[string]bool // host:port of proxies that were chosen
}

func newGuard(issuer string, opts HTTPOptions) *guard {
	g := &guard{proxy: opts.Proxy, proxies: map[string]bool{}}
	if g.proxy == nil {
		g.proxy = http.ProxyFromEnvironment
	}
	if u, err := url.Parse(issuer); err == nil {
		g.issuerHost = strings.ToLower(u.Hostname())
	}
	if addr, err := netip.ParseAddr(g.issuerHost); err == nil {
		g.learned, g.own = true, kindOf(addr)
	}
	g.dialer = net.Dialer{Timeout: handshakeTime, Resolver: opts.Resolver}
	return g
}

func (g *guard) chooseProxy(req *http.Request) (*url.URL, error) {
	proxy, err := g.proxy(req)
	if err != nil || proxy == nil {
		return proxy, err
	}
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		if err := g.check(req.URL.Hostname(), addr); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.proxies[hostPort(proxy)] = true
	return proxy, nil
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if g.isProxy(address) {
		return g.dialer.DialContext(ctx, network, address)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	dialer := g.dialer
	dialer.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(resolved)
		if err != nil {
			return fmt.Errorf("dial %s: %w", host, err)
		}
		return g.check(host, ap.Addr())
	}
	conn, err := dialer.DialContext(ctx, network, address)
	if err == nil {
		g.learn(host, conn.RemoteAddr())
	}
	return conn, err
}

func (g *guard) isProxy(address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.proxies[address]
}

// errAddress is wrapped by every refusal of an address.
var errAddress = errors.New("refused address")

func (g *guard) check(host string, addr netip.Addr) error {
	kind := kindOf(addr)
	if kind == kindPublic {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	isIssuer := strings.EqualFold(host, g.issuerHost)
	switch {
	case g.learned && kind == g.own && (kind != kindForbidden || isIssuer):
		return nil
	case !g.learned && isIssuer && kind != kindForbidden:
		return nil
	}
	return fmt.Errorf("%w: %s leads to the %s address %s, and the issuer is not there", errAddress, cleanText(host, 100), kind, addr)
}

// learn remembers what kind of address the issuer has, from its first connection.
func (g *guard) learn(host string, remote net.Addr) {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || !strings.EqualFold(host, g.issuerHost) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.learned {
		g.learned, g.own = true, kindOf(tcp.AddrPort().Addr())
	}
}
