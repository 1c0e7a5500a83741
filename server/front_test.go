package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// A stalledPeer opens connections and withholds its part of the handshake.
func stall(t *testing.T, r *running, n int, hello bool) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, n)
	for i := range conns {
		conn, err := net.Dial("tcp", r.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if hello {
			// A client that sends its hello and never its certificate: the most
			// that a stranger gets to before the gateway waits for it.
			conns[i] = conn
			go func() {
				_ = tls.Client(halfDeaf{conn}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"culvert/1"}}).Handshake()
			}()
			continue
		}
		conns[i] = conn
	}
	return conns
}

// halfDeaf never reads: the client's hello leaves, and its certificate never.
type halfDeaf struct{ net.Conn }

func (halfDeaf) Read([]byte) (int, error) { return 0, errors.New("not listening") }

// Threat class: handshake stall (Boundary CVE-2026-7776). 1,000 connections that
// withhold their handshake are reaped, and logins still work meanwhile.
func TestThreatHandshakeStall(t *testing.T) {
	i := everything(t, func(cfg *Config) {
		cfg.Limits.HandshakeTimeout = 3 * time.Second
		cfg.Limits.ConnectionRate, cfg.Limits.ConnectionBurst = 10000, 10000 // the attackers here share our address
	})
	r := i.serve(Options{})
	conns := append(stall(t, r, 500, false), stall(t, r, 500, true)...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if pending := r.front.handshakes.len(); pending > i.cfg.Limits.HandshakesPerAddress {
		t.Errorf("%d handshakes of one address are pending, want at most %d", pending, i.cfg.Limits.HandshakesPerAddress)
	}
	e, err := r.login("ada")
	if err != nil {
		t.Fatalf("a login during the stall: %v", err)
	}
	session, err := e.up(ctx, r)
	if err != nil {
		t.Fatalf("a tunnel during the stall: %v", err)
	}
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	for _, conn := range conns {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		for {
			if _, err := conn.Read(make([]byte, 4096)); err != nil {
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					t.Fatal("a withheld handshake was not reaped")
				}
				break
			}
		}
	}
	eventually(t, "no handshake is pending", func() bool { return r.front.handshakes.len() == 0 })
}

// Threat class: body before authentication. A slow request is ended.
func TestThreatManyHTTPSConnectionsAreCapped(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.Limits.HTTPS, cfg.Limits.HTTPSPerAddress = 5, 5 })
	r := i.serve(Options{})
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	var conns []*tls.Conn
	for n := range 6 {
		conn, err := tls.Dial("tcp", r.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
		eventually(t, "the connection is counted", func() bool { return r.web.open() == min(n+1, 5) })
	}
	_ = conns[0].SetDeadline(time.Now().Add(patience))
	if _, err := conns[0].Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the oldest connection, one too many now: %v", err)
	}
	eventually(t, "it is counted", func() bool { return testutil.ToFloat64(r.metrics.refused.WithLabelValues("https")) == 1 })
}

// A stranger who opens HTTPS connections and leaves them there keeps nobody from logging in.
func TestThreatIdleHTTPSConnectionsKeepNobodyOut(t *testing.T) {
	i := everything(t, func(cfg *Config) { cfg.Limits.HTTPS, cfg.Limits.HTTPSPerAddress = 10, 5 })
	r := i.serve(Options{})
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}
	for range 30 {
		conn, err := tls.Dial("tcp", r.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := r.login("ada"); err != nil {
		t.Errorf("a login beside them: %v", err)
	}
	eventually(t, "the address has its share", func() bool { return r.web.open() <= 5 })
}

func TestConnectionRateOfOneAddress(t *testing.T) {
	i := newInstallation(t, func(cfg *Config) { cfg.Limits.ConnectionRate, cfg.Limits.ConnectionBurst = 1, 3 })
	r := i.serve(Options{})
	for range 20 {
		if conn, err := net.Dial("tcp", r.Addr().String()); err == nil {
			defer conn.Close()
		}
	}
	eventually(t, "connections are refused", func() bool { return testutil.ToFloat64(r.metrics.refused.WithLabelValues("rate")) >= 10 })
}

// exhausted is a listener whose process has no file descriptor left for a while.
type exhausted struct {
	net.Listener
	mu   sync.Mutex
	left int
}

func (l *exhausted) Accept() (net.Conn, error) {
	l.mu.Lock()
	fail := l.left > 0
	l.left--
	l.mu.Unlock()
	if fail {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestFaultFileDescriptorsExhausted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := everything(t, nil).serve(Options{Listener: &exhausted{Listener: ln, left: 6}})
	if body := get(t, r.https(), r.URL()+"/healthz"); body != "ok\n" {
		t.Errorf("after the shortage: %q", body)
	}
	if got := testutil.ToFloat64(r.metrics.acceptErrors); got != 6 {
		t.Errorf("%v errors are counted, want 6: it must neither give up nor spin", got)
	}
}

// failing is a listener that never accepts, under the fake clock.
type failing struct {
	net.Listener
	tries int
	done  chan struct{}
}

func (l *failing) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, net.ErrClosed
	default:
		l.tries++
		return nil, syscall.EMFILE
	}
}

func TestAcceptBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failing{done: make(chan struct{})}
		f := &front{log: testenv.Logger(t), listener: l, metrics: newMetrics()}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.serve(ctx); err != nil {
			t.Fatal(err)
		}
		if l.tries < 60 || l.tries > 80 {
			t.Errorf("%d tries in a minute, want about one a second", l.tries)
		}
	})
}

func TestHandshakesDisplaceTheOldest(t *testing.T) {
	var displaced int
	h := newCrowd(3, 2, func(n int) { displaced += n })
	closed := map[string]bool{}
	add := func(name, address string) *member {
		return h.add(&namedConn{closed: func() { closed[name] = true }}, netip.MustParsePrefix(address))
	}
	add("a1", "192.0.2.1/32")
	a2 := add("a2", "192.0.2.1/32")
	add("a3", "192.0.2.1/32") // the address's third: its oldest goes
	if !closed["a1"] || len(closed) != 1 {
		t.Errorf("closed %v, want a1", closed)
	}
	h.done(a2)
	h.done(a2) // twice does no harm
	add("b1", "192.0.2.2/32")
	add("c1", "192.0.2.3/32")
	add("d1", "192.0.2.4/32") // the fourth of all: the oldest of all goes
	if !closed["a3"] || len(closed) != 2 || displaced != 2 || h.len() != 3 || len(h.byAddress) != 3 {
		t.Errorf("closed %v, displaced %d, %d pending of %d addresses", closed, displaced, h.len(), len(h.byAddress))
	}
}

type namedConn struct {
	net.Conn
	closed func()
}

func (c *namedConn) Close() error { c.closed(); return nil }

func TestAddressKey(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1:80":           "192.0.2.1/32",
		"[::ffff:192.0.2.1]:80":  "192.0.2.1/32",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":      "fe80::/64",
	} {
		if got := addressKey(stringAddr(address)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", address, got, want)
		}
	}
}

type stringAddr string

func (stringAddr) Network() string  { return "tcp" }
func (a stringAddr) String() string { return string(a) }

func TestAddressRatesForgetAndShare(t *testing.T) {
	now := time.Unix(0, 0)
	r := newAddressRates(1, 2, func() time.Time { return now })
	key := func(n int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
	}
	for n := range maxAddresses {
		if !r.allow(key(n)) {
			t.Fatal("refused at once")
		}
	}
	// The table is full of addresses that came just now: newcomers share one allowance.
	if !r.allow(key(maxAddresses)) || !r.allow(key(maxAddresses+1)) || r.allow(key(maxAddresses+2)) {
		t.Error("newcomers do not share an allowance of two")
	}
	now = now.Add(time.Minute)
	if !r.allow(key(maxAddresses+3)) || len(r.seen) != 1 {
		t.Errorf("%d addresses are remembered, want the new one alone", len(r.seen))
	}
}

func TestPanicInARequestIsAnError(t *testing.T) {
	panics := 0
	h := guarded(testenv.Logger(t), func() { panics++ }, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("bug") }))
	rec := newRecorder()
	h.ServeHTTP(rec, newRequest(t, "/x"))
	if rec.Code != http.StatusInternalServerError || panics != 1 {
		t.Errorf("status %d, %d panics counted", rec.Code, panics)
	}
}
