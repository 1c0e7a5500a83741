package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/internal/durable"
)

func TestInitMakesAnAuthorityThatLoads(t *testing.T) {
	dir := newDir(t)
	for _, name := range []string{rootKeyFile, rootCertFile, issuingKeyFile, issuingCertFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", name, info.Mode().Perm())
		}
	}
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.TrustDomain() != "corp.example" || a.GatewayID() != "gw-1" || len(a.Roots()) != 1 || len(a.RootsDER()) != 1 {
		t.Errorf("loaded %q, %q, %d roots", a.TrustDomain(), a.GatewayID(), len(a.Roots()))
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), ".ca-new-*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestInitNeverOverwrites(t *testing.T) {
	dir := newDir(t)
	before, _ := os.ReadFile(filepath.Join(dir, rootKeyFile))
	if err := Init(dir, testOptions); !errors.Is(err, ErrExists) {
		t.Errorf("second Init: %v, want ErrExists", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, rootKeyFile)); string(after) != string(before) {
		t.Error("the root key changed")
	}
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Init(occupied, testOptions); !errors.Is(err, ErrExists) {
		t.Errorf("Init in a folder with other files: %v, want ErrExists", err)
	}
	for _, o := range []Options{{}, {TrustDomain: "UPPER", GatewayID: "gw"}, {TrustDomain: "ok", GatewayID: "a/b"}} {
		if err := Init(filepath.Join(t.TempDir(), "x"), o); err == nil {
			t.Errorf("Init with %+v: no error", o)
		}
	}
}

func TestConcurrentInitHasOneWinner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	won := make(chan error, 8)
	for range 8 {
		wg.Go(func() { won <- Init(dir, testOptions) })
	}
	wg.Wait()
	wins := 0
	for range 8 {
		if err := <-won; err == nil {
			wins++
		} else if !errors.Is(err, ErrExists) {
			t.Error(err)
		}
	}
	if _, err := Load(dir); wins != 1 || err != nil {
		t.Errorf("%d winners, Load: %v", wins, err)
	}
}

// Class: mTLS fails open on a bad CA file (Caddy CVE-2026-27586).
func TestThreatBadCAFilesRefuseToLoad(t *testing.T) {
	other := newDir(t)
	foreign := func(name string) []byte { b, _ := os.ReadFile(filepath.Join(other, name)); return b }
	for name, spoil := range map[string]func(t *testing.T, path, file string){
		"missing":     func(t *testing.T, path, _ string) { must(t, os.Remove(path)) },
		"empty":       func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, nil, 0o600)) },
		"white space": func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, []byte(" \n\n"), 0o600)) },
		"corrupt":     func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, []byte("no PEM here"), 0o600)) },
		"another's":   func(t *testing.T, path, file string) { must(t, os.WriteFile(path, foreign(file), 0o600)) },
		"a symlink": func(t *testing.T, path, file string) {
			must(t, os.Rename(path, path+"2"))
			must(t, os.Symlink(path+"2", path))
		},
		"a folder": func(t *testing.T, path, _ string) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
		"writable": func(t *testing.T, path, _ string) { must(t, os.Chmod(path, 0o666)) },
		"cut short": func(t *testing.T, path, _ string) {
			b, _ := os.ReadFile(path)
			must(t, os.WriteFile(path, b[:len(b)/2], 0o600))
		},
		"flipped": func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, flip(t, path), 0o600)) },
		"with garbage": func(t *testing.T, path, _ string) {
			b, _ := os.ReadFile(path)
			must(t, os.WriteFile(path, append(b, "x"...), 0o600))
		},
		"huge": func(t *testing.T, path, _ string) { must(t, os.WriteFile(path, make([]byte, maxFile+1), 0o600)) },
	} {
		for _, file := range []string{rootCertFile, issuingKeyFile, issuingCertFile, rootKeyFile} {
			if name == "missing" && file == rootKeyFile {
				continue // the root key may be offline
			}
			if name == "writable" && runtime.GOOS == "windows" {
				continue
			}
			t.Run(name+" "+file, func(t *testing.T) {
				dir := newDir(t)
				spoil(t, filepath.Join(dir, file), file)
				if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(file, filepath.Ext(file))) {
					t.Errorf("Load: %v; want an error that names %s", err, file)
				}
			})
		}
	}
}

