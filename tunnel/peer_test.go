package tunnel

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// rawPeer speaks frames to a session and keeps to no rule of its own.
type rawPeer struct {
	t    testing.TB
	conn *tls.Conn
	raw  net.Conn
}

func (p *rawPeer) send(f frame, body ...byte) {
	p.t.Helper()
	if f.kind == frameData {
		f.length = uint32(len(body))
	}
	_, _ = p.conn.Write(append(f.append(nil), body...)) // fails when the other end has had enough, which is what most tests wait for
}

func (p *rawPeer) message(id uint32, m wire.Message) {
	p.t.Helper()
	frameBytes, err := wire.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.send(frame{kind: frameData, id: id}, frameBytes...)
}

// next reads one frame; ok is false at the end of the connection.
func (p *rawPeer) next() (f frame, body []byte, ok bool) {
	var head [frameSize]byte
	if _, err := io.ReadFull(p.conn, head[:]); err != nil {
		return f, nil, false
	}
	f, err := parseFrame(head[:])
	if err != nil {
		p.t.Error(err)
		return f, nil, false
	}
	body = make([]byte, f.body())
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return f, nil, false
	}
	return f, body, true
}

// until reads frames until match, and returns it. Pings on the way are answered.
func (p *rawPeer) until(what string, match func(frame, []byte) bool) (frame, []byte) {
	p.t.Helper()
	for {
		f, body, ok := p.next()
		if !ok {
			p.t.Fatalf("the connection ended before %s", what)
		}
		if match(f, body) {
			return f, body
		}
		if f.kind == framePing && f.has(flagSYN) {
			p.send(frame{kind: framePing, flags: flagACK, length: f.length})
		}
	}
}

// untilMessage reads frames until a message of that type on the control stream.
func (p *rawPeer) untilMessage(typ wire.Type) wire.Message {
	p.t.Helper()
	_, body := p.until(typ.String(), func(f frame, b []byte) bool {
		return f.kind == frameData && f.id == 1 && len(b) > 4 && wire.Type(b[0]) == typ
	})
	m, err := wire.ParseFrame(body)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// ended reads until the connection is over.
func (p *rawPeer) ended() {
	for {
		if _, _, ok := p.next(); !ok {
			return
		}
	}
}

// rawClient is a client without rules of a real gateway's end of a session, welcomed.
func rawClient(t testing.TB, cfg ServerConfig) (*rawPeer, *Session) {
	t.Helper()
	return rawClientWith(t, cfg, func(*tls.Config) {})
}

// rawClientWith is rawClient with another TLS configuration.
func rawClientWith(t testing.TB, cfg ServerConfig, change func(*tls.Config)) (*rawPeer, *Session) {
	t.Helper()
	a, b := tcpPair(t)
	conf, _ := testTLS()
	conf = conf.Clone()
	change(conf)
	return rawClientTLS(t, cfg, a, b, conf)
}

func rawClientOver(t testing.TB, cfg ServerConfig, a, b net.Conn) (*rawPeer, *Session) {
	t.Helper()
	conf, _ := testTLS()
	return rawClientTLS(t, cfg, a, b, conf)
}

func rawClientTLS(t testing.TB, cfg ServerConfig, a, b net.Conn, conf *tls.Config) (*rawPeer, *Session) {
	t.Helper()
	p := &rawPeer{t: t, conn: tls.Client(a, conf), raw: a}
	if cfg.Admit == nil {
		cfg.Admit = admitAll
	}
	if cfg.Logger == nil {
		cfg.Logger = testenv.Logger(t)
	}
	served := make(chan *Session, 1)
	go func() {
		s, err := serve(context.Background(), b, cfg)
		if err != nil {
			t.Error(err)
		}
		served <- s
	}()
	p.send(frame{kind: frameWindow, flags: flagSYN, id: 1})
	p.message(1, &wire.Hello{Versions: []int{1}})
	p.untilMessage(wire.TypeWelcome)
	s := <-served
	t.Cleanup(func() { a.Close(); s.Close() })
	return p, s
}

// rawGateway is a gateway without rules of a real client, which has its welcome.
func rawGateway(t testing.TB, a, b net.Conn) (*rawPeer, *Session) {
	t.Helper()
	cconf, sconf := testTLS()
	p := &rawPeer{t: t, conn: tls.Server(b, sconf), raw: b}
	joined := make(chan *Session, 1)
	go func() {
		s, err := Client(context.Background(), a, cconf, ClientConfig{Logger: testenv.Logger(t)})
		if err != nil {
			t.Error(err)
		}
		joined <- s
	}()
	p.untilMessage(wire.TypeHello)
	p.send(frame{kind: frameWindow, flags: flagACK, id: 1})
	p.message(1, &wire.Welcome{Version: 1})
	s := <-joined
	t.Cleanup(func() { b.Close(); s.Close() })
	return p, s
}

// open opens a stream and takes the gateway's reply.
func (p *rawPeer) open(id uint32, s *Session) *Stream {
	p.t.Helper()
	p.send(frame{kind: frameWindow, flags: flagSYN, id: id})
	p.message(id, &wire.OpenRequest{Target: echoTarget})
	n, err := s.Accept(context.Background())
	if err != nil {
		p.t.Fatal(err)
	}
	st, err := n.Accept("echo")
	if err != nil {
		p.t.Fatal(err)
	}
	p.until("the reply", func(f frame, b []byte) bool { return f.id == id && f.kind == frameData })
	return st
}

// end ends a stream cleanly.
func (p *rawPeer) end(id uint32) {
	p.t.Helper()
	p.send(frame{kind: frameData, id: id}, record(wire.TypeEnd)...)
	p.send(frame{kind: frameWindow, flags: flagFIN, id: id})
}

// record is the bytes of one record.
func record(t wire.Type, payload ...byte) []byte {
	b := make([]byte, wire.HeaderSize, wire.HeaderSize+len(payload))
	wire.PutHeader(b, wire.Header{Type: t, Length: len(payload)})
	return append(b, payload...)
}
