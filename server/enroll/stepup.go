package enroll

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/store"
)

// stepUp exchanges the ID token of a fresh login for the session's next certificate. It is a login in what the token must prove (a
// nonce that is bound to the key), and a renewal in what it gives: session, key, device, kind of login and deadline stay. Of a
// certificate that was not renewed in time, the presented one may have expired; the session must not have.
func (h *Handler) stepUp(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.StepUpRequest](c)
	if err != nil {
		return 0, nil, err
	}
	p, err := h.introduce(c, m.Client, m.Provider)
	if err != nil {
		return 0, nil, err
	}
	if len(m.Salt) != enroll.SaltSize {
		return 0, nil, refuse(enroll.CodeBadRequest, "the salt must have %d bytes", enroll.SaltSize)
	}
	v, err := h.ownCertificate(ctx, c, m.Certificate)
	if err != nil {
		return 0, nil, err
	}
	if err := h.checkHolder(ctx, c, m, m.Challenge, v, m.Provider); err != nil {
		return 0, nil, err
	}
	v.provider = p
	if err := h.verifyStepUp(ctx, m, &v); err != nil {
		return 0, nil, err
	}
	resp, err := h.issue(ctx, c, v)
	return http.StatusOK, resp, err
}

// verifyStepUp asks the provider's word, and takes from it when the person signed in.
func (h *Handler) verifyStepUp(ctx context.Context, m *enroll.StepUpRequest, v *verified) error {
	nonce := enroll.Nonce(v.spki, m.Salt)
	v.token = redemptionOfNonce(nonce)
	before := v.session.AuthTime
	if _, err := h.Store.Redeemed(ctx, v.token, v.keyHash); err == nil {
		before = time.Time{} // its answer was lost: it gets the same certificate again, which is as new as the session's login
	}
	claims, err := v.provider.VerifyStepUp(ctx, oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, nonce, oidc.Previous{
		Issuer: v.session.Issuer, Subject: v.session.Subject, AuthTime: before,
	})
	if err != nil {
		return stepUpRefusal(v.provider, err)
	}
	v.claims, v.stepUp, v.spent = claims, true, redemptionOfPayload(claims.PayloadHash)
	v.session = steppedUp(v.session, claims, nonce, h.Now())
	return nil
}

// steppedUp is the session after the login. The first nonce stays beside the new one, since the client may keep the refresh token of
// either login, and tokens that are refreshed may repeat the nonce.
func steppedUp(s store.Session, claims *oidc.Claims, nonce string, now time.Time) store.Session {
	s.AuthTime = claims.AuthTime
	if s.AuthTime.After(now) {
		s.AuthTime = now.Truncate(time.Second) // within the tolerated skew; it must not buy time
	}
	first, _, _ := strings.Cut(s.Nonce, " ")
	s.Nonce = strings.TrimSpace(first + " " + nonce)
	if claims.SID != "" {
		s.ProviderSID = claims.SID
	}
	return s
}

// stepUpRefusal is providerRefusal, but what helps is another login of the same session.
func stepUpRefusal(p Provider, err error) error {
	err = providerRefusal(p, err)
	if r, ok := err.(*refusal); ok && r.code == enroll.CodeTokenInvalid && r.hint == loginAgain {
		r.hint = "sign in again when it is asked for, as the same person"
	}
	return err
}