// Class: mTLS fails open on a bad CA file. What was loaded goes on when a reload fails.
func TestThreatFailedReloadLeavesTheOldAuthority(t *testing.T) {
	dir := newDir(t)
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(dir, rootCertFile), nil, 0o600))
	if _, err := Load(dir); err == nil {
		t.Fatal("an empty root.crt was loaded")
	}
	issueClient(t, a, testProfile(t))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte inside the DER of a PEM file.
func flip(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	block, _ := pem.Decode(text)
	block.Bytes[40] ^= 1 // of a key, the number itself: the public key behind it is not read
	return pem.EncodeToMemory(block)
}

func TestLoadWithTheRootKeyOffline(t *testing.T) {
	dir := newDir(t)
	must(t, os.Remove(filepath.Join(dir, rootKeyFile)))
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	issueClient(t, a, testProfile(t))
}

func TestKeyFilesMustBePrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no permission bits")
	}
	for _, file := range []string{rootKeyFile, issuingKeyFile} {
		dir := newDir(t)
		must(t, os.Chmod(filepath.Join(dir, file), 0o644))
		if _, err := Load(dir); !errors.Is(err, durable.ErrNotPrivate) {
			t.Errorf("%s with mode 0644: %v", file, err)
		}
	}
	dir := newDir(t)
	must(t, os.Chmod(filepath.Join(dir, rootCertFile), 0o644))
	if _, err := Load(dir); err != nil {
		t.Errorf("a certificate that others may read: %v", err)
	}
}

// Class: a leaf as a trust anchor (Vault CVE-2024-2048), a special-cased issuer (Teleport CVE-2025-49825).
func TestThreatOnlyARootIsARoot(t *testing.T) {
	dir := newDir(t)
	a, err := Load(dir)
	must(t, err)
	client := issueClient(t, a, testProfile(t)).Leaf
	for name, cert := range map[string]*x509.Certificate{"client certificate": client, "issuing certificate": a.Issuing()} {
		for _, certs := range [][]*x509.Certificate{{cert}, {a.Roots()[0], cert}} {
			must(t, os.WriteFile(filepath.Join(dir, rootCertFile), encodeCerts(certs...), 0o600))
			if _, err := Load(dir); err == nil {
				t.Errorf("%s among %d roots: loaded", name, len(certs))
			}
		}
	}
}

// Class: CSR asks for more (step-ca CVE-2025-44005).
func TestThreatCSRAsksForMore(t *testing.T) {
	a, key := newAuthority(t), testKey(t)
	uri, _ := url.Parse("spiffe://corp.example/user/root")
	isCA, _ := asn1.Marshal(struct{ CA bool }{true})
	greedy := &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"admins"}}, DNSNames: []string{"*.corp.example"},
		EmailAddresses: []string{"ceo@corp.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, URIs: []*url.URL{uri},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA},
			{Id: auth.ExtensionOID(), Value: []byte(`{"groups":["admins"]}`)}},
	}
	pub, err := CheckCSR(newCSR(t, greedy, key))
	must(t, err)
	p := testProfile(t)
	p.PublicKey = pub
	leaf := issueClient(t, a, p).Leaf
	names := len(leaf.DNSNames) + len(leaf.EmailAddresses) + len(leaf.IPAddresses)
	if leaf.IsCA || names > 0 || leaf.Subject.String() != "" || len(leaf.URIs) != 1 || leaf.URIs[0].String() == uri.String() {
		t.Errorf("issued: CA %t, %d foreign names, subject %q, URIs %v", leaf.IsCA, names, leaf.Subject, leaf.URIs)
	}
	if id, err := auth.FromCertificate(leaf, "corp.example"); err != nil || strings.Join(id.Groups, ",") != strings.Join(testIdentity().Groups, ",") {
		t.Errorf("identity %+v, %v", id, err)
	}
}

