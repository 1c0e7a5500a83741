package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// userInfo asks the userinfo endpoint (OpenID Connect Core 1.0 section 5.3) and holds its subject against the
// one that is expected: without that, an access token of somebody else would lend its groups.
func (v *Verifier) userInfo(ctx context.Context, p *Provider, access Secret, subject string) (document, error) {
	if access == "" {
		return nil, refuseToken("access_token", "provider %s is asked for userinfo, which needs the access token; the client sent none", v.config.Name)
	}
	if p.meta.UserInfoURL == "" {
		return nil, fmt.Errorf("provider %s has no userinfo endpoint", v.config.Name)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.meta.UserInfoURL, nil)
	if err != nil {
		return nil, fmt.Errorf("userinfo request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+access.Reveal())
	body, header, err := p.do(ctx, opUserInfo, req)
	if err != nil {
		return nil, err
	}
	if media, _, _ := mime.ParseMediaType(header.Get("Content-Type")); media == "application/jwt" {
		return nil, fmt.Errorf("provider %s signs its userinfo; configure it to answer with JSON for this client", v.config.Name)
	}
	doc, err := parseDocument(body)
	if err != nil {
		return nil, unavailable(ctx, "userinfo answer", err)
	}
	if got := doc.text("sub", maxSubject); got != subject {
		return nil, refuseToken("subject", "userinfo is about another person: expected subject %q, got %q", subject, cleanText(got, 100))
	}
	return doc, nil
}

// introspect asks whether an access token is in force, for this client and for the person of the session
// (RFC 7662 section 2.2). An answer that names neither our client nor an audience proves nothing.
func (v *Verifier) introspect(ctx context.Context, p *Provider, access Secret, prev Previous) (document, error) {
	if access == "" {
		return nil, refuseToken("access_token", "provider %s renews by introspection, which needs the access token; the client sent none", v.config.Name)
	}
	if p.meta.IntrospectionURL == "" {
		return nil, fmt.Errorf("provider %s has no introspection endpoint", v.config.Name)
	}
	body, _, err := p.post(ctx, opIntrospection, p.meta.IntrospectionURL,
		url.Values{"token": {access.Reveal()}, "token_type_hint": {"access_token"}})
	if err != nil {
		return nil, err
	}
	doc, err := parseDocument(body)
	if err != nil {
		return nil, unavailable(ctx, "introspection answer", err)
	}
	return doc, v.checkIntrospection(doc, prev)
}

func (v *Verifier) checkIntrospection(doc document, prev Previous) error {
	if active, _ := doc["active"].(bool); !active {
		return refuseToken("inactive", "the provider says that the access token is not in force")
	}
	if iss, present := doc["iss"]; present && iss != prev.Issuer {
		return refuseToken("issuer", "the access token is from another provider: expected %q, got %q", prev.Issuer, cleanText(fmt.Sprint(iss), 300))
	}
	if got := doc.text("sub", maxSubject); got != prev.Subject {
		return refuseToken("subject", "the access token is of another person: expected subject %q, got %q", prev.Subject, cleanText(got, 100))
	}
	client, hasClient := doc["client_id"].(string)
	aud, _ := doc.list("aud")
	if hasClient && client != v.config.ClientID || !hasClient && !slices.Contains(aud, v.config.ClientID) {
		return refuseToken("audience", "invalid audience: expected the client %q, got client_id %q and aud %q", v.config.ClientID, cleanText(client, 100), aud)
	}
	exp, present, err := doc.date("exp")
	if err != nil {
		return refuseToken("malformed", "the introspection answer: %v", err)
	}
	if present && v.now().After(exp.Add(v.config.Skew)) {
		return refuseToken("expired", "the access token expired at %s", exp.Format(time.RFC3339))
	}
	return nil
}

// renewByAccessToken is the renewal without a new ID token.
func (v *Verifier) renewByAccessToken(ctx context.Context, p *Provider, access Secret, prev Previous) (*Claims, error) {
	if len(access) > maxToken {
		return nil, refuseToken("malformed", "the access token has %d bytes; at most %d are accepted", len(access), maxToken)
	}
	var doc, info document
	var err error
	switch v.config.RefreshIdentity {
	case RefreshIntrospect:
		doc, err = v.introspect(ctx, p, access, prev)
	case RefreshUserInfo:
		doc, err = v.userInfo(ctx, p, access, prev.Subject)
		info = doc
	default:
		err = errors.New("this provider does not renew by access token")
	}
	if err != nil {
		return nil, err
	}
	out := &Claims{
		Provider: v.config.Name, Issuer: prev.Issuer, Subject: prev.Subject, Nonce: prev.Nonce,
		IssuedAt: v.now().UTC().Truncate(time.Second), PayloadHash: sha256.Sum256([]byte(access)),
	}
	if exp, present, err := doc.date("exp"); present && err == nil {
		out.Expiry = exp
	}
	return out, v.describe(ctx, p, doc, info, access, out)
}

// describe maps what a document says about a person, and fetches what the configuration says is elsewhere. info
// is the userinfo answer when there is one already.
func (v *Verifier) describe(ctx context.Context, p *Provider, doc, info document, access Secret, out *Claims) error {
	source := doc
	if v.config.GroupsSource == GroupsFromUserInfo {
		var err error
		if info == nil {
			info, err = v.userInfo(ctx, p, access, out.Subject)
		}
		if err != nil {
			return err
		}
		source, doc = info, v.config.withUserInfo(doc, info)
	}
	v.config.person(doc, out)
	out.Groups, out.GroupsProblem = v.config.groups(source)
	out.GroupsKnown = out.GroupsProblem == ""
	return nil
}

// withUserInfo fills in what the ID token leaves out (Authelia since 4.39). The address and what says that it is
// verified always come from the same place.
func (c ProviderConfig) withUserInfo(doc, info document) document {
	merged := maps.Clone(doc)
	if _, present := doc["email"]; !present {
		trust := []string{"email", "email_verified"}
		if name, isClaim := strings.CutPrefix(c.EmailTrust, "claim:"); isClaim {
			trust = append(trust, name)
		}
		for _, key := range trust {
			delete(merged, key)
			if value, ok := info[key]; ok {
				merged[key] = value
			}
		}
	}
	for _, key := range []string{"name", "preferred_username"} {
		if _, present := merged[key]; !present && info[key] != nil {
			merged[key] = info[key]
		}
	}
	return merged
}
