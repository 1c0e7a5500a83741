package httpproxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/internal/localnet/localnettest"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var services = []wire.Service{
	{Name: "wiki", Kind: wire.KindTCP, Hostnames: []string{"wiki.corp.example"}, Port: 80, Allowed: true},
	{Name: "wiki-tls", Kind: wire.KindTCP, Hostnames: []string{"wiki.corp.example"}, Port: 443, Allowed: true},
	{Name: "dns", Kind: wire.KindUDP, Hostnames: []string{"dns.corp.example"}, Port: 53, Allowed: true},
	{Name: "lab", Kind: wire.KindTCP, Allowed: true,
		Networks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("fd00:20::/32")},
		Ports:    []wire.PortRange{{First: 80, Last: 80}, {First: 8000, Last: 8999}}},
}

func start(t testing.TB, dial DialFunc) *Server {
	t.Helper()
	s, err := Listen(Config{Listen: "127.0.0.1:0", Dial: dial, Logger: testenv.Logger(t),
		Services: func() []wire.Service { return services }})
	if err != nil {
		t.Fatal(err)
	}
	localnettest.Serve(t, s.Serve)
	return s
}

func raw(t testing.TB, s *Server, text string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn := localnettest.Connect(t, s.Addr(), text)
	return conn, bufio.NewReader(conn)
}

func TestConnectBehavesLikeTCP(t *testing.T) {
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		accepted := make(chan *net.TCPConn, 1)
		s := start(t, localnettest.Pairs(t, func(peer *net.TCPConn) { accepted <- peer }))
		conn, _ := raw(t, s, "CONNECT wiki.corp.example:80 HTTP/1.1\r\nHost: wiki.corp.example:80\r\n\r\n")
		want := "HTTP/1.1 200 Connection established\r\n\r\n"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("answer %q, %v", got, err)
		}
		return conn.(*net.TCPConn), <-accepted
	})
}

// What a program sends right behind CONNECT reaches the service.
func TestConnectKeepsEarlyBytes(t *testing.T) {
	received := make(chan string, 1)
	ln, err := localnet.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			received <- err.Error()
			return
		}
		defer conn.Close()
		data, _ := io.ReadAll(conn)
		received <- string(data)
	}()
	s := start(t, localnettest.To("tcp", ln.Addr().String(), make(chan wire.Target, 1)))
	conn, r := raw(t, s, "CONNECT wiki:80 HTTP/1.1\r\nHost: wiki:80\r\n\r\nearly")
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Fatalf("answer %q, %v", line, err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if got := <-received; got != "early" {
		t.Errorf("the service received %q", got)
	}
}

func TestRefusalsAreExplained(t *testing.T) {
	tests := []struct {
		err    error
		status int
		want   []string
	}{
		{&wire.Refusal{Code: wire.CodeDenied, Reason: "Sales has its own wiki.", Remedy: "Ask it-help.", Reference: "K7Q2"}, 403, []string{"denied", "Sales has its own wiki.", "Ask it-help.", "K7Q2"}},
		{&wire.Refusal{Code: wire.CodeNoSuchService}, 403, []string{"no service of this name", "culvert services"}},
		{&wire.Refusal{Code: wire.CodeRefused, Reason: "connection refused"}, 502, []string{"refused"}},
		{&wire.Refusal{Code: wire.CodeTimedOut}, 504, []string{"timed_out"}},
		{&wire.Refusal{Code: wire.CodeLimit}, 503, []string{"limit"}},
		{errors.New("no connection to the gateway"), 502, []string{"no connection to the gateway"}},
	}
	for _, tt := range tests {
		s := start(t, localnettest.Refuse(tt.err))
		for _, request := range []string{
			"CONNECT wiki.corp.example:80 HTTP/1.1\r\nHost: wiki.corp.example:80\r\n\r\n",
			"GET http://wiki.corp.example/ HTTP/1.1\r\nHost: wiki.corp.example\r\n\r\n",
		} {
			_, r := raw(t, s, request)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != tt.status {
				t.Errorf("%v: status %d, want %d", tt.err, resp.StatusCode, tt.status)
			}
			for _, want := range append(tt.want, "wiki.corp.example:80") {
				if !strings.Contains(string(body), want) {
					t.Errorf("%v: %.8s… body %q lacks %q", tt.err, request, body, want)
				}
			}
			if !strings.HasPrefix(resp.Header.Get("Proxy-Status"), "culvert; error=") {
				t.Errorf("Proxy-Status %q", resp.Header.Get("Proxy-Status"))
			}
		}
	}
}

// A hostile host name is inert in an explanation.
func TestRefusalsAreNoMarkup(t *testing.T) {
	s := start(t, localnettest.Refuse(&wire.Refusal{Code: wire.CodeDenied, Reason: "<script>alert(1)</script>"}))
	_, r := raw(t, s, "GET http://wiki/ HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/plain") || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("content type %q, nosniff %q", ct, resp.Header.Get("X-Content-Type-Options"))
	}
}

