package ca

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSelfIssuedHTTPSKeepsItsFingerprint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "https")
	hosts := []string{"vpn.corp.example", "bücher.example", "192.0.2.1", "::1"}
	first, err := SelfIssuedHTTPS(dir, hosts)
	must(t, err)
	second, err := SelfIssuedHTTPS(dir, []string{"other.example"})
	must(t, err)
	if first.Fingerprint() != second.Fingerprint() || !strings.HasPrefix(string(first.Fingerprint()), "sha256:") {
		t.Errorf("fingerprints %s, %s", first.Fingerprint(), second.Fingerprint())
	}
	cert, err := first.GetCertificate(nil)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(first.CertificatePEM())
	for _, host := range []string{"vpn.corp.example", "xn--bcher-kva.example", "192.0.2.1", "::1"} {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "other.example"}); err == nil {
		t.Error("valid for a host that was not asked for")
	}
	if len(cert.Certificate) != 2 {
		t.Errorf("%d certificates served; a client with a fingerprint needs the authority's", len(cert.Certificate))
	}
}

func TestSelfIssuedHTTPSRefuses(t *testing.T) {
	for _, hosts := range [][]string{nil, {""}, {"a b"}, {"ok.example", "not/a/host"}, {"fe80::1%eth0"}} {
		if _, err := SelfIssuedHTTPS(filepath.Join(t.TempDir(), "x"), hosts); err == nil {
			t.Errorf("hosts %q: accepted", hosts)
		}
	}
	hosts := []string{"vpn.corp.example"}
	for _, file := range []string{httpsKeyFile, httpsCertFile} {
		for name, spoil := range map[string]func(string) error{
			"missing": os.Remove,
			"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"corrupt": func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		} {
			dir := filepath.Join(t.TempDir(), "https")
			_, err := SelfIssuedHTTPS(dir, hosts)
			must(t, err)
			must(t, spoil(filepath.Join(dir, file)))
			if _, err := SelfIssuedHTTPS(dir, hosts); err == nil {
				t.Errorf("%s %s: accepted", name, file)
			}
		}
	}
}

// The HTTPS authority is not a root of the tunnel, and the tunnel's root is not one of HTTPS.
func TestHTTPSAndTunnelTrustAreApart(t *testing.T) {
	h, err := SelfIssuedHTTPS(filepath.Join(t.TempDir(), "https"), []string{"vpn.corp.example"})
	must(t, err)
	if err := checkRoot(h.cert); err == nil {
		t.Error("the HTTPS authority would be accepted as a root of the tunnel")
	}
	served, err := h.Certificate()
	must(t, err)
	if _, err := served.Leaf.Verify(x509.VerifyOptions{Roots: newAuthority(t).Pool()}); err == nil {
		t.Error("the tunnel's root vouches for HTTPS")
	}
}
