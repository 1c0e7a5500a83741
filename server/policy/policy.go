// Package policy decides whether an identity may reach a target. It reads the policy file,
// compiles it, explains each refusal and runs the tests that the file brings along.
//
// The order of things is [Parse], [Compile] (or [Load], which does both and runs the tests), then
// [NewSubject] once per session and [Set.Decide] for every stream. A name is decided once more when
// its address is known, by [Set.DecideAddr].
// For administrators, [Set.Explain] says what each rule had to do with a decision, [Set.Who] and [Set.What] are the table
// of who reaches what, and [Diff] says what one policy means that another does not.
//
// What holds in every decision:
//
//   - Nothing is allowed that no rule allows, and a deny wins over every allow.
//   - An allow that cannot be decided does not match and a deny that cannot be decided matches: with
//     groups unknown no allow by group holds while every deny by group does, and without an e-mail address
//     that the provider vouches for no allow by e-mail holds while every deny by e-mail does.
//   - The same holds for conditions: what they ask for and nobody told, an error and one that takes too long are
//     no ground to allow, and ground enough to deny.
//   - An approved request counts only where the policy lets it be requested, and under every deny.
//   - An address belongs to every service that contains it: one deny among them denies.
//   - Addresses are compared unmapped. Loopback, link-local, metadata and translated spellings belong to
//     a service only where it names them literally, see [SpecialRange].
//   - What a name in a zone resolves to lies in the zone's network, and is decided as an address.
//
// docs/policy.md is the language's reference.
//
// The package does no I/O, resolves no name and keeps no session: what it knows of resolved names it
// was told by [Set.Learn].
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"time"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// Limits of a policy file. They bound memory and the time of a load, and are far above what
// people write.
const (
	MaxFileSize = 16 << 20
	MaxServices = wire.MaxServices
	MaxRules    = 50_000
	MaxTests    = 10_000
)

// A Digest is the SHA-256 of a policy file's bytes; it is the version that decisions and audit
// records name.
type Digest [sha256.Size]byte

// DigestOf returns the digest of a file's content.
func DigestOf(data []byte) Digest { return sha256.Sum256(data) }

// String returns "sha256:" and 64 hexadecimal digits.
func (d Digest) String() string { return "sha256:" + hex.EncodeToString(d[:]) }

// Pos is a place in the policy file, counted from 1.
type Pos struct{ Line, Column int }

// A Document is a parsed policy file whose own references all resolve. Treat it as read-only; only
// [Parse] makes one.
type Document struct {
	File     string // as given to Parse, for messages
	Digest   Digest
	Services []*Service // in the file's order
	Rules    []*Rule
	Tests    []*Test
	Warnings []error // *strictconf.Error each: legal, but probably not meant
}

// A Service is one entry of "services": either named (Host is set) or a network (Network is valid).
type Service struct {
	Name        string
	Description string
	Kind        wire.Kind
	Label       string       // "http" or "": for user interfaces, nothing is parsed
	Tags        []string     // sorted
	Hidden      bool         // to whom it is not allowed, it does not exist
	Requestable *Requestable // nil: nobody can ask for it
	Pos         Pos

	// Of a named service. Host and HostPort are what the gateway dials: a canonical name, or an address
	// (then Addr is it). Hostnames and Port are what the desktop calls the service; "*.x" stands for every
	// name below x.
	Host      string
	HostPort  uint16
	Addr      netip.Addr
	Hostnames []string
	Port      uint16

	// Of a network service: an address belongs to it when both match. Names in Zones are resolved at the gateway.
	Network netip.Prefix
	Ports   []wire.PortRange
	Zones   []string
}

// Requestable says that people may ask for a service, and who may say yes.
type Requestable struct {
	Max    time.Duration // the longest time that can be granted
	Groups []GroupRef    // of the approvers
	Users  []UserRef
}

// IsNetwork reports whether the service is a network and not a single named endpoint.
func (s *Service) IsNetwork() bool { return s.Network.IsValid() }

func (s *Service) hasPort(port uint16) bool {
	for _, r := range s.Ports {
		if r.Contains(port) {
			return true
		}
	}
	return false
}

// A Rule is one entry of "rules". It matches a person whom any of Groups or Users names.
type Rule struct {
	Name   string
	Groups []GroupRef
	Users  []UserRef
	Allow  []Ref
	Deny   []Ref
	Reason string // shown to whom it denies

	When         string        // the condition in CEL, or ""
	WhenPos      Pos           // where its text begins
	ReauthWithin time.Duration // how old the login may be when a stream opens; 0: any age
	NotBefore    time.Time     // zero: since always
	Expires      time.Time     // the first moment at which it counts no more; zero: never
	Strict       bool          // it allows nothing on a stale view
	Pos          Pos

	cond   *condition // of When
	lookup []GroupRef // groups that When looks for in user.groups
}

// Ref is an entry of an allow or deny list: a service's name, "tag:" and a tag, or "*" for all services.
type Ref struct {
	Text string
	Pos  Pos
}

// GroupRef names a group: "engineering", or with more than one provider "corp/engineering".
type GroupRef struct {
	Text string
	Pos  Pos
}