func TestForwardsPlainHTTP(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s host=%s body=%s fwd=%q conn=%q", r.Method, r.URL, r.Host, body,
			r.Header.Get("X-Forwarded-For"), r.Header.Get("Proxy-Connection"))
	}))
	defer web.Close()
	targets := make(chan wire.Target, 1)
	s := start(t, localnettest.To("tcp", web.Listener.Addr().String(), targets))
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: s.Addr().String()})}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	resp, err := client.Post("http://wiki.corp.example/page?q=1", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if want := `POST /page?q=1 host=wiki.corp.example body=hello fwd="" conn=""`; string(body) != want {
		t.Errorf("body %q\nwant %q", body, want)
	}
	if got := <-targets; got != wire.HostTarget(wire.KindTCP, "wiki.corp.example", 80) {
		t.Errorf("target %+v", got)
	}
}

// Threat "identity headers spoofed, smuggling" (oauth2-proxy CVE-2025-64484):
// whatever a program sends, the service sees one request, or the program 400.
func TestThreatRequestSmuggling(t *testing.T) {
	requests := []string{
		"POST http://wiki/ HTTP/1.1\r\nHost: wiki\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: wiki\r\n\r\n",
		"POST http://wiki/ HTTP/1.1\r\nHost: wiki\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: wiki\r\n\r\n",
		"POST http://wiki/ HTTP/1.1\r\nHost: wiki\r\nTransfer-Encoding: xchunked\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: wiki\r\n\r\n",
		"POST http://wiki/ HTTP/1.1\r\nHost: wiki\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: wiki\r\n\r\n",
		"GET http://wiki/ HTTP/1.1\nHost: wiki\nX: a\rGET /smuggled HTTP/1.1\n\n",
		"POST http://wiki/ HTTP/1.1\r\nHost: wiki\r\nTransfer-Encoding: chunked\r\n\r\n5\nGET /\r\n0\r\n\r\n",
		"GET http://wiki/ HTTP/1.1\r\nHost: other\r\nHost: wiki\r\n\r\n",
	}
	for _, request := range requests {
		heard := make(chan []byte, 4)
		s := start(t, localnettest.Pairs(t, func(peer *net.TCPConn) { go answerOnce(peer, heard) }))
		conn, r := raw(t, s, request)
		_ = conn.(*net.TCPConn).CloseWrite()
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			continue // the proxy hung up: nothing was forwarded as something else
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode == 400 || resp.StatusCode == 501 || resp.StatusCode == 502 {
			continue
		}
		text := <-heard
		if n := bytes.Count(text, []byte(" HTTP/1.1\r\n")); n != 1 || bytes.Contains(text, []byte("smuggled HTTP")) {
			t.Errorf("request %q\nreached the service as %q", request, text)
		}
	}
}

// answerOnce reads one request, answers it and reports every byte that came
// until the connection ended.
func answerOnce(conn net.Conn, heard chan<- []byte) {
	defer conn.Close()
	var all bytes.Buffer
	_ = conn.SetDeadline(time.Now().Add(localnettest.Patience))
	r := bufio.NewReader(io.TeeReader(conn, &all))
	if req, err := http.ReadRequest(r); err == nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
	}
	_, _ = io.Copy(io.Discard, r)
	heard <- all.Bytes()
}

// Threat "local API rebinding" (Tailscale CVE-2022-41924): a page that reaches
// the proxy by a name of its own learns nothing.
func TestThreatForeignHostAndOrigin(t *testing.T) {
	s := start(t, localnettest.Refuse(errors.New("unreached")))
	tests := []struct {
		header string
		status int
	}{
		{"Host: " + s.Addr().String(), 200},
		{"Host: evil.example", 403},
		{"Host: evil.example:" + strings.Split(s.Addr().String(), ":")[1], 403},
		{"Host: 127.0.0.1:1", 403},
		{"Host: " + s.Addr().String() + "\r\nOrigin: http://evil.example", 403},
	}
	for _, tt := range tests {
		_, r := raw(t, s, "GET /proxy.pac HTTP/1.1\r\n"+tt.header+"\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("%q: %v, %v; want %d", tt.header, resp, err, tt.status)
		}
	}
}

