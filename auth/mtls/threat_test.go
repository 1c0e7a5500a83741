package mtls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

func mustECDSA(t testing.TB, key crypto.PrivateKey) *ecdsa.PrivateKey {
	t.Helper()
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("%T", key)
	}
	return ec
}

// Class: resumption skips client checks (Go CVE-2025-68121).
func TestThreatResumption(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	config := careless(w.person(t, "ada"), wire.ALPN)
	config.ClientSessionCache = cache
	config.ServerName = "vpn.corp.example"
	for range 2 {
		got, state, err := g.dial(t, config)
		if err != nil || got != "tunnel ada" || state.DidResume {
			t.Fatalf("%q, resumed %t, %v", got, state.DidResume, err)
		}
	}
	if n := cache.puts.Load(); n > 0 {
		t.Errorf("the gateway gave out %d session tickets on the tunnel", n)
	}
	g.roots.Store(newWorld(t).Pool()) // the authority is rotated
	if got, _, err := g.dial(t, config); err == nil {
		t.Errorf("after the rotation: greeted with %q", got)
	}
}

// Class: resumption skips client checks: a ticket of the HTTPS side is no way into the tunnel.
func TestThreatResumptionOfAnHTTPSSession(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	https := careless(nil, "http/1.1")
	https.ClientSessionCache, https.ServerName = cache, "vpn.corp.example"
	if got, _, err := g.dial(t, https); err != nil || got != "public" {
		t.Fatalf("HTTPS: %q, %v", got, err)
	}
	if cache.puts.Load() == 0 {
		t.Fatal("the HTTPS side gave no ticket; this test shows nothing")
	}
	tunnel := careless(nil, wire.ALPN)
	tunnel.ClientSessionCache, tunnel.ServerName = cache, "vpn.corp.example"
	if got, _, err := g.dial(t, tunnel); err == nil {
		t.Errorf("greeted with %q", got)
	}
	welcome(t, w, g)
}

type countingCache struct {
	tls.ClientSessionCache
	puts atomic.Int32
}

func (c *countingCache) Put(key string, state *tls.ClientSessionState) {
	if state != nil {
		c.puts.Add(1)
	}
	c.ClientSessionCache.Put(key, state)
}

// Class: identity from another certificate of the chain (OpenZiti GHSA-mrpr-756c-xm47).
func TestThreatRogueLeafWithAVictimsCertificate(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	victim := w.person(t, "victim")
	issuing := w.Issuing().Raw
	rogue := forge(t, clientTemplate(t, identity("victim")), nil, nil, victim.Certificate[0], issuing)
	refused(t, g, "rogue leaf, victim's certificate behind it", rogue)
	refused(t, g, "victim's certificate with another key", &tls.Certificate{Certificate: victim.Certificate, PrivateKey: newKey(t)})
	underVictim := forge(t, clientTemplate(t, identity("root-admin")), victim.Leaf, mustECDSA(t, victim.PrivateKey), victim.Certificate...)
	refused(t, g, "leaf signed by the victim", underVictim)

	eve := w.person(t, "eve")
	eve.Certificate = [][]byte{eve.Certificate[0], victim.Certificate[0], issuing}
	if got, _, err := g.dial(t, careless(eve, wire.ALPN)); err != nil || got != "tunnel eve" {
		t.Errorf("own leaf with a victim's behind it: %q, %v; want the leaf's identity", got, err)
	}
	for name, chain := range map[string][][]byte{"rogue leaf": rogue.Certificate, "leaf signed by the victim": underVictim.Certificate} {
		if p, err := VerifyClientChain(chain, ChainOptions{Roots: w.Pool(), TrustDomain: domain}); err == nil {
			t.Errorf("renewal with a %s: %s", name, p.Identity.Subject)
		}
	}
	if p, err := VerifyClientChain(eve.Certificate, ChainOptions{Roots: w.Pool(), TrustDomain: domain}); err != nil || p.Identity.Subject != "eve" {
		t.Errorf("renewal with own leaf: %q, %v", p.Identity.Subject, err)
	}
}

