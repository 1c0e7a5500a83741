package tunnel

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// TestThreatStreamFlood: 100,000 opens are capped, memory stays flat, the log is throttled.
func TestThreatStreamFlood(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers bool // whether the client answers resets, as it must
	}{{"a client that answers resets", true}, {"a client that does not", false}} {
		t.Run(tc.name, func(t *testing.T) {
			var lines atomic.Int64
			log := slog.New(slog.NewTextHandler(countingWriter{&lines}, &slog.HandlerOptions{Level: slog.LevelDebug}))
			p, s := rawClient(t, ServerConfig{Logger: log})
			before, goroutines := heapInUse(), runtime.NumGoroutine()
			read := make(chan struct{})
			go func() {
				defer close(read)
				for {
					f, _, ok := p.next()
					if !ok {
						return
					}
					if f.has(flagRST) && tc.answers {
						p.send(frame{kind: frameWindow, flags: flagRST, id: f.id})
					}
				}
			}()
			flood := make([]byte, 0, 100*frameSize)
			most := 0
			for id := uint32(3); id < 200_003 && s.Err() == nil; {
				flood = flood[:0]
				for range 100 {
					flood = frame{kind: frameWindow, flags: flagSYN, id: id}.append(flood)
					id += 2
				}
				p.conn.Write(flood)
				most = max(most, s.Stats().Streams)
			}
			used := heapInUse() - before
			if most > wire.MaxUndecided || used > 8<<20 || lines.Load() > 1000 || runtime.NumGoroutine() > goroutines+2*wire.MaxUndecided {
				t.Errorf("%d streams, %d KiB, %d lines, %d goroutines", most, used>>10, lines.Load(), runtime.NumGoroutine()-goroutines)
			}
			if !tc.answers {
				<-s.Done()
				if !errors.Is(s.Err(), ErrProtocol) {
					t.Error(s.Err())
				}
			}
			p.raw.Close()
			<-read
		})
	}
}

// TestThreatHungReads (yamux GO-2025-3408): a stall of 15 s is a deadline error, not a hang.
func TestThreatHungReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		client, server, _ := simSessions(t, time.Millisecond, 0, pairOptions{})
		near, far := openPair(t, client, server, echoTarget)
		start := time.Now()
		near.SetReadDeadline(start.Add(15 * time.Second))
		_, err := near.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 15*time.Second {
			t.Errorf("read: %v after %s", err, took)
		}
		start = time.Now()
		near.SetWriteDeadline(start.Add(15 * time.Second))
		_, err = near.Write(make([]byte, 1<<20)) // far reads nothing
		if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 15*time.Second {
			t.Errorf("write: %v after %s", err, took)
		}
		if _, err := io.ReadFull(far, make([]byte, initialWindow/2)); err != nil {
			t.Error(err)
		}
		client.Close()
		server.Close()
	})
}

// TestThreatPingFlood: yamux starts a goroutine for each ping; here they are answered in place, and a peer that does not
// read the answers loses the session.
func TestThreatPingFlood(t *testing.T) {
	p, s := rawClient(t, ServerConfig{})
	before, goroutines := heapInUse(), runtime.NumGoroutine()
	flood := make([]byte, 0, 1000*frameSize)
	for range 1000 {
		flood = frame{kind: framePing, flags: flagSYN}.append(flood)
	}
	for s.Err() == nil { // nothing is read
		p.raw.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := p.conn.Write(flood); err != nil {
			break
		}
		if more := runtime.NumGoroutine() - goroutines; more > 10 {
			t.Fatalf("%d goroutines", more)
		}
	}
	<-s.Done()
	if used := heapInUse() - before; !errors.Is(s.Err(), ErrProtocol) || used > 8<<20 {
		t.Errorf("%v, %d KiB", s.Err(), used>>10)
	}
}

