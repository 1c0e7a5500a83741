package relay

import (
	"sync"
	"sync/atomic"
	"time"
)

// stallPeriod is how long a write waits before the other side is looked at, and how often then.
const stallPeriod = time.Second

// prober is offered by a Conn that can tell, without reading, that its peer has reset it.
type prober interface {
	// broken is nil while the connection lives, or when that cannot be known.
	broken() error
}

// stallWatch finds the reset of a source while its data waits for the destination: nobody reads then, and a plain TCP connection
// would be gone at once. Its timer runs only while something moves or waits, so that an idle stream costs nothing.
type stallWatch struct {
	end   func(from Side, cause error)
	armed atomic.Bool
	aToB  flow
	bToA  flow

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
}

// flow is one direction as the watch sees it.
type flow struct {
	src     Conn
	from    Side
	count   *atomic.Int64
	writing atomic.Bool
	last    int64 // the count at the last look; the timer's
}

// enter and leave stand around every write.
func (s *stallWatch) enter(f *flow) {
	f.writing.Store(true)
	if !s.armed.Load() && s.armed.CompareAndSwap(false, true) {
		s.arm()
	}
}

func (*stallWatch) leave(f *flow) { f.writing.Store(false) }

func (s *stallWatch) arm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
	case s.timer == nil:
		s.timer = time.AfterFunc(stallPeriod, s.look)
	default:
		s.timer.Reset(stallPeriod)
	}
}

func (s *stallWatch) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

func (s *stallWatch) look() {
	moved := s.aToB.look(s.end)
	if s.bToA.look(s.end) || moved {
		s.arm()
		return
	}
	s.armed.Store(false)
	// A write that began meanwhile saw the timer as armed.
	if (s.aToB.writing.Load() || s.bToA.writing.Load()) && s.armed.CompareAndSwap(false, true) {
		s.arm()
	}
}

// look probes the source of a direction that stands still in a write, and reports whether it is worth to look again.
func (f *flow) look(end func(Side, error)) bool {
	n := f.count.Load()
	still := n == f.last
	f.last = n
	if !f.writing.Load() {
		return !still
	}
	if p, ok := f.src.(prober); ok && still {
		if err := p.broken(); err != nil {
			end(f.from, err)
		}
	}
	return true
}