// Class: SNI or ALPN falls back to no client check (Traefik CVE-2026-53622), on a real one-port listener.
func TestThreatSNIAndALPNVariants(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	names := []string{"", "vpn.corp.example", "VPN.Corp.Example", "vpn.corp.example.", "other.example", "culvert", "xn--bcher-kva.example"}
	protos := [][]string{nil, {"h2"}, {"http/1.1"}, {"acme-tls/1"}, {"Culvert/1"}, {"CULVERT/1"}, {"culvert/1 "}, {"culvert/1\x00"}, {"culvert"}, {"culvert/2"},
		{wire.ALPN}, {"h2", wire.ALPN}, {wire.ALPN, "h2"}, {"x", "http/1.1", wire.ALPN}, {"culvert/2", "h2"}}
	for _, name := range names {
		for _, offer := range protos {
			for _, size := range []int{0, 16} {
				checkNoTunnel(t, g, name, offer, size)
			}
		}
		cert := w.person(t, "ada")
		for _, offer := range [][]string{{wire.ALPN}, {"h2", wire.ALPN}} {
			config := careless(cert, offer...)
			config.ServerName = name
			if got, _, err := g.dial(t, config, fragment(100)); err != nil || got != "tunnel ada" {
				t.Errorf("with a certificate, SNI %q, ALPN %q: %q, %v", name, offer, got, err)
			}
		}
	}
}

// checkNoTunnel dials without a certificate. Whoever offers culvert/1 is refused, others see HTTPS at most.
func checkNoTunnel(t *testing.T, g *gateway, name string, offer []string, size int) {
	t.Helper()
	config := careless(nil, offer...)
	config.ServerName = name
	var wrap []func(net.Conn) net.Conn
	if size > 0 {
		wrap = append(wrap, fragment(size))
	}
	got, state, err := g.dial(t, config, wrap...)
	if err != nil {
		return
	}
	tunnel := bytes.Contains([]byte(fmt.Sprintf("%q", offer)), []byte(`"culvert/1"`))
	if got != "public" || state.NegotiatedProtocol == wire.ALPN || tunnel {
		t.Errorf("without a certificate, SNI %q, ALPN %q, records of %d: greeted with %q, protocol %q", name, offer, size, got, state.NegotiatedProtocol)
	}
}

// Class: SNI or ALPN falls back: a split ClientHello reaches the HTTPS side as a whole one does.
func TestThreatSplitClientHelloOnTheHTTPSSide(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	for _, size := range []int{1, 7, 500} {
		config := careless(nil, "http/1.1")
		config.ServerName = "vpn.corp.example"
		if got, _, err := g.dial(t, config, fragment(size)); err != nil || got != "public" {
			t.Errorf("records of %d bytes: %q, %v", size, got, err)
		}
	}
}

// Class: SNI or ALPN falls back: an older TLS is no way around the tunnel's rules.
func TestThreatOlderTLSOnTheTunnel(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	config := careless(w.person(t, "ada"), wire.ALPN)
	config.MaxVersion = tls.VersionTLS12
	if got, _, err := g.dial(t, config); err == nil {
		t.Errorf("TLS 1.2: greeted with %q", got)
	}
}

// Class: a leaf as a trust anchor (Vault CVE-2024-2048).
func TestThreatLeafAsTrustAnchor(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	ada := w.person(t, "ada")
	pool := x509.NewCertPool()
	pool.AddCert(ada.Leaf)
	g.roots.Store(pool)
	refused(t, g, "a leaf among the roots", ada)
	refused(t, g, "a leaf among the roots, alone", &tls.Certificate{Certificate: ada.Certificate[:1], PrivateKey: ada.PrivateKey})
	pool.AddCert(w.Issuing())
	refused(t, g, "an issuing certificate among the roots", ada)
	if _, err := VerifyClientChain(ada.Certificate[:1], ChainOptions{Roots: pool, TrustDomain: domain}); err == nil {
		t.Error("renewal with a leaf among the roots: accepted")
	}
}

