package socks5

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/proxy"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/internal/localnet/localnettest"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t testing.TB, dial DialFunc) *Server {
	t.Helper()
	s, err := Listen(Config{Listen: "127.0.0.1:0", Dial: dial, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	localnettest.Serve(t, s.Serve)
	return s
}

// raw opens a connection, sends bytes and returns it.
func raw(t testing.TB, s *Server, out ...byte) net.Conn {
	t.Helper()
	return localnettest.Connect(t, s.Addr(), string(out))
}

func TestConnectBehavesLikeTCP(t *testing.T) {
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		accepted := make(chan *net.TCPConn, 1)
		s := start(t, localnettest.Pairs(t, func(peer *net.TCPConn) { accepted <- peer }))
		conn := raw(t, s, append([]byte{5, 1, 0, 5, 1, 0, 3, 4}, "wiki\x00\x50"...)...)
		if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
		return conn.(*net.TCPConn), <-accepted
	})
}

// An independent client reaches names, IPv4 and IPv6, and the target that the
// gateway gets is what the program said.
func TestConnectCarriesNamesAndAddresses(t *testing.T) {
	targets := make(chan wire.Target, 1)
	s := start(t, func(_ context.Context, target wire.Target) (relay.Conn, error) {
		targets <- target
		dialed, peer := relaytest.Pair(t)
		go func() {
			_, _ = io.Copy(peer, peer)
			_ = peer.CloseWrite()
		}()
		return relay.TCP(dialed), nil
	})
	dialer, err := proxy.SOCKS5("tcp", s.Addr().String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]wire.Target{
		"wiki.corp.example:80":   {Kind: wire.KindTCP, Host: "wiki.corp.example", Port: 80},
		"10.20.0.7:22":           {Kind: wire.KindTCP, Host: "10.20.0.7", Port: 22},
		"[fd00::7]:443":          {Kind: wire.KindTCP, Host: "fd00::7", Port: 443},
		"[::ffff:10.0.0.1]:8080": {Kind: wire.KindTCP, Host: "10.0.0.1", Port: 8080},
	} {
		conn, err := dialer.Dial("tcp", addr)
		if err != nil {
			t.Errorf("dial %s: %v", addr, err)
			continue
		}
		if got := <-targets; got != want {
			t.Errorf("%s became %+v, want %+v", addr, got, want)
		}
		_ = conn.SetDeadline(time.Now().Add(localnettest.Patience))
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Error(err)
		}
		if got := make([]byte, 4); true {
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
				t.Errorf("%s: echoed %q, %v", addr, got, err)
			}
		}
		_ = conn.Close()
	}
}

func TestRefusalsBecomeReplies(t *testing.T) {
	refusals := map[reply]error{
		replyNotAllowed:         &wire.Refusal{Code: wire.CodeDenied},
		replyRefused:            fmt.Errorf("open stream: %w", &wire.Refusal{Code: wire.CodeRefused}),
		replyHostUnreachable:    &wire.Refusal{Code: wire.CodeUnreachable},
		replyTTLExpired:         &wire.Refusal{Code: wire.CodeTimedOut},
		replyFailure:            &wire.Refusal{Code: wire.CodeLimit},
		replyNetworkUnreachable: errors.New("no connection to the gateway"),
	}
	for want, refusal := range refusals {
		s := start(t, localnettest.Refuse(refusal))
		conn := raw(t, s, 5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80)
		answer, err := io.ReadAll(conn)
		if err != nil || len(answer) != 12 || reply(answer[3]) != want {
			t.Errorf("%v: answer % x, %v; want reply %d", refusal, answer, err, want)
		}
	}
}

