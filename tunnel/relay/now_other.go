//go:build !unix

package relay

// nowWrite is not known here.
type nowWrite struct{}

// WriteNow implements NowWriter: everything waits for its turn.
func (t *tcpConn) WriteNow([]byte) (int, error) { return 0, nil }