// Class: CSR asks for more: weak or foreign keys, a signature by somebody else's key.
func TestThreatCSRWithABadKeyOrSignature(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	must(t, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	good := newCSR(t, &x509.CertificateRequest{}, testKey(t))
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	for name, der := range map[string][]byte{
		"RSA":            newCSR(t, &x509.CertificateRequest{}, rsaKey),
		"Ed25519":        newCSR(t, &x509.CertificateRequest{}, edKey),
		"P-224":          newCSR(t, &x509.CertificateRequest{}, p224),
		"P-384":          newCSR(t, &x509.CertificateRequest{}, p384),
		"SHA-512":        newCSR(t, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA512}, testKey(t)),
		"bad signature":  forged,
		"swapped key":    swapKey(t, good, testKey(t)),
		"trailing bytes": append(append([]byte(nil), good...), 0),
		"cut short":      good[:len(good)-1],
		"empty":          nil,
		"too large":      newCSR(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: strings.Repeat("x", MaxCSR)}}, testKey(t)),
		"a certificate":  newAuthority(t).Issuing().Raw,
	} {
		if _, err := CheckCSR(der); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := CheckCSR(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func newCSR(t *testing.T, tmpl *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	must(t, err)
	return der
}

// swapKey puts a victim's public key into a request that somebody else signed.
func swapKey(t *testing.T, der []byte, victim *ecdsa.PrivateKey) []byte {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	must(t, err)
	old, err := csr.PublicKey.(*ecdsa.PublicKey).Bytes()
	must(t, err)
	fresh, err := victim.PublicKey.Bytes()
	must(t, err)
	return []byte(strings.Replace(string(der), string(old), string(fresh), 1))
}

func FuzzCheckCSR(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"x"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		if pub, err := CheckCSR(der); err == nil && pub.Curve != elliptic.P256() {
			t.Fatal("accepted another curve")
		}
	})
}

// Class: default or shared keys (NetBird CVE-2025-10678).
func TestThreatTwoInstallationsShareNothing(t *testing.T) {
	seen := map[string]string{}
	for _, run := range []string{"first", "second"} {
		dir, httpsDir := newDir(t), filepath.Join(t.TempDir(), "https")
		_, err := SelfIssuedHTTPS(httpsDir, []string{"vpn.corp.example"})
		must(t, err)
		for _, path := range []string{filepath.Join(dir, rootKeyFile), filepath.Join(dir, issuingKeyFile), filepath.Join(httpsDir, httpsKeyFile)} {
			key, err := readKey(path)
			must(t, err)
			raw, err := key.Bytes()
			must(t, err)
			text := string(raw)
			if was := seen[text]; was != "" {
				t.Errorf("%s %s has the key of %s", run, filepath.Base(path), was)
			}
			seen[text] = run + " " + filepath.Base(path)
		}
		for _, path := range []string{filepath.Join(dir, rootCertFile), filepath.Join(dir, issuingCertFile), filepath.Join(httpsDir, httpsCertFile)} {
			cert, err := readCert(path)
			must(t, err)
			serial := string(auth.SerialOf(cert))
			if seen[serial] != "" {
				t.Errorf("%s %s has the serial number of %s", run, filepath.Base(path), seen[serial])
			}
			seen[serial] = run + " " + filepath.Base(path)
		}
	}
}

// Class: default or shared keys: one installation's certificates mean nothing to another of the same name.
func TestThreatAnotherInstallationIsNotTrusted(t *testing.T) {
	a, b := newAuthority(t), newAuthority(t)
	leaf := issueClient(t, a, testProfile(t)).Leaf
	candidates := x509.NewCertPool()
	candidates.AddCert(a.Issuing())
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: b.Pool(), Intermediates: candidates, KeyUsages: usages}); err == nil {
		t.Error("verified by another installation's root")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: candidates, KeyUsages: usages}); err != nil {
		t.Errorf("not verified by its own: %v", err)
	}
}

