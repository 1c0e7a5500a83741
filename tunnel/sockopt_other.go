//go:build !linux

package tunnel

import "net"

func tuneTCP(*net.TCPConn) {}

func tuneLongPath(*net.TCPConn) {}