// UserRef names people: "*" is everyone who is logged in, Email an address that the provider vouches
// for, Subject the provider's own identifier. Provider is empty where the text names none.
type UserRef struct {
	Text     string
	Provider string
	Everyone bool
	Email    string // ASCII letters in lower case
	Subject  string
	Pos      Pos
}

// A Decision is the answer for one target. The zero Decision denies.
type Decision struct {
	Allowed   bool
	Code      wire.Code // CodeOK exactly when Allowed
	Service   *Service  // as which service it was decided; nil where there is none
	Dial      Dial      // where to; valid only when Allowed
	Rule      string    // the rule that decided; "" where none did; "request " and the id for a Grant
	Grant     string    // the id of the approved request that allows it, or ""
	Condition Condition // what made it a refusal
	Reason    string    // for the person: why not
	Remedy    string    // for the person: what helps
	StepUp    *StepUp   // what opens it; set exactly when Code is CodeStepUpRequired; read-only
	Until     time.Time // the next moment at which time alone may change the answer; zero: there is none
	Version   string    // of the policy, as Digest.String

	// Hidden is the refusal that this one stands for, where the person must not learn that the service is there. It is for
	// the audit log and administrators, never for a client; read-only.
	Hidden *Decision
}

// Dial is what the gateway has to dial after a decision, by package dialer.
type Dial struct {
	Kind    wire.Kind
	Host    string // a name to resolve, or an address
	Port    uint16
	Literal bool // a service names this very address, so that special ranges are open to it
	Network bool // the target was an address: Host is it, and nothing else may be dialed
	Zone    bool // Host is a name in a zone: what it resolves to must lie in the service's network
}

// Condition names what made a decision a refusal, for programs and the audit log.
type Condition string

// Conditions of a Decision.
const (
	ConditionNone           Condition = ""
	ConditionBadTarget      Condition = "target_malformed"    // the target is no name, address or service
	ConditionNoService      Condition = "target_unknown"      // no service is called that, or contains it
	ConditionNoAllow        Condition = "no_rule_allows"      // default deny
	ConditionDenied         Condition = "rule_denies"         // a deny of a rule matched
	ConditionGroupsUnknown  Condition = "groups_unknown"      // the provider did not say which groups
	ConditionEmailUntrusted Condition = "email_untrusted"     // the provider does not vouch for the address
	ConditionSpecialAddress Condition = "address_special"     // loopback, link-local, metadata and the like
	ConditionOtherAddress   Condition = "address_not_decided" // an address that was never decided
	ConditionOutsideZone    Condition = "outside_zone"        // a name in a zone leads out of the service's network
	ConditionUnknown        Condition = "condition_unknown"   // a condition asks for something that nobody told
	ConditionError          Condition = "condition_error"     // a condition failed
	ConditionCost           Condition = "condition_cost"      // a condition took too long
	ConditionFalse          Condition = "condition_false"     // a condition does not hold
	ConditionReauth         Condition = "reauth_needed"       // a fresh login is asked for first
	ConditionNotYet         Condition = "not_yet"             // the rule begins later
	ConditionExpired        Condition = "expired"             // the rule, or the grant, is over
	ConditionStale          Condition = "store_stale"         // a strict rule, and the database cannot be asked
)

// Refusal returns the decision as the reply to a client; nil when it allows.
func (d Decision) Refusal(reference string) *wire.Refusal {
	if d.Allowed {
		return nil
	}
	r := &wire.Refusal{Code: d.Code, Reason: d.Reason, Remedy: d.Remedy, Reference: reference, Service: d.ServiceName()}
	if r.Code == "" || r.Code == wire.CodeOK {
		r.Code = wire.CodeDenied
	}
	return r
}

// ServiceName returns the name of the service that the decision is about, or "".
func (d Decision) ServiceName() string {
	if d.Service == nil {
		return ""
	}
	return d.Service.Name
}

// Options say what a policy file cannot know by itself.
type Options struct {
	// Providers are the names of the gateway's providers. With more than one, groups and users must
	// name theirs. Empty means not known, and provider names are then not checked.
	Providers []string
	// Kept reports whether a provider's group gets into certificates at all. A rule for another one could not
	// match, which a deny must not: such a policy is refused. Nil keeps all.
	Kept func(provider, group string) bool
	// Resolved is what named services resolved to; share one between a gateway's successive policies.
	// Nil gives the set its own.
	Resolved *Resolved
	// Grants are the approved requests; share one between a gateway's successive policies. Nil: there are none.
	Grants *Grants
}

// Load parses and compiles a policy file and runs its tests. When the tests fail, the set is
// returned beside the error, which is a [*TestError]: a policy that was accepted before may have to
// be loaded nevertheless. With any other error the set is nil.
func Load(name string, data []byte, opts Options) (*Set, error) {
	doc, err := Parse(name, data)
	if err != nil {
		return nil, err
	}
	set, err := Compile(doc, opts)
	if err != nil {
		return nil, err
	}
	if failures := set.RunTests(); len(failures) > 0 {
		return set, &TestError{File: name, Failures: failures}
	}
	return set, nil
}

// errUnparsed refuses documents that did not come from Parse.
var errUnparsed = errors.New("compile policy: the document was not parsed")