func TestMalformedRequestsEndTheConnection(t *testing.T) {
	s := start(t, func(context.Context, wire.Target) (relay.Conn, error) {
		t.Error("a malformed request was dialed")
		return nil, errors.New("unreached")
	})
	tests := map[string]struct{ in, want []byte }{
		"socks 4":           {[]byte{4, 1, 0, 80, 10, 0, 0, 1, 0}, nil},
		"http":              {[]byte("GET / HTTP/1.1\r\n\r\n"), nil},
		"password only":     {[]byte{5, 1, 2}, []byte{5, 0xff}},
		"no method":         {[]byte{5, 0}, []byte{5, 0xff}},
		"bind":              {[]byte{5, 1, 0, 5, 2, 0, 1, 10, 0, 0, 1, 0, 80}, []byte{5, 0, 5, 7, 0, 1, 0, 0, 0, 0, 0, 0}},
		"address type":      {[]byte{5, 1, 0, 5, 1, 0, 9}, []byte{5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0}},
		"reserved byte":     {[]byte{5, 1, 0, 5, 1, 1, 1}, []byte{5, 0, 5, 1, 0, 1, 0, 0, 0, 0, 0, 0}},
		"empty name":        {[]byte{5, 1, 0, 5, 1, 0, 3, 0, 0, 80}, []byte{5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0}},
		"name with newline": {[]byte{5, 1, 0, 5, 1, 0, 3, 2, 'a', '\n', 0, 80}, []byte{5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0}},
		"port 0":            {[]byte{5, 1, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 0}, []byte{5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0}},
	}
	for name, tt := range tests {
		conn := raw(t, s, tt.in...)
		got, err := io.ReadAll(conn)
		// Bytes that were sent but not read turn the close into a reset.
		if !bytes.Equal(got, tt.want) {
			t.Errorf("%s: answer % x (%v), want % x", name, got, err, tt.want)
		}
	}
}

func TestListenRefusesOtherAddressesThanLoopback(t *testing.T) {
	_, err := Listen(Config{Listen: "0.0.0.0:0", Logger: testenv.Logger(t),
		Dial: localnettest.Refuse(errors.New("unreached"))})
	if !errors.Is(err, localnet.ErrNotLoopback) {
		t.Errorf("Listen on 0.0.0.0: %v, want ErrNotLoopback", err)
	}
}

// udpEcho leads every stream to a service that answers each datagram with itself.
func udpEcho(t testing.TB, targets chan<- wire.Target) DialFunc {
	return localnettest.To("udp", localnettest.UDPService(t, localnettest.Echo), targets)
}

// associate asks for a UDP association and returns its control connection and
// a socket connected to it.
func associate(t *testing.T, s *Server) (control, udp net.Conn) {
	t.Helper()
	control = raw(t, s, 5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0)
	answer := make([]byte, 12)
	if _, err := io.ReadFull(control, answer); err != nil || answer[3] != 0 {
		t.Fatalf("answer % x, %v", answer, err)
	}
	port := int(answer[10])<<8 | int(answer[11])
	udp, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IP(answer[6:10]), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	_ = udp.SetDeadline(time.Now().Add(localnettest.Patience))
	return control, udp
}

func TestUDPAssociate(t *testing.T) {
	targets := make(chan wire.Target, 4)
	s := start(t, udpEcho(t, targets))
	control, udp := associate(t, s)
	for _, tt := range []struct {
		header string
		want   wire.Target
	}{
		{"\x00\x00\x00\x03\x03dns\x00\x35", wire.Target{Kind: wire.KindUDP, Host: "dns", Port: 53}},
		{"\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x7b", wire.Target{Kind: wire.KindUDP, Host: "10.0.0.1", Port: 123}},
	} {
		for _, payload := range []string{"first", "", "third"} {
			if _, err := udp.Write([]byte(tt.header + payload)); err != nil {
				t.Fatal(err)
			}
			if payload == "" {
				continue // an empty datagram is echoed too, but may be dropped by the service's socket
			}
			for {
				got := make([]byte, 65535)
				n, err := udp.Read(got)
				if err != nil {
					t.Fatal(err)
				}
				if n == len(tt.header) {
					continue // the empty one
				}
				if string(got[:n]) != tt.header+payload {
					t.Errorf("answer %q, want %q", got[:n], tt.header+payload)
				}
				break
			}
		}
		if got := <-targets; got != tt.want {
			t.Errorf("target %+v, want %+v", got, tt.want)
		}
	}
	// The association ends with its connection: the port is closed.
	_ = control.Close()
	deadline := time.Now().Add(localnettest.Patience)
	for {
		if time.Now().After(deadline) {
			t.Fatal("the UDP port outlived its connection")
		}
		// The system answers with "port unreachable", which the next call reports.
		_ = udp.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, writeErr := udp.Write([]byte("\x00\x00\x00\x03\x03dns\x00\x35x"))
		_, readErr := udp.Read(make([]byte, 100))
		if errors.Is(writeErr, syscall.ECONNREFUSED) || errors.Is(readErr, syscall.ECONNREFUSED) {
			return
		}
	}
}

