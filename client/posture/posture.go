// Package posture reads what a desktop can say of itself: its system and version, and whether its disk is encrypted, a firewall is on, the
// screen locks by itself and the tunnel's key is in hardware. The policy's conditions ask for these facts as device.os and so on.
//
// A fact that cannot be read without privilege, in time, or surely is left out: the gateway then takes it as unknown, which satisfies no
// rule. Nothing is guessed from what is usual. Each system has one seam (machine for Linux and macOS, registry for Windows) that reads and
// concludes nothing; what follows from what was read is decided by functions that run on every system. docs/policy.md has the table of
// what is read where, and how sure it is.
//
// The package proves nothing: whoever owns the desktop can make it say anything. It changes nothing, asks nobody for a permission, and keeps
// nothing between two readings.
package posture

import (
	"context"
	"runtime"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Limit is how long a reading takes at most. What was not read by then is left out.
const Limit = time.Second

// maxText is the longest version that is told, in bytes. A longer one is left out.
const maxText = 64

// Answer is a fact that holds, does not hold, or is not known. The zero value is Unknown.
type Answer int8

// The answers.
const (
	Unknown Answer = iota
	Yes
	No
)

// answer is Yes or No.
func answer(holds bool) Answer {
	if holds {
		return Yes
	}
	return No
}

// all is whether every part holds: one that does not settles it, and without parts nothing is known.
func all(parts []Answer) Answer {
	if len(parts) == 0 {
		return Unknown
	}
	sum := Yes
	for _, part := range parts {
		switch {
		case part == No:
			return No
		case part == Unknown:
			sum = Unknown
		}
	}
	return sum
}

// Program is what the calling program knows of itself.
type Program struct {
	Version     string // of the client; empty: unknown
	HardwareKey Answer // whether the tunnel's private key is in hardware that does not give it away
}

// facts are what a system was read to be. Each has one writer, so that they can be read at the same time.
type facts struct {
	version    string
	disk       Answer
	firewall   Answer
	screenLock Answer
}

// Read returns what this device says of itself, as Hello and Posture carry it: the keys of the policy's device facts without "device.", and
// "true" or "false" for those that are not text. It returns within about Limit, or when ctx ends, with what is known by then.
func Read(ctx context.Context, of Program) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	return values(of, read(ctx))
}

func values(of Program, f facts) map[string]string {
	told := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH}
	for key, text := range map[string]string{"os_version": f.version, "client_version": of.Version} {
		if text = wire.CleanText(text); text != "" && len(text) <= maxText {
			told[key] = text
		}
	}
	for key, is := range map[string]Answer{
		"disk_encrypted": f.disk, "firewall": f.firewall, "screen_lock": f.screenLock, "hardware_key": of.HardwareKey,
	} {
		switch is {
		case Yes:
			told[key] = "true"
		case No:
			told[key] = "false"
		}
	}
	return told
}
