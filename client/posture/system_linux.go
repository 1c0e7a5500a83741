package posture

import "context"

// programDirs have the system's programs; the second one is NixOS's.
var programDirs = []string{"/usr/bin", "/run/current-system/sw/bin"}

func read(ctx context.Context) facts { return readLinux(ctx, thisMachine{}) }
