package client

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"

	"github.com/culvert-vpn/culvert/auth"
	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/mtls"
)

// Trust says how the gateway's HTTPS certificate is verified. The zero value
// trusts the system's roots. It says nothing about the tunnel, whose roots come
// with the enrolment.
type Trust struct {
	// Fingerprint is that of an authority in the served chain ("sha256:HEX").
	Fingerprint auth.Fingerprint
	// Roots is PEM. Nil means none; anything else without a certificate is an
	// error, and never the system's roots.
	Roots []byte
}

// gateway returns the enrolment client for the gateway at address. done lets go
// of its connections.
func (cfg Config) gateway(address string, trust Trust) (client *enroll.Client, done func(), err error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, nil, fmt.Errorf("the gateway's URL: %w", err)
	}
	options := mtls.HTTPSOptions{Host: u.Hostname(), Fingerprint: trust.Fingerprint, Now: cfg.Now}
	if trust.Roots != nil {
		options.Roots = x509.NewCertPool()
		if !options.Roots.AppendCertsFromPEM(trust.Roots) {
			return nil, nil, errors.New("the file of authorities holds no PEM certificate")
		}
	}
	conf, err := mtls.HTTPSClientConfig(options)
	if err != nil {
		return nil, nil, err
	}
	httpClient := enroll.NewHTTPClient(conf)
	if transport, ok := httpClient.Transport.(*http.Transport); ok {
		transport.Proxy = func(r *http.Request) (*url.URL, error) { return cfg.Proxy(r.URL) }
		transport.DialContext = cfg.Dial
	}
	return &enroll.Client{BaseURL: address, HTTP: httpClient, UserAgent: "culvert/" + cfg.Version}, httpClient.CloseIdleConnections, nil
}

func (cfg Config) clientInfo() enroll.ClientInfo {
	return enroll.ClientInfo{Version: cfg.Version, OS: runtime.GOOS, Arch: runtime.GOARCH}
}
