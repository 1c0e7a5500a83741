package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"
)

// MaxExtension is the largest JSON text, in bytes, that the identity extension carries.
const MaxExtension = 16 << 10

// extensionVersion is the version of the JSON text. A reader refuses every other, naming both.
const extensionVersion = 1

// ErrTooLarge is returned by [Embed] for an identity whose JSON form exceeds [MaxExtension]. Groups are
// what makes one large, so its text names the setting that filters them.
var ErrTooLarge = errors.New("identity does not fit into a certificate (16 KiB): too many groups; filter them with groups.keep in the gateway's configuration")

// ErrNoIdentity is returned by [FromCertificate] for a certificate without the extension.
var ErrNoIdentity = errors.New("certificate carries no identity")

// ExtensionOID returns the object identifier of the identity extension, 2.25.a.b.c.d.e: the 128 bits of the
// random UUID a4309fb8-ab56-45c1-bdd6-254ce4995686, cut into arcs of 28 bits (the last has 16). One arc for
// the whole UUID, as X.667 has it, is more than Go's ASN.1 parser accepts.
func ExtensionOID() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 25, 172165627, 145446469, 203152738, 88925337, 22150}
}

// document is the JSON text, field by field. Times are milliseconds since 1970, UTC. Groups that are null
// are unknown; an empty list is a known absence of groups.
type document struct {
	Version      int       `json:"v"`
	Issuer       string    `json:"iss"`
	Subject      string    `json:"sub"`
	Provider     string    `json:"provider"`
	Name         string    `json:"name"`
	Email        string    `json:"email"`
	EmailTrusted bool      `json:"email_trusted"`
	Groups       []string  `json:"groups"`
	ACR          string    `json:"acr"`
	AMR          []string  `json:"amr"`
	AuthTime     int64     `json:"auth_time"`
	Login        LoginKind `json:"login"`
	Session      SessionID `json:"session"`
	Device       DeviceID  `json:"device"`
	IssuedAt     int64     `json:"issued_at"`
}

// documentKeys are the keys of [document], each of which must be there exactly once.
var documentKeys = []string{"v", "iss", "sub", "provider", "name", "email", "email_trusted", "groups", "acr", "amr",
	"auth_time", "login", "session", "device", "issued_at"}

// Embed returns the identity as a non-critical certificate extension: a DER UTF8String with JSON text.
// Times are cut to milliseconds. It returns [ErrTooLarge] when the text exceeds [MaxExtension], and an
// opaque error when the identity is not valid.
func Embed(id Identity) (pkix.Extension, error) {
	if err := id.Validate(); err != nil {
		return pkix.Extension{}, err
	}
	text, err := marshalDocument(id)
	if err != nil {
		return pkix.Extension{}, err
	}
	if len(text) > MaxExtension {
		return pkix.Extension{}, fmt.Errorf("%d bytes: %w", len(text), ErrTooLarge)
	}
	value, err := asn1.MarshalWithParams(string(text), "utf8")
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode identity: %w", err)
	}
	return pkix.Extension{Id: ExtensionOID(), Value: value}, nil
}

