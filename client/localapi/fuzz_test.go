package localapi

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// FuzzStream reads whatever a peer may send. Only an end record may be a clean
// end, and a reader never gets more than was sent.
func FuzzStream(f *testing.F) {
	data := []byte{1, 0, 0, 2, 'h', 'i'}
	end := []byte{3, 0, 0, 0}
	f.Add(append(bytes.Clone(data), end...), false)
	f.Add(data, false)
	f.Add([]byte{2, 0, 0, 0, 2, 0, 0, 1, 'x', 3, 0, 0, 0}, true)
	f.Add(append([]byte{0x27, 0, 0, 2}, "{}"...), false)
	f.Add(append([]byte{0x27, 0, 0, 18}, `{"kind":"refusal"}`...), false)
	f.Add([]byte{1, 0xff, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, input []byte, udp bool) {
		near, far := net.Pipe()
		go func() {
			_, _ = far.Write(input)
			_ = far.Close()
		}()
		kind := wire.KindTCP
		if udp {
			kind = wire.KindUDP
		}
		s := newStream(near, bufio.NewReaderSize(near, readBuffer), kind)
		got, err := io.ReadAll(s)
		if err == nil && !bytes.Contains(input, end) {
			t.Fatalf("a clean end out of %x", input)
		}
		if len(got) > len(input) {
			t.Fatalf("%d bytes out of %d", len(got), len(input))
		}
		_ = near.Close()
		_ = s.Close()
	})
}
