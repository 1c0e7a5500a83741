package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/culvert-vpn/culvert/tunnel/relay"
	"github.com/culvert-vpn/culvert/tunnel/relay/relaytest"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

var (
	_ relay.Conn          = (*Stream)(nil)
	_ relay.AbortNotifier = (*Stream)(nil)
)

func TestEcho(t *testing.T) {
	client, server := pair(t, pairOptions{})
	acceptEach(t, server, func(st *Stream) {
		if _, err := io.Copy(st, st); err != nil {
			t.Errorf("echo: %v", err)
		}
		st.CloseWrite()
		st.Close()
	})
	st, err := client.Open(context.Background(), echoTarget, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 8<<20)
	rand.Read(want)
	go func() {
		st.Write(want)
		st.CloseWrite()
	}()
	got, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	st.Close()
	if rtt, err := client.Ping(context.Background()); err != nil || rtt > time.Second {
		t.Fatalf("ping: %v, %v", rtt, err)
	}
	waitFor(t, "the end of the stream", func() bool { return client.Stats().Streams+server.Stats().Streams == 0 })
}

// The endings of a TCP connection are the same over plain TCP and through the tunnel.
func TestEndingsAreThoseOfTCP(t *testing.T) {
	t.Run("plain", func(t *testing.T) { relaytest.Run(t, relaytest.Pair) })
	t.Run("tunnel", func(t *testing.T) { relaytest.Run(t, joinThroughTunnel) })
}

// joinThroughTunnel is application ── TCP ── client ── tunnel ── gateway ── TCP ── service.
func joinThroughTunnel(t testing.TB) (application, service *net.TCPConn) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	application, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	var copies sync.WaitGroup
	copies.Go(func() { relay.Copy(context.Background(), relay.TCP(a), near, relay.Options{}) })
	copies.Go(func() { relay.Copy(context.Background(), far, relay.TCP(b), relay.Options{}) })
	t.Cleanup(func() {
		application.Close()
		service.Close()
		copies.Wait()
		client.Close()
		server.Close()
	})
	return application, service
}

// An idle time-out of the relay is a reset at both applications, with its reason in between.
func TestIdleTimeoutPassesThrough(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	_, a := relaytest.Pair(t)
	b, service := relaytest.Pair(t)
	var copies sync.WaitGroup
	var clientSide relay.Result
	copies.Go(func() { clientSide = relay.Copy(context.Background(), relay.TCP(a), near, relay.Options{}) })
	res := relay.Copy(context.Background(), far, relay.TCP(b), relay.Options{IdleTimeout: 50 * time.Millisecond})
	copies.Wait()
	if !errors.Is(res.Cause, relay.ErrIdle) || !errors.As(clientSide.Cause, new(*AbortError)) {
		t.Errorf("gateway: %v, client: %v", res.Cause, clientSide.Cause)
	}
	service.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := service.Read(make([]byte, 1)); err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("service: %v", err)
	}
}

