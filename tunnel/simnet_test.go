package tunnel

import (
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bubble is synctest.Test for code that uses yamux, whose timers live in a sync.Pool: a timer of a bubble must not be used outside
// of it. Two collections empty a pool.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	defer func() { // also when the test fails
		runtime.GC()
		runtime.GC()
	}()
	synctest.Test(t, f)
}

// simPath is one direction of a simulated connection, for tests under synctest: bytes leave at a rate, arrive after a delay, and a
// writer waits while more than buffer of them have not left.
type simPath struct {
	delay  time.Duration
	rate   float64 // bytes per second; 0: no limit
	buffer int

	mu      sync.Mutex
	changed chan struct{} // closed at every change
	queue   []simSegment
	free    time.Time // when the last byte has left
	leaving []simSegment
	closed  bool // by the writer: EOF behind the queue
	broken  bool // by either end: errors at once
	cut     bool // nothing arrives any more, and nobody is told
	written int64
}

type simSegment struct {
	data []byte
	at   time.Time
}

func newSimPath(delay time.Duration, rate float64) *simPath {
	return &simPath{delay: delay, rate: rate, buffer: 128 << 10, changed: make(chan struct{})}
}

func (p *simPath) notifyLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// unsentLocked is what has not left by now.
func (p *simPath) unsentLocked(now time.Time) (n int, next time.Time) {
	for len(p.leaving) > 0 && !p.leaving[0].at.After(now) {
		p.leaving = p.leaving[1:]
	}
	for _, s := range p.leaving {
		n += len(s.data)
	}
	if len(p.leaving) > 0 {
		next = p.leaving[0].at
	}
	return n, next
}

func (p *simPath) write(b []byte) (int, error) {
	total := 0
	for len(b) > 0 {
		n := min(len(b), 16<<10)
		if err := p.writeSegment(append([]byte(nil), b[:n]...)); err != nil {
			return total, err
		}
		b = b[n:]
		total += n
	}
	return total, nil
}

func (p *simPath) writeSegment(b []byte) error {
	for {
		p.mu.Lock()
		if p.broken || p.closed {
			p.mu.Unlock()
			return io.ErrClosedPipe
		}
		now := time.Now()
		unsent, next := p.unsentLocked(now)
		if unsent+len(b) <= p.buffer {
			if p.free.Before(now) {
				p.free = now
			}
			if p.rate > 0 {
				p.free = p.free.Add(time.Duration(float64(len(b)) / p.rate * 1e9))
			}
			p.leaving = append(p.leaving, simSegment{b, p.free})
			if !p.cut {
				p.queue = append(p.queue, simSegment{b, p.free.Add(p.delay)})
			}
			p.written += int64(len(b))
			p.notifyLocked()
			p.mu.Unlock()
			return nil
		}
		changed := p.changed
		p.mu.Unlock()
		p.wait(changed, next)
	}
}

func (p *simPath) wait(changed chan struct{}, until time.Time) {
	var after <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		after = t.C
	}
	select {
	case <-changed:
	case <-after:
	}
}

func (p *simPath) read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		var next time.Time
		switch {
		case p.broken:
			p.mu.Unlock()
			return 0, os.ErrClosed
		case len(p.queue) > 0:
			if next = p.queue[0].at; !next.After(time.Now()) {
				n := copy(b, p.queue[0].data)
				p.queue[0].data = p.queue[0].data[n:]
				if len(p.queue[0].data) == 0 {
					p.queue = p.queue[1:]
				}
				p.mu.Unlock()
				return n, nil
			}
		case p.closed && !p.cut:
			p.mu.Unlock()
			return 0, io.EOF
		}
		changed := p.changed
		p.mu.Unlock()
		p.wait(changed, next)
	}
}

func (p *simPath) shut(broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.broken = p.broken || broken
	p.notifyLocked()
}

// stop makes the path swallow everything from now on.
func (p *simPath) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
}

// simConn is one end of a simulated connection.
type simConn struct{ in, out *simPath }

func (c *simConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *simConn) Write(b []byte) (int, error) { return c.out.write(b) }
func (c *simConn) Close() error {
	c.out.shut(false)
	c.in.shut(true)
	return nil
}
func (c *simConn) LocalAddr() net.Addr              { return simAddr{} }
func (c *simConn) RemoteAddr() net.Addr             { return simAddr{} }
func (c *simConn) SetDeadline(time.Time) error      { return nil }
func (c *simConn) SetReadDeadline(time.Time) error  { return nil }
func (c *simConn) SetWriteDeadline(time.Time) error { return nil }

type simAddr struct{}

func (simAddr) Network() string { return "sim" }
func (simAddr) String() string  { return "sim" }

// simPair is a simulated connection: half of rtt each way, and rate bytes per second.
func simPair(rtt time.Duration, rate float64) (a, b *simConn) {
	up, down := newSimPath(rtt/2, rate), newSimPath(rtt/2, rate)
	return &simConn{down, up}, &simConn{up, down}
}

// simSessions is a session over a simulated connection.
func simSessions(t testing.TB, rtt time.Duration, rate float64, opts pairOptions) (client, server *Session, link *simConn) {
	a, b := simPair(rtt, rate)
	opts.raw = func(testing.TB) (net.Conn, net.Conn) { return a, b }
	client, server = pair(t, opts)
	return client, server, a
}
