// Package enroll is the exchange in which a person's login at an OpenID provider
// becomes a short-lived certificate: its messages, the signatures inside them,
// and the client's half over HTTPS.
//
// There are four kinds of enrolment, and the path says which one it is:
//
//   - login: the client ran the authorization code flow with PKCE, with the nonce
//     of [Nonce], and exchanges the ID token for a certificate;
//   - renewal: the client refreshed its tokens and exchanges the new ones for a
//     new certificate of the same session, key and device;
//   - step-up: the person signed in again in the browser, with a nonce of the same
//     form for the session's own key, and the client exchanges that ID token for a
//     certificate of the same session with the new time of login;
//   - device: the gateway runs the device flow (RFC 8628) for a certificate request
//     that it already holds, so that no unbound ID token reaches a client.
//
// The package does not decide anything: the gateway's half is in server/enroll.
// It does not talk to providers: that is auth/oidc. It retries nothing: every
// request is safe to repeat with the same contents, and the caller knows when.
package enroll

import (
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/oidc"
)

// Version is the version of the protocol, of its enrolment and of its tunnel.
const Version = 1

// The paths of the exchange, below the gateway's URL.
const (
	PathDiscovery  = "/.well-known/culvert"
	PathLogin      = "/v1/enroll/login"
	PathChallenge  = "/v1/enroll/challenge"
	PathRenew      = "/v1/enroll/renew"
	PathStepUp     = "/v1/enroll/step-up"
	PathDevice     = "/v1/enroll/device"
	PathDevicePoll = "/v1/enroll/device/poll"
)

// PathLogout takes a provider's logout tokens (OpenID Connect Back-Channel Logout 1.0); the provider's name
// follows.
const PathLogout = "/v1/logout/"

// The bounds of the exchange in bytes. Tokens with hundreds of groups reach
// 30 KiB; a certificate chain with 16 KiB of identity is below 40 KiB.
const (
	MaxRequest = 128 << 10
	MaxReply   = 512 << 10
)

// Discovery is what a gateway says about itself before anybody logs in.
type Discovery struct {
	// Versions are the protocol versions that the gateway speaks.
	Versions    []int            `json:"versions"`
	TrustDomain auth.TrustDomain `json:"trust_domain"`
	// Gateway is the id of the gateway that answered.
	Gateway auth.GatewayID `json:"gateway"`
	// Tunnel is the host:port of the tunnel; empty means that of the URL.
	Tunnel    string                `json:"tunnel,omitempty"`
	Providers []oidc.ClientSettings `json:"providers"`
	// Time is the gateway's clock, so that the client can tell its skew.
	Time time.Time `json:"time"`
	// CertificateTTL and SessionTTL are in seconds. A client asks the provider
	// for a login that is younger than SessionTTL (max_age).
	CertificateTTL int `json:"certificate_ttl"`
	SessionTTL     int `json:"session_ttl"`
}

// VersionError says that client and gateway have no protocol version in common.
type VersionError struct {
	Ours   int
	Theirs []int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the gateway speaks protocol version %v, this client speaks %d: upgrade the older one", e.Theirs, e.Ours)
}

// ClientInfo names the program that enrols, for the session list and the audit.
type ClientInfo struct {
	Version string `json:"version,omitempty"`
	OS      string `json:"os,omitempty"`
	Arch    string `json:"arch,omitempty"`
}

// LoginRequest exchanges an ID token of the authorization code flow.
type LoginRequest struct {
	// Provider is the name from the discovery document.
	Provider string      `json:"provider"`
	IDToken  oidc.Secret `json:"id_token"`
	// AccessToken is sent only where the provider's settings say that groups
	// come from userinfo.
	AccessToken oidc.Secret `json:"access_token,omitempty"`
	// Salt is the secret half of the nonce; see [Nonce].
	Salt []byte `json:"salt"`
	// CSR is a PKCS #10 request in DER. Only its key counts.
	CSR []byte `json:"csr"`
	DeviceProof
	Client ClientInfo `json:"client"`
}

