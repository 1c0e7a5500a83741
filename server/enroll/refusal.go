package enroll

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/store"
)

// A refusal is why a request gets no certificate: a code, a sentence for the
// person, and the cause for the log alone. The HTTP edge makes problem details
// of it.
type refusal struct {
	code   enroll.Code
	detail string
	hint   string
	retry  time.Duration
	cause  error
}

func (r *refusal) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %s: %v", r.code, r.detail, r.cause)
	}
	return fmt.Sprintf("%s: %s", r.code, r.detail)
}

func (r *refusal) Unwrap() error { return r.cause }

func refuse(code enroll.Code, format string, args ...any) *refusal {
	return &refusal{code: code, detail: fmt.Sprintf(format, args...)}
}

func (r *refusal) remedy(text string) *refusal      { r.hint = text; return r }
func (r *refusal) because(err error) *refusal       { r.cause = err; return r }
func (r *refusal) retryIn(d time.Duration) *refusal { r.retry = d; return r }
func (r *refusal) problem(ref string) *enroll.Problem {
	status := statusOf(r.code)
	return &enroll.Problem{
		Type: "about:blank", Title: http.StatusText(status), Status: status,
		Code: r.code, Detail: r.detail, Remedy: r.hint, Reference: ref, RetryAfter: r.retry,
	}
}

const loginAgain = "log in again: culvert login"

// statusOf gives the HTTP status of a code. A token that proves nothing is 403 and
// not 401: there is no Authorization header that would help (RFC 9110, 15.5.2).
func statusOf(code enroll.Code) int {
	switch code {
	case enroll.CodeBadRequest, enroll.CodeUnknownProvider, enroll.CodeCSRInvalid, enroll.CodeDeviceProof:
		return http.StatusBadRequest
	case enroll.CodeNotFound, enroll.CodeCertificateUnknown:
		return http.StatusNotFound
	case enroll.CodeMethodNotAllowed:
		return http.StatusMethodNotAllowed
	case enroll.CodeTimeout:
		return http.StatusRequestTimeout
	case enroll.CodeTokenRedeemed, enroll.CodeChallengeInvalid:
		return http.StatusConflict
	case enroll.CodeDeviceExpired:
		return http.StatusGone
	case enroll.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case enroll.CodeIdentityTooLarge:
		return http.StatusUnprocessableEntity
	case enroll.CodeRateLimited:
		return http.StatusTooManyRequests
	case enroll.CodeProviderUnavailable, enroll.CodeStoreUnavailable, enroll.CodeUnavailable:
		return http.StatusServiceUnavailable
	case enroll.CodeInternal:
		return http.StatusInternalServerError
	default:
		return http.StatusForbidden
	}
}

// audited reports codes that say something about a person or a key, and so
// belong into the audit log. Noise does not: it would be a way to fill the disk.
func audited(code enroll.Code) bool {
	switch statusOf(code) {
	case http.StatusForbidden, http.StatusConflict, http.StatusUnprocessableEntity:
		return true
	}
	return code == enroll.CodeCertificateUnknown || code == enroll.CodeDeviceProof || code == enroll.CodeCSRInvalid
}

// asRefusal classifies the errors that come from below.
func asRefusal(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	var locked *store.LockedError
	switch {
	case errors.As(err, &locked):
		return refuseLocked(locked.Lock)
	case errors.Is(err, store.ErrRedeemed):
		return refuse(enroll.CodeTokenRedeemed, "this login was already used for a certificate").
			remedy(loginAgain).because(err)
	case errors.Is(err, store.ErrSessionEnded):
		return refuseEnded("", err)
	case errors.Is(err, store.ErrWrongKey):
		return refuse(enroll.CodeSignatureInvalid, "the certificate is not of this session").
			remedy(loginAgain).because(err)
	case errors.Is(err, store.ErrTokenOld):
		return refuse(enroll.CodeTokenInvalid, "the provider's token is older than the last one accepted for this session").
			remedy("refresh again; if the provider hands out old tokens, log in again").because(err)
	case errors.Is(err, auth.ErrTooLarge):
		return refuse(enroll.CodeIdentityTooLarge, "you are in too many groups to fit into a certificate").
			remedy("ask the gateway's administrator to list the groups that matter in groups.keep").because(err)
	case errors.Is(err, context.Canceled): // whoever asked hung up: not the database's fault
		return refuse(enroll.CodeUnavailable, "the request was given up").because(err)
	case errors.Is(err, store.ErrUnavailable):
		return refuse(enroll.CodeStoreUnavailable, "the gateway's database does not answer, so no certificate can be issued; certificates that were issued go on").
			remedy("try again in a moment").retryIn(5 * time.Second).because(err)
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(enroll.CodeUnavailable, "the request took too long").
			remedy("try again in a moment").retryIn(5 * time.Second).because(err)
	default:
		return refuse(enroll.CodeInternal, "the gateway failed").
			remedy("give its administrator the reference").because(err)
	}
}

// refuseEnded says why the session was ended, where somebody did: an administrator writes it for the person.
func refuseEnded(why string, err error) *refusal {
	detail := "the session has ended"
	if why != "" {
		detail += ": " + plaintext.Clip(why, maxEndReason)
	}
	return refuse(enroll.CodeExpired, "%s", detail).remedy(loginAgain).because(err)
}

// maxEndReason bounds what is told of it, in bytes.
const maxEndReason = 256

func refuseLocked(l store.Lock) *refusal {
	if l.Author == logoutAuthor {
		return refuse(enroll.CodeLocked, "%s, and this login is from before that", l.Message).remedy(loginAgain)
	}
	detail := fmt.Sprintf("an administrator locked this %s", l.Kind)
	if l.Message != "" {
		detail += ": " + l.Message
	}
	r := refuse(enroll.CodeLocked, "%s", detail)
	if !l.Expires.IsZero() {
		return r.remedy("the lock ends at " + l.Expires.UTC().Format(time.RFC3339))
	}
	return r.remedy("ask your administrator")
}

// providerRefusal classifies what auth/oidc says. Its texts hold no tokens.
func providerRefusal(p Provider, err error) error {
	c := p.Config()
	var token *oidc.TokenError
	var answer *oidc.ProviderError
	switch {
	case errors.Is(err, oidc.ErrReauth):
		return refuse(enroll.CodeReauthRequired, "logins at %s are not renewed", c.Name).remedy(loginAgain).because(err)
	case errors.Is(err, oidc.ErrUnavailable):
		return refuse(enroll.CodeProviderUnavailable, "the OpenID provider %s (%s) does not answer this gateway", c.Name, c.Issuer).
			remedy("try again in a moment; certificates that were issued go on").retryIn(10 * time.Second).because(err)
	case errors.As(err, &token):
		return refuse(enroll.CodeTokenInvalid, "%s", token.Error()).remedy(tokenRemedy(token.Code)).because(err)
	case errors.As(err, &answer):
		return refuse(enroll.CodeTokenInvalid, "%s", answer.Error()).remedy(loginAgain).because(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return refuse(enroll.CodeProviderUnavailable, "the OpenID provider %s (%s) did not answer in time", c.Name, c.Issuer).
			remedy("try again in a moment").retryIn(10 * time.Second).because(err)
	default:
		return err
	}
}

// tokenRemedy says who can do something about a token that proves nothing.
func tokenRemedy(code string) string {
	switch code {
	case "audience", "azp", "issuer", "algorithm", "access_token":
		return "ask the gateway's administrator to compare the provider's settings with the provider"
	case "not_yet":
		return "the clocks of provider and gateway differ: ask the gateway's administrator"
	default:
		return loginAgain
	}
}
