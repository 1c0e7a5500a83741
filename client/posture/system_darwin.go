package posture

import (
	"context"

	"golang.org/x/sys/unix"
)

// programDirs have the system's programs, all of them on the sealed volume.
var programDirs = []string{"/usr/bin", "/usr/sbin", "/usr/libexec/ApplicationFirewall"}

func read(ctx context.Context) facts {
	f := readMac(ctx, thisMachine{})
	if version, err := unix.Sysctl("kern.osproductversion"); err == nil {
		f.version = version
	}
	return f
}