// Class: special-cased issuers (Teleport CVE-2025-49825), and certificates used for what they are not.
func TestThreatCertificatesUsedForSomethingElse(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	g := w.listen(t)
	issuing, root := w.Issuing(), w.Roots()[0]
	eve := w.person(t, "eve")
	server, err := w.leaf.Certificate()
	must(t, err)
	admin := identity("root-admin")
	asAuthority := clientTemplate(t, admin)
	asAuthority.IsCA, asAuthority.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	for name, cert := range map[string]*tls.Certificate{
		"no certificate":             nil,
		"issued by a person":         forge(t, clientTemplate(t, admin), eve.Leaf, mustECDSA(t, eve.PrivateKey), eve.Certificate...),
		"issued by the gateway leaf": forge(t, clientTemplate(t, admin), server.Leaf, mustECDSA(t, server.PrivateKey), server.Certificate...),
		"the gateway's own":          server,
		"the issuing one":            {Certificate: [][]byte{issuing.Raw}, PrivateKey: w.issuing},
		"the root":                   {Certificate: [][]byte{root.Raw}, PrivateKey: w.root},
		"issued by the root":         forge(t, clientTemplate(t, admin), root, w.root),
		"self-signed":                forge(t, clientTemplate(t, admin), nil, nil),
		"self-signed, issuer's name": forge(t, clientTemplate(t, admin), &x509.Certificate{Subject: issuing.Subject, SubjectKeyId: issuing.SubjectKeyId}, newKey(t), issuing.Raw),
		"another installation":       other.person(t, "ada"),
		"another's, our issuer":      {Certificate: [][]byte{other.person(t, "ada").Certificate[0], issuing.Raw}, PrivateKey: newKey(t)},
		"an authority":               forge(t, asAuthority, issuing, w.issuing, issuing.Raw),
	} {
		refused(t, g, name, cert)
	}
	welcome(t, w, g)
}

// Class: wrong EKU, and other content that the authority never issues.
func TestThreatWrongUsage(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	issuing := w.Issuing()
	other := identity("somebody else")
	for name, spoil := range map[string]func(*x509.Certificate){
		"server authentication": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"both":                  func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) },
		"code signing":          func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"any":                   func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
		"none":                  func(c *x509.Certificate) { c.ExtKeyUsage = nil },
		"key encipherment":      func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
		"no identity":           func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"somebody else's name":  func(c *x509.Certificate) { c.URIs[0] = other.SPIFFEID(domain) },
		"another trust domain":  func(c *x509.Certificate) { c.URIs[0] = other.SPIFFEID("evil.example") },
		"an unknown critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		},
		"expired":       func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) },
		"not yet valid": func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
	} {
		tmpl := clientTemplate(t, identity("eve"))
		spoil(tmpl)
		cert := forge(t, tmpl, issuing, w.issuing, issuing.Raw)
		refused(t, g, name, cert)
		if _, err := VerifyClientChain(cert.Certificate, ChainOptions{Roots: w.Pool(), TrustDomain: domain}); !errors.Is(err, ErrUnverified) {
			t.Errorf("renewal, %s: %v, want ErrUnverified", name, err)
		}
	}
	good := forge(t, clientTemplate(t, identity("eve")), issuing, w.issuing, issuing.Raw)
	if got, _, err := g.dial(t, careless(good, wire.ALPN)); err != nil || got != "tunnel eve" {
		t.Fatalf("unspoilt: %q, %v; the cases above show nothing", got, err)
	}
}

