package session

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Info is a session as a list shows it.
type Info struct {
	ID       uint64 // of the connection, unique in this gateway's run
	Identity auth.Identity
	User     auth.UserID
	Serial   auth.Serial
	Remote   netip.AddrPort
	Client   string
	Lane     int
	Since    time.Time
	NotAfter time.Time
	Deadline time.Time
	BytesIn  int64 // from the client, payload of all its streams
	BytesOut int64 // to the client
	Streams  []StreamInfo
}

// StreamInfo is a stream as a list shows it.
type StreamInfo struct {
	ID         uint64
	Target     wire.Target
	Facts      Facts
	Decided    bool
	Since      time.Time
	LastActive time.Time // zero before the first byte
	BytesIn    int64
	BytesOut   int64
}

// List returns a copy of the register, in the order in which connections came. Every session is consistent in itself.
func (r *Registry) List() []Info {
	sessions := r.all()
	list := make([]Info, 0, len(sessions))
	for _, s := range sessions {
		list = append(list, s.Info())
	}
	slices.SortFunc(list, func(a, b Info) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Bytes returns the payload bytes from and to all clients since the start, those of open streams included.
func (r *Registry) Bytes() (in, out int64) {
	sessions := r.all()
	in, out = r.goneIn.Load(), r.goneOut.Load()
	for _, s := range sessions {
		for _, st := range s.list() {
			i, o := st.meter.Bytes()
			in, out = in+i, out+o
		}
	}
	return in, out
}

// Info returns the session as it is now.
func (s *Session) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	info := Info{
		ID: s.id, Identity: *s.identity, User: s.userID, Serial: s.serials[len(s.serials)-1], Remote: s.remote,
		Client: s.client, Lane: s.lane, Since: s.since, NotAfter: s.notAfter, Deadline: s.deadline,
		BytesIn: s.bytesIn, BytesOut: s.bytesOut, Streams: make([]StreamInfo, 0, len(s.streams)),
	}
	for _, st := range s.streams {
		si := st.info()
		info.BytesIn += si.BytesIn
		info.BytesOut += si.BytesOut
		info.Streams = append(info.Streams, si)
	}
	slices.SortFunc(info.Streams, func(a, b StreamInfo) int { return cmp.Compare(a.ID, b.ID) })
	return info
}

func (st *Stream) info() StreamInfo {
	in, out := st.meter.Bytes()
	st.mu.Lock()
	defer st.mu.Unlock()
	return StreamInfo{
		ID: st.id, Target: st.target, Facts: st.facts, Decided: st.decided, Since: st.opened,
		LastActive: st.meter.LastActive(), BytesIn: in, BytesOut: out,
	}
}
