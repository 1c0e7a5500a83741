package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

const testDomain TrustDomain = "corp.example"

// goldenIdentity is what testdata/client.crt holds; auth/ca's golden test makes that file.
func goldenIdentity() Identity {
	return Identity{
		Issuer: "https://idp.example.com/", Subject: "248289761001", Provider: "corp",
		Name: "Ada Lovelace", Email: "ada@corp.example", EmailTrusted: true,
		Groups: []string{"engineering", "on-call <primary>"}, GroupsKnown: true,
		ACR: "urn:mace:incommon:iap:silver", AMR: []string{"pwd", "otp"}, AuthTime: time.UnixMilli(1_796_000_000_000).UTC(),
		Login: LoginBrowser, Session: "aebagbafaydqqcikbmga2dqpca",
		Device: DeviceIDFromKey([]byte("device")), IssuedAt: time.UnixMilli(1_796_000_012_345).UTC(),
	}
}

// leaf makes a client certificate of the right form, changed by mutate before it is signed by a throwaway key.
func leaf(t testing.TB, id Identity, mutate func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ext, err := Embed(id)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(0x1234), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{id.SPIFFEID(testDomain)}, ExtraExtensions: []pkix.Extension{ext},
	}
	if mutate != nil {
		mutate(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestIdentitySurvivesACertificate(t *testing.T) {
	unknown, none := goldenIdentity(), goldenIdentity()
	unknown.Groups, unknown.GroupsKnown = nil, false
	none.Groups = nil
	bare := Identity{Issuer: "https://x", Subject: "s", Provider: "p", Login: LoginDevice, Session: NewSessionID(),
		Device: DeviceIDFromKey(nil), AuthTime: time.UnixMilli(1).Add(48 * time.Hour).UTC(), IssuedAt: time.Now().UTC().Truncate(time.Millisecond)}
	for name, id := range map[string]Identity{"full": goldenIdentity(), "groups unknown": unknown, "no groups": none, "bare": bare} {
		got, err := FromCertificate(leaf(t, id, nil), testDomain)
		if err != nil || !reflect.DeepEqual(got, id) {
			t.Errorf("%s: %v\n got %+v\nwant %+v", name, err, got, id)
		}
	}
}

// The golden certificate holds the form that certificates out in the world have. A change here is a new version.
func TestGoldenCertificate(t *testing.T) {
	text, err := os.ReadFile("testdata/client.crt")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromCertificate(cert, testDomain)
	if err != nil || !reflect.DeepEqual(got, goldenIdentity()) {
		t.Errorf("%v\n got %+v\nwant %+v", err, got, goldenIdentity())
	}
	want, err := Embed(goldenIdentity())
	if err != nil {
		t.Fatal(err)
	}
	if value, _ := findExtension(cert); string(value) != string(want.Value) {
		t.Errorf("extension is encoded differently now:\n got %q\nwant %q", want.Value, value)
	}
}

// The identifier is the UUID of its comment, and each arc is one that Go's parser takes.
func TestExtensionOIDIsTheUUID(t *testing.T) {
	n, _ := new(big.Int).SetString(strings.ReplaceAll("a4309fb8-ab56-45c1-bdd6-254ce4995686", "-", ""), 16)
	want := asn1.ObjectIdentifier{2, 25}
	for _, shift := range []uint{100, 72, 44, 16} {
		arc := new(big.Int).Rsh(n, shift)
		want = append(want, int(arc.Int64()&(1<<28-1)))
	}
	want = append(want, int(new(big.Int).And(n, big.NewInt(0xffff)).Int64()))
	if !ExtensionOID().Equal(want) {
		t.Errorf("ExtensionOID() = %v, want %v", ExtensionOID(), want)
	}
}

func TestEmbedRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Identity){
		"no issuer":              func(id *Identity) { id.Issuer = "" },
		"no subject":             func(id *Identity) { id.Subject = "" },
		"no provider":            func(id *Identity) { id.Provider = "" },
		"no session":             func(id *Identity) { id.Session = "" },
		"session in upper case":  func(id *Identity) { id.Session = "AEBAGBAFAYDQQCIKBMGA2DQPCA" },
		"no device":              func(id *Identity) { id.Device = "" },
		"unknown login":          func(id *Identity) { id.Login = "password" },
		"no auth_time":           func(id *Identity) { id.AuthTime = time.Time{} },
		"no issued_at":           func(id *Identity) { id.IssuedAt = time.Time{} },
		"issued in year 20000":   func(id *Identity) { id.IssuedAt = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"trusted e-mail missing": func(id *Identity) { id.Email = "" },
		"groups but unknown":     func(id *Identity) { id.GroupsKnown = false },
		"group not UTF-8":        func(id *Identity) { id.Groups = []string{"\xff"} },
		"name not UTF-8":         func(id *Identity) { id.Name = "\xc3" },
	} {
		id := goldenIdentity()
		spoil(&id)
		if _, err := Embed(id); err == nil {
			t.Errorf("%s: embedded", name)
		}
	}
}

func TestTooManyGroupsNameTheSetting(t *testing.T) {
	id := goldenIdentity()
	for i := range 2000 {
		id.Groups = append(id.Groups, fmt.Sprintf("group-%d", i))
	}
	_, err := Embed(id)
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "groups.keep") {
		t.Errorf("Embed: %v, want ErrTooLarge naming groups.keep", err)
	}
	id.Groups = id.Groups[:1000]
	if _, err := FromCertificate(leaf(t, id, nil), testDomain); err != nil {
		t.Errorf("1,000 groups: %v", err)
	}
}

