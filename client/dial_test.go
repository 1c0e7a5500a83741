package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/tunnel"
)

// lineServer sends "hello" to whoever connects.
func lineServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello")
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func dialerVia(via *url.URL) *dialer {
	return &dialer{
		dial:  (&net.Dialer{}).DialContext,
		proxy: func(*url.URL) (*url.URL, error) { return via, nil },
	}
}

func readAll(t *testing.T, d *dialer, address string) string {
	t.Helper()
	conn, err := d.connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

func TestDialDirectAndThroughProxies(t *testing.T) {
	address := lineServer(t)
	calls := make(chan string, 8)
	plainProxy := connectProxy(t, calls)
	plainProxy.User = url.UserPassword("ada", "secret")
	for name, via := range map[string]*url.URL{"direct": nil, "http": plainProxy} {
		t.Run(name, func(t *testing.T) {
			if got := readAll(t, dialerVia(via), address); got != "hello" {
				t.Errorf("read %q", got)
			}
		})
	}
}

func TestDialThroughTLSProxy(t *testing.T) {
	address := lineServer(t)
	proxy := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		// What the far end says arrives together with the answer.
		_, _ = io.WriteString(rw, "HTTP/1.1 200 OK\r\n\r\nhello from "+r.Host)
		_ = rw.Flush()
	}))
	defer proxy.Close()
	via, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	d := dialerVia(via)
	d.proxyTLS = proxy.Client().Transport.(*http.Transport).TLSClientConfig
	if got := readAll(t, d, address); got != "hello from "+address {
		t.Errorf("read %q", got)
	}
}

func TestDialThroughSOCKS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 1)
	go func() {
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 300)
		_, _ = io.ReadFull(conn, buf[:3]) // version, one method
		_, _ = conn.Write([]byte{5, 0})
		_, _ = io.ReadFull(conn, buf[:5]) // version, connect, reserved, name, length
		n := int(buf[4])
		_, _ = io.ReadFull(conn, buf[:n+2])
		asked <- string(buf[:n])
		_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		_, _ = io.WriteString(conn, "hello")
	}()
	d := dialerVia(&url.URL{Scheme: "socks5h", Host: l.Addr().String()})
	if got := readAll(t, d, "gateway.example:443"); got != "hello" {
		t.Errorf("read %q", got)
	}
	if name := <-asked; name != "gateway.example" {
		t.Errorf("the proxy was asked for %q", name)
	}
}

func TestProxyTrouble(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refusing.Close()
	host := strings.TrimPrefix(refusing.URL, "http://")
	for _, c := range []struct{ via, want string }{
		{"http://" + host, "403 Forbidden"},
		{"http://127.0.0.1:1", "connection refused"},
		{"gopher://" + host, "unknown kind of proxy"},
	} {
		via, err := url.Parse(c.via)
		if err != nil {
			t.Fatal(err)
		}
		_, err = dialerVia(via).connect(t.Context(), "gateway.example:443")
		var trouble *ProxyError
		if !errors.As(err, &trouble) || !strings.Contains(err.Error(), c.want) || proxyRemedy(trouble) == "" {
			t.Errorf("%s: %v", c.via, err)
		}
	}
}

// A proxy that takes the connection and says nothing must not hold an attempt for ever.
func TestSilentProxyIsGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := dialerVia(&url.URL{Scheme: "http", Host: l.Addr().String()}).connect(ctx, "gateway.example:443"); err == nil {
		t.Fatal("a silent proxy connected")
	}
}

func TestEnvironmentProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://user:pw@proxy.example:3128")
	t.Setenv("NO_PROXY", "direct.example,10.0.0.0/8")
	d := &dialer{proxy: EnvironmentProxy()}
	for address, want := range map[string]string{
		"gateway.example:443": "http://user:xxxxx@proxy.example:3128",
		"direct.example:443":  "",
		"10.1.2.3:443":        "",
		"127.0.0.1:443":       "",
	} {
		if got := d.shownProxy(address); got != want {
			t.Errorf("%s goes through %q, want %q", address, got, want)
		}
	}
}

func TestProxyAddress(t *testing.T) {
	for text, want := range map[string]string{
		"http://p": "p:80", "https://p": "p:443", "socks5://p": "p:1080", "http://[::1]": "[::1]:80", "http://p:3128": "p:3128",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := proxyAddress(u); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestRenewAt(t *testing.T) {
	begin := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for _, draw := range []float64{0, 0.5, 0.999} {
		at := renewAt(begin, begin.Add(time.Hour), draw).Sub(begin)
		if at < 37*time.Minute-time.Second || at > 43*time.Minute+time.Second {
			t.Errorf("draw %v: due after %s of an hour", draw, at)
		}
	}
	if at := renewAt(begin, begin, 0.5); at != begin {
		t.Errorf("a certificate without a life is due at %s", at)
	}
}

// A proxy whose answer has no end is given up before it costs memory.
func TestThreatEndlessProxyAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wrote := make(chan int, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		total, _ := io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
		for line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"; err == nil && total < 64<<20; {
			var n int
			n, err = io.WriteString(conn, line)
			total += n
		}
		wrote <- total
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := dialerVia(&url.URL{Scheme: "http", Host: l.Addr().String()}).connect(ctx, "gateway.example:443"); err == nil {
		t.Fatal("an answer without an end connected")
	}
	if n := <-wrote; n > 16<<20 {
		t.Errorf("%d MiB were taken", n>>20)
	}
}

// A balancer with nobody behind it takes the connection and closes it: the person reads that, and who may be at fault.
func TestHandshakeThatIsHungUp(t *testing.T) {
	var c Client
	v := c.explain(nil, fmt.Errorf("connect: %w", fmt.Errorf("%w: %w", tunnel.ErrHandshake, io.EOF)))
	if v.state != status.Reconnecting || v.reason != "the connection was closed during the handshake" || !strings.Contains(v.remedy, "no gateway behind it") {
		t.Errorf("%+v", v)
	}
}
