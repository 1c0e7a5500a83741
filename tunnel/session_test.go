package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"testing"
	"time"
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
}