func TestFromCertificateRefuses(t *testing.T) {
	other := goldenIdentity()
	other.Subject = "somebody else"
	ext, err := Embed(goldenIdentity())
	if err != nil {
		t.Fatal(err)
	}
	critical := ext
	critical.Critical = true
	for name, mutate := range map[string]func(*x509.Certificate){
		"no extension":           func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"critical extension":     func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{critical} },
		"another person's name":  func(c *x509.Certificate) { c.URIs = []*url.URL{other.SPIFFEID(testDomain)} },
		"another trust domain":   func(c *x509.Certificate) { c.URIs = []*url.URL{goldenIdentity().SPIFFEID("evil.example")} },
		"a gateway's name":       func(c *x509.Certificate) { c.URIs = []*url.URL{GatewayURI(testDomain, "gw")} },
		"two names":              func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"a DNS name":             func(c *x509.Certificate) { c.DNSNames = []string{"corp.example"} },
		"an address":             func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} },
		"a mail address":         func(c *x509.Certificate) { c.EmailAddresses = []string{"a@corp.example"} },
		"an authority":           func(c *x509.Certificate) { c.IsCA = true },
		"server authentication":  func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"any usage":              func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) },
		"no usage":               func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"an unknown usage":       func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} },
		"signs certificates too": func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
	} {
		if _, err := FromCertificate(leaf(t, goldenIdentity(), mutate), testDomain); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	twice := leaf(t, goldenIdentity(), nil)
	twice.Extensions = append(twice.Extensions, ext) // crypto/x509 refuses to make and to parse such a one
	if _, err := FromCertificate(twice, testDomain); err == nil {
		t.Error("two extensions: accepted")
	}
	if _, err := FromCertificate(leaf(t, goldenIdentity(), func(c *x509.Certificate) { c.ExtraExtensions = nil }), testDomain); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("no extension: %v, want ErrNoIdentity", err)
	}
	if _, err := FromCertificate(nil, testDomain); err == nil {
		t.Error("nil: accepted")
	}
	if _, err := FromCertificate(leaf(t, goldenIdentity(), nil), ""); err == nil {
		t.Error("no trust domain: accepted")
	}
}

func TestExtensionIsReadStrictly(t *testing.T) {
	doc, err := marshalDocument(goldenIdentity())
	if err != nil {
		t.Fatal(err)
	}
	good := string(doc)
	for name, text := range map[string]string{
		"duplicate key":           strings.Replace(good, `"sub":`, `"sub":"root","sub":`, 1),
		"key in other case":       strings.Replace(good, `"sub":`, `"Sub":`, 1),
		"key in both cases":       strings.Replace(good, `"sub":`, `"SUB":"root","sub":`, 1),
		"unknown key":             strings.Replace(good, `{`, `{"admin":true,`, 1),
		"missing key":             strings.Replace(good, `"acr":"urn:mace:incommon:iap:silver",`, ``, 1),
		"null subject":            strings.Replace(good, `"sub":"248289761001"`, `"sub":null`, 1),
		"number for text":         strings.Replace(good, `"sub":"248289761001"`, `"sub":248289761001`, 1),
		"fraction for time":       strings.Replace(good, `1796000012345`, `1.5`, 1),
		"newer version":           strings.Replace(good, `"v":1`, `"v":2`, 1),
		"no version":              strings.Replace(good, `"v":1,`, ``, 1),
		"version twice":           strings.Replace(good, `"v":1`, `"v":2,"v":1`, 1),
		"something behind":        good + "{}",
		"a list":                  "[" + good + "]",
		"cut short":               good[:len(good)-2],
		"empty":                   "",
		"not UTF-8":               strings.Replace(good, "Ada", "A\xff", 1),
		"longer than the maximum": strings.Replace(good, "Ada", strings.Repeat("A", MaxExtension), 1),
	} {
		value, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagUTF8String, Bytes: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		if id, err := parseExtension(value); err == nil {
			t.Errorf("%s: read as %+v", name, id)
		}
	}
	for name, value := range map[string][]byte{
		"bare JSON":       doc,
		"nothing":         nil,
		"printable":       mustDER(t, asn1.RawValue{Tag: asn1.TagPrintableString, Bytes: doc}),
		"trailing bytes":  append(mustDER(t, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: doc}), 0),
		"context class":   mustDER(t, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: asn1.TagUTF8String, Bytes: doc}),
		"constructed":     mustDER(t, asn1.RawValue{Tag: asn1.TagUTF8String, IsCompound: true, Bytes: doc}),
		"length too long": {asn1.TagUTF8String, 0x84, 0xff, 0xff, 0xff, 0xff, '{', '}'},
	} {
		if _, err := parseExtension(value); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func mustDER(t *testing.T, v asn1.RawValue) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestVersionIsNamedInTheError(t *testing.T) {
	doc, _ := marshalDocument(goldenIdentity())
	value := mustDER(t, asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(strings.Replace(string(doc), `"v":1`, `"v":7,"tenant":"x"`, 1))})
	_, err := parseExtension(value)
	if err == nil || !strings.Contains(err.Error(), "version 7") || !strings.Contains(err.Error(), "version 1") {
		t.Errorf("newer extension: %v; want both versions named", err)
	}
}

