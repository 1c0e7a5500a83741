package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds what the kernel holds unsent, so that a keystroke does not stand behind megabytes.
const notSentLowat = 128 << 10

// tuneTCP sets what the system permits. Nothing here is needed for the tunnel to work, so errors are of no interest.
func tuneTCP(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		// Fails where the module is not loaded or not in tcp_allowed_congestion_control.
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	})
}
