package preview

import (
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A Stream is one opening, denial or failure in the record.
type Stream struct {
	ID       int64 // ascending
	Time     time.Time
	Event    string // of the audit log: stream.open, stream.denied, stream.failed
	Count    int64  // how many it stands for; 0 is 1
	User     auth.UserID
	Issuer   string
	UserSub  string // the provider's "sub"
	Provider string
	Name     string
	Email    string
	Login    auth.LoginKind
	Remote   string // address and port

	Service   string
	Kind      string
	Target    string
	Address   string
	Rule      string
	Code      string
	Condition string

	// Subject is what was known of the person, as audit.SubjectFacts in JSON; "" where nothing was recorded.
	Subject string
}
