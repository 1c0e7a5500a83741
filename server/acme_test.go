package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// fakeACME is as much of an ACME authority (RFC 8555) as one order takes: it does
// not check signatures, but it does validate the challenge by TLS-ALPN-01
// (RFC 8737) on the gateway's own port, as a real one does on port 443.
type fakeACME struct {
	t    *testing.T
	url  string
	key  *ecdsa.PrivateKey
	root *x509.Certificate

	mu        sync.Mutex
	gateway   string // host:port to validate
	validated bool
	failure   error
	issued    []byte // PEM
	names     []string
}

func newFakeACME(t *testing.T) (*fakeACME, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fake"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a := &fakeACME{t: t, key: key}
	if a.root, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewTLSServer(a)
	t.Cleanup(ts.Close)
	a.url = ts.URL
	rootFile := filepath.Join(t.TempDir(), "root.pem")
	pemText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ts.Certificate().Raw})
	if err := os.WriteFile(rootFile, pemText, 0o600); err != nil {
		t.Fatal(err)
	}
	return a, rootFile
}

func (a *fakeACME) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Replay-Nonce", base64.RawURLEncoding.EncodeToString([]byte(rand.Text())))
	w.Header().Set("Cache-Control", "no-store")
	var jws struct{ Payload string }
	_ = json.NewDecoder(req.Body).Decode(&jws)
	payload, _ := base64.RawURLEncoding.DecodeString(jws.Payload)
	status, answer := http.StatusOK, any(nil)
	switch req.URL.Path {
	case "/directory":
		answer = map[string]string{"newNonce": a.url + "/nonce", "newAccount": a.url + "/account", "newOrder": a.url + "/order"}
	case "/nonce":
	case "/account":
		w.Header().Set("Location", a.url+"/account/1")
		status, answer = http.StatusCreated, map[string]string{"status": "valid"}
	case "/order":
		w.Header().Set("Location", a.url+"/order/1")
		status, answer = http.StatusCreated, a.order(payload)
	case "/order/1":
		answer = a.order(nil)
	case "/authz":
		answer = a.authorization()
	case "/challenge":
		a.validate()
		answer = a.challenge()
	case "/finalize":
		a.issue(payload)
		answer = a.order(nil)
	case "/certificate":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		_, _ = w.Write(a.issued)
		return
	default:
		status = http.StatusNotFound
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if answer != nil {
		_ = json.NewEncoder(w).Encode(answer)
	}
}

type identifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

func (a *fakeACME) order(payload []byte) map[string]any {
	if payload != nil {
		var in struct{ Identifiers []identifier }
		_ = json.Unmarshal(payload, &in)
		for _, id := range in.Identifiers {
			a.names = append(a.names, id.Value)
		}
	}
	o := map[string]any{"status": "pending", "authorizations": []string{a.url + "/authz"}, "finalize": a.url + "/finalize",
		"identifiers": []identifier{{"dns", a.names[0]}}}
	switch {
	case a.issued != nil:
		o["status"], o["certificate"] = "valid", a.url+"/certificate"
	case a.validated:
		o["status"] = "ready"
	}
	return o
}

func (a *fakeACME) state() string {
	switch {
	case a.validated:
		return "valid"
	case a.failure != nil:
		return "invalid"
	default:
		return "pending"
	}
}

func (a *fakeACME) authorization() map[string]any {
	return map[string]any{"status": a.state(), "identifier": identifier{"dns", a.names[0]}, "challenges": []any{a.challenge()}}
}

func (a *fakeACME) challenge() map[string]string {
	return map[string]string{"type": "tls-alpn-01", "url": a.url + "/challenge", "token": "token", "status": a.state()}
}

// acmeIdentifier is the extension of RFC 8737 section 3.
var acmeIdentifier = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 31}

func (a *fakeACME) validate() {
	conn, err := tls.Dial("tcp", a.gateway, &tls.Config{ServerName: a.names[0], NextProtos: []string{acmeALPN}, InsecureSkipVerify: true})
	if err != nil {
		a.failure = err
		return
	}
	defer conn.Close()
	state := conn.ConnectionState()
	leaf := state.PeerCertificates[0]
	has := slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		var digest []byte
		_, err := asn1.Unmarshal(e.Value, &digest)
		return e.Id.Equal(acmeIdentifier) && e.Critical && err == nil && len(digest) == sha256.Size
	})
	if state.NegotiatedProtocol != acmeALPN || !has || !slices.Equal(leaf.DNSNames, a.names[:1]) {
		a.failure = fmt.Errorf("protocol %q, extension %v, names %v", state.NegotiatedProtocol, has, leaf.DNSNames)
		return
	}
	a.validated = true
}

func (a *fakeACME) issue(payload []byte) {
	var in struct{ CSR string }
	_ = json.Unmarshal(payload, &in)
	der, _ := base64.RawURLEncoding.DecodeString(in.CSR)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil || !a.validated {
		a.t.Errorf("finalize: validated %v, %v", a.validated, err)
		return
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(77), DNSNames: csr.DNSNames, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	out, err := x509.CreateCertificate(rand.Reader, leaf, a.root, csr.PublicKey, a.key)
	if err != nil {
		a.t.Error(err)
		return
	}
	a.issued = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: out}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})...)
}

// The whole way with an authority that is near: order, challenge on the one
// port, certificate, HTTPS with it; and again from the state folder, without one.
func TestACMEObtainsACertificateThroughTheOnePort(t *testing.T) {
	authority, rootFile := newFakeACME(t)
	i := newInstallation(t, func(cfg *Config) {
		cfg.Hostname = "gateway.corp.example"
		cfg.TLS = TLSConfig{Mode: "acme", ACME: ACMEConfig{Directory: authority.url + "/directory", AgreeTerms: true, RootCA: rootFile}}
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	authority.gateway = ln.Addr().String()
	r := i.serve(Options{Listener: ln})
	eventually(t, "the certificate is there", func() bool { return r.cert.leaf() != nil })
	if got := servedTo(t, r, "gateway.corp.example"); got != 77 {
		t.Errorf("HTTPS answers with certificate %d", got)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	authority.mu.Lock()
	authority.failure, authority.validated, authority.issued = fmt.Errorf("away"), false, nil
	authority.mu.Unlock()
	r = i.serve(Options{})
	eventually(t, "the certificate comes from the state folder", func() bool { return r.cert.leaf() != nil })
	if got := servedTo(t, r, "gateway.corp.example"); got != 77 {
		t.Errorf("after a restart HTTPS answers with certificate %d", got)
	}
}

func servedTo(t *testing.T, r *running, name string) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", r.Addr().String(), &tls.Config{InsecureSkipVerify: true, ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}
