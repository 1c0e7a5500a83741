package oidc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxSubject = 255 // OpenID Connect Core 1.0 section 2
	maxName    = 256
	maxEmail   = 254
	maxGroup   = 256
	maxACR     = 256
	maxSID     = 256
)

// Claims is what a provider vouches for, after verification and mapping.
type Claims struct {
	// Provider is the name in our configuration.
	Provider string
	// Issuer and Subject together are the person. Nothing else is.
	Issuer, Subject string
	// Name is for people to read: name, else preferred_username, else the e-mail address.
	Name string
	// Email is for people to read unless EmailTrusted, which follows email_trust and email_domains.
	Email        string
	EmailTrusted bool
	// Groups, sorted and unique; only meaningful when GroupsKnown. GroupsProblem says why they are not known.
	Groups        []string
	GroupsKnown   bool
	GroupsProblem string
	ACR           string
	AMR           []string
	// AuthTime is when the person last authenticated; zero when the provider does not say.
	AuthTime time.Time
	// IssuedAt and Expiry are the token's.
	IssuedAt, Expiry time.Time
	Nonce            string
	SID              string
	// PayloadHash is the SHA-256 of the token's decoded payload (of the access token itself, where that is the
	// proof). It is what makes a token redeemable once.
	PayloadHash [32]byte
}

// document is a JSON object of claims with its numbers kept as written.
type document map[string]any

func parseDocument(data []byte) (document, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc document
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if dec.More() || doc == nil {
		return nil, errors.New("not one JSON object")
	}
	return doc, nil
}

// text returns a string claim of at most max bytes without control characters; "" for anything else.
func (d document) text(key string, max int) string {
	s, ok := d[key].(string)
	if !ok || len(s) > max || hasControl(s) {
		return ""
	}
	return s
}

// list returns a claim that is a list of strings or a lone string. ok is false for anything else.
func (d document) list(key string) (values []string, ok bool) {
	return stringList(d[key])
}

func stringList(value any) (values []string, ok bool) {
	switch v := value.(type) {
	case string:
		return []string{v}, true
	case []any:
		for _, item := range v {
			s, isText := item.(string)
			if !isText {
				return nil, false
			}
			values = append(values, s)
		}
		return values, true
	}
	return nil, false
}

// maxUnix is the end of the year 9999; beyond it times do not survive formatting.
const maxUnix = 253402300799

// date returns a NumericDate (RFC 7519 section 2). present is false when the claim is absent.
func (d document) date(key string) (t time.Time, present bool, err error) {
	value, present := d[key]
	if !present {
		return time.Time{}, false, nil
	}
	n, ok := value.(json.Number)
	if !ok {
		return time.Time{}, true, fmt.Errorf("%s is not a number", key)
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || f < 0 || f > maxUnix {
		return time.Time{}, true, fmt.Errorf("%s is not a time: %s", key, cleanText(n.String(), 40))
	}
	return time.Unix(int64(f), 0).UTC(), true, nil
}

// person maps the claims that describe somebody, apart from groups.
func (c ProviderConfig) person(doc document, out *Claims) {
	out.Email = doc.text("email", maxEmail)
	out.EmailTrusted = c.emailTrusted(doc, out.Email)
	for _, name := range []string{doc.text("name", maxName), doc.text("preferred_username", maxName), out.Email} {
		if out.Name == "" {
			out.Name = strings.TrimSpace(name)
		}
	}
	out.ACR = doc.text("acr", maxACR)
	out.SID = doc.text("sid", maxSID)
	if amr, ok := doc.list("amr"); ok && len(amr) <= 32 && !slices.ContainsFunc(amr, hasControl) {
		out.AMR = amr
	}
}

// emailTrusted is true only when the operator's rule and domains both say so. An e-mail address can be typed in
// by its owner at many providers, so doubt means no.
func (c ProviderConfig) emailTrusted(doc document, email string) bool {
	domain, ok := emailDomain(email)
	if !ok || !slices.ContainsFunc(c.EmailDomains, func(d string) bool { return strings.EqualFold(d, domain) }) {
		return false
	}
	if name, isClaim := strings.CutPrefix(c.EmailTrust, "claim:"); isClaim {
		return truthy(doc[name])
	}
	switch c.EmailTrust {
	case "always":
		return true
	case "verified":
		verified, isBool := doc["email_verified"].(bool) // "true" and 1 are not true
		return isBool && verified
	}
	return false
}

// truthy is for the claim that an operator named: Entra spells xms_edov true, "true", 1 and "1".
func truthy(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return v == "true" || v == "1"
	case json.Number:
		return v.String() == "1"
	}
	return false
}

