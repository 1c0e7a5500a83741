package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/culvert-vpn/culvert/auth/ca"
	"github.com/culvert-vpn/culvert/internal/durable"
)

// maxPEM bounds a certificate chain or key file.
const maxPEM = 1 << 20

// A webCertificate is what the HTTPS side answers with; one for each TLS mode.
// All methods are safe for concurrent use.
type webCertificate interface {
	// get is for tls.Config.GetCertificate.
	get(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// leaf is the certificate that get returns, or nil while there is none.
	leaf() *x509.Certificate
	// protocols are ALPN names that this mode needs besides h2 and http/1.1.
	protocols() []string
	// reload reads files again. On an error the old certificate stays.
	reload() error
	// run keeps the certificate fresh until ctx ends.
	run(ctx context.Context)
}

// fileCertificate serves the pair of two PEM files.
type fileCertificate struct {
	log       *slog.Logger
	cert, key string
	current   atomic.Pointer[tls.Certificate]
}

func newFileCertificate(log *slog.Logger, cert, key, hostname string) (*fileCertificate, error) {
	c := &fileCertificate{log: log, cert: cert, key: key}
	if err := c.reload(); err != nil {
		return nil, err
	}
	if err := c.current.Load().Leaf.VerifyHostname(hostname); err != nil {
		log.Warn("the TLS certificate does not fit the hostname: clients will refuse it", "file", cert, "hostname", hostname, "error", err)
	}
	return c, nil
}

func (c *fileCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

func (c *fileCertificate) leaf() *x509.Certificate { return c.current.Load().Leaf }

func (c *fileCertificate) protocols() []string { return nil }

func (c *fileCertificate) run(ctx context.Context) { <-ctx.Done() }

func (c *fileCertificate) reload() error {
	pair, err := loadPair(c.cert, c.key)
	if err != nil {
		return err
	}
	c.current.Store(pair)
	c.log.Info("TLS certificate loaded", "file", c.cert, "subject", pair.Leaf.Subject.String(), "not_after", pair.Leaf.NotAfter)
	return nil
}

// loadPair reads a chain and its key, and refuses what no client would accept.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	chain, err := durable.ReadFile(certFile, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("read the TLS certificate: %w", err)
	}
	key, err := durable.ReadFile(keyFile, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("read the TLS key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("load the TLS certificate %s with the key %s: %w", certFile, keyFile, err)
	}
	if pair.Leaf == nil {
		return nil, fmt.Errorf("load the TLS certificate %s: it holds no certificate", certFile)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("load the TLS certificate %s: it expired at %s; renew it", certFile, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &pair, nil
}

// publicTLS is the configuration of the HTTPS side: TLS 1.2 for browsers that
// fetch a status page behind old proxies, no client certificates.
func publicTLS(cert webCertificate) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     append([]string{"h2", "http/1.1"}, cert.protocols()...),
		GetCertificate: cert.get,
	}
}

// rootsFromFile reads a PEM bundle; an empty one is an error, never the
// system's roots.
func rootsFromFile(path string) (*x509.CertPool, error) {
	data, err := durable.ReadFile(path, maxPEM)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, errors.New(path + " holds no PEM certificate")
	}
	return pool, nil
}

// selfCertificate serves what the gateway's own HTTPS authority issues. That
// authority is another key than the CA of the tunnel.
type selfCertificate struct {
	authority *ca.HTTPS
}

func newSelfCertificate(cfg *Config) (*selfCertificate, error) {
	authority, err := ca.SelfIssuedHTTPS(httpsDir(cfg), selfNames(cfg))
	if err != nil {
		return nil, fmt.Errorf("self-issued HTTPS certificate: %w", err)
	}
	return &selfCertificate{authority}, nil
}

// httpsDir is the folder of the HTTPS authority.
func httpsDir(cfg *Config) string { return filepath.Join(cfg.StateDir, "https") }

// selfNames are the hostname, the name in public_url and tls.names, each once.
func selfNames(cfg *Config) []string {
	names := append([]string{cfg.Hostname}, cfg.TLS.Names...)
	if u, err := url.Parse(cfg.PublicURL); err == nil && u.Hostname() != "" {
		names = append(names, u.Hostname())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *selfCertificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.authority.GetCertificate(hello)
}

func (c *selfCertificate) leaf() *x509.Certificate {
	cert, err := c.authority.Certificate()
	if err != nil {
		return nil
	}
	return cert.Leaf
}

func (c *selfCertificate) protocols() []string { return nil }

func (c *selfCertificate) reload() error { return nil }

func (c *selfCertificate) run(ctx context.Context) { <-ctx.Done() }

// certificateOK reports whether a client would get a certificate that is valid
// now.
func (s *Server) certificateOK() bool {
	leaf, now := s.cert.leaf(), s.now()
	return leaf != nil && !now.Before(leaf.NotBefore) && now.Before(leaf.NotAfter)
}
