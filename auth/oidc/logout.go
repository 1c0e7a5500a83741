package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// logoutEvent is the member of a logout token's events claim (OpenID Connect Back-Channel Logout 1.0 section 2.4).
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutType is the typ that logout tokens should have; many providers say JWT, or nothing.
const logoutType = "logout+jwt"

// maxJTI bounds the identifier of a logout token.
const maxJTI = 255

// Logout is what a provider's logout token says: one of its sessions ended, or all of a person's.
type Logout struct {
	Issuer string
	// Subject and SID: at least one is set. With SID, that session of the provider ended; without, all of the person's.
	Subject, SID string
	// JTI names the token, which counts once; the caller remembers it until Expires.
	JTI      string
	IssuedAt time.Time
	// Expires is when the token can no longer be presented, the tolerance for skewed clocks included.
	Expires time.Time
}

// VerifyLogout verifies a logout token as OpenID Connect Back-Channel Logout 1.0 section 2.6 says. What is stricter here: the token
// must be at most 5 minutes old, since exp came into the specification late. Errors are those of [Verifier.VerifyLogin].
func (v *Verifier) VerifyLogout(ctx context.Context, token Secret) (*Logout, error) {
	raw := token.Reveal()
	if err := checkShape(raw, signatureAlgorithms); err != nil {
		return nil, ofLogout(err)
	}
	if typ := typeOf(raw); typ != "" && !strings.EqualFold(typ, "JWT") && !isLogoutType(typ) {
		return nil, refuseToken("malformed", "the logout token is of the type %q", cleanText(typ, 40))
	}
	p, keys, err := v.ready(ctx)
	if err != nil {
		return nil, err
	}
	_, payload, err := v.signed(ctx, p, keys, raw)
	if err != nil {
		return nil, ofLogout(err)
	}
	doc, err := parseDocument(payload)
	if err != nil {
		return nil, refuseToken("malformed", "the logout token's payload is not a JSON object")
	}
	out, err := v.logout(doc)
	return out, ofLogout(err)
}

// ofLogout has the texts that are shared with ID tokens name the right kind of token.
func ofLogout(err error) error {
	var refused *TokenError
	if !errors.As(err, &refused) {
		return err
	}
	renamed := *refused
	renamed.Text = strings.ReplaceAll(refused.Text, "ID token", "logout token")
	return &renamed
}

func (v *Verifier) logout(doc document) (*Logout, error) {
	if iss, _ := doc["iss"].(string); iss != v.config.Issuer {
		return nil, refuseToken("issuer", "invalid issuer: expected %q, got %q", v.config.Issuer, cleanText(iss, 300))
	}
	if err := v.checkAddressee(doc); err != nil {
		return nil, err
	}
	out := &Logout{Issuer: v.config.Issuer, Subject: doc.text("sub", maxSubject), SID: doc.text("sid", maxSID), JTI: doc.text("jti", maxJTI)}
	_, hasSub := doc["sub"]
	_, hasSID := doc["sid"]
	_, hasNonce := doc["nonce"]
	switch {
	case !isLogout(doc):
		return nil, refuseToken("events", "the token is no logout token: its events claim does not name the logout")
	case hasNonce:
		return nil, refuseToken("nonce", "the logout token has a nonce, which only ID tokens may have")
	case hasSub && out.Subject == "", hasSID && out.SID == "", !hasSub && !hasSID:
		return nil, refuseToken("subject", "the logout token has no usable sub and no usable sid")
	case out.JTI == "":
		return nil, refuseToken("jti", "the logout token has no usable jti (1 to %d printable bytes)", maxJTI)
	}
	return out, v.checkLogoutTimes(doc, out)
}

// isLogout: events is an object with the logout's member, whose value is an object too.
func isLogout(doc document) bool {
	events, _ := doc["events"].(map[string]any)
	_, ok := events[logoutEvent].(map[string]any)
	return ok
}

func (v *Verifier) checkLogoutTimes(doc document, out *Logout) error {
	exp, hasExp, errExp := doc.date("exp")
	iat, hasIat, errIat := doc.date("iat")
	if err := errors.Join(errExp, errIat); err != nil || !hasIat {
		return refuseToken("malformed", "the logout token has no usable iat, or an unusable exp")
	}
	now, skew := v.now(), v.config.Skew
	clock := now.UTC().Format(time.RFC3339)
	out.IssuedAt, out.Expires = iat, iat.Add(freshness+skew)
	switch {
	case iat.After(now.Add(skew)):
		return refuseToken("not_yet", "the logout token is issued in the future, at %s (this gateway's clock: %s, tolerance %s)", iat.Format(time.RFC3339), clock, skew)
	case hasExp && now.After(exp.Add(skew)):
		return refuseToken("expired", "the logout token expired at %s (this gateway's clock: %s)", exp.Format(time.RFC3339), clock)
	}
	return v.checkFresh(iat)
}

// noLogout keeps the two kinds of token apart (section 4.1 there): a logout token is signed by the same key for the same audience, and
// without this rule it would pass for the ID token of a renewal.
func noLogout(raw string, doc document) error {
	if _, present := doc["events"]; present || isLogoutType(typeOf(raw)) {
		return refuseToken("malformed", "the token is a security event such as a logout token, and no ID token")
	}
	return nil
}

func isLogoutType(typ string) bool {
	return strings.EqualFold(strings.TrimPrefix(strings.ToLower(typ), "application/"), logoutType)
}

// typeOf reads typ from the header of a token whose shape was checked; "" when it has none.
func typeOf(raw string) string {
	encoded, _, _ := strings.Cut(raw, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return ""
	}
	var header struct {
		Type string `json:"typ"`
	}
	_ = json.Unmarshal(decoded, &header) // a typ that is no text is none
	return header.Type
}
