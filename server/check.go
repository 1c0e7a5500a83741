package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/mtls"
	"github.com/culvert-vpn/culvert/server/policy"
)

// CheckFiles reports everything that is wrong with the files that a valid
// configuration names. It changes nothing and takes no port.
func CheckFiles(cfg *Config) error {
	_, caErr := loadAuthority(cfg)
	data, policyErr := readOwned(cfg.Policy.File, policy.MaxFileSize)
	if policyErr == nil {
		_, policyErr = policy.Load(cfg.Policy.File, data, cfg.PolicyOptions())
	} else {
		policyErr = fmt.Errorf("read the policy (policy.file): %w", policyErr)
	}
	var certErr error
	if cfg.TLS.Mode == "files" {
		certErr = checkPair(cfg)
	}
	if cfg.TLS.Mode == "acme" && cfg.TLS.ACME.RootCA != "" {
		_, certErr = rootsFromFile(cfg.TLS.ACME.RootCA)
	}
	return errors.Join(caErr, policyErr, certErr)
}

// checkPair is stricter than the start, which only warns: a name that does not fit
// is no reason to stop a gateway that people are connected to.
func checkPair(cfg *Config) error {
	pair, err := loadPair(cfg.TLS.Certificate, cfg.TLS.Key)
	if err != nil {
		return err
	}
	if err := pair.Leaf.VerifyHostname(cfg.Hostname); err != nil {
		return fmt.Errorf("the TLS certificate %s does not fit the hostname, so clients will refuse it: %w", cfg.TLS.Certificate, err)
	}
	return nil
}

// HTTPSFingerprint returns the fingerprint of the HTTPS authority of TLS mode
// "self", or "" when there is none yet: "init" and the first start make it.
func HTTPSFingerprint(cfg *Config) (auth.Fingerprint, error) {
	if _, err := os.Lstat(filepath.Join(httpsDir(cfg), "https-ca.crt")); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	cert, err := newSelfCertificate(cfg)
	if err != nil {
		return "", explain(err, cfg.StateDir)
	}
	return cert.authority.Fingerprint(), nil
}

// LoginURL is what people type after "culvert login", as far as the
// configuration tells: a port 0 is known only once the gateway listens.
func (c *Config) LoginURL() string {
	_, port, err := splitListen(c.Listen)
	if err != nil {
		return c.publicURL(443)
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		number = 443
	}
	return c.publicURL(number)
}

// ErrUnreachable says that no gateway answers.
var ErrUnreachable = errors.New("no gateway answers")

// askTimeout bounds the whole question of AskReady.
const askTimeout = 5 * time.Second

// AskReady asks the gateway that runs on the configuration's state folder for
// its readiness: over the metrics listener, or over its one port where there is
// none. The error wraps ErrUnreachable when nobody answers.
func AskReady(ctx context.Context, cfg *Config) (Readiness, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := ReadRunInfo(cfg.StateDir)
	if err != nil {
		return Readiness{}, fmt.Errorf("%w: none runs on the state folder %s", ErrUnreachable, cfg.StateDir)
	}
	if info.Metrics != "" {
		return askReady(ctx, http.DefaultTransport.(*http.Transport).Clone(), "http://"+info.Metrics+"/readyz")
	}
	config, err := askTLS(cfg)
	if err != nil {
		return Readiness{}, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", localAddress(info.Listen))
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: config, ForceAttemptHTTP2: true}
	return askReady(ctx, transport, "https://"+bracketed(cfg.Hostname)+"/readyz")
}

// askTLS verifies the gateway as its clients do.
func askTLS(cfg *Config) (*tls.Config, error) {
	if cfg.TLS.Mode != "self" {
		return mtls.HTTPSClientConfig(mtls.HTTPSOptions{})
	}
	fingerprint, err := HTTPSFingerprint(cfg)
	if err != nil {
		return nil, err
	}
	return mtls.HTTPSClientConfig(mtls.HTTPSOptions{Host: cfg.Hostname, Fingerprint: fingerprint})
}

// localAddress turns an address that is listened on into one to dial.
func localAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func askReady(ctx context.Context, transport *http.Transport, url string) (Readiness, error) {
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Readiness{}, err
	}
	transport.Proxy = nil // this machine, whatever the environment says
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Readiness{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close()
	var r Readiness
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&r); err != nil {
		return Readiness{}, fmt.Errorf("%s answered %s, and not as a gateway does: %w", url, resp.Status, err)
	}
	return r, nil
}
