package gateway_test

import (
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/server/gateway"
	"github.com/culvert-vpn/culvert/server/session"
	"github.com/culvert-vpn/culvert/tunnel"
)

// unlimited keeps rates and log lines from being what is measured.
func unlimited(g *gateway.Config, s *session.Config) {
	g.Logger, s.Logger = slog.New(slog.DiscardHandler), nil
	s.Limits = session.Limits{OpensPerSession: 1e9, OpensPerUser: 1e9}
}

// BenchmarkOpen is a stream's whole life through a real gateway: decision, two audit records, dial, one byte each way, and the end.
// Both ends and the service run in this process.
func BenchmarkOpen(b *testing.B) {
	for _, mode := range []struct {
		name string
		wait bool
	}{{"waiting for the reply", true}, {"with early data", false}} {
		b.Run(mode.name, func(b *testing.B) {
			svc := newService(b, echo)
			w := newWorld(b, wikiPolicy(svc.addr()), unlimited)
			tun := w.desktop("ada", "engineering").mustConnect()
			one := make([]byte, 1)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				st, err := tun.Open(b.Context(), tcp("wiki"), tunnel.OpenOptions{Wait: mode.wait})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := st.Write(one); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(st, one); err != nil {
					b.Fatal(err)
				}
				st.CloseWrite()
				io.Copy(io.Discard, st)
				st.Close()
			}
		})
	}
}

// BenchmarkDenied is a refusal: decision, audit record, reply.
func BenchmarkDenied(b *testing.B) {
	w := newWorld(b, wikiPolicy("127.0.0.1:1"), unlimited)
	tun := w.desktop("bob", "sales").mustConnect()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := openStream(tun, tcp("wiki")); err == nil {
			b.Fatal("allowed")
		}
	}
}

// BenchmarkDownload is bulk from a service through the gateway to the client.
func BenchmarkDownload(b *testing.B) {
	svc := newService(b, nil)
	w := newWorld(b, wikiPolicy(svc.addr()), unlimited)
	tun := w.desktop("ada", "engineering").mustConnect()
	st := mustOpen(b, tun, tcp("wiki"))
	st.SetDeadline(time.Time{})
	at := svc.accept(b)
	at.SetDeadline(time.Time{})
	const chunk = 1 << 20
	go func() {
		buf := make([]byte, chunk)
		for range b.N {
			if _, err := at.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, chunk)
	b.SetBytes(chunk)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := io.ReadFull(st, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdleSessions says what an idle tunnel connection holds, heap and stacks of both ends together.
func BenchmarkIdleSessions(b *testing.B) {
	const sessions = 200
	w := newWorld(b, wikiPolicy("127.0.0.1:1"), unlimited)
	for range b.N {
		before := inUse()
		var tuns []*tunnel.Session
		for i := range sessions {
			tuns = append(tuns, w.desktop(fmt.Sprint("user", i), "engineering").mustConnect())
		}
		b.ReportMetric(float64(inUse()-before)/sessions, "B/session")
		for _, tun := range tuns {
			tun.Close()
		}
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
