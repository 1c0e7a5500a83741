package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/internal/devidp"
	"github.com/culvert-vpn/culvert/internal/testenv"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

const patience = 30 * time.Second

// installation is a folder as "init" makes it, on loopback.
type installation struct {
	t   *testing.T
	dir string
	cfg *Config
}

func newInstallation(t *testing.T, edit func(*Config)) *installation {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "gateway")
	opts := InitOptions{Hostname: "127.0.0.1", TrustDomain: "corp.example", Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0"}
	if _, err := InitFiles(dir, opts); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(filepath.Join(dir, ConfigFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DrainTimeout = 5 * time.Second
	if edit != nil {
		edit(cfg)
	}
	return &installation{t, dir, cfg}
}

// running is a gateway that serves until stop.
type running struct {
	*Server
	t      *testing.T
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	prelude []byte // what a balancer would say in front of each connection
}

// dial connects to the gateway.
func (r *running) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", r.Addr().String())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(r.prelude); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

func (i *installation) serve(opts Options) *running {
	i.t.Helper()
	if opts.Logger == nil {
		opts.Logger = testenv.Logger(i.t)
	}
	srv, err := New(i.t.Context(), *i.cfg, opts)
	if err != nil {
		i.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: srv, t: i.t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = srv.Serve(ctx)
	}()
	i.t.Cleanup(func() {
		select {
		case <-r.done: // the test has seen what Serve said
		default:
			if err := r.stop(); err != nil {
				i.t.Errorf("Serve: %v", err)
			}
		}
	})
	return r
}

// stop drains and returns what Serve said.
func (r *running) stop() error {
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Error("the gateway does not stop")
	}
	return r.err
}

// https is a client that trusts the gateway by its fingerprint.
func (r *running) https() *http.Client {
	r.t.Helper()
	conf, err := mtls.HTTPSClientConfig(mtls.HTTPSOptions{Host: "127.0.0.1", Fingerprint: r.Fingerprint()})
	if err != nil {
		r.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return r.dial(ctx) }}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.Now().Add(patience), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		<-tick.C
	}
}

// newProvider starts a real OpenID provider and gives the gateway's settings for it.
func newProvider(t *testing.T) oidc.ProviderConfig {
	t.Helper()
	ts := httptest.NewUnstartedServer(nil)
	provider, err := devidp.New(devidp.Config{Listener: ts.Listener, Logger: testenv.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ts.Config.Handler = provider
	ts.Start()
	t.Cleanup(ts.Close)
	cfg, err := provider.ClientConfig("corp", "culvert")
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// employee is somebody who has logged in: a certificate and its key.
type employee struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

func (e *employee) leaf(t *testing.T) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(e.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// login does what the real client does, up to the certificate.
func (r *running) login(account string) (*employee, error) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	client := &enroll.Client{BaseURL: r.URL(), HTTP: r.https()}
	d, err := client.Discover(ctx)
	if err != nil {
		return nil, err
	}
	if len(d.Providers) == 0 {
		return nil, errors.New("the gateway offers no provider")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	salt := enroll.NewSalt()
	token, err := idToken(ctx, d.Providers[0], enroll.Nonce(spki, salt), account)
	if err != nil {
		return nil, err
	}
	proof, err := enroll.NewDeviceProof(key, d.TrustDomain, spki)
	if err != nil {
		return nil, err
	}
	resp, err := client.Login(ctx, &enroll.LoginRequest{Provider: "corp", IDToken: token, Salt: salt, CSR: csr, DeviceProof: proof})
	if err != nil {
		return nil, err
	}
	return &employee{cert: tls.Certificate{Certificate: resp.Chain, PrivateKey: key}, roots: r.authority.Pool()}, nil
}

// idToken runs the code flow, with the callback where a desktop has it.
func idToken(ctx context.Context, settings oidc.ClientSettings, nonce, account string) (oidc.Secret, error) {
	provider, err := oidc.Discover(ctx, settings, oidc.Options{})
	if err != nil {
		return "", err
	}
	defer provider.CloseIdleConnections()
	query := make(chan string, 1)
	callback := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { query <- req.URL.RawQuery }))
	defer callback.Close()
	redirect, verifier := callback.URL+"/callback", oidc.NewCodeVerifier()
	authURL := provider.AuthCodeURL(oidc.AuthRequest{State: oidc.NewState(), Nonce: nonce, Verifier: verifier, RedirectURI: redirect})
	if err := devidp.Login(ctx, authURL, account, devidp.DefaultPassword); err != nil {
		return "", err
	}
	cb, err := oidc.ParseCallback(<-query)
	if err != nil {
		return "", err
	}
	tokens, err := provider.Exchange(ctx, cb.Code, verifier, redirect)
	return tokens.IDToken, err
}

// up opens the tunnel.
func (e *employee) up(ctx context.Context, r *running) (*tunnel.Session, error) {
	conf, err := mtls.ClientConfig(mtls.ClientOptions{
		Certificate: func() (*tls.Certificate, error) { return &e.cert, nil },
		Roots:       func() *x509.CertPool { return e.roots }, TrustDomain: "corp.example",
	})
	if err != nil {
		return nil, err
	}
	conn, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	return tunnel.Client(ctx, conn, conf, tunnel.ClientConfig{Hello: wire.Hello{Client: "test"}})
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
