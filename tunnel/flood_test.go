package tunnel

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// TestThreatEndlessAnnouncement: a gateway that announces services without an end costs the client a bounded amount of memory.
func TestThreatEndlessAnnouncement(t *testing.T) {
	a, b := tcpPair(t)
	p, s := rawGateway(t, a, b)
	go func() { // the client's credit and pings
		for {
			if _, _, ok := p.next(); !ok {
				return
			}
		}
	}()
	before := heapInUse()
	tags := make([]string, wire.MaxList)
	for i := range tags {
		tags[i] = strings.Repeat("t", wire.MaxName)
	}
	sent := 0
	for i := 0; s.Err() == nil && sent < 4*maxAnnouncement; i++ {
		m := &wire.Services{More: true, Services: []wire.Service{{Name: fmt.Sprint("s", i), Kind: wire.KindTCP, Tags: tags}}}
		p.message(1, m)
		sent += len(tags) * wire.MaxName
		if i%4 == 3 { // within the window of the control stream
			waitFor(t, "the client to read", func() bool {
				return s.Err() != nil || s.ctl.st.buffered() == 0
			})
		}
	}
	if used := heapInUse() - before; !errors.Is(s.Err(), ErrProtocol) || used > 2*maxAnnouncement {
		t.Errorf("%v after %d MiB; %d MiB of heap", s.Err(), sent>>20, used>>20)
	}
}
