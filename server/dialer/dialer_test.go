package dialer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newDialer(t testing.TB, cfg Config) *Dialer {
	t.Helper()
	cfg.Logger = testenv.Logger(t)
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// names resolves by a table.
func names(table map[string][]string) ResolveFunc {
	return func(_ context.Context, host string) ([]netip.Addr, error) {
		list, ok := table[host]
		if !ok {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return addrs(list...), nil
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func yes(netip.AddrPort) error { return nil }

func tcp(host string, port uint16) Target { return Target{Kind: wire.KindTCP, Host: host, Port: port} }

// recorder is a network on which some addresses answer; it records what was dialed.
type recorder struct {
	answers map[string]error // by address; others never answer
	dialed  []string
}

func (r *recorder) dial(ctx context.Context, _ wire.Kind, at netip.AddrPort) (net.Conn, error) {
	r.dialed = append(r.dialed, at.Addr().String())
	err, ok := r.answers[at.Addr().String()]
	if !ok {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", err)}
	}
	a, b := net.Pipe()
	b.Close()
	return a, nil
}

func codeOf(err error) wire.Code {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Code
}

func TestDialTCPAndUDP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	d := newDialer(t, Config{})
	at := l.Addr().(*net.TCPAddr).AddrPort()
	conn, err := d.DialChecked(t.Context(), Target{Kind: wire.KindTCP, Host: "127.0.0.1", Port: at.Port(), Literal: true}, yes)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, ok := conn.(*net.TCPConn); !ok || conn.RemoteAddr().String() != at.String() {
		t.Errorf("%T to %s", conn, conn.RemoteAddr())
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	u, err := d.DialChecked(t.Context(), Target{Kind: wire.KindUDP, Host: "127.0.0.1", Port: 9, Literal: true}, yes)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	if _, ok := u.(*net.UDPConn); !ok {
		t.Errorf("%T", u)
	}
}

func TestDialRefusedForReal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	l.Close()
	d := newDialer(t, Config{})
	conn, err := d.DialChecked(t.Context(), Target{Kind: wire.KindTCP, Host: "127.0.0.1", Port: port, Literal: true}, yes)
	if conn != nil || codeOf(err) != wire.CodeRefused {
		t.Errorf("%v, %v", conn, err)
	}
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, syscall.ECONNREFUSED) || e.Remedy == "" || e.Refusal("wiki", "ref").Service != "wiki" {
		t.Errorf("%+v", e)
	}
}

func TestErrorsByCode(t *testing.T) {
	tests := []struct {
		err  error
		want wire.Code
	}{
		{syscall.ECONNREFUSED, wire.CodeRefused},
		{syscall.EHOSTUNREACH, wire.CodeUnreachable},
		{syscall.ENETUNREACH, wire.CodeUnreachable},
		{syscall.EPERM, wire.CodeUnreachable},
		{syscall.ETIMEDOUT, wire.CodeTimedOut},
		{os.ErrDeadlineExceeded, wire.CodeTimedOut},
		{context.DeadlineExceeded, wire.CodeTimedOut},
		{context.Canceled, wire.CodeUnavailable},
		{syscall.EMFILE, wire.CodeUnavailable},
	}
	for _, tt := range tests {
		err := dialError(tcp("wiki.internal", 80), &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", tt.err)})
		if codeOf(err) != tt.want || !strings.Contains(err.(*Error).Reason, "wiki.internal port 80") {
			t.Errorf("%v: %v", tt.err, err)
		}
	}
}

func TestResolve(t *testing.T) {
	var learned []string
	d := newDialer(t, Config{
		Resolve:  names(map[string][]string{"wiki.internal": {"10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1"}, "empty.internal": nil}),
		Resolved: func(host string, a []netip.Addr) { learned = append(learned, host) },
	})
	got, err := d.Resolve(t.Context(), "wiki.internal")
	if err != nil || !slices.Equal(got, addrs("10.0.0.1", "2001:db8::1")) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := d.Resolve(t.Context(), "::ffff:10.0.0.9"); err != nil || !slices.Equal(got, addrs("10.0.0.9")) {
		t.Errorf("literal: %v, %v", got, err)
	}
	for host, want := range map[string]wire.Code{"gone.internal": wire.CodeUnreachable, "empty.internal": wire.CodeUnreachable} {
		if _, err := d.Resolve(t.Context(), host); codeOf(err) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
	if !slices.Equal(learned, []string{"wiki.internal"}) {
		t.Errorf("learned %v", learned)
	}
}

func TestResolveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fault error
		d := newDialer(t, Config{Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			if fault != nil {
				return nil, fault
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}})
		start := time.Now()
		if _, err := d.Resolve(t.Context(), "slow.internal"); codeOf(err) != wire.CodeTimedOut || time.Since(start) != defaultResolveTimeout {
			t.Errorf("slow: %v after %v", err, time.Since(start))
		}
		fault = &net.DNSError{Err: "server misbehaving", Server: "10.0.0.53:53", IsTemporary: true}
		_, err := d.Resolve(t.Context(), "wiki.internal")
		if codeOf(err) != wire.CodeUnavailable || strings.Contains(err.(*Error).Reason, "10.0.0.53") {
			t.Errorf("server failure: %v", err)
		}
	})
}

func TestAddressesAreTriedInTurn(t *testing.T) {
	tests := []struct {
		name   string
		net    recorder
		want   wire.Code
		dialed []string
		took   time.Duration
	}{
		{"the first answers", recorder{answers: map[string]error{"10.0.0.1": nil}}, "", []string{"10.0.0.1"}, 0},
		{"the second answers", recorder{answers: map[string]error{"10.0.0.1": syscall.ECONNREFUSED, "10.0.0.2": nil}}, "", []string{"10.0.0.1", "10.0.0.2"}, 0},
		{"the first is silent", recorder{answers: map[string]error{"10.0.0.2": nil}}, "", []string{"10.0.0.1", "10.0.0.2"}, 5 * time.Second},
		{"all refuse: the first one's reason", recorder{answers: map[string]error{"10.0.0.1": syscall.ECONNREFUSED, "10.0.0.2": syscall.EHOSTUNREACH, "10.0.0.3": syscall.EHOSTUNREACH}}, wire.CodeRefused, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, 0},
		{"all are silent", recorder{}, wire.CodeTimedOut, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, 15 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDialer(t, Config{Resolve: names(map[string][]string{"wiki.internal": {"10.0.0.1", "10.0.0.2", "10.0.0.3"}})})
				d.dial = tt.net.dial
				start := time.Now()
				conn, err := d.DialChecked(t.Context(), tcp("wiki.internal", 80), yes)
				if err == nil {
					conn.Close()
				}
				if codeOf(err) != tt.want || !slices.Equal(tt.net.dialed, tt.dialed) || time.Since(start) != tt.took {
					t.Errorf("%v after %v, dialed %v", err, time.Since(start), tt.net.dialed)
				}
			})
		})
	}
}

func TestManyAddressesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many []string
		for i := range 200 {
			many = append(many, netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}).String())
		}
		network := recorder{}
		d := newDialer(t, Config{Resolve: names(map[string][]string{"wiki.internal": many})})
		d.dial = network.dial
		start := time.Now()
		_, err := d.DialChecked(t.Context(), tcp("wiki.internal", 80), yes)
		if codeOf(err) != wire.CodeTimedOut || time.Since(start) != defaultTimeout || len(network.dialed) > maxAddresses {
			t.Errorf("%v after %v with %d addresses", err, time.Since(start), len(network.dialed))
		}
	})
}

func TestDialsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := recorder{}
		d := newDialer(t, Config{MaxDials: 1, Timeout: time.Minute})
		d.dial = network.dial
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := d.DialChecked(ctx, tcp("10.0.0.1", 80), yes)
			first <- err
		}()
		synctest.Wait()
		short, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if _, err := d.DialChecked(short, tcp("10.0.0.2", 80), yes); codeOf(err) != wire.CodeUnavailable {
			t.Errorf("second: %v", err)
		}
		cancel()
		if err := <-first; codeOf(err) != wire.CodeTimedOut && codeOf(err) != wire.CodeUnavailable {
			t.Errorf("first: %v", err)
		}
		if !slices.Equal(network.dialed, []string{"10.0.0.1"}) || len(d.slots) != 0 {
			t.Errorf("dialed %v, %d slots taken", network.dialed, len(d.slots))
		}
	})
}

func TestCheckDecides(t *testing.T) {
	network := recorder{answers: map[string]error{"10.0.0.2": nil}}
	d := newDialer(t, Config{Resolve: names(map[string][]string{"wiki.internal": {"10.0.0.1", "10.0.0.2"}})})
	d.dial = network.dial
	refusal := &wire.Refusal{Code: wire.CodeDenied, Reason: "network denied"}
	conn, err := d.DialChecked(t.Context(), tcp("wiki.internal", 80), func(at netip.AddrPort) error {
		if at == netip.MustParseAddrPort("10.0.0.1:80") {
			return refusal
		}
		return nil
	})
	if err != nil || !slices.Equal(network.dialed, []string{"10.0.0.2"}) {
		t.Fatalf("%v, dialed %v", err, network.dialed)
	}
	conn.Close()
	_, err = d.DialChecked(t.Context(), tcp("wiki.internal", 80), func(netip.AddrPort) error { return refusal })
	if !errors.Is(err, refusal) || len(network.dialed) != 1 {
		t.Errorf("all refused: %v, dialed %v", err, network.dialed)
	}
	for _, target := range []Target{tcp("wiki.internal", 0), {Kind: "icmp", Host: "wiki.internal", Port: 80}} {
		if _, err := d.DialChecked(t.Context(), target, yes); codeOf(err) != wire.CodeDenied {
			t.Errorf("%+v: %v", target, err)
		}
	}
	if _, err := d.DialChecked(t.Context(), tcp("wiki.internal", 80), nil); codeOf(err) != wire.CodeDenied {
		t.Errorf("without a check: %v", err)
	}
	if len(network.dialed) != 1 {
		t.Errorf("dialed %v", network.dialed)
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	for _, cfg := range []Config{{DNSServer: "dns.internal"}, {DNSServer: "10.0.0.53"}, {Timeout: -1}, {MaxDials: -1}, {ResolveTimeout: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
