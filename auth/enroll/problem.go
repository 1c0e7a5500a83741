package enroll

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/internal/plaintext"
)

// Code says in one word why an enrolment request was refused. Programs branch
// on it; people read [Problem.Detail] and [Problem.Remedy].
type Code string

// The reasons for which a gateway refuses. A client that meets another one
// treats it like [CodeInternal].
const (
	CodeBadRequest          Code = "bad_request"          // the body is not the message of this path
	CodeNotFound            Code = "not_found"            // no such path
	CodeMethodNotAllowed    Code = "method_not_allowed"   // the path exists, with another method
	CodeTooLarge            Code = "too_large"            // the body is over [MaxRequest]
	CodeTimeout             Code = "timeout"              // the body came too slowly
	CodeRateLimited         Code = "rate_limited"         // too many requests; see RetryAfter
	CodeUnknownProvider     Code = "unknown_provider"     // no provider of that name here
	CodeTokenInvalid        Code = "token_invalid"        // the provider's token does not verify, or belongs to somebody else
	CodeTokenRedeemed       Code = "token_redeemed"       // the token was already used for another key
	CodeCSRInvalid          Code = "csr_invalid"          // the certificate request has a bad signature or key
	CodeDeviceProof         Code = "device_proof_invalid" // the device key did not sign for this request
	CodeLoginTooOld         Code = "login_too_old"        // the person signed in at the provider longer ago than a session may last
	CodeExpired             Code = "expired"              // the session is past its deadline or was ended; log in again
	CodeLocked              Code = "locked"               // an administrator locked the user, device, session or group
	CodeReauthRequired      Code = "reauth_required"      // this provider's sessions are never renewed; log in again
	CodeCertificateUnknown  Code = "certificate_unknown"  // this gateway never issued that certificate
	CodeChallengeInvalid    Code = "challenge_invalid"    // the challenge is unknown, used or expired; ask for another
	CodeSignatureInvalid    Code = "signature_invalid"    // the certificate's key did not sign this request
	CodeIdentityTooLarge    Code = "identity_too_large"   // the groups do not fit into a certificate
	CodeDeviceDisabled      Code = "device_disabled"      // device logins are off for this provider
	CodeDeviceDenied        Code = "device_denied"        // the person said no, or the provider refused
	CodeDeviceExpired       Code = "device_expired"       // nobody confirmed the device login in time, or it was used
	CodeProviderUnavailable Code = "provider_unavailable" // the OpenID provider does not answer
	CodeStoreUnavailable    Code = "store_unavailable"    // the gateway's database does not answer
	CodeUnavailable         Code = "unavailable"          // the gateway is too busy, or cannot write its audit log
	CodeInternal            Code = "internal"             // the gateway failed; its log has the reference
	CodeForeignAnswer       Code = "foreign_answer"       // made by the client: whatever answered is not a Culvert gateway
)

// A Problem is an error answer of the gateway: problem details of RFC 9457 with
// the extension members code, remedy and reference. It is an error; get at it
// with [errors.As]. It never holds a secret.
type Problem struct {
	// Type is "about:blank": the code says it all (RFC 9457 section 4.2.1).
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	// Detail is a sentence for the person in front of the client.
	Detail string `json:"detail,omitempty"`
	// Remedy says what that person can do about it.
	Remedy string `json:"remedy,omitempty"`
	// Reference finds the matching line in the gateway's log and audit.
	Reference string `json:"reference,omitempty"`
	// RetryAfter is the Retry-After header; zero means that it was absent.
	RetryAfter time.Duration `json:"-"`
}

// Error gives the detail and the code in one line.
func (p *Problem) Error() string {
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	return fmt.Sprintf("%s (%s)", detail, p.Code)
}

// Temporary reports whether the same request may succeed later without
// anybody changing anything.
func (p *Problem) Temporary() bool {
	return p.Status == http.StatusTooManyRequests || p.Status == http.StatusRequestTimeout || p.Status >= 500
}

// Is makes errors.Is(err, &Problem{Code: …}) compare by code.
func (p *Problem) Is(target error) bool {
	other, ok := target.(*Problem)
	return ok && other.Code == p.Code
}

// problemFrom builds a Problem from whatever answered with an error status. An
// answer in another form than RFC 9457 comes from a proxy or from another
// program, and says so.
func problemFrom(resp *http.Response, body []byte) *Problem {
	p := &Problem{}
	if mediaType(resp.Header) != problemType || Decode(body, p) != nil || p.Code == "" {
		p = &Problem{
			Code:   CodeForeignAnswer,
			Detail: fmt.Sprintf("%s answered %q, and not as a Culvert gateway does", resp.Request.URL.Host, resp.Status),
			Remedy: "check the gateway's URL, and whether a proxy or a captive portal stands in between",
		}
	}
	p.Status = resp.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(resp.StatusCode)
	}
	p.RetryAfter = retryAfter(resp.Header.Get("Retry-After"))
	p.Title, p.Detail, p.Remedy = plaintext.Line(p.Title), plaintext.Line(p.Detail), plaintext.Line(p.Remedy)
	p.Reference, p.Code = plaintext.Line(p.Reference), Code(plaintext.Line(string(p.Code)))
	return p
}

// retryAfter reads the delay form of the header (RFC 9110 section 10.2.3),
// which is the one that this gateway sends.
func retryAfter(v string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(v))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, time.Hour)
}
