package relay

import (
	"net"
	"sync"
)

// TCP makes a relay end of a TCP connection. Abort is a reset (SO_LINGER 0), Close an ordinary close.
func TCP(conn *net.TCPConn) Conn { return &tcpConn{conn: conn} }

type tcpConn struct {
	conn  *net.TCPConn // not embedded: its ReadFrom and WriteTo would go round the counts
	abort sync.Once
	now   nowWrite
}

var (
	_ BuffersWriter = (*tcpConn)(nil)
	_ NowWriter     = (*tcpConn)(nil)
	_ resetWaiter   = (*tcpConn)(nil)
	_ prober        = (*tcpConn)(nil)
)

func (t *tcpConn) Read(p []byte) (int, error)  { return t.conn.Read(p) }
func (t *tcpConn) Write(p []byte) (int, error) { return t.conn.Write(p) }
func (t *tcpConn) CloseWrite() error           { return t.conn.CloseWrite() }
func (t *tcpConn) Close() error                { return t.conn.Close() }

// Abort closes with linger 0: the kernel drops what is unsent and sends RST (RFC 9293 §3.10.5), also while a Read or a Write is
// blocked.
func (t *tcpConn) Abort(error) {
	t.abort.Do(func() {
		_ = t.conn.SetLinger(0) // fails on a connection that is closed already: nothing is left to reset
		_ = t.conn.Close()
	})
}

// WriteBuffers is one writev per up to 1,024 pieces.
func (t *tcpConn) WriteBuffers(pieces *[][]byte) (int64, error) {
	return (*net.Buffers)(pieces).WriteTo(t.conn)
}