func TestRefusal(t *testing.T) {
	want := &wire.Refusal{Code: wire.CodeDenied, Reason: "no rule allows it", Remedy: "ask it-help", Reference: "7F3K", Service: "payroll"}
	client, server := pair(t, pairOptions{})
	var rejecting sync.WaitGroup
	rejecting.Go(func() {
		for {
			n, err := server.Accept(context.Background())
			if err != nil {
				return
			}
			if err := n.Reject(want); err != nil {
				t.Error(err)
			}
			if _, err := n.Accept("payroll"); err == nil {
				t.Error("accepted after a refusal")
			}
		}
	})
	t.Run("waiting", func(t *testing.T) {
		_, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
		checkRefusal(t, err, want)
	})
	t.Run("with early data", func(t *testing.T) {
		st, err := client.Open(context.Background(), echoTarget, OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = st.Write(make([]byte, 1<<20)) // more than may be sent early
		checkRefusal(t, err, want)
		_, err = st.Read(make([]byte, 1))
		checkRefusal(t, err, want)
		st.Close()
	})
	waitFor(t, "both ends", func() bool { return client.Stats().Streams+server.Stats().Streams == 0 })
	client.Close()
	server.Close()
	rejecting.Wait()
}

func checkRefusal(t *testing.T, err error, want *wire.Refusal) {
	t.Helper()
	var got *wire.Refusal
	if !errors.As(err, &got) {
		t.Fatalf("%v is no refusal", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// At most 64 KiB of payload leave before the reply, and not a byte of it reaches a service before the stream was accepted.
func TestEarlyData(t *testing.T) {
	client, server := pair(t, pairOptions{})
	st, err := client.Open(context.Background(), echoTarget, OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("early"), 40<<10) // 200 KiB
	st.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := st.Write(data)
	if n != wire.MaxEarlyData || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d, %v", n, err)
	}
	st.SetWriteDeadline(time.Time{})
	var writing sync.WaitGroup
	writing.Go(func() {
		if _, err := st.Write(data[n:]); err != nil {
			t.Error(err)
		}
		st.CloseWrite()
	})
	accepted, err := server.Accept(context.Background())
	if err != nil || accepted.Request.Wait {
		t.Fatal(accepted, err)
	}
	far, err := accepted.Accept("echo")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	writing.Wait()
	if st.Service() != "echo" || st.Target() != echoTarget {
		t.Error(st.Service(), st.Target())
	}
}

func TestDatagramsKeepTheirBoundaries(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, wire.ServiceTarget(wire.KindUDP, "dns"))
	for _, size := range []int{0, 1, 512, 65507, 3} {
		want := bytes.Repeat([]byte{byte(size)}, size)
		if n, err := near.Write(want); n != size || err != nil {
			t.Fatal(n, err)
		}
		buf := make([]byte, 65535)
		n, err := far.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], want) {
			t.Errorf("%d bytes, %v, want %d", n, err, size)
		}
	}
	near.Write([]byte("too long for its reader"))
	near.Write([]byte("next"))
	short := make([]byte, 4)
	for _, want := range []string{"too ", "next"} {
		if n, err := far.Read(short); string(short[:n]) != want || err != nil {
			t.Errorf("%q, %v", short[:n], err)
		}
	}
	if _, err := near.Write(make([]byte, wire.MaxPayload+1)); err == nil {
		t.Error("a datagram that is too long was taken")
	}
	var out bytes.Buffer
	go func() {
		far.Write([]byte("a"))
		far.Write([]byte("b"))
		far.CloseWrite()
	}()
	if n, err := near.WriteTo(&out); n != 2 || err != nil || out.String() != "ab" {
		t.Error(n, err, out.String())
	}
}

func TestReadDeadlineDamagesNothing(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	st := p.open(3, s)
	rec := record(wire.TypeData, []byte("whole")...)
	for _, b := range rec {
		st.SetReadDeadline(time.Now().Add(time.Millisecond))
		if n, err := st.Read(make([]byte, 10)); n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		p.send(frame{kind: frameData, id: 3}, b)
	}
	st.SetReadDeadline(time.Time{})
	p.end(3)
	got, err := io.ReadAll(st)
	if err != nil || !strings.HasSuffix("whole", string(got)) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCloseWithUnreadDataIsAReset(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	far.Write([]byte("unread"))
	near.Close()
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("read after close: %v", err)
	}
	if _, err := near.Write(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
	<-far.Done()
	if err := far.Err(); !errors.As(err, new(*AbortError)) {
		t.Error(err)
	}
}

func TestCloseUnblocksAndEndsCleanly(t *testing.T) {
	client, server := pair(t, pairOptions{})
	near, far := openPair(t, client, server, echoTarget)
	read := make(chan error, 1)
	go func() {
		_, err := near.Read(make([]byte, 1))
		read <- err
	}()
	near.Write([]byte("last words"))
	near.Close()
	if err := <-read; !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
	got, err := io.ReadAll(far)
	if string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	far.Close()
	waitFor(t, "both ends", func() bool { return client.Stats().Streams+server.Stats().Streams == 0 })
}

// A closed stream whose peer never ends is reset after a minute, as an orphan of TCP is.
func TestClosedStreamLingersAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{})
		near, far := openPair(t, client, server, echoTarget)
		start := time.Now()
		near.Close()
		<-far.Done()
		if took := time.Since(start); took < lingerTimeout || took > lingerTimeout+tick {
			t.Errorf("after %s: %v", took, far.Err())
		}
		client.Close()
		server.Close()
	})
}

