package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	readSize = 128 << 10 // one read of the socket
	holdSize = 128 << 10 // gathered before one write of the socket
	// Room for one more TLS record (16 KiB and its overhead) behind a gathered write.
	holdCap = holdSize + 17<<10
)

// Socket is the connection below TLS. It reads in pieces of up to 128 KiB, borrows the buffer for that only while there is
// something to read, and gathers several TLS records for one write. Options that help a tunnel are set where the system has
// them (TCP_NOTSENT_LOWAT, BBR). It is a net.Conn, to be used by one tls.Conn.
type Socket struct {
	net.Conn
	raw syscall.RawConn // nil where the connection cannot be read and written without blocking

	// Used by the reader alone.
	in    *readBuffer
	r, w  int
	spare [64]byte // kept for connections without raw

	lastRead  atomic.Int64 // nanoseconds since base
	readBytes atomic.Int64
	sentBytes atomic.Int64
	writing   atomic.Int64 // when the write that is going on began, since base; 0: none
	base      time.Time

	mu   sync.Mutex
	held bool // records are gathered in out
	out  []byte
}

type readBuffer struct{ bytes [readSize]byte }

var (
	readBuffers = sync.Pool{New: func() any { return new(readBuffer) }}
	holdBuffers = sync.Pool{New: func() any { b := make([]byte, 0, holdCap); return &b }}
)

// NewSocket wraps conn, which nobody else reads or writes from here on. It sets socket options when conn is a *net.TCPConn.
func NewSocket(conn net.Conn) *Socket {
	s := &Socket{Conn: conn, base: time.Now()}
	// Only the type itself: what embeds a TCPConn may have buffered some of its bytes.
	if tcp, ok := conn.(*net.TCPConn); ok {
		tuneTCP(tcp)
		s.raw = rawConn(tcp)
	}
	return s
}

// NetConn returns the wrapped connection.
func (s *Socket) NetConn() net.Conn { return s.Conn }

func (s *Socket) since() int64 { return int64(time.Since(s.base)) }

// quiet is how long ago the last byte was received, or the socket was made.
func (s *Socket) quiet() time.Duration {
	return time.Duration(s.since() - s.lastRead.Load())
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

// Write implements net.Conn. Between hold and flush it gathers.
func (s *Socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	if !s.held {
		s.mu.Unlock()
		return len(p), s.send(p)
	}
	if s.out == nil {
		s.out = *holdBuffers.Get().(*[]byte)
	}
	s.out = append(s.out, p...)
	full := len(s.out) >= holdSize
	s.mu.Unlock()
	if full {
		return len(p), s.drain()
	}
	return len(p), nil
}

// hold begins to gather. One goroutine at a time holds, and ends with flush or tryFlush.
func (s *Socket) hold() {
	s.mu.Lock()
	s.held = true
	s.mu.Unlock()
}

// flush writes what was gathered, and waits for it.
func (s *Socket) flush() error {
	for {
		if err := s.drain(); err != nil {
			return err
		}
		s.mu.Lock()
		if len(s.out) == 0 {
			s.held = false
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock() // TLS itself wrote meanwhile (a key update)
	}
}

// drain writes what is gathered at this moment. Gathering goes on meanwhile.
func (s *Socket) drain() error {
	s.mu.Lock()
	out := s.out
	s.out = nil
	s.mu.Unlock()
	if out == nil {
		return nil
	}
	err := s.send(out)
	out = out[:0]
	holdBuffers.Put(&out)
	return err
}

func (s *Socket) send(p []byte) error {
	s.writing.Store(s.since() | 1)
	n, err := s.Conn.Write(p)
	s.writing.Store(0)
	s.sentBytes.Add(int64(n))
	return err
}

// tryFlush writes what was gathered as far as the system takes it without waiting. done is false when something is left: then
// the socket stays held, and the caller sees to it that flush is called. Only where canTry.
func (s *Socket) tryFlush() (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) > 0 {
		n, err := tryWrite(s.raw, s.out)
		s.sentBytes.Add(int64(n))
		if err != nil {
			return false, err
		}
		if n < len(s.out) {
			s.out = s.out[:copy(s.out, s.out[n:])]
			return false, nil
		}
		out := s.out[:0]
		holdBuffers.Put(&out)
		s.out = nil
	}
	s.held = false
	return true, nil
}

func (s *Socket) canTry() bool { return s.raw != nil }