func TestIssueClientRefuses(t *testing.T) {
	a := newAuthority(t)
	rsaSized := &ecdsa.PublicKey{Curve: elliptic.P384()}
	for name, spoil := range map[string]func(*ClientProfile){
		"no key":               func(p *ClientProfile) { p.PublicKey = nil },
		"P-384":                func(p *ClientProfile) { p.PublicKey = rsaSized },
		"nobody":               func(p *ClientProfile) { p.Identity = auth.Identity{} },
		"too long":             func(p *ClientProfile) { p.NotAfter = p.NotBefore.Add(MaxClientLife + time.Second) },
		"backwards":            func(p *ClientProfile) { p.NotAfter = p.NotBefore.Add(-time.Second) },
		"before the authority": func(p *ClientProfile) { p.NotBefore = p.NotBefore.Add(-2 * time.Hour) },
		"after the authority": func(p *ClientProfile) {
			p.NotBefore = a.issuing.NotAfter.Add(-time.Minute)
			p.NotAfter = a.issuing.NotAfter.Add(time.Minute)
		},
		"serial of 129 bits":      func(p *ClientProfile) { p.Serial = new(big.Int).Lsh(big.NewInt(1), 128) },
		"serial zero":             func(p *ClientProfile) { p.Serial = new(big.Int) },
		"the issuing key":         func(p *ClientProfile) { p.PublicKey = &a.key.PublicKey },
		"the root key":            func(p *ClientProfile) { p.PublicKey = a.roots[0].PublicKey.(*ecdsa.PublicKey) },
		"too many groups":         func(p *ClientProfile) { p.Identity.Groups = []string{strings.Repeat("g", auth.MaxExtension)} },
		"an e-mail without being": func(p *ClientProfile) { p.Identity.Email = "" },
	} {
		p := testProfile(t)
		spoil(&p)
		if _, err := a.IssueClient(context.Background(), p); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.IssueClient(ctx, testProfile(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

// The lint looks at the bytes: what a template says wrongly is found before the issuing key signs it.
func TestLintFindsWhatATemplateAsksFor(t *testing.T) {
	a, p := newAuthority(t), testProfile(t)
	ext, err := auth.Embed(p.Identity)
	must(t, err)
	for name, spoil := range map[string]func(*x509.Certificate){
		"an authority":          func(c *x509.Certificate) { c.IsCA = true },
		"a subject":             func(c *x509.Certificate) { c.Subject.CommonName = "root" },
		"key encipherment":      func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment },
		"server authentication": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"a DNS name":            func(c *x509.Certificate) { c.DNSNames = []string{"x.invalid"} },
		"a CRL's address":       func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://x"} },
		"another identity": func(c *x509.Certificate) {
			o := testIdentity()
			o.Groups = nil
			e, _ := auth.Embed(o)
			c.ExtraExtensions = []pkix.Extension{e}
		},
	} {
		tmpl := a.leafTemplate(nil, p.NotBefore, p.NotAfter)
		tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		tmpl.URIs = []*url.URL{p.Identity.SPIFFEID(a.trustDomain)}
		tmpl.ExtraExtensions = []pkix.Extension{ext}
		spoil(tmpl)
		if _, err := a.issue(context.Background(), tmpl, p.PublicKey, func(c *x509.Certificate) error { return a.lintClient(c, ext) }); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

// What a stolen issuing key can sign is bounded: the name constraints and the path length hold in a verifier that
// knows nothing of Culvert.
func TestConstraintsHold(t *testing.T) {
	a := newAuthority(t)
	sign := func(change func(*x509.Certificate)) error {
		tmpl := a.leafTemplate(nil, time.Now(), time.Now().Add(time.Hour))
		change(tmpl)
		leaf, err := a.sign(tmpl, &testKey(t).PublicKey, a.key)
		must(t, err)
		candidates := x509.NewCertPool()
		candidates.AddCert(a.Issuing())
		_, err = leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), Intermediates: candidates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return err
	}
	if err := sign(func(c *x509.Certificate) { c.URIs = []*url.URL{auth.GatewayURI("corp.example", "gw")} }); err != nil {
		t.Errorf("a name of the trust domain: %v", err)
	}
	for name, change := range map[string]func(*x509.Certificate){
		"another trust domain": func(c *x509.Certificate) { c.URIs = []*url.URL{auth.GatewayURI("evil.example", "gw")} },
		"a web site":           func(c *x509.Certificate) { c.DNSNames = []string{"www.example.com"} },
		"an IPv4 address":      func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} },
		"an IPv6 address":      func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} },
		"a mail address":       func(c *x509.Certificate) { c.EmailAddresses = []string{"a@example.com"} },
	} {
		if sign(change) == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestSerialsAre128Bits(t *testing.T) {
	var all big.Int
	for range 200 {
		n := NewSerial()
		if n.BitLen() > 128 {
			t.Fatalf("%d bits", n.BitLen())
		}
		all.Or(&all, n)
	}
	if all.BitLen() != 128 {
		t.Errorf("200 serial numbers use %d bits", all.BitLen())
	}
}

func TestGatewayLeafRenewsItself(t *testing.T) {
	dir := newDir(t) // outside of the bubble: files are real
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(filepath.Dir(dir), "bubble")
		must(t, Init(dir, testOptions))
		a, err := Load(dir)
		must(t, err)
		leaf := NewGatewayLeaf(a)
		first, err := leaf.Certificate()
		must(t, err)
		time.Sleep(4 * 24 * time.Hour)
		if same, _ := leaf.Certificate(); same != first {
			t.Error("renewed before two thirds of its life")
		}
		time.Sleep(24 * time.Hour)
		second, err := leaf.Certificate()
		must(t, err)
		if second == first || !second.Leaf.NotAfter.After(time.Now().Add(6*24*time.Hour)) {
			t.Errorf("not renewed after five of seven days: ends %s", second.Leaf.NotAfter)
		}
		time.Sleep(issuingLife - 6*24*time.Hour) // the issuing certificate ends tomorrow
		last, err := leaf.Certificate()
		must(t, err)
		if last.Leaf.NotAfter.After(a.Issuing().NotAfter) {
			t.Error("the leaf outlives its issuer")
		}
		time.Sleep(2 * 24 * time.Hour)
		if _, err := leaf.Certificate(); err == nil {
			t.Error("a certificate after the issuer's end")
		}
	})
}

