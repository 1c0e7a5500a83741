package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// chaosTime bounds TestFaultChaos. The seed of a run that failed goes into chaosSeed; what the network does in between is not repeated.
const (
	chaosTime = 12 * time.Second
	chaosSeed = "CULVERT_CHAOS_SEED"
)

// Streams of all kinds and endings over connections that stall and are cut at random: what is read is exactly what was written, or
// the stream ends in an error. Nothing hangs, and nothing is left.
func TestFaultChaos(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(chaosSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	limit := chaosTime
	if testing.Short() {
		limit /= 6
	}
	t.Logf("%s=%d", chaosSeed, seed)
	rounds := 0
	for end := time.Now().Add(limit); time.Now().Before(end) && !t.Failed(); rounds++ {
		chaosRound(t, rand.New(rand.NewPCG(seed, uint64(rounds))))
	}
	t.Logf("%d rounds", rounds)
}

// chaosRound is one connection with its streams.
func chaosRound(t *testing.T, rng *rand.Rand) {
	weather := newWeather(rng)
	var client, server *Session
	if !weather.cuts() {
		client, server = pair(t, pairOptions{raw: weather.pair})
	} else if client, server = roughPair(t, weather); client == nil {
		return // cut during the handshake
	}
	var work sync.WaitGroup
	work.Go(func() { chaosServe(t, server, weather.cuts()) })
	var streams sync.WaitGroup
	for range 4 + rng.IntN(24) {
		plan := newPlan(rng)
		streams.Go(func() { plan.asClient(t, client, weather.cuts()) })
	}
	returns(t, "a stream", streams.Wait)
	returns(t, "Close", func() { client.Close() })
	returns(t, "the gateway's end", func() { server.Close(); work.Wait() })
}

// roughPair is pair over a connection that may not last until the welcome.
func roughPair(t *testing.T, w *weather) (client, server *Session) {
	a, b := w.pair(t)
	conf, _ := testTLS()
	served := make(chan *Session, 1)
	go func() {
		s, _ := serve(context.Background(), b, ServerConfig{Admit: admitAll})
		served <- s
	}()
	client, _ = Client(context.Background(), a, conf, ClientConfig{})
	server = <-served
	if client != nil && server != nil {
		return client, server
	}
	for _, s := range []*Session{client, server} {
		if s != nil {
			s.Close()
		}
	}
	return nil, nil
}

func chaosServe(t *testing.T, server *Session, rough bool) {
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		n, err := server.Accept(context.Background())
		if err != nil {
			return
		}
		plan, err := parsePlan(n.Request.Target)
		if err != nil {
			t.Error(err)
			return
		}
		streams.Go(func() { plan.asGateway(t, n, rough) })
	}
}

// weather is what happens to a connection.
type weather struct {
	seed  uint64
	total int64 // bytes after which it is cut; 0: it lasts
	how   int   // it is cut
	chop  bool  // bytes come in small pieces
}

func newWeather(rng *rand.Rand) *weather {
	w := &weather{seed: rng.Uint64(), how: rng.IntN(3), chop: rng.IntN(2) == 0}
	if rng.IntN(4) > 0 {
		w.total = 1 + int64(rng.ExpFloat64()*1e6)
	}
	return w
}

func (w *weather) cuts() bool { return w.total > 0 }

// pair is a TCP connection through something that stalls, chops and cuts.
func (w *weather) pair(t testing.TB) (client, server net.Conn) {
	client, near := tcpPair(t)
	far, server := tcpPair(t)
	var lock sync.Mutex
	left := w.total
	spend := func(n int) (int, bool) {
		lock.Lock()
		defer lock.Unlock()
		if w.total == 0 {
			return n, false
		}
		n = int(min(int64(n), left))
		left -= int64(n)
		return n, left == 0
	}
	var once sync.Once
	cut := func() {
		once.Do(func() {
			if w.how == 0 { // resets, in both directions
				near.(*net.TCPConn).SetLinger(0)
				far.(*net.TCPConn).SetLinger(0)
			}
			if w.how == 1 { // one side learns of it later
				near.Close()
				time.Sleep(50 * time.Millisecond)
			}
			far.Close()
			near.Close()
		})
	}
	var copies sync.WaitGroup
	carry := func(dst, src net.Conn, rng *rand.Rand) {
		defer cut()
		buf := make([]byte, 128<<10)
		for {
			size := len(buf)
			if w.chop {
				size = 1 + rng.IntN(4<<10)
			}
			n, err := src.Read(buf[:size])
			if err != nil {
				return
			}
			if rng.IntN(40) == 0 {
				time.Sleep(time.Duration(rng.IntN(30)) * time.Millisecond)
			}
			n, over := spend(n)
			if _, err := dst.Write(buf[:n]); err != nil || over {
				return
			}
		}
	}
	copies.Go(func() { carry(far, near, rand.New(rand.NewPCG(w.seed, 1))) })
	copies.Go(func() { carry(near, far, rand.New(rand.NewPCG(w.seed, 2))) })
	t.Cleanup(func() { cut(); copies.Wait() })
	return client, server
}

// plan is what the two ends of a stream do; it travels as the service's name.
type plan struct {
	kind     wire.Kind
	seed     uint64
	up, down int  // bytes
	end      int  // how it ends; see the constants
	wait     bool // for the reply
}

// Endings of a stream.
const (
	endsWhole    = iota // both directions to their ends
	endsRefused         // by the gateway
	endsByClient        // which aborts in the middle
	endsByFar           // the gateway aborts in the middle
	endsClosed          // the client closes without reading to the end
	endings
)

