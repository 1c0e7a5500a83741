package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const readSize = 128 << 10 // one read of the socket

// Socket is the connection below TLS. It reads in pieces of up to 128 KiB, borrows the buffer for that only while there is
// something to read, and sends several TLS records in one system call. Options that help a tunnel are set where the system has
// them (TCP_NOTSENT_LOWAT, and BBR on a long path). It is a net.Conn, to be used by one tls.Conn.
type Socket struct {
	net.Conn
	raw  syscall.RawConn // nil where the connection cannot be read and written without blocking
	from net.Addr        // whom a balancer says that it comes from; nil: the connection's peer

	// Used by the reader alone.
	in     *readBuffer
	r, w   int
	try    func(fd uintptr) bool // tryRead, made once
	tryN   int
	tryErr error

	lastRead  atomic.Int64 // nanoseconds since base
	lastSent  atomic.Int64
	readBytes atomic.Int64
	sentBytes atomic.Int64
	writing   atomic.Int64 // when the write that is going on began, since base; 0: none
	waiting   atomic.Int64 // ciphertext that has not been handed to the system
	limit     atomic.Int64 // how much of it may wait before bulk does
	base      time.Time
	long      atomic.Bool // the options for a long path are set

	// Set by gather, before anything else writes.
	run    func(func())
	room   func()
	broken func(error)

	mu       sync.Mutex
	gathers  bool
	out      []byte // ciphertext that nobody is sending yet
	flushing bool   // somebody sends what was in out before
}

type readBuffer struct{ bytes [readSize]byte }

var readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}

// NewSocket wraps conn, which nobody else reads or writes from here on. It sets socket options when conn is a *net.TCPConn.
func NewSocket(conn net.Conn) *Socket {
	s := &Socket{Conn: conn, base: time.Now()}
	s.limit.Store(bulkQueue)
	// Only the type itself: what embeds a TCPConn may have buffered some of its bytes.
	if tcp, ok := conn.(*net.TCPConn); ok {
		tuneTCP(tcp)
		s.raw = rawConn(tcp)
	}
	return s
}

// longPathRTT is from where on a path is a long one.
const longPathRTT = time.Millisecond

// measured is told each round trip of the session.
func (s *Socket) measured(rtt time.Duration) {
	if rtt < longPathRTT || s.long.Swap(true) {
		return
	}
	if tcp, ok := s.Conn.(*net.TCPConn); ok {
		tuneLongPath(tcp)
	}
}

// CameFrom sets what RemoteAddr returns, where somebody trusted in between has told. It is called before the socket is used.
func (s *Socket) CameFrom(addr net.Addr) { s.from = addr }

// RemoteAddr is whom the connection comes from.
func (s *Socket) RemoteAddr() net.Addr {
	if s.from != nil {
		return s.from
	}
	return s.Conn.RemoteAddr()
}

// NetConn returns the wrapped connection.
func (s *Socket) NetConn() net.Conn { return s.Conn }

func (s *Socket) since() int64 { return int64(time.Since(s.base)) }

// quiet is how long ago the last byte was received, or the socket was made.
func (s *Socket) quiet() time.Duration {
	return time.Duration(s.since() - s.lastRead.Load())
}

// mute is how long ago the last byte was handed to the system; 0 while some wait for that.
func (s *Socket) mute() time.Duration {
	if s.queued() > 0 {
		return 0
	}
	return time.Duration(s.since() - s.lastSent.Load())
}

// stuck is how long the write that is going on has not made progress.
func (s *Socket) stuck() time.Duration {
	began := s.writing.Load()
	if began == 0 {
		return 0
	}
	return time.Duration(s.since() - began)
}

