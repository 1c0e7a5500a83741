package enroll

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/store"
)

// maxCertificate bounds the certificate in a renewal: 16 KiB of identity, and the
// rest of it many times over.
const maxCertificate = 32 << 10

// challenge gives what a renewal must sign.
func (h *Handler) challenge(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.ChallengeRequest](c)
	if err != nil {
		return 0, nil, err
	}
	serial, err := auth.ParseSerial(string(m.Serial))
	if err != nil {
		return 0, nil, refuse(enroll.CodeBadRequest, "%s", err)
	}
	c.actor.Serial = serial
	cert, err := h.Store.Certificate(ctx, serial)
	if err != nil {
		return 0, nil, unknownCertificate(err)
	}
	if _, err := h.liveSession(ctx, cert); err != nil {
		return 0, nil, err
	}
	challenge := make([]byte, challengeSize)
	rand.Read(challenge) // never fails: crypto/rand ends the process instead
	expires, err := h.Store.PutChallenge(ctx, challenge, serial, challengeTTL)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, enroll.ChallengeReply{Challenge: challenge, Expires: expires}, nil
}

// unknownCertificate refuses what is not in the inventory: this gateway (or one
// that shares its database) did not issue it, or it is long gone.
func unknownCertificate(err error) error {
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return refuse(enroll.CodeCertificateUnknown, "this gateway does not know the certificate").remedy(loginAgain).because(err)
}

// liveSession gets the session of a certificate, unless it is over. The store looks
// again when it issues; here it spares the provider a question.
func (h *Handler) liveSession(ctx context.Context, cert store.Certificate) (store.Session, error) {
	if cert.Kind != store.CertificateClient {
		return store.Session{}, unknownCertificate(store.ErrNotFound)
	}
	s, err := h.Store.Session(ctx, cert.Session)
	if err != nil {
		return s, unknownCertificate(err)
	}
	if !s.Live(h.Now()) {
		return s, refuseEnded(s.EndReason, store.ErrSessionEnded)
	}
	return s, nil
}

// renew exchanges refreshed tokens for the session's next certificate. The presented
// certificate may have expired; the session must not have.
func (h *Handler) renew(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.RenewRequest](c)
	if err != nil {
		return 0, nil, err
	}
	p, err := h.introduce(c, m.Client, m.Provider)
	if err != nil {
		return 0, nil, err
	}
	v, err := h.ownCertificate(ctx, c, m.Certificate)
	if err != nil {
		return 0, nil, err
	}
	if err := h.checkHolder(ctx, c, m, m.Challenge, v, m.Provider); err != nil {
		return 0, nil, err
	}
	v.provider = p
	if err := h.verifyRenewal(ctx, m, &v); err != nil {
		return 0, nil, err
	}
	resp, err := h.issue(ctx, c, v)
	return http.StatusOK, resp, err
}

// ownCertificate takes only a certificate that is, byte for byte, the one in the
// inventory: a re-encoded signature, or a certificate of somebody else, is not.
func (h *Handler) ownCertificate(ctx context.Context, c *call, der []byte) (verified, error) {
	if len(der) > maxCertificate {
		return verified{}, refuse(enroll.CodeBadRequest, "the certificate is larger than %d KiB", maxCertificate>>10)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return verified{}, refuse(enroll.CodeBadRequest, "the certificate cannot be read").because(err)
	}
	known, err := h.Store.Certificate(ctx, auth.SerialOf(leaf))
	if err != nil {
		return verified{}, unknownCertificate(err)
	}
	c.actor.Serial = known.Serial
	if len(known.Chain) == 0 || !bytes.Equal(known.Chain[0], der) {
		return verified{}, unknownCertificate(store.ErrNotFound)
	}
	session, err := h.liveSession(ctx, known)
	if err != nil {
		return verified{}, err
	}
	return h.sameSession(leaf, session)
}

// sameSession reads key and identity of the certificate that is renewed.
func (h *Handler) sameSession(leaf *x509.Certificate, session store.Session) (verified, error) {
	id, err := auth.FromCertificate(leaf, h.Authority.TrustDomain())
	if err != nil {
		return verified{}, unknownCertificate(store.ErrNotFound)
	}
	key, spki, err := keyOf(leaf)
	if err != nil || id.Session != session.ID || store.HashKey(spki) != session.Key {
		return verified{}, unknownCertificate(store.ErrNotFound)
	}
	return verified{key: key, spki: spki, keyHash: session.Key, session: session, previous: &id}, nil
}

// signedRequest is one that the certificate's key signed.
type signedRequest interface {
	Verify(pub crypto.PublicKey) error
}

// checkHolder makes sure that whoever asks holds the certificate's key now: it
// signed this gateway's challenge, which is used up, together with the tokens.
func (h *Handler) checkHolder(ctx context.Context, c *call, m signedRequest, challenge []byte, v verified, provider string) error {
	if err := m.Verify(v.key); err != nil {
		return refuse(enroll.CodeSignatureInvalid, "the certificate's key did not sign this request").because(err)
	}
	err := h.Store.TakeChallenge(ctx, challenge, c.actor.Serial)
	if errors.Is(err, store.ErrNotFound) {
		return refuse(enroll.CodeChallengeInvalid, "the challenge was used, has expired, or is for another certificate").
			remedy("ask for a new challenge").because(err)
	}
	if err != nil {
		return err
	}
	// Only now is it more than somebody with a copy of the certificate.
	c.actor.Session, c.actor.User, c.actor.Device = v.session.ID, v.session.User, v.session.Device
	if v.session.Provider != provider { // one of the same issuer, under another name since
		return refuse(enroll.CodeReauthRequired, "the session began with the provider %s", v.session.Provider).remedy(loginAgain)
	}
	return nil
}

// verifyRenewal asks the provider's word.
func (h *Handler) verifyRenewal(ctx context.Context, m *enroll.RenewRequest, v *verified) error {
	claims, err := v.provider.VerifyRenewal(ctx, oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, oidc.Previous{
		Issuer: v.session.Issuer, Subject: v.session.Subject, Nonce: v.session.Nonce, IssuedAt: v.session.TokenIssuedAt,
	})
	if err != nil {
		return providerRefusal(v.provider, err)
	}
	switch v.provider.Config().RefreshIdentity {
	case oidc.RefreshIntrospect, oidc.RefreshUserInfo:
		v.undated = true // an access token: its iat is the time of asking
	}
	v.claims, v.token = claims, redemptionOfPayload(claims.PayloadHash)
	return nil
}
