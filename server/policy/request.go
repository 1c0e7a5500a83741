package policy

import (
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A Request is one question to a policy.
type Request struct {
	Target wire.Target
	// Now is the time that the answer is for; zero is time.Now.
	Now time.Time
	// Client is the address that the person connects from; zero is unknown.
	Client netip.Addr
	// Opening says that a stream is about to be opened: reauth_within counts then.
	Opening bool
	// Opened is when the stream was opened that is decided again. A rule with reauth_within carries it on if the login was fresh enough
	// then, whichever rule opened it, or is newer. Zero, where nothing is opened either, is a question that leaves reauth_within aside.
	Opened time.Time
	// Stale says that the store's view of locks and sessions is old: no allow of a strict rule matches.
	Stale bool
	// RulesOnly leaves approved requests aside: those of today say nothing of another time.
	RulesOnly bool
}

// A StepUp is what a person has to do before a stream opens: sign in at the provider anew.
type StepUp struct {
	MaxAge time.Duration // how old the login may be at most
}

// Tri is yes, no, or nobody knows. Its zero value is Unknown.
type Tri int8

// The values of a Tri.
const (
	Unknown Tri = iota
	Yes
	No
)

// A Device is what a client says of the machine that it runs on. Nothing vouches for it. The zero value knows nothing.
type Device struct {
	OS, OSVersion, Arch, ClientVersion               string // "" is unknown
	DiskEncrypted, Firewall, ScreenLock, HardwareKey Tri
}

// DeviceFromPosture reads the facts that a client sends. Keys that it does not know are ignored, and a fact that is
// neither "true" nor "false" is unknown.
func DeviceFromPosture(p map[string]string) Device {
	return Device{
		OS: p["os"], OSVersion: p["os_version"], Arch: p["arch"], ClientVersion: p["client_version"],
		DiskEncrypted: triOf(p["disk_encrypted"]), Firewall: triOf(p["firewall"]),
		ScreenLock: triOf(p["screen_lock"]), HardwareKey: triOf(p["hardware_key"]),
	}
}

func triOf(text string) Tri {
	switch text {
	case "true":
		return Yes
	case "false":
		return No
	}
	return Unknown
}
