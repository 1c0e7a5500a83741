package oidc

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
)

const (
	maxToken      = 64 << 10
	maxJOSEHeader = 4 << 10
)

// signatureAlgorithms are the ones with a public key. HMAC would make every client that knows the secret a
// provider; none signs nothing.
var signatureAlgorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

const explainHMAC = "the provider signs ID tokens with HS256, that is with the client secret, which every client knows; " +
	"configure a signing key there (Authentik: Provider → Signing Key), so that it signs with RS256 or ES256"

func isHMAC(alg string) bool { return strings.HasPrefix(alg, "HS") }

// allowedAlgorithms are ours, cut to what the provider says it uses.
func (m metadata) allowedAlgorithms() []string {
	if len(m.Algorithms) == 0 {
		return signatureAlgorithms
	}
	return slices.DeleteFunc(slices.Clone(signatureAlgorithms), func(alg string) bool {
		return !slices.Contains(m.Algorithms, alg)
	})
}

// forbiddenHeaders let a token bring its own key, or change what is signed (RFC 7515 sections 4.1.2 to 4.1.11,
// RFC 7516, RFC 7797). No provider needs them in an ID token.
var forbiddenHeaders = []string{"jku", "jwk", "x5u", "x5c", "crit", "enc", "zip", "b64"}

// checkShape looks at a token before anything parses it: at its length, at its segments and at its header. Its
// work is bounded by maxToken and maxJOSEHeader, whatever a stranger sends.
func checkShape(raw string, allowed []string) error {
	switch {
	case raw == "":
		return refuseToken("malformed", "there is no ID token")
	case len(raw) > maxToken:
		return refuseToken("malformed", "the ID token has %d bytes; at most %d are accepted", len(raw), maxToken)
	case raw[0] == '{':
		return refuseToken("malformed", "the ID token is in JSON form, which allows several signatures; expected the compact form")
	}
	switch dots := strings.Count(raw, "."); dots {
	case 2:
	case 4:
		return refuseToken("malformed", "the ID token is encrypted (JWE); turn ID token encryption off for this client at the provider")
	default:
		return refuseToken("malformed", "the ID token has %d parts; expected 3", dots+1)
	}
	encoded, _, _ := strings.Cut(raw, ".")
	if len(encoded) > base64.RawURLEncoding.EncodedLen(maxJOSEHeader) {
		return refuseToken("malformed", "the ID token's header is larger than %d bytes", maxJOSEHeader)
	}
	return checkJOSEHeader(encoded, allowed)
}

func checkJOSEHeader(encoded string, allowed []string) error {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return refuseToken("malformed", "the ID token's header is not base64url")
	}
	var header map[string]json.RawMessage
	if err := json.Unmarshal(decoded, &header); err != nil {
		return refuseToken("malformed", "the ID token's header is not a JSON object")
	}
	for _, name := range forbiddenHeaders {
		if _, present := header[name]; present {
			return refuseToken("algorithm", "the ID token's header has %q, which is not accepted", name)
		}
	}
	var alg string
	if err := json.Unmarshal(header["alg"], &alg); err != nil {
		return refuseToken("algorithm", "the ID token's header names no algorithm")
	}
	switch {
	case slices.Contains(allowed, alg):
		return nil
	case isHMAC(alg):
		return refuseToken("algorithm", "%s", explainHMAC)
	}
	return refuseToken("algorithm", "the ID token is signed with %q; expected one of %q", cleanText(alg, 40), allowed)
}