func marshalDocument(id Identity) ([]byte, error) {
	doc := document{
		Version: extensionVersion,
		Issuer:  id.Issuer, Subject: id.Subject, Provider: id.Provider,
		Name: id.Name, Email: id.Email, EmailTrusted: id.EmailTrusted,
		ACR: id.ACR, AMR: nonNil(id.AMR), AuthTime: id.AuthTime.UnixMilli(),
		Login: id.Login, Session: id.Session, Device: id.Device, IssuedAt: id.IssuedAt.UnixMilli(),
	}
	if id.GroupsKnown {
		doc.Groups = nonNil(id.Groups)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// FromCertificate returns the identity in a client certificate of trust domain td.
//
// The certificate must already be verified. What is checked here is that it is one that Culvert issues to
// people: a P-256 key, no authority, client authentication as its only use, the SPIFFE ID of the embedded
// identity as its only name, and exactly one identity extension, not critical. It returns [ErrNoIdentity] when
// the extension is missing.
func FromCertificate(cert *x509.Certificate, td TrustDomain) (Identity, error) {
	if cert == nil || td == "" {
		return Identity{}, errors.New("certificate or trust domain missing")
	}
	if err := checkClientLeaf(cert); err != nil {
		return Identity{}, err
	}
	value, err := findExtension(cert)
	if err != nil {
		return Identity{}, err
	}
	id, err := parseExtension(value)
	if err != nil {
		return Identity{}, err
	}
	if got, want := cert.URIs[0].String(), id.SPIFFEID(td).String(); got != want {
		return Identity{}, fmt.Errorf("certificate is named %.256q, its identity %q", got, want)
	}
	return id, nil
}

func checkClientLeaf(cert *x509.Certificate) error {
	key, isECDSA := cert.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !isECDSA || key.Curve != elliptic.P256():
		return errors.New("client certificate with a key other than ECDSA P-256")
	case cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return errors.New("client certificate that may do more than sign a handshake")
	case !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(cert.UnknownExtKeyUsage) > 0:
		return errors.New("certificate is not for client authentication alone")
	case len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0:
		return errors.New("client certificate with other names than one URI")
	}
	return nil
}

func findExtension(cert *x509.Certificate) ([]byte, error) {
	var found *pkix.Extension
	for i, ext := range cert.Extensions {
		if !ext.Id.Equal(ExtensionOID()) {
			continue
		}
		if found != nil {
			return nil, errors.New("certificate carries two identities")
		}
		found = &cert.Extensions[i]
	}
	switch {
	case found == nil:
		return nil, ErrNoIdentity
	case found.Critical:
		return nil, errors.New("identity extension is marked critical")
	}
	return found.Value, nil
}

// parseExtension reads the extension's value strictly: DER, UTF-8, every known key exactly once and in this
// spelling, nothing else, nothing behind it.
func parseExtension(value []byte) (Identity, error) {
	var raw asn1.RawValue
	rest, err := asn1.Unmarshal(value, &raw)
	if err != nil || len(rest) > 0 || raw.Class != asn1.ClassUniversal || raw.Tag != asn1.TagUTF8String || raw.IsCompound {
		return Identity{}, errors.New("identity extension is not one UTF8String")
	}
	if len(raw.Bytes) > MaxExtension || !utf8.Valid(raw.Bytes) {
		return Identity{}, errors.New("identity extension is too long or not UTF-8")
	}
	var doc document
	if err := checkKeys(raw.Bytes); err != nil {
		return Identity{}, fmt.Errorf("identity extension: %w", err)
	}
	if err := json.Unmarshal(raw.Bytes, &doc); err != nil {
		return Identity{}, fmt.Errorf("identity extension: %w", err)
	}
	id := doc.identity()
	if err := id.Validate(); err != nil {
		return Identity{}, err
	}
	return id, nil
}

func (doc document) identity() Identity {
	return Identity{
		Issuer: doc.Issuer, Subject: doc.Subject, Provider: doc.Provider,
		Name: doc.Name, Email: doc.Email, EmailTrusted: doc.EmailTrusted,
		Groups: nilIfEmpty(doc.Groups), GroupsKnown: doc.Groups != nil,
		ACR: doc.ACR, AMR: nilIfEmpty(doc.AMR), AuthTime: time.UnixMilli(doc.AuthTime).UTC(),
		Login: doc.Login, Session: doc.Session, Device: doc.Device, IssuedAt: time.UnixMilli(doc.IssuedAt).UTC(),
	}
}

func nilIfEmpty(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}

// checkKeys does what encoding/json leaves undone: it matches keys without regard to case and lets the last
// of several win, so that two readers could see two identities. It also reads the version before anything else
// is judged, because a newer version may have other keys.
func checkKeys(text []byte) error {
	var version struct {
		V *int `json:"v"`
	}
	if err := json.Unmarshal(text, &version); err != nil {
		return err
	}
	if version.V == nil || *version.V != extensionVersion {
		return fmt.Errorf("version %s; this program reads version %d", versionText(version.V), extensionVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	seen := make(map[string]bool, len(documentKeys))
	for dec.More() {
		if err := checkKey(dec, seen); err != nil {
			return err
		}
	}
	if len(seen) != len(documentKeys) {
		return fmt.Errorf("%d of %d keys are missing", len(documentKeys)-len(seen), len(documentKeys))
	}
	if _, err := dec.Token(); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func checkKey(dec *json.Decoder, seen map[string]bool) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	key, _ := tok.(string)
	if !slices.Contains(documentKeys, key) || seen[key] {
		return fmt.Errorf("key %.64q is unknown or there twice", key)
	}
	seen[key] = true
	var value json.RawMessage
	if err := dec.Decode(&value); err != nil {
		return err
	}
	if key != "groups" && string(value) == "null" {
		return fmt.Errorf("key %q is null", key)
	}
	return nil
}

func versionText(v *int) string {
	if v == nil {
		return "missing"
	}
	return fmt.Sprint(*v)
}
