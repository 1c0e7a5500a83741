// Package auth defines who somebody is, and the form that this takes in a certificate.
//
// An [Identity] is what a gateway knows about a person after enrolment: issuer and subject at the
// OpenID provider, the claims that policy may ask for, and the session and device that the certificate
// belongs to. [Identity.UserID] is its stable name, [Identity.SPIFFEID] that name as a URI, and [Embed]
// and [FromCertificate] are the two directions of the certificate extension that carries the rest.
//
// The package does no I/O, verifies no signature and decides nothing. A certificate given to
// [FromCertificate] must have been verified before: package mtls does that, and is the only place in the
// product where an identity may come from.
package auth

import (
	"errors"
	"fmt"
	"net/url"
	"time"
	"unicode/utf8"
)

// LoginKind says how a session began. The gateway sets it, never the client.
type LoginKind string

const (
	LoginBrowser LoginKind = "login"  // authorization code and PKCE, in the person's own browser
	LoginDevice  LoginKind = "device" // device authorization grant (RFC 8628), polled by the gateway
)

// Identity is a verified person on one device in one session. It is a plain value: copy it, but treat
// its slices as read-only. The zero value is nobody and is refused by [Identity.Validate].
//
// Only the pair (Issuer, Subject) names the person. Name and Email are for people to read; Email may be
// matched by policy only when EmailTrusted is true.
type Identity struct {
	Issuer   string // the provider's issuer URL, byte for byte as in its ID tokens
	Subject  string // the provider's "sub"
	Provider string // the name that the gateway's configuration gives to this provider

	Name         string // display name, or empty
	Email        string // or empty
	EmailTrusted bool   // the provider vouches for Email, by the rules that the gateway has for it

	Groups      []string // as mapped from the claims; meaningless unless GroupsKnown
	GroupsKnown bool     // false: the provider did not say, so no group allow matches and every group deny does

	ACR      string    // authentication context class, or empty
	AMR      []string  // authentication methods, or empty
	AuthTime time.Time // when the person last logged in at the provider

	Login    LoginKind
	Session  SessionID
	Device   DeviceID
	IssuedAt time.Time // of this certificate, by the clock that locks are compared with; milliseconds
}

// UserID returns the stable name of the person: see [NewUserID].
func (id Identity) UserID() UserID { return NewUserID(id.Issuer, id.Subject) }

// SPIFFEID returns spiffe://TRUST-DOMAIN/user/USER-ID, the only subject alternative name of a client
// certificate.
func (id Identity) SPIFFEID(td TrustDomain) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: string(td), Path: userPath + string(id.UserID())}
}

// Validate reports the first thing that makes id unfit for a certificate. It checks form only.
func (id Identity) Validate() error {
	for _, f := range []struct{ name, value string }{
		{"issuer", id.Issuer}, {"subject", id.Subject}, {"provider", id.Provider},
	} {
		if f.value == "" {
			return fmt.Errorf("identity without %s", f.name)
		}
	}
	if err := id.validateText(); err != nil {
		return err
	}
	switch {
	case id.Login != LoginBrowser && id.Login != LoginDevice:
		return fmt.Errorf("identity with unknown kind of login %q", id.Login)
	case id.EmailTrusted && id.Email == "":
		return errors.New("identity trusts an e-mail address that is not there")
	case !id.GroupsKnown && len(id.Groups) > 0:
		return errors.New("identity lists groups that are marked unknown")
	}
	if _, err := ParseSessionID(string(id.Session)); err != nil {
		return err
	}
	if _, err := ParseDeviceID(string(id.Device)); err != nil {
		return err
	}
	if err := validateTime("auth_time", id.AuthTime); err != nil {
		return err
	}
	return validateTime("issued_at", id.IssuedAt)
}

// validateText refuses bytes that are not UTF-8: JSON would replace them, and the identity read back
// would not be the one that was written.
func (id Identity) validateText() error {
	texts := []string{id.Issuer, id.Subject, id.Provider, id.Name, id.Email, id.ACR}
	for _, list := range [][]string{texts, id.Groups, id.AMR} {
		for _, s := range list {
			if !utf8.ValidString(s) {
				return errors.New("identity with text that is not UTF-8")
			}
		}
	}
	return nil
}

// Years outside this range overflow something on the way (UnixMilli, JSON numbers, ASN.1 times).
var (
	minTime = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

func validateTime(name string, t time.Time) error {
	if t.IsZero() {
		return fmt.Errorf("identity without %s", name)
	}
	if t.Before(minTime) || t.After(maxTime) {
		return fmt.Errorf("identity with %s out of range: %s", name, t.UTC().Format(time.RFC3339))
	}
	return nil
}
