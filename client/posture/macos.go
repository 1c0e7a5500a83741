package posture

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// readMac reads a macOS system but for its version.
func readMac(ctx context.Context, m machine) facts {
	var (
		f             facts
		work          sync.WaitGroup
		lock, display string
	)
	printed := func(into *string, program string, args ...string) {
		work.Go(func() { *into, _ = m.run(ctx, program, args...) })
	}
	var vault, firewall string
	printed(&vault, "fdesetup", "status")
	printed(&firewall, "socketfilterfw", "--getglobalstate")
	printed(&lock, "sysadminctl", "-screenLock", "status")
	printed(&display, "pmset", "-g")
	work.Wait()
	f.disk, f.firewall, f.screenLock = fileVault(vault), macFirewall(firewall), macScreenLock(lock, display)
	return f
}

// fileVault reads `fdesetup status`. While the disk is being encrypted or decrypted it is neither.
func fileVault(text string) Answer {
	switch {
	case strings.Contains(text, "in progress"), strings.Contains(text, "needs to be restarted"):
		return Unknown
	case strings.Contains(text, "FileVault is On."):
		return Yes
	case strings.Contains(text, "FileVault is Off"):
		return No
	}
	return Unknown
}

// macFirewall reads `socketfilterfw --getglobalstate`: 0 is off, 1 on, 2 on and closed for everything that is not essential.
func macFirewall(text string) Answer {
	switch {
	case strings.Contains(text, "(State = 0)"):
		return No
	case strings.Contains(text, "(State = 1)"), strings.Contains(text, "(State = 2)"):
		return Yes
	}
	return Unknown
}

var (
	lockDelay    = regexp.MustCompile(`screenLock delay is (immediate|\d+)`)
	displaySleep = regexp.MustCompile(`(?m)^\s*displaysleep\s+(\d+)`)
)

// macScreenLock joins `sysadminctl -screenLock status` (how long after the screen went dark a password is asked for) with `pmset -g` (after
// how many idle minutes it goes dark). Where it never does, a screen saver may come instead: unknown.
func macScreenLock(lock, display string) Answer {
	if strings.Contains(lock, "screenLock is off") {
		return No
	}
	delay, sleep := lockDelay.FindStringSubmatch(lock), displaySleep.FindStringSubmatch(display)
	if delay == nil || sleep == nil || sleep[1] == "0" {
		return Unknown
	}
	minutes, err := strconv.ParseUint(sleep[1], 10, 16)
	if err != nil {
		return Unknown
	}
	grace := time.Duration(0)
	if delay[1] != "immediate" {
		var ok bool
		if grace, ok = seconds(delay[1]); !ok {
			return Unknown
		}
	}
	return locksWithin(time.Duration(minutes)*time.Minute, grace)
}
