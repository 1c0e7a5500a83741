package tunnel

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/culvert-vpn/culvert/internal/testenv"
)

// benchPair is a session whose gateway runs f for every stream.
func benchPair(b *testing.B, f func(*Stream)) *Session {
	b.Helper()
	limits := Limits{MaxStreams: 20_000}
	client, server := pair(b, pairOptions{client: ClientConfig{Limits: limits}, server: ServerConfig{Limits: limits}})
	acceptEach(b, server, f)
	return client
}

func echoStream(st *Stream) {
	_, _ = io.Copy(st, st)
	_ = st.CloseWrite()
	_ = st.Close()
}

// BenchmarkOpen is a stream from its request to its clean end on both sides, with one byte there and back.
func BenchmarkOpen(b *testing.B) {
	client := benchPair(b, echoStream)
	b.ReportAllocs()
	var x [1]byte
	for b.Loop() {
		st, err := client.Open(context.Background(), echoTarget, OpenOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Write(x[:]); err != nil {
			b.Fatal(err)
		}
		_ = st.CloseWrite()
		if _, err := io.ReadFull(st, x[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := st.Read(x[:]); err != io.EOF {
			b.Fatal(err)
		}
		_ = st.Close()
	}
}

// BenchmarkRoundTrip is one byte there and back on an open stream.
func BenchmarkRoundTrip(b *testing.B) {
	client := benchPair(b, echoStream)
	st, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var x [1]byte
	for b.Loop() {
		if _, err := st.Write(x[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(st, x[:]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBulk is a download in pieces of 64 KiB, over 1 and 8 streams.
func BenchmarkBulk(b *testing.B) {
	for _, streams := range []int{1, 8} {
		b.Run(map[int]string{1: "1stream", 8: "8streams"}[streams], func(b *testing.B) { benchBulk(b, streams) })
	}
}

func benchBulk(b *testing.B, streams int) {
	const piece = 64 << 10
	client := benchPair(b, func(st *Stream) {
		buf := make([]byte, piece)
		for {
			if _, err := st.Write(buf); err != nil {
				return
			}
		}
	})
	pieces := make(chan struct{})
	done := make(chan struct{}, streams)
	for range streams {
		st, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			buf := make([]byte, piece)
			for range pieces {
				if _, err := io.ReadFull(st, buf); err != nil {
					b.Error(err)
					break
				}
			}
			st.Abort(nil)
			done <- struct{}{}
		}()
	}
	b.SetBytes(piece)
	b.ReportAllocs()
	for b.Loop() {
		pieces <- struct{}{}
	}
	close(pieces)
	for range streams {
		<-done
	}
}

// BenchmarkIdleStreamMemory reports what an idle stream costs both ends in heap, and what an idle session does.
func BenchmarkIdleStreamMemory(b *testing.B) {
	client := benchPair(b, echoStream)
	var x [1]byte
	var streams []*Stream
	before := heapInUse()
	for b.Loop() {
		st, err := client.Open(context.Background(), echoTarget, OpenOptions{Wait: true})
		if err != nil {
			b.Skipf("stopped at %d streams: %v", len(streams), err) // the limit, with a long -benchtime
		}
		if _, err := st.Write(x[:]); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(st, x[:]); err != nil {
			b.Fatal(err)
		}
		streams = append(streams, st)
	}
	b.ReportMetric(float64(heapInUse()-before)/float64(len(streams)), "B/stream")
	for _, st := range streams {
		st.Abort(nil)
	}
}

// BenchmarkIdleSessionMemory reports what an idle session costs both ends in heap, without goroutine stacks.
func BenchmarkIdleSessionMemory(b *testing.B) {
	log := testenv.Logger(b)
	var sessions []*Session
	before := heapInUse()
	for b.Loop() {
		near, far := tcpPair(b)
		client, server := benchSession(b, near, far, ClientConfig{Logger: log})
		sessions = append(sessions, client, server)
	}
	b.ReportMetric(2*float64(heapInUse()-before)/float64(len(sessions)), "B/session")
	for _, s := range sessions {
		s.fail(ErrClosed)
	}
	for _, s := range sessions {
		_ = s.Close()
	}
}

func benchSession(b *testing.B, near, far net.Conn, cfg ClientConfig) (client, server *Session) {
	conf, _ := testTLS()
	served := make(chan *Session, 1)
	go func() {
		s, err := serve(context.Background(), far, ServerConfig{Admit: admitAll})
		if err != nil {
			b.Error(err)
		}
		served <- s
	}()
	client, err := Client(context.Background(), near, conf, cfg)
	if err != nil {
		b.Fatal(err)
	}
	return client, <-served
}
