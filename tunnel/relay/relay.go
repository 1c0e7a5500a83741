// Package relay copies both directions of a stream between two connections and keeps TCP's manners while it does: an end of one
// direction is passed on as an end of that direction, a failure is passed on as a failure and never as a clean end, and what went
// through is counted while it goes.
//
// It knows nothing of identities, policies or the tunnel's messages, and it starts nothing that outlives the call: when Copy or
// CopyPackets returns, both connections are closed and no goroutine is left.
package relay

import (
	"context"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrIdle is the cause of a copy that ended because no byte moved for the idle time-out. It is an os.ErrDeadlineExceeded to
// errors.Is, and a time-out to net.Error.
var ErrIdle error = idleError{}

type idleError struct{}

func (idleError) Error() string        { return "idle time-out" }
func (idleError) Timeout() bool        { return true }
func (idleError) Temporary() bool      { return false }
func (idleError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// Conn is one end of a relayed stream. Read, Write and the closing methods may be called at the same time.
type Conn interface {
	io.Reader // io.EOF only for a clean end by the peer
	io.Writer

	// CloseWrite ends the direction towards the peer cleanly (TCP: FIN). Reading goes on.
	CloseWrite() error

	// Abort ends both directions at once; the peer sees a reset and never a clean end. It unblocks Read and Write, may be called
	// more than once (the first cause counts), and does not wait for the peer.
	Abort(cause error)

	// Close releases the connection. Copy calls it when both directions have ended cleanly; what was written is still delivered.
	Close() error
}

// AbortNotifier is offered by a Conn that learns of the peer's abort while nobody reads. Copy needs it for the case where a
// direction is blocked in a write to the other side, and for a peer that aborts after its clean end.
type AbortNotifier interface {
	// OnAbort arranges that f runs once, on a goroutine of its own, when the peer has aborted or the connection was lost; at
	// once if that has happened already. stop withdraws f and reports whether it did so before f was started.
	OnAbort(f func(cause error)) (stop func() bool)
}

// BuffersWriter is what the writer given to a Conn's WriteTo offers beside Write: several pieces in one system call where the
// other side can do that. The pieces are consumed as with net.Buffers.
type BuffersWriter interface {
	WriteBuffers(pieces *[][]byte) (int64, error)
}

// NowWriter is what that writer, and a Conn, may offer besides: whoever has something small in hand, and must not wait, passes it on
// without waking the goroutine that copies. One call at a time, and none while a Write or WriteBuffers runs.
type NowWriter interface {
	// WriteNow writes what can be written without waiting, possibly nothing.
	WriteNow(p []byte) (int, error)
}

// Side names one of the two connections of a copy.
type Side uint8

// The sides of a copy. SideLocal stands for a copy that its own caller or its idle time-out ended.
const (
	SideNone Side = iota
	SideA
	SideB
	SideLocal
)

// String is "a", "b", "local" or "none".
func (s Side) String() string {
	return [...]string{"none", "a", "b", "local"}[s&3]
}

// Meter counts a copy while it runs. Its zero value is ready; it is safe for concurrent use.
type Meter struct {
	aToB, bToA atomic.Int64
	active     atomic.Int64 // unix nanoseconds of the last byte
}

// Bytes returns the payload bytes delivered so far in each direction.
func (m *Meter) Bytes() (aToB, bToA int64) { return m.aToB.Load(), m.bToA.Load() }

// Count adds bytes that were delivered without a copy.
func (m *Meter) Count(aToB, bToA int64) {
	m.aToB.Add(aToB)
	m.bToA.Add(bToA)
	m.active.Store(time.Now().UnixNano())
}

// LastActive is the time of the last byte, zero before the first.
func (m *Meter) LastActive() time.Time {
	if n := m.active.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Options adjust a copy. The zero value copies without an idle time-out.
type Options struct {
	IdleTimeout time.Duration // optional; 0 is none. No byte in either direction for that long aborts both sides with ErrIdle.
	Meter       *Meter        // optional; receives the counts while the copy runs
	Cut         *Cut          // optional; leaves b before ctx is cancelled
}

// Cut leaves the b of a copy at once, on the goroutine of the caller: where many copies are to end together, none waits for its turn
// behind what the ends of the others bring with them. Its zero value is ready, for one copy; it is safe for concurrent use.
type Cut struct {
	mu    sync.Mutex
	leave func(error) // of the copy that runs
	cause error       // of the cut
}

// Leave aborts b with cause, which is not nil, and waits for nobody. a is aborted, and the copy ends, when the context of the copy is
// cancelled behind it, which the caller sees to. A copy that has not begun leaves as it begins.
func (k *Cut) Leave(cause error) {
	k.mu.Lock()
	leave := k.leave
	if k.cause == nil {
		k.cause = cause
	}
	k.mu.Unlock()
	if leave != nil {
		leave(cause)
	}
}

func (k *Cut) begin(leave func(error)) {
	if k == nil {
		return
	}
	k.mu.Lock()
	k.leave = leave
	cause := k.cause
	k.mu.Unlock()
	if cause != nil {
		leave(cause)
	}
}

// Result is what a copy came to.
type Result struct {
	AtoB, BtoA int64 // payload bytes delivered to b and to a
	Duration   time.Duration
	Cause      error // nil when both directions ended cleanly; else what was passed to Abort on both sides
	By         Side  // the side that failed, or that ended first when Cause is nil; SideLocal for ctx and the idle time-out
}

// Copy relays between a and b until both directions have ended, one side fails, the idle time-out passes, or ctx is done (then
// both sides are aborted with context.Cause). It closes both connections and returns when nothing of it runs any more.
func Copy(ctx context.Context, a, b Conn, opts Options) Result {
	c := newCopier(opts, a.Abort, b.Abort)
	defer watchAbort(c, a, SideA)()
	defer watchAbort(c, b, SideB)()
	c.stall.end = c.end
	c.stall.aToB = flow{src: a, from: SideA, count: &c.meter.aToB}
	c.stall.bToA = flow{src: b, from: SideB, count: &c.meter.bToA}
	stop := c.watch(ctx)
	opts.Cut.begin(c.leave)

	var others sync.WaitGroup
	others.Go(func() { c.pump(a, b, &c.stall.aToB) })
	c.pump(b, a, &c.stall.bToA)
	others.Wait()

	stop()
	c.stall.stop()
	res := c.result()
	if res.Cause == nil {
		_ = a.Close() // both directions have ended; nothing is lost by an error here
		_ = b.Close()
	}
	return res
}

func watchAbort(c *copier, conn Conn, side Side) func() bool {
	n, ok := conn.(AbortNotifier)
	if !ok {
		return func() bool { return false }
	}
	return n.OnAbort(func(cause error) { c.end(side, cause) })
}

// copier is the state that both directions of one copy share.
type copier struct {
	meter *Meter
	start time.Time
	idle  time.Duration
	abort [2]func(cause error) // of a and of b
	done  chan struct{}        // closed when the copy is over for a reason other than two clean ends
	left  atomic.Int32         // directions that still run
	stall stallWatch           // of Copy

	mu    sync.Mutex
	ended bool
	gone  bool // b was left: a is to follow
	cause error
	by    Side
	timer *time.Timer
}

func newCopier(opts Options, abortA, abortB func(error)) *copier {
	m := opts.Meter
	if m == nil {
		m = new(Meter)
	}
	c := &copier{meter: m, start: time.Now(), idle: opts.IdleTimeout, abort: [2]func(error){abortA, abortB}, done: make(chan struct{})}
	c.left.Store(2)
	return c
}

// watch ends the copy when ctx or the idle time-out says so, until stop is called.
func (c *copier) watch(ctx context.Context) (stop func()) {
	stopCtx := context.AfterFunc(ctx, func() {
		c.end(SideLocal, context.Cause(ctx))
		c.follow()
	})
	if c.idle > 0 {
		c.mu.Lock()
		c.timer = time.AfterFunc(c.idle, c.checkIdle)
		c.mu.Unlock()
	}
	return func() {
		stopCtx()
		c.mu.Lock()
		c.ended = true
		if c.timer != nil {
			c.timer.Stop()
		}
		c.mu.Unlock()
		c.follow()
	}
}

func (c *copier) checkIdle() {
	quiet := time.Since(c.start)
	if last := c.meter.LastActive(); !last.IsZero() {
		quiet = min(quiet, time.Since(last))
	}
	c.mu.Lock()
	left := c.idle - quiet
	if left > 0 && !c.ended {
		c.timer.Reset(left)
	}
	c.mu.Unlock()
	if left <= 0 {
		c.end(SideLocal, ErrIdle)
	}
}

// end aborts both sides with cause. Only the first call of end or leave counts.
func (c *copier) end(by Side, cause error) {
	if c.over(by, cause, false) {
		c.abort[1](cause)
		c.abort[0](cause)
	}
}

// leave aborts b only; follow does the rest.
func (c *copier) leave(cause error) {
	if c.over(SideLocal, cause, true) {
		c.abort[1](cause)
	}
}

func (c *copier) follow() {
	c.mu.Lock()
	gone, cause := c.gone, c.cause
	c.gone = false
	c.mu.Unlock()
	if gone {
		c.abort[0](cause)
	}
}

// over notes why the copy ends, and reports whether it is the first reason.
func (c *copier) over(by Side, cause error, gone bool) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.ended, c.cause, c.by, c.gone = true, cause, by, gone
	close(c.done)
	return true
}

// hurry lowers the idle time-out to d, counted from now at the latest.
func (c *copier) hurry(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle = min(c.idle, d); !c.ended {
		c.timer.Reset(c.idle)
	}
}

// sawEnd notes the clean end of side. It comes before the end is passed on, to which the other side answers with its own.
func (c *copier) sawEnd(side Side) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == SideNone {
		c.by = side
	}
}

// finished counts a direction that has ended cleanly and was passed on.
func (c *copier) finished() (last bool) { return c.left.Add(-1) == 0 }

func (c *copier) result() Result {
	c.mu.Lock()
	defer c.mu.Unlock()
	aToB, bToA := c.meter.Bytes()
	return Result{AtoB: aToB, BtoA: bToA, Duration: time.Since(c.start), Cause: c.cause, By: c.by}
}
