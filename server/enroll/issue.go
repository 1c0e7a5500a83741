package enroll

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/server/audit"
	"github.com/culvert-vpn/culvert/server/store"
)

// verified is an enrolment whose proofs have all been checked.
type verified struct {
	provider Provider
	claims   *oidc.Claims
	key      *ecdsa.PublicKey
	spki     []byte // of the key, in its one encoding; set where there is a certificate already
	keyHash  store.KeyHash
	// token is the redemption: nonce or payload.
	token   string
	spent   string // the redemption by payload of a login; "" elsewhere
	undated bool
	stepUp  bool // session.AuthTime is that of a fresh login
	session store.Session
	// previous is the identity of the certificate that is renewed; nil otherwise.
	previous *auth.Identity
	device   *store.DeviceIssuance
}

// redemptionOfNonce and redemptionOfPayload name what a token is redeemed by
// (design section 3.6). The prefixes keep them apart.
func redemptionOfNonce(nonce string) string { return "nonce:" + nonce }

func redemptionOfPayload(hash [32]byte) string { return "payload:" + hex.EncodeToString(hash[:]) }

// issue makes the certificate, records it, audits it and only then answers.
func (h *Handler) issue(ctx context.Context, c *call, v verified) (*enroll.Response, error) {
	user := auth.NewUserID(v.claims.Issuer, v.claims.Subject)
	c.actor.User, c.actor.Provider = user, v.claims.Provider
	c.actor.Issuer, c.actor.Subject, c.actor.Device = v.claims.Issuer, v.claims.Subject, v.session.Device
	if err := h.limitUser(user, v); err != nil {
		return nil, err
	}
	issued, err := h.Store.Issue(ctx, store.Issuance{
		Token: v.token, Spent: v.spent, TokenExpires: h.redeemedUntil(v), TokenIssuedAt: v.claims.IssuedAt, Undated: v.undated,
		Key: v.keyHash,
		User: store.User{
			ID: user, Issuer: v.claims.Issuer, Subject: v.claims.Subject, Provider: v.claims.Provider,
			Name: v.claims.Name, Email: v.claims.Email, EmailTrusted: v.claims.EmailTrusted,
			Groups: h.keep.apply(v.claims.Provider, v.claims.Groups), GroupsKnown: v.claims.GroupsKnown, ACR: v.claims.ACR, AMR: v.claims.AMR,
		},
		Groups: v.claims.Groups, GroupsKnown: v.claims.GroupsKnown,
		Renewal: v.previous != nil, StepUp: v.stepUp, Session: v.session, Device: v.device,
		Sign: func(at time.Time, s store.Session) (store.Certificate, error) { return h.sign(ctx, v, at, s) },
	})
	if err != nil {
		return nil, err
	}
	return h.respond(ctx, c, issued)
}

// limitUser bounds how often one person enrols. A device login has been bounded
// already, and its tokens cannot be had a second time.
func (h *Handler) limitUser(user auth.UserID, v verified) error {
	if v.device != nil {
		return nil
	}
	wait := h.users.take(user)
	if wait == 0 {
		return nil
	}
	return refuse(enroll.CodeRateLimited, "too many enrolments of your account").
		remedy("wait " + wait.Round(time.Second).String()).retryIn(wait)
}

// redeemedUntil is when the token can no longer be presented by anybody.
func (h *Handler) redeemedUntil(v verified) time.Time {
	if v.claims.Expiry.IsZero() {
		return h.Now().Add(undatedLife)
	}
	until := v.claims.Expiry.Add(tokenMargin)
	if until.Before(v.session.Deadline) {
		return v.session.Deadline
	}
	return until
}

// sign runs inside the store's transaction.
func (h *Handler) sign(ctx context.Context, v verified, at time.Time, s store.Session) (store.Certificate, error) {
	notAfter := at.Add(h.CertificateTTL)
	if s.Deadline.Before(notAfter) {
		notAfter = s.Deadline
	}
	id := h.identity(v, at, s)
	issued, err := h.Authority.IssueClient(ctx, ca.ClientProfile{
		Identity: id, PublicKey: v.key,
		NotBefore: at.Add(-ca.Backdate).Truncate(time.Second), NotAfter: notAfter.Truncate(time.Second),
	})
	if err != nil {
		return store.Certificate{}, err
	}
	return store.Certificate{
		Serial: auth.SerialOf(issued.Leaf), Kind: store.CertificateClient, Holder: issued.Leaf.URIs[0].String(),
		IssuedAt: at, NotBefore: issued.Leaf.NotBefore, NotAfter: issued.Leaf.NotAfter, Chain: issued.Chain,
	}, nil
}