func TestUserIDKeepsIssuerAndSubjectApart(t *testing.T) {
	if NewUserID("https://a", "b") == NewUserID("https://ab", "") || NewUserID("a", "bc") == NewUserID("ab", "c") {
		t.Error("two people have one name")
	}
	sum := sha256.Sum256([]byte("https://idp.example.com/\x00248289761001"))
	want := strings.ToLower(strings.TrimRight(base32Std(sum[:]), "="))
	if got := goldenIdentity().UserID(); string(got) != want || len(got) != 52 {
		t.Errorf("UserID = %s, want %s", got, want)
	}
	if got, want := goldenIdentity().SPIFFEID(testDomain).String(), "spiffe://corp.example/user/"+want; got != want {
		t.Errorf("SPIFFEID = %s, want %s", got, want)
	}
}

func TestNamesAreChecked(t *testing.T) {
	check := func(kind string, parse func(string) error, good, bad []string) {
		t.Helper()
		for _, s := range good {
			if err := parse(s); err != nil {
				t.Errorf("%s %q: %v", kind, s, err)
			}
		}
		for _, s := range bad {
			if parse(s) == nil {
				t.Errorf("%s %q: accepted", kind, s)
			}
		}
	}
	long := strings.Repeat("a", 64)
	check("trust domain", func(s string) error { _, err := ParseTrustDomain(s); return err },
		[]string{"corp.example", "culvert-demo", "a_b.c", "a"},
		[]string{"", "Corp.example", "a..b", ".a", "a.", "a/b", "a:1", "10.0.0.1", "1::2", "a b", "ä", long + ".x", strings.Repeat("a.", 128)})
	check("gateway id", func(s string) error { _, err := ParseGatewayID(s); return err },
		[]string{"gw", "gw-1", "1"}, []string{"", "-a", "a-", "A", "a.b", "a/b", "a\n", long})
	check("session id", func(s string) error { _, err := ParseSessionID(s); return err },
		[]string{string(NewSessionID()), "aaaaaaaaaaaaaaaaaaaaaaaaaa"},
		[]string{"", "aaaaaaaaaaaaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaaaaaaaaaaaa1", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "aaaaaaaaaaaaaaaaaaaaaaaaa="})
	check("serial", func(s string) error { _, err := ParseSerial(s); return err },
		[]string{"0123456789abcdef0123456789abcdef"}, []string{"", "1", "0123456789ABCDEF0123456789ABCDEF", long})
	check("fingerprint", func(s string) error { _, err := ParseFingerprint(s); return err },
		[]string{string(FingerprintOf(nil)), " SHA256:" + strings.Repeat("AB:", 31) + "AB "},
		[]string{"", "sha256:", long, "sha1:" + long, "sha256:" + long[1:] + "g", "sha256:" + long + "aa"})
}

func TestGatewayURIHasOneSpelling(t *testing.T) {
	if id, err := ParseGatewayURI(GatewayURI(testDomain, "gw-1"), testDomain); err != nil || id != "gw-1" {
		t.Errorf("ParseGatewayURI: %q, %v", id, err)
	}
	for _, text := range []string{
		"spiffe://corp.example/gateway/", "spiffe://corp.example/user/gw", "spiffe://evil.example/gateway/gw",
		"spiffe://corp.example/gateway/gw?x", "spiffe://corp.example/gateway/gw#x", "spiffe://u@corp.example/gateway/gw",
		"spiffe://corp.example:1/gateway/gw", "https://corp.example/gateway/gw", "spiffe://corp.example/gateway/g%77",
		"spiffe://corp.example/gateway/gw/x", "spiffe://corp.example//gateway/gw", "spiffe://CORP.example/gateway/gw", "spiffe:corp.example/gateway/gw",
	} {
		uri, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := ParseGatewayURI(uri, testDomain); err == nil {
			t.Errorf("%s: read as gateway %q", text, id)
		}
	}
	if _, err := ParseGatewayURI(nil, testDomain); err == nil {
		t.Error("nil: accepted")
	}
}

// Class: revocation evaded (Nebula CVE-2026-25793). The name of a certificate does not depend on its signature.
func TestSerialIsTheNameOfACertificate(t *testing.T) {
	cert := leaf(t, goldenIdentity(), nil)
	if got := SerialOf(cert); got != "00000000000000000000000000001234" {
		t.Errorf("SerialOf = %s", got)
	}
	if one, two := NewSessionID(), NewSessionID(); one == two {
		t.Error("two sessions have one name")
	}
}
