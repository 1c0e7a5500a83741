package tunnel

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const (
	// stallAfter is how long a stream stands before it counts as stalled.
	stallAfter = 10 * time.Second
	// stallKernel is about what the kernel holds for a stalled pair of sockets.
	stallKernel = 4 << 20
	// defaultStalls is the limit where the kernel's own is not known.
	defaultStalls = 256
)

// StallLimit bounds the streams of a process that have something to move and do not move: a stalled stream holds a window of memory
// here and about 4 MiB of the kernel's TCP memory, which all programs of a machine share (at a few hundred of them, every connection
// of the machine slows down). Beyond the limit, a session aborts those of its streams that have stood longest. It is safe for
// concurrent use and is meant to be shared by all sessions of a process.
type StallLimit struct {
	max int

	mu sync.Mutex
	n  int
}

// NewStallLimit makes a limit of max streams. With 0, as many as half of the kernel's TCP memory holds below its pressure mark
// (/proc/sys/net/ipv4/tcp_mem), or 256 where that is not known.
func NewStallLimit(max int) *StallLimit {
	if max <= 0 {
		max = stallsOfKernel()
	}
	return &StallLimit{max: max}
}

func stallsOfKernel() int {
	data, err := os.ReadFile("/proc/sys/net/ipv4/tcp_mem")
	if err != nil {
		return defaultStalls
	}
	fields := strings.Fields(string(data))
	if len(fields) != 3 {
		return defaultStalls
	}
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		return defaultStalls
	}
	return min(max(pages*os.Getpagesize()/2/stallKernel, 16), 4096)
}

// change notes that a session has so many stalled streams more, and returns how many are too many.
func (l *StallLimit) change(delta int) (over int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += delta
	return max(l.n-l.max, 0)
}

// progress is what housekeeping saw of a stream the last time.
type progress struct {
	read  int64
	since time.Time // when it began to stand; zero: it moves
}

// stands reports whether the stream has something to move and did not move, and since when.
func (st *Stream) stands(now time.Time) (time.Time, bool) {
	read := st.read.Load()
	waiting := st.waiting.Load()
	moved := read != st.seen.read
	st.seen.read = read
	if moved || (st.buffered() == 0 && waiting == 0) {
		st.seen.since = time.Time{}
		return time.Time{}, false
	}
	if st.seen.since.IsZero() {
		st.seen.since = now
	}
	if waiting != 0 {
		return time.Unix(0, waiting), true
	}
	return st.seen.since, true
}

// watchStreams finds the streams that stand. busy says that there are some.
func (s *Session) watchStreams(now time.Time) (victims []*Stream, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var stalled []*Stream
	for _, st := range s.streams {
		since, stands := st.stands(now)
		busy = busy || stands
		if stands && now.Sub(since) >= stallAfter {
			st.seen.since = since
			stalled = append(stalled, st)
		}
	}
	over := s.cfg.stalls.change(len(stalled) - s.stalled)
	s.stalled = len(stalled)
	if over == 0 {
		return nil, busy
	}
	slices.SortFunc(stalled, func(a, b *Stream) int { return a.seen.since.Compare(b.seen.since) })
	return stalled[:min(over, len(stalled))], busy
}

func abortStalled(victims []*Stream) {
	for _, st := range victims {
		st.s.log.warn("stalled stream aborted", "stream", st.id, "target", st.request.Target.String())
		st.Abort(&AbortError{Code: wire.AbortLimit, Reason: "the stream did not move, and too many others did not either"})
	}
}