// TestThreatKeyUpdateFlood (Go CVE-2026-32283): endless key updates end that connection alone.
func TestThreatKeyUpdateFlood(t *testing.T) {
	client, server := pair(t, pairOptions{})
	openPair(t, client, server, echoTarget)
	secrets := &keyLog{}
	p, s := rawClientWith(t, ServerConfig{}, func(conf *tls.Config) {
		conf.KeyLogWriter = secrets
	})
	if suite := p.conn.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		testenv.Missing(t, "the flood is written for TLS_AES_128_GCM_SHA256, not for %s", tls.CipherSuiteName(suite))
	}
	secret := secrets.clientTraffic(t)
	before := heapInUse()
	seq := uint64(2) // SYN and Hello were a record each
	for range 1_000_000 {
		if _, err := p.raw.Write(keyUpdate(t, secret, seq)); err != nil {
			break
		}
		secret, seq = expandLabel(t, secret, "traffic upd", 32), 0
	}
	<-s.Done()
	if used := heapInUse() - before; used > 4<<20 {
		t.Errorf("%d KiB", used>>10)
	}
	if client.Err() != nil || server.Err() != nil {
		t.Error("another session ended too")
	}
}

// keyLog keeps what crypto/tls writes in the format of SSLKEYLOGFILE.
type keyLog struct {
	mu    sync.Mutex
	lines []string
}

func (k *keyLog) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lines = append(k.lines, string(p))
	return len(p), nil
}

func (k *keyLog) clientTraffic(t *testing.T) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, line := range k.lines {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
			secret, err := hex.DecodeString(fields[2])
			if err != nil {
				t.Fatal(err)
			}
			return secret
		}
	}
	t.Fatal("no traffic secret")
	return nil
}

// keyUpdate is a record with a KeyUpdate that asks for one in return (RFC 8446 section 4.6.3).
func keyUpdate(t *testing.T, secret []byte, seq uint64) []byte {
	t.Helper()
	block, err := aes.NewCipher(expandLabel(t, secret, "key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expandLabel(t, secret, "iv", 12)
	for i := range 8 {
		nonce[11-i] ^= byte(seq >> (8 * i))
	}
	inner := []byte{24, 0, 0, 1, 1, 22} // key_update, length 1, update_requested; the record is a handshake one
	header := []byte{23, 3, 3, 0, byte(len(inner) + aead.Overhead())}
	return aead.Seal(header, nonce, inner, header)
}

// expandLabel is HKDF-Expand-Label (RFC 8446 section 7.1) with an empty context.
func expandLabel(t *testing.T, secret []byte, label string, length int) []byte {
	t.Helper()
	label = "tls13 " + label
	info := append([]byte{byte(length >> 8), byte(length), byte(len(label))}, label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), length)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestThreatHostileFrames: each of these ends the session that it came from, and nothing else.
func TestThreatHostileFrames(t *testing.T) {
	for name, hostile := range map[string]func(*rawPeer, *Session){
		"a stream with an even number": func(p *rawPeer, _ *Session) { p.send(frame{kind: frameWindow, flags: flagSYN, id: 4}) },
		"stream 0":                     func(p *rawPeer, _ *Session) { p.send(frame{kind: frameWindow, id: 0}) },
		"a number twice": func(p *rawPeer, s *Session) {
			p.open(5, s)
			p.send(frame{kind: frameWindow, flags: flagSYN, id: 5})
		},
		"numbers that fall": func(p *rawPeer, s *Session) {
			p.open(5, s)
			p.send(frame{kind: frameWindow, flags: flagSYN, id: 3})
		},
		"a stream that was never opened": func(p *rawPeer, _ *Session) { p.send(frame{kind: frameData, id: 99}, 1) },
		"more than the window": func(p *rawPeer, s *Session) {
			p.open(3, s)
			for range 5 {
				p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, make([]byte, wire.MaxPayload)...)...)
			}
		},
		"a frame of 4 GiB": func(p *rawPeer, s *Session) {
			p.open(3, s)
			p.conn.Write(frame{kind: frameData, id: 3, length: 1<<32 - 1}.append(nil))
		},
		"too much credit": func(p *rawPeer, s *Session) {
			p.open(3, s)
			p.send(frame{kind: frameWindow, id: 3, length: 1<<32 - 1})
		},
		"data behind the end": func(p *rawPeer, s *Session) {
			p.open(3, s)
			p.end(3)
			p.send(frame{kind: frameData, id: 3}, record(wire.TypeData, 1)...)
		},
		"a FIN on data": func(p *rawPeer, s *Session) {
			p.open(3, s)
			p.send(frame{kind: frameData, flags: flagFIN, id: 3}, record(wire.TypeEnd)...)
		},
		"two ends": func(p *rawPeer, s *Session) {
			p.open(3, s)
			p.send(frame{kind: frameWindow, flags: flagFIN, id: 3})
			p.send(frame{kind: frameWindow, flags: flagFIN, id: 3})
		},
		"another version of yamux": func(p *rawPeer, _ *Session) { p.conn.Write([]byte{9, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}) },
		"an unknown frame":         func(p *rawPeer, _ *Session) { p.conn.Write([]byte{0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}) },
		"go away":                  func(p *rawPeer, _ *Session) { p.send(frame{kind: frameGoAway, length: 1}) },
		"a broken control message": func(p *rawPeer, _ *Session) {
			p.send(frame{kind: frameData, id: 1}, record(wire.TypePing, 0xff)...)
		},
		"a gateway's message": func(p *rawPeer, _ *Session) { p.message(1, &wire.Draining{}) },
		"a second hello":      func(p *rawPeer, _ *Session) { p.message(1, &wire.Hello{Versions: []int{1}}) },
		"the end of the control stream": func(p *rawPeer, _ *Session) {
			p.send(frame{kind: frameWindow, flags: flagFIN, id: 1})
		},
		"a reset of the control stream": func(p *rawPeer, _ *Session) {
			p.send(frame{kind: frameWindow, flags: flagRST, id: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := rawClient(t, ServerConfig{})
			hostile(p, s)
			p.ended()
			<-s.Done()
			if s.Err() == nil {
				t.Error("it lives")
			}
		})
	}
}

// TestThreatHostileStreams: each of these ends that stream alone.
func TestThreatHostileStreams(t *testing.T) {
	for name, hostile := range map[string][]byte{
		"a datagram on a tcp stream": record(wire.TypeDatagram, 1),
		"a message among records":    record(wire.TypePing, 1),
		"an unknown record":          {0x7f, 0, 0, 1, 1},
		"a record that is too long":  {1, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := rawClient(t, ServerConfig{})
			st := p.open(3, s)
			p.send(frame{kind: frameData, id: 3}, hostile...)
			_, err := io.ReadAll(st)
			var abort *AbortError
			if !errors.As(err, &abort) || abort.Code != wire.AbortProtocol || s.Err() != nil {
				t.Errorf("%v, session: %v", err, s.Err())
			}
			p.send(frame{kind: frameWindow, flags: flagRST, id: 3})
		})
	}
	t.Run("no request", func(t *testing.T) {
		p, s := rawClient(t, ServerConfig{})
		p.send(frame{kind: frameData, flags: flagSYN, id: 3}, record(wire.TypeData, 1)...)
		if m := p.untilMessage(wire.TypeAbort).(*wire.Abort); m.Code != wire.AbortProtocol || s.Err() != nil {
			t.Errorf("%+v, %v", m, s.Err())
		}
	})
}