// The script decides as a browser would run it, in a real engine.
func TestPACSendsABrowserOnlyWhereItShould(t *testing.T) {
	node := testenv.NeedTool(t, "node")
	cases := []struct{ url, host, want string }{
		{"http://wiki.corp.example/", "wiki.corp.example", "PROXY 127.0.0.1:3128"},
		{"https://wiki.corp.example/", "wiki.corp.example", "PROXY 127.0.0.1:3128"},
		{"http://WIKI.corp.example./", "WIKI.corp.example.", "PROXY 127.0.0.1:3128"},
		{"http://wiki.corp.example:8080/", "wiki.corp.example", "DIRECT"},
		{"http://evilwiki.corp.example/", "evilwiki.corp.example", "DIRECT"},
		{"http://wiki.corp.example.evil.example/", "wiki.corp.example.evil.example", "DIRECT"},
		{"http://dns.corp.example:53/", "dns.corp.example", "DIRECT"},
		{"http://10.20.3.4/", "10.20.3.4", "PROXY 127.0.0.1:3128"},
		{"http://10.20.3.4:8500/x", "10.20.3.4", "PROXY 127.0.0.1:3128"},
		{"http://10.20.3.4:22/", "10.20.3.4", "DIRECT"},
		{"http://10.21.3.4/", "10.21.3.4", "DIRECT"},
		{"http://[fd00:20::1]/", "fd00:20::1", "PROXY 127.0.0.1:3128"},
		{"http://[fd00:21::1]/", "[fd00:21::1]", "DIRECT"},
		{"http://[fd00:20::1]:8000/", "[fd00:20::1]", "PROXY 127.0.0.1:3128"},
		{"https://example.org/", "example.org", "DIRECT"},
		{"https://constructor/", "constructor", "DIRECT"},
		{"http://999.20.3.4/", "999.20.3.4", "DIRECT"},
	}
	script := PAC(services, "127.0.0.1:3128")
	var calls strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&calls, "out.push(FindProxyForURL(%q, %q));\n", c.url, c.host)
	}
	file := filepath.Join(t.TempDir(), "pac.js")
	text := script + "\nvar out = [];\n" + calls.String() + "console.log(JSON.stringify(out));\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	printed, err := exec.Command(node, file).CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, printed)
	}
	var got []string
	if err := json.Unmarshal(printed, &got); err != nil || len(got) != len(cases) {
		t.Fatalf("node printed %s, %v", printed, err)
	}
	for i, c := range cases {
		if got[i] != c.want {
			t.Errorf("%s (%s): %s, want %s", c.url, c.host, got[i], c.want)
		}
	}
}

func TestPACStaysAScriptWhateverAServiceIsCalled(t *testing.T) {
	script := PAC([]wire.Service{{Kind: wire.KindTCP, Hostnames: []string{"</script>\"; alert(1); //\u2028"}, Port: 80}}, "127.0.0.1:1")
	if strings.Contains(script, "</script>") || strings.Contains(script, "\u2028") {
		t.Errorf("a name left its string: %.200s", script)
	}
}

func TestCurlThroughTheProxy(t *testing.T) {
	curl := testenv.NeedTool(t, "curl")
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "wiki for ", r.Host) }))
	defer web.Close()
	targets := make(chan wire.Target, 2)
	s := start(t, localnettest.To("tcp", web.Listener.Addr().String(), targets))
	for _, args := range [][]string{{}, {"--proxytunnel"}} {
		args = append(args, "--silent", "--max-time", "20", "--proxy", "http://"+s.Addr().String(), "http://wiki.corp.example/")
		out, err := exec.Command(curl, args...).CombinedOutput()
		if err != nil || string(out) != "wiki for wiki.corp.example" {
			t.Errorf("curl %v: %q, %v", args, out, err)
		}
	}
}

// A body whose end is the connection's end is cut by a reset: the program must not take it for whole.
func TestFaultTruncatedBodyWithoutALength(t *testing.T) {
	heard := make(chan struct{})
	s := start(t, localnettest.Pairs(t, func(peer *net.TCPConn) {
		go func() {
			if _, err := http.ReadRequest(bufio.NewReader(peer)); err != nil {
				return
			}
			io.WriteString(peer, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhalf")
			<-heard // what was received and not read is lost with a reset
			peer.SetLinger(0)
			peer.Close()
		}()
	}))
	_, in := raw(t, s, "GET http://wiki.corp.example/ HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, len("half"))); err != nil {
		t.Fatal(err)
	}
	close(heard)
	if rest, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("half, and %q behind it, looked whole", rest)
	}
}

// TestThreatBuiltInServicesAreNotOffered: a page in the browser must not reach the administration of a gateway through the
// proxy (admin without authorization, NetBird GHSA-rxmp).
func TestThreatBuiltInServicesAreNotOffered(t *testing.T) {
	s := start(t, func(_ context.Context, target wire.Target) (relay.Conn, error) {
		t.Errorf("asked for %s", target)
		return nil, errors.New("asked")
	})
	for _, request := range []string{
		"CONNECT culvert-admin:80 HTTP/1.1\r\nHost: culvert-admin:80\r\n\r\n",
		"GET http://CULVERT-ADMIN/v1/whoami HTTP/1.1\r\nHost: CULVERT-ADMIN\r\n\r\n",
	} {
		_, r := raw(t, s, request)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%.20s: %s", request, resp.Status)
		}
	}
}