func TestAnotherGatewayJoins(t *testing.T) {
	first, second := newDir(t), filepath.Join(t.TempDir(), "second")
	csr, err := Request(second, "gw-2")
	must(t, err)
	chain, err := Sign(first, csr, "gw-2")
	must(t, err)
	must(t, Install(second, chain))
	a, err := Load(first)
	must(t, err)
	b, err := Load(second)
	must(t, err)
	if b.GatewayID() != "gw-2" || b.TrustDomain() != "corp.example" || !a.Roots()[0].Equal(b.Roots()[0]) {
		t.Errorf("joined as %q of %q", b.GatewayID(), b.TrustDomain())
	}
	if a.key.Equal(b.key) {
		t.Error("two gateways share a key")
	}
	if _, err := os.Stat(filepath.Join(second, rootKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root key came along: %v", err)
	}
	again, err := Request(second, "gw-2")
	must(t, err)
	if one, two := fingerprint(t, csr), fingerprint(t, again); one != two {
		t.Errorf("asking again makes another key: %s, %s", one, two)
	}
}

func fingerprint(t *testing.T, csr []byte) auth.Fingerprint {
	t.Helper()
	f, err := RequestFingerprint(csr)
	must(t, err)
	return f
}

func TestSignRefuses(t *testing.T) {
	first, second := newDir(t), filepath.Join(t.TempDir(), "second")
	csr, err := Request(second, "gw-2")
	must(t, err)
	own, err := Request(first, "gw-1") // the key that gw-1 already has
	must(t, err)
	offline := newDir(t)
	must(t, os.Remove(filepath.Join(offline, rootKeyFile)))
	for name, try := range map[string]func() ([]byte, error){
		"own key":       func() ([]byte, error) { return Sign(first, own, "gw-3") },
		"other name":    func() ([]byte, error) { return Sign(first, csr, "gw-3") },
		"bad name":      func() ([]byte, error) { return Sign(first, csr, "../gw") },
		"no root key":   func() ([]byte, error) { return Sign(offline, csr, "gw-2") },
		"no authority":  func() ([]byte, error) { return Sign(t.TempDir(), csr, "gw-2") },
		"not a request": func() ([]byte, error) { return Sign(first, []byte("hello"), "gw-2") },
		"two requests":  func() ([]byte, error) { return Sign(first, append(append([]byte(nil), csr...), csr...), "gw-2") },
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestInstallRefuses(t *testing.T) {
	first, second := newDir(t), filepath.Join(t.TempDir(), "second")
	csr, err := Request(second, "gw-2")
	must(t, err)
	chain, err := Sign(first, csr, "gw-2")
	must(t, err)
	foreignRoot, err := Sign(newDir(t), csr, "gw-2")
	must(t, err)
	third := filepath.Join(t.TempDir(), "third")
	_, err = Request(third, "gw-3")
	must(t, err)
	if err := Install(third, chain); err == nil {
		t.Error("installed an answer for another key")
	}
	if err := Install(second, encodeCerts(mustParse(t, chain)[0])); err == nil {
		t.Error("installed an answer without a root")
	}
	mixed := encodeCerts(mustParse(t, chain)[0], mustParse(t, foreignRoot)[1])
	if err := Install(second, mixed); err == nil {
		t.Error("installed an answer with another root than its own")
	}
	must(t, Install(second, chain))
	if err := Install(second, foreignRoot); !errors.Is(err, ErrExists) {
		t.Errorf("an answer from another root: %v, want ErrExists", err)
	}
	if err := Install(second, chain); !errors.Is(err, ErrExists) {
		t.Errorf("the same answer again: %v, want ErrExists", err)
	}
	if _, err := Load(second); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

func mustParse(t *testing.T, text []byte) []*x509.Certificate {
	t.Helper()
	certs, err := parseCerts(text, 9)
	must(t, err)
	return certs
}