// Another program cannot use, or answer into, a program's association.
func TestUDPAssociateIsOfOneProgram(t *testing.T) {
	targets := make(chan wire.Target, 4)
	s := start(t, udpEcho(t, targets))
	_, udp := associate(t, s)
	const header = "\x00\x00\x00\x03\x03dns\x00\x35"
	if _, err := udp.Write([]byte(header + "mine")); err != nil {
		t.Fatal(err)
	}
	if _, err := udp.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Dial("udp", udp.RemoteAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Write([]byte("\x00\x00\x00\x03\x05other\x00\x35stolen")); err != nil {
		t.Fatal(err)
	}
	// Datagrams arrive in order: when this one is answered, the stranger's was seen.
	if _, err := udp.Write([]byte(header + "again")); err != nil {
		t.Fatal(err)
	}
	if _, err := udp.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	<-targets
	if len(targets) != 0 {
		t.Errorf("the stranger's datagram opened %+v", <-targets)
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x05\x01\x00\x03\x04wiki\x00\x50"))
	f.Add([]byte("\x05\x01\x00\x05\x03\x00\x04"))
	f.Fuzz(func(t *testing.T, in []byte) {
		req, err := negotiate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), io.Discard})
		if err == nil && req.command != commandConnect && req.command != commandAssociate {
			t.Errorf("accepted command %d", req.command)
		}
	})
}

func FuzzParseDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x03\x03dns\x00\x35payload"))
	f.Add([]byte("\x00\x00\x00\x04"))
	f.Fuzz(func(t *testing.T, in []byte) {
		header, target, err := parseDatagram(in)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(in, header) || target.Validate() != nil {
			t.Errorf("header %q of %q, target %+v", header, in, target)
		}
	})
}

func TestCurlThroughSOCKS(t *testing.T) {
	curl := testenv.NeedTool(t, "curl")
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "wiki for %s", r.Host)
	})}
	ln, err := localnet.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go web.Serve(ln)
	defer web.Close()
	s := start(t, localnettest.To("tcp", ln.Addr().String(), nil))
	out, err := exec.Command(curl, "--silent", "--max-time", "20", "--socks5-hostname", s.Addr().String(), "http://wiki.corp.example/").CombinedOutput()
	if err != nil || string(out) != "wiki for wiki.corp.example" {
		t.Errorf("curl: %q, %v", out, err)
	}
}

// A program that hangs up while the gateway decides takes its request back: undecided streams are few.
func TestFaultProgramHangsUpDuringTheDial(t *testing.T) {
	asked, ended := make(chan struct{}), make(chan error, 1)
	s := start(t, func(ctx context.Context, _ wire.Target) (relay.Conn, error) {
		close(asked)
		select {
		case <-ctx.Done():
		case <-time.After(localnettest.Patience / 2):
		}
		ended <- ctx.Err()
		return nil, errors.New("no answer")
	})
	conn := raw(t, s, append([]byte{5, 1, 0, 5, 1, 0, 3, 4}, "wiki\x00\x50"...)...)
	<-asked
	conn.Close()
	if err := <-ended; err == nil {
		t.Error("the dial went on without anybody who waits for it")
	}
}

// A program that does not wait for the reply loses nothing of what it said.
func TestConnectKeepsEarlyBytes(t *testing.T) {
	accepted, asked := make(chan *net.TCPConn, 1), make(chan struct{})
	s := start(t, func(context.Context, wire.Target) (relay.Conn, error) {
		<-asked
		dialed, peer := relaytest.Pair(t)
		accepted <- peer
		return relay.TCP(dialed), nil
	})
	conn := raw(t, s, append([]byte{5, 1, 0, 5, 1, 0, 3, 4}, "wiki\x00\x50early "...)...)
	time.AfterFunc(50*time.Millisecond, func() { close(asked) })
	if _, err := io.ReadFull(conn, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("and late")); err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).CloseWrite()
	if got, err := io.ReadAll(<-accepted); err != nil || string(got) != "early and late" {
		t.Errorf("the service got %q, %v", got, err)
	}
}

// TestThreatBuiltInServicesAreNotOffered: the administration of a gateway must have no way in through a front
// (admin without authorization, NetBird GHSA-rxmp).
func TestThreatBuiltInServicesAreNotOffered(t *testing.T) {
	s := start(t, func(_ context.Context, target wire.Target) (relay.Conn, error) {
		t.Errorf("asked for %s", target)
		return nil, errors.New("asked")
	})
	for _, host := range []string{"culvert-admin", "Culvert-Self"} {
		request := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...)
		conn := raw(t, s, append(request, 0, 80)...)
		answer, err := io.ReadAll(conn)
		if err != nil || len(answer) < 4 || reply(answer[3]) == 0 {
			t.Errorf("%s: answer % x, %v", host, answer, err)
		}
	}
}