func TestVersionMismatchNamesBothVersionsOnBothEnds(t *testing.T) {
	craw, sraw := tcpPair(t)
	conf, _ := testTLS()
	served := make(chan error, 1)
	go func() {
		_, err := serve(context.Background(), sraw, ServerConfig{Admit: admitAll})
		served <- err
	}()
	_, err := Client(context.Background(), craw, conf, ClientConfig{Hello: wire.Hello{Versions: []int{7}}})
	for end, err := range map[string]error{"client": err, "server": <-served} {
		var why *wire.Termination
		if !errors.As(err, &why) || why.Code != wire.TerminateVersion ||
			!strings.Contains(err.Error(), "gateway speaks protocol version 1") || !strings.Contains(err.Error(), "client speaks 7") {
			t.Errorf("%s: %v", end, err)
		}
	}
}

func TestAdmissionIsRefusedWithItsReason(t *testing.T) {
	for name, tc := range map[string]struct {
		admit func(wire.Hello) (wire.Welcome, error)
		code  wire.TerminateCode
		text  string
	}{
		"locked": {func(wire.Hello) (wire.Welcome, error) {
			return wire.Welcome{}, &wire.Termination{Code: wire.TerminateLocked, Reason: "locked by an administrator", Reference: "7F3K"}
		}, wire.TerminateLocked, "locked by an administrator"},
		"internal": {func(wire.Hello) (wire.Welcome, error) {
			return wire.Welcome{}, errors.New("database password is hunter2")
		}, wire.TerminateUnavailable, ""},
	} {
		t.Run(name, func(t *testing.T) {
			craw, sraw := tcpPair(t)
			conf, _ := testTLS()
			served := make(chan error, 1)
			go func() {
				_, err := serve(context.Background(), sraw, ServerConfig{Admit: tc.admit})
				served <- err
			}()
			_, err := Client(context.Background(), craw, conf, ClientConfig{})
			var why *wire.Termination
			if !errors.As(err, &why) || why.Code != tc.code || !strings.Contains(why.Reason, tc.text) || strings.Contains(why.Reason, "hunter2") {
				t.Errorf("client: %v", err)
			}
			if err := <-served; err == nil {
				t.Error("served")
			}
		})
	}
}

func TestNobodyIsAdmittedWithoutAdmit(t *testing.T) {
	craw, sraw := tcpPair(t)
	conf, _ := testTLS()
	go serve(context.Background(), sraw, ServerConfig{})
	if _, err := Client(context.Background(), craw, conf, ClientConfig{}); err == nil {
		t.Error("admitted")
	}
}

func TestControlMessages(t *testing.T) {
	services := make(chan wire.Services, 1)
	draining := make(chan wire.Draining, 1)
	posture := make(chan map[string]string, 1)
	unasked := make(chan wire.Renewed, 1)
	later := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	client, server := pair(t, pairOptions{
		client: ClientConfig{
			OnServices: func(m wire.Services) { services <- m },
			OnDraining: func(m wire.Draining) { draining <- m },
			OnRenewed:  func(m wire.Renewed) { unasked <- m },
		},
		server: ServerConfig{
			OnPosture: func(v map[string]string) { posture <- v },
			OnRenewed: func(chain [][]byte) (wire.Renewed, error) {
				if string(chain[0]) != "leaf" {
					return wire.Renewed{}, errors.New("another key")
				}
				return wire.Renewed{NotAfter: later}, nil
			},
		},
	})
	if w := client.Welcome(); w.Session != "s1" || w.Version != 1 || w.Limits.MaxStreams != DefaultMaxStreams || time.Since(w.ServerTime) > time.Minute {
		t.Errorf("%+v", w)
	}

	var list wire.Services
	for i := range 2000 {
		list.Services = append(list.Services, wire.Service{Name: fmt.Sprint("service-", i), Kind: wire.KindTCP, Description: strings.Repeat("d", 60)})
	}
	if err := server.SendServices(list); err != nil {
		t.Fatal(err)
	}
	if got := <-services; len(got.Services) != 2000 || got.Services[1999].Name != "service-1999" {
		t.Errorf("%d services", len(got.Services))
	}

	ctx := context.Background()
	if m, err := client.Renew(ctx, [][]byte{[]byte("leaf")}); err != nil || !m.NotAfter.Equal(later) {
		t.Errorf("%+v, %v", m, err)
	}
	if !client.Welcome().NotAfter.Equal(later) || !server.Welcome().NotAfter.Equal(later) {
		t.Error("the renewal is not in Welcome")
	}
	var refusal *wire.Refusal
	if _, err := client.Renew(ctx, [][]byte{[]byte("x")}); !errors.As(err, &refusal) || refusal.Reason != "another key" {
		t.Errorf("%v", err)
	}
	if err := server.SendRenewed(wire.Renewed{Deadline: later}); err != nil {
		t.Fatal(err)
	}
	if m := <-unasked; !m.Deadline.Equal(later) {
		t.Errorf("%+v", m)
	}
	if err := client.SendPosture(map[string]string{"disk.encrypted": "true"}); err != nil {
		t.Fatal(err)
	}
	if v := <-posture; v["disk.encrypted"] != "true" {
		t.Error(v)
	}
	if err := server.Drain(wire.Draining{Reason: "upgrade"}); err != nil {
		t.Fatal(err)
	}
	if m := <-draining; m.Reason != "upgrade" {
		t.Errorf("%+v", m)
	}
	if _, err := client.Open(ctx, echoTarget, OpenOptions{}); !errors.As(err, &refusal) || refusal.Code != wire.CodeDraining {
		t.Errorf("open while draining: %v", err)
	}
}