// emailDomain returns what stands behind the only @. Quoted local parts, several @ and domains that are not
// plain ASCII names have none: a parser that disagrees with another is how one address becomes another.
func emailDomain(email string) (domain string, ok bool) {
	local, domain, found := strings.Cut(email, "@")
	if !found || local == "" || strings.Contains(domain, "@") || len(email) > maxEmail {
		return "", false
	}
	if strings.ContainsAny(local, " \"\\(),:;<>[]") || hasControl(email) || !validDomain(domain) {
		return "", false
	}
	return domain, true
}

// groups finds and reads the groups claim. Anything that is not plainly a list of names makes the groups
// unknown, with a reason: a name that was dropped could be the one that a rule denies.
func (c ProviderConfig) groups(doc document) (groups []string, problem string) {
	path, err := parsePointer(c.Claims.Groups)
	if err != nil {
		return nil, err.Error()
	}
	if overage(doc, path[0]) {
		return nil, fmt.Sprintf("the provider left %q out because there are too many groups (overage); assign groups to the application, or filter them", path[0])
	}
	value, found := resolve(doc, path)
	if !found {
		return nil, fmt.Sprintf("there is no claim %q", c.Claims.Groups)
	}
	names, ok := c.Claims.Shape.read(value)
	if !ok {
		return nil, fmt.Sprintf("the claim %q does not have the shape %s", c.Claims.Groups, c.Claims.Shape)
	}
	for _, name := range names {
		if name == "" || len(name) > maxGroup || hasControl(name) {
			return nil, fmt.Sprintf("the claim %q has a group name that is empty, longer than %d bytes or unprintable: %q",
				c.Claims.Groups, maxGroup, cleanText(name, 40))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), ""
}

// overage recognises Entra's way of saying "too many groups": _claim_names refers the claim to another place
// (OpenID Connect Core 1.0 section 5.6.2), or hasgroups is true.
func overage(doc document, key string) bool {
	if _, present := doc[key]; present {
		return false
	}
	names, _ := doc["_claim_names"].(map[string]any)
	_, referred := names[key]
	return referred || key == "groups" && truthy(doc["hasgroups"])
}

func (s GroupsShape) read(value any) (names []string, ok bool) {
	switch s {
	case ShapeList:
		names, ok = stringList(value)
		return names, ok
	case ShapeString:
		text, isText := value.(string)
		for name := range strings.SplitSeq(text, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
		return names, isText
	case ShapeMapKeys:
		object, isObject := value.(map[string]any)
		for name := range object {
			names = append(names, name)
		}
		return names, isObject
	}
	return nil, false
}

// parsePointer returns the path of a claim: a literal key, or a JSON pointer when it starts with a slash
// (RFC 6901).
func parsePointer(spec string) ([]string, error) {
	if !strings.HasPrefix(spec, "/") {
		if spec == "" || hasControl(spec) {
			return nil, fmt.Errorf("%q names no claim", cleanText(spec, 100))
		}
		return []string{spec}, nil
	}
	path := strings.Split(spec[1:], "/")
	for i, part := range path {
		if strings.Contains(strings.NewReplacer("~0", "", "~1", "").Replace(part), "~") {
			return nil, fmt.Errorf("%q is not a JSON pointer: ~ must be written ~0, and / inside a key ~1", cleanText(spec, 100))
		}
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
	}
	if path[0] == "" {
		return nil, fmt.Errorf("%q names no claim", cleanText(spec, 100))
	}
	return path, nil
}

func resolve(doc document, path []string) (value any, found bool) {
	value = map[string]any(doc)
	for _, part := range path {
		switch v := value.(type) {
		case map[string]any:
			value, found = v[part]
		case []any:
			i, err := strconv.Atoi(part)
			found = err == nil && i >= 0 && i < len(v) && strconv.Itoa(i) == part
			if found {
				value = v[i]
			}
		default:
			found = false
		}
		if !found {
			return nil, false
		}
	}
	return value, true
}
