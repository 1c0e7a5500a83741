package policy

import (
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/culvert-vpn/culvert/auth"
)

// A fact is something that a condition may ask for. Each is a variable of its own with a dotted name, which is cheaper
// than fields of an object and lets each be unknown by itself.
type fact uint8

const (
	userIssuer fact = iota
	userSubject
	userProvider
	userName
	userEmail
	userGroups
	deviceOS
	deviceOSVersion
	deviceArch
	deviceClientVersion
	deviceDiskEncrypted
	deviceFirewall
	deviceScreenLock
	deviceHardwareKey
	authTime
	authACR
	authAMR
	authLogin
	ofSubject // the facts before this one depend on the subject alone

	authAge = iota - 1
	requestService
	requestAddress
	requestPort
	requestKind
	requestClient
	nowFact
	factCount
)

// A factSet is a set of facts.
type factSet uint32

func (s factSet) has(f fact) bool { return s&(1<<f) != 0 }

const (
	timeFacts    = factSet(1<<authAge | 1<<nowFact)
	addressFacts = factSet(1<<requestAddress | 1<<requestPort)
)

// factNames are the names in conditions, as docs/policy.md lists them.
var factNames = [factCount]string{
	userIssuer: "user.issuer", userSubject: "user.subject", userProvider: "user.provider", userName: "user.name",
	userEmail: "user.email", userGroups: "user.groups",
	deviceOS: "device.os", deviceOSVersion: "device.os_version", deviceArch: "device.arch", deviceClientVersion: "device.client_version",
	deviceDiskEncrypted: "device.disk_encrypted", deviceFirewall: "device.firewall", deviceScreenLock: "device.screen_lock",
	deviceHardwareKey: "device.hardware_key",
	authTime:          "auth.time", authACR: "auth.acr", authAMR: "auth.amr", authLogin: "auth.login", authAge: "auth.age",
	requestService: "request.service", requestAddress: "request.address", requestPort: "request.port", requestKind: "request.kind",
	requestClient: "request.client", nowFact: "now",
}

func typeOfFact(f fact) *cel.Type {
	switch f {
	case userGroups, authAMR:
		return cel.ListType(cel.StringType)
	case deviceDiskEncrypted, deviceFirewall, deviceScreenLock, deviceHardwareKey:
		return cel.BoolType
	case authTime, nowFact:
		return cel.TimestampType
	case authAge:
		return cel.DurationType
	case requestPort:
		return cel.IntType
	}
	return cel.StringType
}

// factByName maps the names back; it is never written again.
var factByName = func() map[string]fact {
	m := make(map[string]fact, factCount)
	for f, name := range factNames {
		m[name] = fact(f)
	}
	return m
}()

// facts are what is known of a subject, whatever is asked. It never changes.
type facts struct {
	values  [ofSubject]ref.Val // nil: unknown
	unknown factSet
}

// factsOf gathers what is known of a subject. What nobody told is unknown, never an empty text.
func (s *Set) factsOf(sub *Subject) *facts {
	f, id := new(facts), &sub.id
	for at, text := range map[fact]string{
		userIssuer: id.Issuer, userSubject: id.Subject, userProvider: id.Provider, userName: id.Name,
		deviceOS: sub.dev.OS, deviceOSVersion: sub.dev.OSVersion, deviceArch: sub.dev.Arch, deviceClientVersion: sub.dev.ClientVersion,
		authACR: id.ACR, authLogin: string(id.Login),
	} {
		if text != "" {
			f.values[at] = types.String(text)
		}
	}
	if id.EmailTrusted && sub.email != "" {
		f.values[userEmail] = types.String(sub.email)
	}
	if id.GroupsKnown {
		f.values[userGroups] = types.NewStringList(types.DefaultTypeAdapter, s.groupsOf(id))
	}
	for at, is := range map[fact]Tri{
		deviceDiskEncrypted: sub.dev.DiskEncrypted, deviceFirewall: sub.dev.Firewall,
		deviceScreenLock: sub.dev.ScreenLock, deviceHardwareKey: sub.dev.HardwareKey,
	} {
		if is == Yes || is == No {
			f.values[at] = types.Bool(is == Yes)
		}
	}
	if !id.AuthTime.IsZero() {
		f.values[authTime] = types.Timestamp{Time: id.AuthTime.UTC()}
	}
	if len(id.AMR) > 0 {
		f.values[authAMR] = types.NewStringList(types.DefaultTypeAdapter, id.AMR)
	}
	for at, v := range f.values {
		if v == nil {
			f.unknown |= 1 << at
		}
	}
	return f
}

// groupsOf spells groups as the subjects of a rule do: with more than one provider, each group says whose it is.
func (s *Set) groupsOf(id *auth.Identity) []string {
	if !s.several {
		return id.Groups
	}
	named := make([]string, len(id.Groups))
	for i, g := range id.Groups {
		named[i] = id.Provider + "/" + g
	}
	return named
}

// An activation is what one evaluation of a condition sees. It copies what it needs of a question, so that questions
// stay off the heap.
type activation struct {
	facts   *facts
	now     time.Time
	authAt  time.Time
	client  netip.Addr
	at      netip.AddrPort
	service string
	kind    string
}

// unknown returns the facts that nobody told.
func (a *activation) unknown() factSet {
	u := a.facts.unknown
	if a.authAt.IsZero() {
		u |= 1 << authAge
	}
	if !a.client.IsValid() {
		u |= 1 << requestClient
	}
	if !a.at.Addr().IsValid() {
		u |= 1 << requestAddress
	}
	if a.at.Port() == 0 {
		u |= 1 << requestPort
	}
	return u
}

// ResolveName implements [cel.Activation].
func (a *activation) ResolveName(name string) (any, bool) {
	f, ok := factByName[name]
	if !ok {
		return nil, false
	}
	if f < ofSubject {
		v := a.facts.values[f]
		return v, v != nil
	}
	switch f {
	case authAge:
		return types.Duration{Duration: a.now.Sub(a.authAt)}, !a.authAt.IsZero()
	case requestService:
		return types.String(a.service), true
	case requestAddress:
		return types.String(a.at.Addr().String()), a.at.Addr().IsValid()
	case requestPort:
		return types.Int(a.at.Port()), a.at.Port() != 0
	case requestKind:
		return types.String(a.kind), true
	case requestClient:
		return types.String(a.client.String()), a.client.IsValid()
	}
	return types.Timestamp{Time: a.now}, true
}

// Parent implements [cel.Activation].
func (a *activation) Parent() cel.Activation { return nil }

// A partialActivation tells CEL besides which of the facts are unknown.
type partialActivation struct {
	*activation
	patterns []*cel.AttributePatternType
}

// UnknownAttributePatterns implements [cel.PartialActivation].
func (a *partialActivation) UnknownAttributePatterns() []*cel.AttributePatternType { return a.patterns }

// AsPartialActivation is what CEL goes by, the interface alone is not enough for it.
func (a *partialActivation) AsPartialActivation() (cel.PartialActivation, bool) { return a, true }

func patternsOf(unknown factSet) []*cel.AttributePatternType {
	var list []*cel.AttributePatternType
	for f, name := range factNames {
		if unknown.has(fact(f)) {
			list = append(list, cel.AttributePattern(name))
		}
	}
	return list
}
