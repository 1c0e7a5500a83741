package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/culvert-vpn/culvert/internal/durable"
)

// acmeALPN is the protocol of the TLS-ALPN-01 challenge (RFC 8737 section 3).
const acmeALPN = "acme-tls/1"

// acmeCertificate obtains and renews the HTTPS certificate from an ACME
// authority. Account, keys and certificates lie in the state folder.
type acmeCertificate struct {
	hostname string
	log      *slog.Logger
	magic    *certmagic.Config
	cache    *certmagic.Cache
	stopOnce sync.Once
}

// newACMECertificate prepares; run obtains. listen is the address that the
// gateway really listens on: certmagic sees that it is taken, and leaves the
// challenges to us.
func newACMECertificate(log *slog.Logger, cfg *Config, listen net.Addr) (*acmeCertificate, error) {
	dir := filepath.Join(cfg.StateDir, "acme")
	if err := durable.MkdirPrivate(dir); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(listen.String())
	if err != nil {
		return nil, fmt.Errorf("listening address %s: %w", listen, err)
	}
	alpnPort, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("listening address %s: %w", listen, err)
	}
	zlog := zap.New(&slogCore{log: log.With("component", "acme")})
	c := &acmeCertificate{hostname: cfg.Hostname, log: log}
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return c.magic, nil },
		Logger:           zlog,
	})
	c.magic = certmagic.New(c.cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: dir}, Logger: zlog})
	issuer := certmagic.ACMEIssuer{
		CA: cfg.TLS.ACME.Directory, Email: cfg.TLS.ACME.Email, Agreed: cfg.TLS.ACME.AgreeTerms,
		DisableHTTPChallenge: true, ListenHost: host, AltTLSALPNPort: alpnPort, Logger: zlog,
	}
	if cfg.TLS.ACME.Directory != LetsEncrypt {
		issuer.TestCA = cfg.TLS.ACME.Directory // never somebody else's staging server
	}
	if cfg.TLS.ACME.RootCA != "" {
		if issuer.TrustedRoots, err = rootsFromFile(cfg.TLS.ACME.RootCA); err != nil {
			c.stop()
			return nil, fmt.Errorf("tls.acme.root_ca: %w", err)
		}
	}
	c.magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(c.magic, issuer)}
	return c, nil
}

func (c *acmeCertificate) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.magic.GetCertificate(hello)
}

func (c *acmeCertificate) leaf() *x509.Certificate {
	if certs := c.cache.AllMatchingCertificates(c.hostname); len(certs) > 0 {
		return certs[0].Leaf
	}
	return nil
}

func (c *acmeCertificate) protocols() []string { return []string{acmeALPN} }

func (c *acmeCertificate) reload() error { return nil }

// run obtains the certificate in the background, again and again until it is
// there, and renews it: a gateway whose authority is away still carries tunnels.
func (c *acmeCertificate) run(ctx context.Context) {
	if err := c.magic.ManageAsync(ctx, []string{c.hostname}); err != nil {
		c.log.Error("ACME cannot manage the HTTPS certificate", "hostname", c.hostname, "error", err)
	}
	<-ctx.Done()
}

// stop ends the renewals; the certificate is served on.
func (c *acmeCertificate) stop() { c.stopOnce.Do(c.cache.Stop) }

// slogCore lets certmagic, which logs with zap, write to our log.
type slogCore struct {
	log *slog.Logger
}

func slogLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.Core.
func (c *slogCore) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), slogLevel(l))
}

// With implements zapcore.Core.
func (c *slogCore) With(fields []zapcore.Field) zapcore.Core {
	return &slogCore{c.log.With(slogArgs(fields)...)}
}

// Check implements zapcore.Core.
func (c *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements zapcore.Core.
func (c *slogCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.log.Log(context.Background(), slogLevel(e.Level), e.Message, slogArgs(fields)...)
	return nil
}

// Sync implements zapcore.Core.
func (c *slogCore) Sync() error { return nil }

func slogArgs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	var args []any
	for key, value := range enc.Fields {
		args = append(args, slog.Any(key, value))
	}
	return args
}
