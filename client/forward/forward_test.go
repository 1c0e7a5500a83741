package forward

import (
	"bytes"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/localnet"
	"github.com/culvert-vpn/culvert/internal/localnet/localnettest"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a forward until the test ends.
func start(t testing.TB, cfg Config) *Forward {
	t.Helper()
	cfg.Logger = testenv.Logger(t)
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	f, err := Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	localnettest.Serve(t, f.Serve)
	return f
}

// A forwarded connection keeps TCP's manners: the same cases as over a plain one.
func TestForwardBehavesLikeTCP(t *testing.T) {
	relaytest.Run(t, func(t testing.TB) (client, service *net.TCPConn) {
		accepted := make(chan *net.TCPConn, 1)
		f := start(t, Config{
			Target: wire.ServiceTarget(wire.KindTCP, "wiki"),
			Dial:   localnettest.Pairs(t, func(peer *net.TCPConn) { accepted <- peer }),
		})
		conn := localnettest.Connect(t, f.Addr(), "")
		return conn.(*net.TCPConn), <-accepted
	})
}

func TestARefusalResetsTheConnectionAndIsTold(t *testing.T) {
	refusal := &wire.Refusal{Code: wire.CodeDenied, Reason: "sales only", Reference: "ABC"}
	told := make(chan error, 1)
	f := start(t, Config{
		Target:    wire.ServiceTarget(wire.KindTCP, "payroll"),
		Dial:      localnettest.Refuse(refusal),
		OnRefused: func(err error) { told <- err },
	})
	// The reset may overtake the handshake; then dialing is what fails.
	conn, err := net.Dial("tcp", f.Addr().String())
	if err == nil {
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(localnettest.Patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the program saw %v, want a reset: an end would look like an empty answer", err)
	}
	if err := <-told; !errors.Is(err, error(refusal)) {
		t.Errorf("told %v, want the refusal", err)
	}
}

func TestUDPKeepsBoundariesAndSources(t *testing.T) {
	f := start(t, Config{Target: wire.ServiceTarget(wire.KindUDP, "dns"),
		Dial: localnettest.To("udp", localnettest.UDPService(t, localnettest.Echo), nil)})
	for client := range 3 {
		conn, err := net.Dial("udp", f.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(localnettest.Patience))
		for _, size := range []int{1, 512, 1400, 9000} {
			want := bytes.Repeat([]byte{byte('a' + client)}, size)
			if _, err := conn.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 65535)
			n, err := conn.Read(got)
			if err != nil || !bytes.Equal(got[:n], want) {
				t.Errorf("client %d, %d bytes: got %d bytes, %v", client, size, n, err)
			}
		}
	}
}

func TestListenRefusesOtherAddressesThanLoopback(t *testing.T) {
	_, err := Listen(Config{Target: wire.ServiceTarget(wire.KindTCP, "wiki"), Listen: "0.0.0.0:0", Logger: testenv.Logger(t),
		Dial: localnettest.Refuse(errors.New("unreached"))})
	if !errors.Is(err, localnet.ErrNotLoopback) {
		t.Errorf("Listen on 0.0.0.0: %v, want ErrNotLoopback", err)
	}
}

func TestListenStableGivesWayToWhoHasThePort(t *testing.T) {
	cfg := Config{Target: wire.ServiceTarget(wire.KindTCP, "wiki"), Logger: testenv.Logger(t),
		Dial: localnettest.Refuse(errors.New("unreached"))}
	name := t.TempDir() // a name of this run alone, so that nothing else has its port
	first, taken, err := ListenStable(cfg, name)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if taken == nil && first.Addr().(*net.TCPAddr).Port != StablePort(name) {
		t.Errorf("listens on %v, want port %d", first.Addr(), StablePort(name))
	}
	second, taken, err := ListenStable(cfg, name)
	if err != nil || taken == nil {
		t.Fatalf("while the port is taken: err %v, taken %v", err, taken)
	}
	_ = second.Close()
}

// TestThreatBuiltInServicesAreNotOffered: no port leads to the administration of a gateway (admin without
// authorization, NetBird GHSA-rxmp).
func TestThreatBuiltInServicesAreNotOffered(t *testing.T) {
	_, err := Listen(Config{Target: wire.ServiceTarget(wire.KindTCP, "culvert-admin"), Listen: "127.0.0.1:0",
		Dial: localnettest.Refuse(errors.New("asked")), Logger: testenv.Logger(t)})
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeNoSuchService {
		t.Errorf("listen: %v", err)
	}
}