// Class: renewal widens rights (OpenBao CVE-2026-39388). Here: what the control stream accepts in a connection's place.
func TestThreatRenewalWithAnotherCertificate(t *testing.T) {
	w := newWorld(t)
	key, id := newKey(t), identity("ada")
	peer := func(id auth.Identity, key *ecdsa.PrivateKey) Peer {
		p, err := VerifyClientChain(w.client(t, id, key).Certificate, ChainOptions{Roots: w.Pool(), TrustDomain: domain})
		must(t, err)
		return p
	}
	was := peer(id, key)
	later := id
	later.IssuedAt, later.Groups = id.IssuedAt.Add(time.Minute), nil
	if err := was.CheckRenewal(peer(later, key)); err != nil {
		t.Errorf("a proper renewal: %v", err)
	}
	for name, spoil := range map[string]func(*auth.Identity){
		"person":        func(id *auth.Identity) { id.Subject = "root-admin" },
		"issuer":        func(id *auth.Identity) { id.Issuer = "https://other.example/" },
		"provider":      func(id *auth.Identity) { id.Provider = "partner" },
		"session":       func(id *auth.Identity) { id.Session = auth.NewSessionID() },
		"device":        func(id *auth.Identity) { id.Device = auth.DeviceIDFromKey([]byte("other")) },
		"kind of login": func(id *auth.Identity) { id.Login = auth.LoginDevice },
		"time of login": func(id *auth.Identity) { id.AuthTime = id.AuthTime.Add(-time.Hour) },
		"older one":     func(id *auth.Identity) { id.IssuedAt = id.IssuedAt.Add(-2 * time.Minute) },
	} {
		next := later
		spoil(&next)
		if err := was.CheckRenewal(peer(next, key)); !errors.Is(err, ErrNotRenewal) {
			t.Errorf("another %s: %v, want ErrNotRenewal", name, err)
		}
	}
	if err := was.CheckRenewal(peer(later, newKey(t))); !errors.Is(err, ErrNotRenewal) {
		t.Errorf("another key: %v", err)
	}
	if err := was.CheckRenewal(Peer{Identity: later}); !errors.Is(err, ErrNotRenewal) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestVerifyClientChainIsBounded(t *testing.T) {
	w := newWorld(t)
	ada := w.person(t, "ada")
	for name, chain := range map[string][][]byte{
		"nothing":        nil,
		"four":           {ada.Certificate[0], ada.Certificate[1], ada.Certificate[1], ada.Certificate[1]},
		"garbage":        {{1, 2, 3}},
		"empty":          {{}},
		"no issuer":      ada.Certificate[:1],
		"trailing bytes": {append(append([]byte(nil), ada.Certificate[0]...), 0), ada.Certificate[1]},
		"too large":      {make([]byte, maxChainBytes+1)},
	} {
		if _, err := VerifyClientChain(chain, ChainOptions{Roots: w.Pool(), TrustDomain: domain}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	late := ChainOptions{Roots: w.Pool(), TrustDomain: domain, Now: time.Now().Add(2 * time.Hour)}
	if _, err := VerifyClientChain(ada.Certificate, late); !errors.Is(err, ErrUnverified) {
		t.Errorf("expired: %v", err)
	}
}

// Class: revocation evaded (Nebula CVE-2026-25793): (r, n-s) is as good a signature as (r, s), and gives the certificate
// another hash. Its serial number, by which it is locked, stays.
func TestThreatReencodedSignature(t *testing.T) {
	w := newWorld(t)
	ada := w.person(t, "ada")
	twin := reencode(t, ada.Leaf)
	if bytes.Equal(twin, ada.Certificate[0]) || auth.FingerprintOf(twin) == auth.FingerprintOf(ada.Certificate[0]) {
		t.Fatal("the certificate did not change")
	}
	o := ChainOptions{Roots: w.Pool(), TrustDomain: domain}
	first, err := VerifyClientChain(ada.Certificate, o)
	must(t, err)
	second, err := VerifyClientChain([][]byte{twin, ada.Certificate[1]}, o)
	if err != nil {
		t.Fatalf("the twin does not verify; this test shows nothing: %v", err)
	}
	if first.Serial != second.Serial || first.Serial != auth.SerialOf(ada.Leaf) {
		t.Errorf("serial numbers %s, %s", first.Serial, second.Serial)
	}
	if first.Identity.Session != second.Identity.Session || first.Identity.Device != second.Identity.Device {
		t.Error("the twin is of another session or device")
	}
	g := w.listen(t)
	if got, _, err := g.dial(t, careless(&tls.Certificate{Certificate: [][]byte{twin, ada.Certificate[1]}, PrivateKey: ada.PrivateKey}, wire.ALPN)); err != nil || got != "tunnel ada" {
		t.Errorf("the twin in a handshake: %q, %v", got, err)
	}
}

// certificate is RFC 5280, section 4.1.
type certificate struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

func reencode(t *testing.T, cert *x509.Certificate) []byte {
	t.Helper()
	var outer certificate
	_, err := asn1.Unmarshal(cert.Raw, &outer)
	must(t, err)
	var sig struct{ R, S *big.Int }
	_, err = asn1.Unmarshal(outer.Signature.Bytes, &sig)
	must(t, err)
	sig.S.Sub(elliptic.P256().Params().N, sig.S)
	value, err := asn1.Marshal(sig)
	must(t, err)
	outer.Signature = asn1.BitString{Bytes: value, BitLength: 8 * len(value)}
	der, err := asn1.Marshal(outer)
	must(t, err)
	return der
}

// Class: verification burns CPU (Go CVE-2025-58188): a thousand intermediates that all could have signed.
func TestThreatThousandIntermediates(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	victim := w.person(t, "ada")
	decoy := &x509.Certificate{RawSubject: w.Issuing().RawSubject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: w.Issuing().SubjectKeyId, AuthorityKeyId: w.Issuing().SubjectKeyId}
	key := newKey(t)
	for _, n := range []int{500, 1000} { // 500 fit into TLS's message, 1,000 do not
		chain := [][]byte{victim.Certificate[0]}
		for i := range n {
			decoy.SerialNumber = serialNumber(int64(i + 1))
			der, err := x509.CreateCertificate(rand.Reader, decoy, decoy, &key.PublicKey, key)
			must(t, err)
			chain = append(chain, der)
		}
		start := time.Now()
		refused(t, g, fmt.Sprintf("%d intermediates", n), &tls.Certificate{Certificate: chain, PrivateKey: victim.PrivateKey})
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%d intermediates took %s", n, took)
		}
		welcome(t, w, g)
	}
}

// Class: verification burns CPU or panics (Go CVE-2025-58188): keys of odd kinds and sizes, in leaf and intermediate.
func TestThreatOddKeyTypes(t *testing.T) {
	w := newWorld(t)
	g := w.listen(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	must(t, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	issuing := w.Issuing()
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey, "Ed25519": edKey, "P-521": p521} {
		der, err := x509.CreateCertificate(rand.Reader, clientTemplate(t, identity("eve")), issuing, key.Public(), w.issuing)
		must(t, err)
		refused(t, g, name+", signed by the authority", &tls.Certificate{Certificate: [][]byte{der, issuing.Raw}, PrivateKey: key})
	}
	ada := w.person(t, "ada")
	for name, spki := range oddKeys(t) {
		odd := withKey(t, issuing, spki)
		refused(t, g, name+" as intermediate", &tls.Certificate{Certificate: [][]byte{ada.Certificate[0], odd}, PrivateKey: ada.PrivateKey})
		refused(t, g, name+" as leaf", &tls.Certificate{Certificate: [][]byte{withKey(t, ada.Leaf, spki), issuing.Raw}, PrivateKey: ada.PrivateKey})
		if _, err := VerifyClientChain([][]byte{ada.Certificate[0], odd}, ChainOptions{Roots: w.Pool(), TrustDomain: domain}); err == nil {
			t.Errorf("renewal with %s as intermediate: accepted", name)
		}
	}
	welcome(t, w, g)
}

// oddKeys are public keys that Go no longer makes, or never did.
func oddKeys(t *testing.T) map[string]any {
	t.Helper()
	type parameters struct{ P, Q, G *big.Int }
	type dsaAlgorithm struct {
		OID        asn1.ObjectIdentifier
		Parameters parameters
	}
	type key struct {
		Algorithm any
		Bits      asn1.BitString
	}
	bits := func(v any) asn1.BitString {
		der, err := asn1.Marshal(v)
		must(t, err)
		return asn1.BitString{Bytes: der, BitLength: 8 * len(der)}
	}
	huge := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 65_535), big.NewInt(1))
	small := parameters{big.NewInt(23), big.NewInt(11), big.NewInt(4)}
	rsaAlgorithm := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}
	dsaOID := asn1.ObjectIdentifier{1, 2, 840, 10040, 4, 1}
	return map[string]any{
		"DSA":           key{dsaAlgorithm{dsaOID, small}, bits(big.NewInt(2))},
		"huge DSA":      key{dsaAlgorithm{dsaOID, parameters{huge, huge, huge}}, bits(huge)},
		"RSA of 65,536": key{rsaAlgorithm, bits(struct{ N, E *big.Int }{huge, big.NewInt(3)})},
		"unknown":       key{pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 3, 4}}, bits(1)},
	}
}

// withKey puts another public key into a certificate. Its signature no longer fits; finding that out must not cost much.
func withKey(t *testing.T, cert *x509.Certificate, spki any) []byte {
	t.Helper()
	key, err := asn1.Marshal(spki)
	must(t, err)
	var outer certificate
	_, err = asn1.Unmarshal(cert.Raw, &outer)
	must(t, err)
	at := bytes.Index(outer.TBS.Bytes, cert.RawSubjectPublicKeyInfo)
	body := append(append(append([]byte(nil), outer.TBS.Bytes[:at]...), key...), outer.TBS.Bytes[at+len(cert.RawSubjectPublicKeyInfo):]...)
	outer.TBS = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: body}
	der, err := asn1.Marshal(outer)
	must(t, err)
	return der
}
