package ca

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
)

var update = flag.Bool("update", false, "write the golden certificates anew (and change docs/certificate.md by hand)")

// goldenNames are the certificates of testdata, and the headings of docs/certificate.md.
var goldenNames = []string{"root", "issuing", "gateway", "client", "https-ca", "https"}

// freshCertificates makes one of each kind, as a gateway would.
func freshCertificates(t *testing.T) map[string]*x509.Certificate {
	t.Helper()
	a := newAuthority(t)
	gateway, err := a.IssueGateway(context.Background(), &testKey(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	h, err := SelfIssuedHTTPS(filepath.Join(t.TempDir(), "https"), []string{"vpn.corp.example", "192.0.2.1", "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	served, err := h.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*x509.Certificate{
		"root": a.Roots()[0], "issuing": a.Issuing(), "gateway": gateway.Leaf,
		"client": issueClient(t, a, testProfile(t)).Leaf, "https-ca": h.cert, "https": served.Leaf,
	}
}

// The golden certificates, those made now, and docs/certificate.md say the same of every field.
func TestCertificatesAreAsDocumented(t *testing.T) {
	fresh := freshCertificates(t)
	if *update {
		writeGolden(t, fresh)
	}
	doc, err := os.ReadFile("../../docs/certificate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range goldenNames {
		golden, err := readCert(filepath.Join("testdata", name+".crt"))
		if err != nil {
			t.Fatal(err)
		}
		want := describe(t, golden)
		if got := describe(t, fresh[name]); !slices.Equal(got, want) {
			t.Errorf("%s: fields differ from the golden certificate\n got %s\nwant %s", name, strings.Join(got, "\n     "), strings.Join(want, "\n     "))
		}
		compareDoc(t, name, string(doc), want)
	}
}

func writeGolden(t *testing.T, certs map[string]*x509.Certificate) {
	t.Helper()
	for _, name := range goldenNames {
		pem := encodeCerts(certs[name])
		if err := os.WriteFile(filepath.Join("testdata", name+".crt"), pem, 0o644); err != nil {
			t.Fatal(err)
		}
		if name == "client" {
			if err := os.WriteFile("../testdata/client.crt", pem, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// compareDoc wants each field as the first two columns of a table row in the section of that certificate, and no
// other row there.
func compareDoc(t *testing.T, name, doc string, fields []string) {
	t.Helper()
	_, section, found := strings.Cut(doc, "\n## `"+name+"`")
	if !found {
		t.Errorf("docs/certificate.md has no section %q", name)
		return
	}
	section, _, _ = strings.Cut(section, "\n## ")
	section, _, _ = strings.Cut(section, "\n| key | type |") // the keys of the extension have a test of their own
	var rows []string
	for line := range strings.SplitSeq(section, "\n") {
		if cells := strings.SplitN(line, " | ", 3); strings.HasPrefix(line, "| ") && len(cells) == 3 && cells[0] != "| field" {
			rows = append(rows, cells[0]+" | "+cells[1]+" |")
		}
	}
	if !slices.Equal(rows, fields) {
		t.Errorf("docs/certificate.md, section %q\n  is %s\nwant %s", name, strings.Join(rows, "\n     "), strings.Join(fields, "\n     "))
	}
}

// The table of the extension's keys lists those of the golden certificate, in their order.
func TestExtensionKeysAreAsDocumented(t *testing.T) {
	golden, err := readCert("testdata/client.crt")
	must(t, err)
	doc, err := os.ReadFile("../../docs/certificate.md")
	must(t, err)
	var text string
	_, err = asn1.UnmarshalWithParams(extensionValue(golden), &text, "utf8")
	must(t, err)
	keys := regexp.MustCompile(`"([a-z_]+)":`).FindAllStringSubmatch(text, -1)
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(doc), -1)
	same := func(a, b []string) bool { return a[1] == b[1] }
	if !slices.EqualFunc(keys, rows, same) {
		t.Errorf("docs/certificate.md lists the keys %v, the certificate has %v", rows, keys)
	}
}

// describe lists every field of a certificate, with what is random left out.
func describe(t *testing.T, c *x509.Certificate) []string {
	t.Helper()
	rows := []string{
		row("version", fmt.Sprint(c.Version)),
		row("serial number", "128 random bits"),
		row("signature", c.SignatureAlgorithm.String()),
		row("issuer", c.Issuer.String()),
		row("not before", backdateText(c)),
		row("not after", lifetime(c)),
		row("subject", orEmpty(c.Subject.String())),
		row("public key", keyText(c)),
	}
	for _, ext := range c.Extensions {
		rows = append(rows, describeExtension(t, c, ext.Id, ext.Critical))
	}
	return rows
}

func row(field, value string) string { return "| " + field + " | " + value + " |" }

func orEmpty(s string) string {
	if s == "" {
		return "empty"
	}
	return s
}

// backdateText is what the code says; TestValidityBeginsBeforeTheMaking compares it with the clock.
func backdateText(c *x509.Certificate) string {
	if c.IsCA {
		return fmt.Sprintf("%d h before it is made", authorityBackdate/time.Hour)
	}
	return fmt.Sprintf("%d s before it is made", Backdate/time.Second)
}

func TestValidityBeginsBeforeTheMaking(t *testing.T) {
	for name, cert := range freshCertificates(t) {
		want := Backdate
		if cert.IsCA {
			want = authorityBackdate
		}
		if got := time.Since(cert.NotBefore); got < want || got > want+30*time.Second {
			t.Errorf("%s began %s before it was made, want %s", name, got, want)
		}
	}
}

func lifetime(c *x509.Certificate) string {
	life := c.NotAfter.Sub(c.NotBefore) - Backdate
	if c.IsCA {
		life += Backdate - authorityBackdate
	}
	if life < 24*time.Hour {
		return fmt.Sprintf("%d h after it is made", life/time.Hour)
	}
	return fmt.Sprintf("%d days after it is made", life/(24*time.Hour))
}

func keyText(c *x509.Certificate) string {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return "?"
	}
	return "ECDSA " + key.Curve.Params().Name
}

func describeExtension(t *testing.T, c *x509.Certificate, oid asn1.ObjectIdentifier, critical bool) string {
	t.Helper()
	var field, value string
	switch oid.String() {
	case "2.5.29.15":
		field, value = "key usage", usageText(c.KeyUsage)
	case "2.5.29.37":
		field, value = "extended key usage", extUsageText(c.ExtKeyUsage)
	case "2.5.29.19":
		field, value = "basic constraints", basicText(c)
	case "2.5.29.14":
		field, value = "subject key identifier", fmt.Sprintf("%d bytes of a hash of the key", len(c.SubjectKeyId))
	case "2.5.29.35":
		field, value = "authority key identifier", "the issuer's subject key identifier"
	case "2.5.29.17":
		field, value = "subject alternative name", namesText(c)
	case "2.5.29.30":
		field, value = "name constraints", constraintsText(c)
	case auth.ExtensionOID().String():
		field, value = oid.String(), "UTF8String: JSON, see below"
	default:
		t.Errorf("unexpected extension %s", oid)
	}
	if critical {
		value = "critical; " + value
	}
	return row(field, value)
}

func usageText(u x509.KeyUsage) string {
	switch u {
	case x509.KeyUsageCertSign:
		return "sign certificates"
	case x509.KeyUsageDigitalSignature:
		return "digital signature"
	}
	return "?"
}

func extUsageText(usages []x509.ExtKeyUsage) string {
	names := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageClientAuth: "client authentication", x509.ExtKeyUsageServerAuth: "server authentication"}
	var texts []string
	for _, u := range usages {
		texts = append(texts, names[u])
	}
	return strings.Join(texts, ", ")
}

func basicText(c *x509.Certificate) string {
	switch {
	case !c.IsCA:
		return "no authority"
	case c.MaxPathLen > 0 || c.MaxPathLenZero:
		return fmt.Sprintf("authority, path length %d", c.MaxPathLen)
	}
	return "authority"
}

func namesText(c *x509.Certificate) string {
	var texts []string
	for _, name := range c.DNSNames {
		texts = append(texts, "DNS "+name)
	}
	for _, ip := range c.IPAddresses {
		texts = append(texts, "IP "+ip.String())
	}
	for _, uri := range c.URIs {
		texts = append(texts, "URI "+uri.String())
	}
	return strings.Join(texts, ", ")
}

func constraintsText(c *x509.Certificate) string {
	text := fmt.Sprintf("permitted: URI %s, DNS %s, e-mail %s; excluded: IP", strings.Join(c.PermittedURIDomains, ", "),
		strings.Join(c.PermittedDNSDomains, ", "), strings.Join(c.PermittedEmailAddresses, ", "))
	for _, network := range c.ExcludedIPRanges {
		text += " " + network.String()
	}
	return text
}

// What went into the golden client certificate comes out of a new one, byte for byte.
func TestIdentityExtensionIsTheGoldenOne(t *testing.T) {
	golden, err := readCert("testdata/client.crt")
	if err != nil {
		t.Fatal(err)
	}
	fresh := issueClient(t, newAuthority(t), testProfile(t)).Leaf
	if a, b := extensionValue(golden), extensionValue(fresh); !bytes.Equal(a, b) {
		t.Errorf("extension:\n now %q\nthen %q", b, a)
	}
}

func extensionValue(c *x509.Certificate) []byte {
	for _, ext := range c.Extensions {
		if ext.Id.Equal(auth.ExtensionOID()) {
			return ext.Value
		}
	}
	return nil
}
