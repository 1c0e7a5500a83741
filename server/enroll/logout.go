package enroll

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

const (
	formType = "application/x-www-form-urlencoded"
	// logoutAuthor is the author of the locks that a logout makes.
	logoutAuthor = "back-channel logout"
)

// isLogout reports whether the path is one of the providers' logout paths.
func isLogout(path string) (provider string, ok bool) {
	return strings.CutPrefix(path, enroll.PathLogout)
}

// logout takes a provider's logout token (OpenID Connect Back-Channel Logout 1.0 sections 2.5 to 2.8). It says who logged out, and that is
// believed for the provider whose keys signed it, and for no other: the path only names the keys to look at.
func (h *Handler) logout(ctx context.Context, c *call, provider string) error {
	p, err := h.provider(provider)
	if err != nil {
		return err
	}
	c.actor.Provider = provider
	form, err := url.ParseQuery(string(c.body))
	if err != nil || len(form["logout_token"]) != 1 {
		return refuse(enroll.CodeBadRequest, "the request must be a form with one logout_token")
	}
	token, err := p.VerifyLogout(ctx, oidc.Secret(form.Get("logout_token")))
	if err != nil {
		return providerRefusal(p, err)
	}
	in := store.Logout{
		TokenHash: hashJTI(provider, token.JTI), Expires: token.Expires, Provider: provider, SID: token.SID,
		LockID: "logout-" + hashJTI(provider, token.JTI)[:32], LockFor: h.SessionTTL, Author: logoutAuthor,
		Message: "you logged out at " + provider,
	}
	if token.Subject != "" {
		in.User = auth.NewUserID(token.Issuer, token.Subject)
		c.actor.User, c.actor.Issuer, c.actor.Subject = in.User, token.Issuer, token.Subject
	}
	return h.logOut(ctx, c, in)
}

// hashJTI names a logout token without keeping what the provider wrote into it.
func hashJTI(provider, jti string) string {
	sum := sha256.Sum256([]byte(provider + "\x00" + jti))
	return hex.EncodeToString(sum[:])
}

// logOut does it, and records it. A token that came before does nothing, and is answered as it was: a provider that did not see the
// first answer asks again.
func (h *Handler) logOut(ctx context.Context, c *call, in store.Logout) error {
	out, err := h.Store.Logout(ctx, in)
	if err != nil {
		return err
	}
	outcome := "logged_out"
	if out.Repeated {
		outcome = "repeated"
	}
	h.Observe(c.kind, outcome)
	h.Logger.InfoContext(ctx, "logout at the provider", "provider", in.Provider, "user", in.User, "by_session", in.SID != "",
		"repeated", out.Repeated, "sessions", len(out.Ended), "lock", out.Lock.ID, "remote", c.remote)
	if out.Repeated {
		return nil
	}
	h.auditLogout(ctx, c, in, out)
	return nil
}

// auditLogout records what has happened already: that it cannot be written is no reason to let anybody stay.
func (h *Handler) auditLogout(ctx context.Context, c *call, in store.Logout, out store.LoggedOut) {
	what := "of a person"
	if in.SID != "" {
		what = "of a session at the provider"
	}
	ended := make([]string, 0, len(out.Ended))
	for _, id := range out.Ended {
		ended = append(ended, string(id))
	}
	_, err := h.Audit.Append(ctx, audit.Record{
		Event: audit.EventBackchannelLogout, Reference: audit.NewReference(), Actor: c.actor,
		Reason: "logout " + what, Detail: "lock " + out.Lock.ID + "; ended: " + orNone(strings.Join(ended, " ")),
	})
	if err != nil {
		h.Logger.ErrorContext(ctx, "audit a logout at the provider", "error", err)
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// serveLogout is ServeHTTP for the logout paths: the same order of checks, a form in place of JSON, and a rate of its own, since all
// logouts come from the provider's one address.
func (h *Handler) serveLogout(ctx context.Context, w http.ResponseWriter, r *http.Request, c *call, provider string) {
	c.kind = "logout"
	err := h.takeLogout(ctx, w, r, c, provider)
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		h.answerLogoutRefusal(ctx, w, c, asRefusal(err))
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) takeLogout(ctx context.Context, w http.ResponseWriter, r *http.Request, c *call, provider string) error {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return refuse(enroll.CodeMethodNotAllowed, "%s takes POST only", enroll.PathLogout)
	}
	if wait := h.logouts.take(addressOf(c.remote)); wait > 0 {
		return refuse(enroll.CodeRateLimited, "too many logouts from your address").retryIn(wait)
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != formType {
		return refuse(enroll.CodeBadRequest, "the request must be %s", formType)
	}
	return h.withBody(ctx, w, r, c, func() error { return h.logout(ctx, c, provider) })
}

// answerLogoutRefusal answers as section 2.8 says: 400, whatever the reason, with the form of RFC 6749 section 5.2. What is not about the token
// (method, rate) keeps its status.
func (h *Handler) answerLogoutRefusal(ctx context.Context, w http.ResponseWriter, c *call, r *refusal) {
	ref := h.recordRefusal(ctx, w, c, r)
	status, code := statusOf(r.code), "invalid_request"
	switch {
	case status == http.StatusMethodNotAllowed, status == http.StatusTooManyRequests:
	case status >= 500:
		status, code = http.StatusBadRequest, "server_error"
	default:
		status = http.StatusBadRequest
	}
	h.answer(w, status, "application/json", map[string]string{"error": code, "error_description": r.detail + " (" + ref + ")"})
}