func TestStepUpBothWays(t *testing.T) {
	asked, refused := make(chan wire.StepUp, 1), make(chan wire.StepUp, 1)
	client, server := pair(t, pairOptions{
		client: ClientConfig{OnStepUp: func(m wire.StepUp) { asked <- m }},
		server: ServerConfig{OnStepUp: func(m wire.StepUp) { refused <- m }},
	})
	if err := server.SendStepUp(wire.StepUp{Service: "db", MaxAge: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if m := <-asked; m.Service != "db" || m.MaxAge != time.Minute {
		t.Errorf("asked for %+v", m)
	}
	if err := client.SendStepUp(wire.StepUp{Refusal: "the login was cancelled"}); err != nil {
		t.Fatal(err)
	}
	if m := <-refused; m.Refusal != "the login was cancelled" {
		t.Errorf("refused with %+v", m)
	}
	if client.SendStepUp(wire.StepUp{MaxAge: time.Minute}) == nil || server.SendStepUp(wire.StepUp{Refusal: "no"}) == nil {
		t.Error("sent the wrong way")
	}
}

// TestThreatClientAsksForALogin: a message that goes the wrong way ends that session (identity from a message, OpenZiti GHSA-7868).
func TestThreatClientAsksForALogin(t *testing.T) {
	client, server := pair(t, pairOptions{})
	if err := client.ctl.send(&wire.StepUp{MaxAge: time.Minute}); err != nil {
		t.Fatal(err)
	}
	<-server.Done()
	if err := server.Err(); !errors.Is(err, ErrProtocol) {
		t.Errorf("ended with %v", err)
	}
}

func TestStreamLimit(t *testing.T) {
	client, server := pair(t, pairOptions{server: ServerConfig{Limits: Limits{MaxStreams: 2}}})
	a, _ := openPair(t, client, server, echoTarget)
	openPair(t, client, server, echoTarget)
	_, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeLimit {
		t.Fatalf("%v", err)
	}
	a.Abort(nil)
	waitFor(t, "a free place", func() bool { return client.Stats().Streams == 1 && server.Stats().Streams == 1 })
	openPair(t, client, server, echoTarget)
}

func TestOpenEndsWithItsContext(t *testing.T) {
	client, server := pair(t, pairOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	opened := make(chan error, 1)
	go func() {
		_, err := client.Open(ctx, echoTarget, OpenOptions{Wait: true})
		opened <- err
	}()
	n, err := server.Accept(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-opened; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-n.Done()
	if _, err := n.Accept("echo"); err == nil {
		t.Error("accepted a stream that was given up")
	}
}

func TestServerRefusesAnotherStartThanHello(t *testing.T) {
	a, b := tcpPair(t)
	conf, _ := testTLS()
	p := &rawPeer{t: t, conn: tls.Client(a, conf), raw: a}
	served := make(chan error, 1)
	go func() {
		_, err := serve(context.Background(), b, ServerConfig{Admit: admitAll})
		served <- err
	}()
	p.send(frame{kind: frameWindow, flags: flagSYN, id: 1})
	p.message(1, &wire.Ping{Nonce: 1})
	m := p.untilMessage(wire.TypeTerminated).(*wire.Termination)
	a.Close()
	if err := <-served; m.Code != wire.TerminateProtocol || !errors.Is(err, ErrProtocol) {
		t.Errorf("%v, %v", m, err)
	}
}