func newPlan(rng *rand.Rand) plan {
	size := func() int { return int(rng.ExpFloat64()*100e3) * rng.IntN(2) }
	p := plan{kind: wire.KindTCP, seed: rng.Uint64(), up: size(), down: size(), wait: rng.IntN(2) == 0}
	if rng.IntN(4) == 0 {
		p.kind = wire.KindUDP
	}
	if rng.IntN(2) == 0 {
		p.end = rng.IntN(endings)
	}
	return p
}

func (p plan) target() wire.Target {
	return wire.ServiceTarget(p.kind, fmt.Sprintf("%d.%d.%d.%d", p.seed, p.up, p.down, p.end))
}

func parsePlan(t wire.Target) (plan, error) {
	p := plan{kind: t.Kind}
	_, err := fmt.Sscanf(strings.ReplaceAll(t.Service, ".", " "), "%d %d %d %d", &p.seed, &p.up, &p.down, &p.end)
	return p, err
}

// payload is the bytes of one direction, and pieces how they are written: for udp, the datagrams.
func (p plan) payload(n int, way uint64) []byte {
	rng := rand.New(rand.NewPCG(p.seed, way))
	b := make([]byte, n, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:i+8:n+8], rng.Uint64())
	}
	return b
}

func (p plan) pieces(b []byte, way uint64) [][]byte {
	rng := rand.New(rand.NewPCG(p.seed, way+10))
	var list [][]byte
	for len(b) > 0 {
		n := min(len(b), rng.IntN(1+int(rng.ExpFloat64()*10e3)), wire.MaxPayload)
		list = append(list, b[:n]) // n may be 0: an empty datagram
		b = b[n:]
	}
	return list
}

const (
	wayUp = iota
	wayDown
)

var errChaos = errors.New("chaos")

func (p plan) asClient(t *testing.T, s *Session, rough bool) {
	st, err := s.Open(context.Background(), p.target(), OpenOptions{Wait: p.wait})
	if err != nil {
		if st != nil || !rough && p.end == endsWhole {
			t.Errorf("open: %v", err)
		}
		return
	}
	p.run(t, st, p.side(wayUp, endsByClient, rough))
	st.Close()
}

func (p plan) asGateway(t *testing.T, n *NewStream, rough bool) {
	if p.end == endsRefused {
		n.Reject(&wire.Refusal{Code: wire.CodeDenied})
		return
	}
	st, err := n.Accept("chaos")
	if err != nil {
		return
	}
	p.run(t, st, p.side(wayDown, endsByFar, rough))
	st.Close()
}

// side is one end's part of a plan.
type side struct {
	out, in       []byte
	outWay, inWay uint64
	aborts        bool // this end does, half way
	closes        bool // this end closes after reading half
	cutShort      bool // the other end may close before it has written everything, which is a clean end as on a TCP connection
	mayFail       bool
}

func (p plan) side(way int, aborting int, rough bool) side {
	up, down := p.payload(p.up, wayUp), p.payload(p.down, wayDown)
	s := side{out: up, in: down, outWay: wayUp, inWay: wayDown, aborts: p.end == aborting, mayFail: rough || p.end != endsWhole}
	if way == wayDown {
		s.out, s.in, s.outWay, s.inWay = down, up, wayDown, wayUp
		s.cutShort = p.end == endsClosed
	} else {
		s.closes = p.end == endsClosed
	}
	return s
}

// run does both directions of one end.
func (p plan) run(t *testing.T, st *Stream, s side) {
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := p.write(st, s); err != nil && !s.mayFail {
			t.Errorf("%s: write: %v", p.target(), err)
		}
	})
	if err := p.read(st, s); err != nil && (!s.mayFail || errors.Is(err, errChaos)) {
		t.Errorf("%s: read: %v", p.target(), err)
	}
	if s.closes {
		st.Close() // perhaps while a write waits
	}
	writing.Wait()
}

func (p plan) write(st *Stream, s side) error {
	sent := 0
	for _, piece := range p.pieces(s.out, s.outWay) {
		if s.aborts && sent > len(s.out)/2 {
			break
		}
		if _, err := st.Write(piece); err != nil {
			return err
		}
		sent += len(piece)
	}
	if s.aborts {
		st.Abort(nil)
		return nil
	}
	return st.CloseWrite()
}

// read compares what comes with what was sent. errChaos says that it was another, or a clean end that is none.
func (p plan) read(st *Stream, s side) error {
	if p.kind == wire.KindUDP {
		return p.readDatagrams(st, s)
	}
	buf, got := make([]byte, 32<<10), 0
	for {
		n, err := st.Read(buf)
		if n > len(s.in)-got || !bytes.Equal(buf[:n], s.in[got:got+n]) {
			return fmt.Errorf("%w: other bytes behind %d", errChaos, got)
		}
		got += n
		switch {
		case err == io.EOF && got < len(s.in) && !s.cutShort:
			return fmt.Errorf("%w: a clean end after %d of %d bytes", errChaos, got, len(s.in))
		case err == io.EOF, s.closes && got > len(s.in)/2:
			return nil
		case err != nil:
			return err
		}
	}
}

func (p plan) readDatagrams(st *Stream, s side) error {
	want := p.pieces(s.in, s.inWay)
	buf := make([]byte, wire.MaxPayload)
	for i := 0; ; i++ {
		n, err := st.Read(buf)
		switch {
		case err == io.EOF && i < len(want) && !s.cutShort:
			return fmt.Errorf("%w: a clean end after %d of %d datagrams", errChaos, i, len(want))
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case i >= len(want) || !bytes.Equal(buf[:n], want[i]):
			return fmt.Errorf("%w: another datagram %d", errChaos, i)
		case s.closes && i > len(want)/2:
			return nil
		}
	}
}
