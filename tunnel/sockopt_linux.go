package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

// notSentLowat bounds what the kernel holds unsent, so that a keystroke does not stand behind megabytes.
const notSentLowat = 128 << 10

// tuneTCP sets what the system permits. Nothing here is needed for the tunnel to work, so errors are of no interest.
func tuneTCP(conn *net.TCPConn) {
	setOption(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}

// tuneLongPath asks for BBR, which loss does not slow down as it does CUBIC, where the module is loaded and in
// tcp_allowed_congestion_control. On a short path its pacing only costs CPU.
func tuneLongPath(conn *net.TCPConn) {
	setOption(conn, func(fd int) error {
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	})
}

func setOption(conn *net.TCPConn, set func(fd int) error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = set(int(fd)) })
}
