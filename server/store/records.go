package store

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

// A KeyHash is the SHA-256 of a public key's DER SubjectPublicKeyInfo, in hex.
type KeyHash string

// HashKey gives the hash of a DER SubjectPublicKeyInfo.
func HashKey(spki []byte) KeyHash { return KeyHash(hexSum(spki)) }

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// A User is a person as a provider knows them: issuer and subject, never the
// e-mail, make the id.
type User struct {
	ID        auth.UserID
	Issuer    string
	Subject   string
	Provider  string
	Name      string
	Email     string
	FirstSeen time.Time // set by the store
	LastSeen  time.Time // set by the store

	// What the provider said at the latest issuance. Groups mean nothing unless
	// GroupsKnown.
	EmailTrusted bool
	Groups       []string
	GroupsKnown  bool
	ACR          string
	AMR          []string
	// LastLogin is the kind of the latest login; set by the store.
	LastLogin auth.LoginKind
}

// A Session is what a login began. Nothing but TokenIssuedAt, Ended and
// EndReason ever changes in it, and AuthTime, Nonce and ProviderSID by a step-up.
type Session struct {
	ID       auth.SessionID
	User     auth.UserID
	Device   auth.DeviceID
	Provider string
	Login    auth.LoginKind
	Key      KeyHash
	// Nonce is that of the login's ID token; empty for a device login.
	Nonce string
	// Client is the enrolling program in words ("culvert 1.0 linux/amd64").
	Client   string
	AuthTime time.Time
	// Created is the database's clock at the login.
	Created  time.Time
	Deadline time.Time
	// TokenIssuedAt is the iat of the last accepted token.
	TokenIssuedAt time.Time
	// Ended is zero while the session lives.
	Ended     time.Time
	EndReason string
	// ProviderSID is the provider's own name of its session (the sid claim), or
	// empty.
	ProviderSID string

	// Issuer and Subject are the user's, joined in when a session is read.
	Issuer  string
	Subject string
}

// Live reports whether the session may still be renewed at now.
func (s Session) Live(now time.Time) bool { return s.Ended.IsZero() && now.Before(s.Deadline) }

// CertificateKind says what an issued certificate is for.
type CertificateKind string

// The kinds of certificates in the inventory.
const (
	CertificateClient  CertificateKind = "client"
	CertificateGateway CertificateKind = "gateway"
)

// A Certificate is one entry of the inventory.
type Certificate struct {
	Serial auth.Serial
	Kind   CertificateKind
	// Session is empty for a gateway's certificate.
	Session auth.SessionID
	// Holder is the URI in the certificate.
	Holder    string
	IssuedAt  time.Time
	NotBefore time.Time
	NotAfter  time.Time
	// Chain is the certificate first and then its issuers, in DER.
	Chain [][]byte
}

// Fingerprint is the SHA-256 of the certificate in hex.
func (c Certificate) Fingerprint() string {
	if len(c.Chain) == 0 {
		return ""
	}
	return hexSum(c.Chain[0])
}

// LockKind says what a lock's target names.
type LockKind string

// The kinds of locks.
const (
	LockUser        LockKind = "user"        // an auth.UserID
	LockDevice      LockKind = "device"      // an auth.DeviceID
	LockSession     LockKind = "session"     // an auth.SessionID
	LockCertificate LockKind = "certificate" // an auth.Serial; covers the renewals of its session
	LockGroup       LockKind = "group"       // provider/group
	LockLogin       LockKind = "login"       // provider/sid, a session at the provider that was logged out
)

// A Lock shuts somebody or something out.
type Lock struct {
	ID     string
	Kind   LockKind
	Target string
	// Session is that of a locked certificate; set by the store.
	Session auth.SessionID
	// Message is shown to the person who is locked out.
	Message string
	// Author is who made the lock.
	Author string
	// Created is the database's clock when the lock was made.
	Created time.Time
	// IssuedBefore limits the lock to what was issued by then; zero locks
	// everything until Expires.
	IssuedBefore time.Time
	// Expires is zero for a lock that stays until it is removed.
	Expires time.Time
}

// A LockSubject is what a lock is held against.
type LockSubject struct {
	User    auth.UserID
	Device  auth.DeviceID
	Session auth.SessionID
	Serial  auth.Serial // empty before there is a certificate
	// Provider and Groups are as in the identity. With GroupsKnown false any
	// lock on a group of the provider counts: a deny must not be evaded by a
	// claim that is missing.
	Provider    string
	Groups      []string
	GroupsKnown bool
	// ProviderSID is the session's; empty where nobody knows it.
	ProviderSID string
	// IssuedAt is when the session was created. Its newest certificate may have
	// been issued between a cut-off and the lock that names it, so that the time
	// of that would step over the lock.
	IssuedAt time.Time
}

// Covers reports whether the lock holds against s at now.
func (l Lock) Covers(s LockSubject, now time.Time) bool {
	if !l.Expires.IsZero() && !now.Before(l.Expires) {
		return false
	}
	// Equal counts as issued before: within one millisecond the lock wins.
	if !l.IssuedBefore.IsZero() && s.IssuedAt.After(l.IssuedBefore) {
		return false
	}
	switch l.Kind {
	case LockUser:
		return l.Target == string(s.User)
	case LockDevice:
		return l.Target == string(s.Device)
	case LockSession:
		return l.Target == string(s.Session)
	case LockCertificate:
		return l.Target == string(s.Serial) || (l.Session != "" && l.Session == s.Session)
	case LockGroup:
		return s.inGroup(l.Target)
	case LockLogin:
		return s.ProviderSID != "" && l.Target == s.Provider+"/"+s.ProviderSID
	default:
		// A lock of a kind that only a newer gateway knows: shut, not open.
		return true
	}
}

func (s LockSubject) inGroup(target string) bool {
	if !s.GroupsKnown {
		return len(target) > len(s.Provider) && target[:len(s.Provider)+1] == s.Provider+"/"
	}
	return slices.ContainsFunc(s.Groups, func(g string) bool { return target == s.Provider+"/"+g })
}

// A DeviceGrant is a device login under way.
type DeviceGrant struct {
	// IDHash is the SHA-256 in hex of the secret id that the client polls with.
	IDHash   string
	Provider string
	CSR      []byte
	Device   auth.DeviceID
	Client   string
	// SealedCode is the provider's device code, and SealedRefresh, once there
	// is a certificate, the refresh token; sealed by the caller.
	SealedCode    []byte
	SealedRefresh []byte
	// Redemption is the key of the redemption once there is one.
	Redemption string
	// Failure is why it failed for good, as a code; empty while it has not.
	Failure  string
	Interval time.Duration
	Created  time.Time // set by the store
	Expires  time.Time
}

// A PolicyVersion is a policy that was accepted here.
type PolicyVersion struct {
	Number   int64     // set by the store, counts from 1
	Digest   string    // as server/policy gives it
	Source   string    // file or managed
	Author   string    // who changed it; empty in file mode
	Comment  string    // the author's, or empty
	Accepted time.Time // set by the store
	Document []byte
}
