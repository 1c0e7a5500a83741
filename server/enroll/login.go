package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/plaintext"
	"github.com/culvert-vpn/culvert/server/store"
)

// request is what a login and a device login have in common: a checked certificate
// request and a checked device.
type request struct {
	key    *ecdsa.PublicKey
	spki   []byte
	device auth.DeviceID
}

// checkRequest looks at a certificate request, of which only the key counts, and
// at the device's proof for that key.
func (h *Handler) checkRequest(csr []byte, proof enroll.DeviceProof) (request, error) {
	key, err := ca.CheckCSR(csr)
	if err != nil {
		return request{}, refuse(enroll.CodeCSRInvalid, "%s", plaintext.Clip(err.Error(), 200))
	}
	// Encoded anew: the form in the request is the client's choice.
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return request{}, refuse(enroll.CodeCSRInvalid, "the key cannot be encoded").because(err)
	}
	device, err := proof.Verify(h.Authority.TrustDomain(), spki)
	if err != nil {
		return request{}, refuse(enroll.CodeDeviceProof, "the device's key did not sign for this request").because(err)
	}
	return request{key: key, spki: spki, device: device}, nil
}

// introduce notes who asks, for the records, and finds the provider that they name.
func (h *Handler) introduce(c *call, from enroll.ClientInfo, provider string) (Provider, error) {
	c.client = clientName(from)
	p, err := h.provider(provider)
	if err != nil {
		return nil, err
	}
	c.actor.Provider = provider
	return p, nil
}

// login exchanges the ID token of the authorization code flow.
func (h *Handler) login(ctx context.Context, c *call) (int, any, error) {
	m, err := decode[enroll.LoginRequest](c)
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
	req, err := h.checkRequest(m.CSR, m.DeviceProof)
	if err != nil {
		return 0, nil, err
	}
	nonce := enroll.Nonce(req.spki, m.Salt)
	claims, err := p.VerifyLogin(ctx, oidc.Presented{IDToken: m.IDToken, AccessToken: m.AccessToken}, nonce)
	if err != nil {
		return 0, nil, providerRefusal(p, err)
	}
	session, err := h.newSession(c, claims, req.device, auth.LoginBrowser)
	if err != nil {
		return 0, nil, err
	}
	session.Nonce = nonce
	resp, err := h.issue(ctx, c, verified{
		provider: p, claims: claims, key: req.key, keyHash: store.HashKey(req.spki),
		token: redemptionOfNonce(nonce), spent: redemptionOfPayload(claims.PayloadHash), session: session,
	})
	return http.StatusOK, resp, err
}

// newSession begins a session at the moment when the person signed in at the
// provider, which may be long ago: the provider remembers its own logins.
func (h *Handler) newSession(c *call, claims *oidc.Claims, device auth.DeviceID, kind auth.LoginKind) (store.Session, error) {
	now := h.Now()
	authTime := claims.AuthTime
	if authTime.IsZero() {
		authTime = claims.IssuedAt // the provider does not say
	}
	if authTime.After(now) {
		authTime = now.Truncate(time.Second) // within the tolerated skew; it must not buy time
	}
	deadline := authTime.Add(h.SessionTTL)
	if !now.Before(deadline) {
		return store.Session{}, refuse(enroll.CodeLoginTooOld, "you signed in at %s at %s, and a session lasts %s from then",
			claims.Provider, authTime.UTC().Format(time.RFC3339), h.SessionTTL).
			remedy("sign out at the provider, or let it ask again, and " + loginAgain)
	}
	return store.Session{
		ID: auth.NewSessionID(), Device: device, Provider: claims.Provider, Login: kind, Client: c.client,
		AuthTime: authTime, Deadline: deadline, ProviderSID: claims.SID,
	}, nil
}