// ChallengeRequest asks for a challenge before a renewal or a step-up.
type ChallengeRequest struct {
	// Serial is that of the certificate to renew, or to step up.
	Serial auth.Serial `json:"serial"`
}

// ChallengeReply holds a challenge that serves once.
type ChallengeReply struct {
	Challenge []byte    `json:"challenge"`
	Expires   time.Time `json:"expires"`
}

// RenewRequest exchanges refreshed tokens for the session's next certificate.
type RenewRequest struct {
	Provider string `json:"provider"`
	// IDToken is the refreshed one. It is empty where the provider's
	// refresh_identity is introspect or userinfo; AccessToken counts then.
	IDToken     oidc.Secret `json:"id_token,omitempty"`
	AccessToken oidc.Secret `json:"access_token,omitempty"`
	// Certificate is the leaf to renew in DER; it may have expired.
	Certificate []byte `json:"certificate"`
	Challenge   []byte `json:"challenge"`
	// Signature is made by the certificate's key; see [RenewRequest.Sign].
	Signature []byte     `json:"signature"`
	Client    ClientInfo `json:"client"`
}

// StepUpRequest exchanges the ID token of a fresh login for the session's next certificate.
type StepUpRequest struct {
	Provider string      `json:"provider"`
	IDToken  oidc.Secret `json:"id_token"`
	// AccessToken is sent only where the provider's settings say that groups
	// come from userinfo.
	AccessToken oidc.Secret `json:"access_token,omitempty"`
	// Salt is the secret half of the nonce; see [Nonce]. The public half is the
	// key of the certificate.
	Salt []byte `json:"salt"`
	// Certificate is the session's leaf in DER; it may have expired.
	Certificate []byte `json:"certificate"`
	Challenge   []byte `json:"challenge"`
	// Signature is made by the certificate's key; see [StepUpRequest.Sign].
	Signature []byte     `json:"signature"`
	Client    ClientInfo `json:"client"`
}

// DeviceRequest starts a device login for a certificate request.
type DeviceRequest struct {
	Provider string `json:"provider"`
	CSR      []byte `json:"csr"`
	DeviceProof
	Client ClientInfo `json:"client"`
}

// DeviceReply is what the person has to do elsewhere (RFC 8628 section 3.2).
type DeviceReply struct {
	// ID names this login in polls. It is a secret.
	ID                      oidc.Secret `json:"id"`
	UserCode                string      `json:"user_code"`
	VerificationURI         string      `json:"verification_uri"`
	VerificationURIComplete string      `json:"verification_uri_complete,omitempty"`
	// Interval is the least time between two polls, in seconds.
	Interval int       `json:"interval"`
	Expires  time.Time `json:"expires"`
}

// DevicePollRequest asks whether a device login was confirmed.
type DevicePollRequest struct {
	ID oidc.Secret `json:"id"`
	// Signature is made by the certificate request's key.
	Signature []byte `json:"signature"`
}

// DevicePending is the answer (202) while nobody has confirmed yet.
type DevicePending struct {
	// Interval replaces the one of [DeviceReply], in seconds.
	Interval int `json:"interval"`
}

// Response is a successful enrolment of any kind.
type Response struct {
	// Chain is the certificate first and then its issuers, in DER.
	Chain [][]byte `json:"chain"`
	// Roots replace the pinned roots of the tunnel, in DER. Never empty.
	Roots   [][]byte       `json:"roots"`
	Session auth.SessionID `json:"session"`
	// Deadline ends the session: from then on only a login helps.
	Deadline time.Time `json:"deadline"`
	// NotAfter ends the certificate.
	NotAfter time.Time `json:"not_after"`
	// Time is the gateway's clock.
	Time time.Time `json:"time"`
	// RefreshToken comes with the certificate of a device login, which the
	// client did not get its tokens from.
	RefreshToken oidc.Secret `json:"refresh_token,omitempty"`
}