// identity is what goes into the certificate. In a renewal the previous identity
// stays but for what the provider says anew.
func (h *Handler) identity(v verified, at time.Time, s store.Session) auth.Identity {
	c := v.claims
	id := auth.Identity{
		Issuer: c.Issuer, Subject: c.Subject, Provider: c.Provider,
		Name: c.Name, Email: c.Email, EmailTrusted: c.EmailTrusted,
		AuthTime: s.AuthTime, Login: s.Login, Session: s.ID, Device: s.Device,
	}
	if v.previous != nil {
		id = renewedIdentity(*v.previous, c)
		id.AuthTime = s.AuthTime // a step-up may have moved it since that certificate
	}
	id.ACR, id.AMR, id.IssuedAt = c.ACR, c.AMR, at
	id.Groups, id.GroupsKnown = nil, c.GroupsKnown
	if c.GroupsKnown {
		id.Groups = h.keep.apply(c.Provider, c.Groups)
	}
	return id
}

// renewedIdentity takes name and e-mail from the new claims where they are there:
// providers leave them out of refreshed tokens.
func renewedIdentity(id auth.Identity, c *oidc.Claims) auth.Identity {
	if c.Name != "" {
		id.Name = c.Name
	}
	if c.Email != "" {
		id.Email, id.EmailTrusted = c.Email, c.EmailTrusted
	}
	return id
}

// respond audits an issuance and makes the answer of it. The certificate is in the
// inventory already; it leaves only when the audit record is on the disk. A
// client that gets an error here asks again and gets the same certificate.
func (h *Handler) respond(ctx context.Context, c *call, issued store.Issued) (*enroll.Response, error) {
	cert := issued.Certificate
	if err := h.auditIssued(ctx, c, issued); err != nil {
		return nil, refuse(enroll.CodeUnavailable, "the gateway cannot write its audit log, so no certificate can be issued").
			remedy("try again in a moment; tell its administrator").retryIn(10 * time.Second).because(err)
	}
	outcome := "issued"
	if issued.Repeated {
		outcome = "repeated"
	}
	h.Observe(c.kind, outcome)
	h.Logger.InfoContext(ctx, "certificate issued", "kind", c.kind, "repeated", issued.Repeated, "serial", cert.Serial,
		"user", issued.Session.User, "session", issued.Session.ID, "device", issued.Session.Device,
		"not_after", cert.NotAfter, "remote", c.remote)
	return &enroll.Response{
		Chain: cert.Chain, Roots: h.Authority.RootsDER(), Session: issued.Session.ID,
		Deadline: issued.Session.Deadline, NotAfter: cert.NotAfter, Time: issued.At,
	}, nil
}

func (h *Handler) auditIssued(ctx context.Context, c *call, issued store.Issued) error {
	leaf, err := x509.ParseCertificate(issued.Certificate.Chain[0])
	if err != nil {
		return fmt.Errorf("parse the issued certificate: %w", err)
	}
	id, err := auth.FromCertificate(leaf, h.Authority.TrustDomain())
	if err != nil {
		return fmt.Errorf("read the issued certificate: %w", err)
	}
	detail := c.kind
	if issued.Repeated {
		detail += ", the same certificate again"
	}
	_, err = h.Audit.Append(ctx, audit.Record{
		Event: audit.EventIssued, Actor: audit.NewActor(id, issued.Certificate.Serial, c.remote), Client: c.client,
		Detail: detail,
		Period: &audit.Period{NotAfter: issued.Certificate.NotAfter, Deadline: issued.Session.Deadline},
	})
	return err
}

// keyOf gives a certificate's key and its one encoding.
func keyOf(leaf *x509.Certificate) (*ecdsa.PublicKey, []byte, error) {
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, nil, errors.New("the certificate's key is not ECDSA")
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	return key, spki, err
}