// Read implements net.Conn.
func (s *Socket) Read(p []byte) (int, error) {
	if s.r == s.w {
		if s.raw == nil {
			return s.noteRead(s.Conn.Read(p))
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.in.bytes[s.r:s.w])
	s.r += n
	if s.r == s.w {
		readBuffers.Put(s.in)
		s.in, s.r, s.w = nil, 0, 0
	}
	return n, nil
}

func (s *Socket) noteRead(n int, err error) (int, error) {
	if n > 0 {
		s.readBytes.Add(int64(n))
		s.lastRead.Store(s.since())
	}
	return n, err
}

// gather makes Write gather what push then sends. run starts the goroutine that sends when the system does not take everything at
// once, room is called when something has left, broken when nothing more will.
func (s *Socket) gather(run func(func()), room func(), broken func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run, s.room, s.broken, s.gathers = run, room, broken, true
}

// Write implements net.Conn. After gather it never waits.
func (s *Socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	if !s.gathers {
		s.mu.Unlock()
		n, err := s.Conn.Write(p)
		s.sentBytes.Add(int64(n))
		return n, err
	}
	defer s.mu.Unlock()
	s.out = append(extend(s.out, len(p)), p...)
	s.waiting.Add(int64(len(p)))
	return len(p), nil
}

// queued is how much has been gathered and not been handed to the system.
func (s *Socket) queued() int { return int(s.waiting.Load()) }

// full reports that bulk has to wait.
func (s *Socket) full() bool { return s.waiting.Load() >= s.limit.Load() }

// record is how much payload a record should carry: less on a slow line.
func (s *Socket) record() int {
	if s.limit.Load() < bulkQueue/2 {
		return tlsRecord - frameSize - wire.HeaderSize
	}
	return wire.MaxPayload
}

// push sees to it that what was gathered leaves: as far as the system takes it at once on the caller's goroutine, and otherwise on one
// that waits for the system.
func (s *Socket) push() {
	out := s.take()
	if out == nil {
		return
	}
	left := out
	if s.raw != nil {
		n, err := tryWrite(s.raw, out)
		s.sent(n)
		if err != nil {
			s.broken(err)
			return
		}
		left = out[n:]
	}
	if len(left) == 0 {
		giveBack(out)
		s.room()
		if out = s.next(); out == nil {
			return
		}
		left = out // others have gathered meanwhile: theirs are not this caller's to wait for
	}
	s.run(func() { s.flush(out, left) })
}

// take begins to send what was gathered, unless somebody is sending.
func (s *Socket) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flushing || len(s.out) == 0 {
		return nil
	}
	s.flushing = true
	out := s.out
	s.out = nil
	return out
}

// next takes what was gathered while the caller was sending; nil ends the sending.
func (s *Socket) next() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.out
	s.out = nil
	s.flushing = out != nil
	return out
}

// flush sends left, the rest of out, and all that is gathered meanwhile, and waits for the system.
func (s *Socket) flush(out, left []byte) {
	pace := pace{limit: &s.limit}
	for out != nil {
		s.writing.Store(s.since() | 1)
		n, err := s.Conn.Write(left)
		s.writing.Store(0)
		s.sent(n)
		pace.sent(n)
		giveBack(out)
		if err != nil {
			s.broken(err)
			return
		}
		s.room()
		out = s.next()
		left = out
	}
	pace.over()
	s.room() // nothing is left
}

// pace keeps the queue as short as the line is slow, so that a keystroke does not stand behind what takes long to leave: while the
// line is what holds the bulk up, at most queueTime of it waits.
type pace struct {
	limit *atomic.Int64
	began time.Time
	bytes int
}

const (
	queueTime = 2 * time.Millisecond
	paceTime  = 25 * time.Millisecond
	minQueue  = 16 << 10
)

// sent notes that n bytes have left.
func (p *pace) sent(n int) {
	now := time.Now()
	if p.began.IsZero() { // what left before was there at once
		p.began = now
		return
	}
	p.bytes += n
	if took := now.Sub(p.began); took >= paceTime {
		fits := float64(p.bytes) * float64(queueTime) / float64(took)
		p.limit.Store(int64(min(max(fits, minQueue), bulkQueue)))
		p.began, p.bytes = now, 0
	}
}

// over notes that nothing is left: the line is not what holds anything up.
func (p *pace) over() { p.limit.Store(bulkQueue) }

func (s *Socket) sent(n int) {
	s.sentBytes.Add(int64(n))
	s.waiting.Add(-int64(n))
	if n > 0 {
		s.lastSent.Store(s.since())
	}
}
