//go:build !unix

package relay

import (
	"io"
	"net"
)

// WriteTo copies to w until the peer's clean end.
func (t *tcpConn) WriteTo(w io.Writer) (int64, error) {
	return copyPooled(w, t.conn)
}

func moveFromSocket(w *packetWriter, conn *net.UDPConn) error { return moveFromReader(w, conn) }

// waitReset is not known here: a reset after the peer's clean end is seen by the next write.
func (t *tcpConn) waitReset() error { return nil }

// broken is not known here.
func (t *tcpConn) broken() error { return nil }