// TestThreatGatewayOpensStreams: a client takes no stream from its gateway.
func TestThreatGatewayOpensStreams(t *testing.T) {
	a, b := tcpPair(t)
	p, s := rawGateway(t, a, b)
	p.send(frame{kind: frameWindow, flags: flagSYN, id: 2})
	p.ended()
	<-s.Done()
	if !errors.Is(s.Err(), ErrProtocol) {
		t.Error(s.Err())
	}
}

// TestThreatStalledHandshake: who says nothing after TLS is gone after 10 s.
func TestThreatStalledHandshake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := simPair(time.Millisecond, 0)
		conf, _ := testTLS()
		start := time.Now()
		served := make(chan error, 1)
		go func() {
			_, err := serve(context.Background(), b, ServerConfig{Admit: admitAll})
			served <- err
		}()
		tc := tls.Client(a, conf)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		err := <-served
		if took := time.Since(start); err == nil || took > handshakeTimeout+2*farewell {
			t.Errorf("%v after %s", err, took)
		}
		a.Close()
	})
}

// TestThreatClientHandshakeTimesOut: a gateway that does not answer holds nobody longer than 10 s.
func TestThreatClientHandshakeTimesOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		conf, _ := testTLS()
		start := time.Now()
		_, err := Client(context.Background(), a, conf, ClientConfig{})
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > handshakeTimeout+time.Second {
			t.Errorf("%v after %s", err, took)
		}
	})
}
