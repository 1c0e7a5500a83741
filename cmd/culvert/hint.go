package main

import (
	"crypto/x509"
	"errors"
	"os"
	"syscall"

	"github.com/culvert-vpn/culvert/internal/neterr"
)

// noGatewayBehind is for a balancer that takes connections whether or not it can pass them on.
const noGatewayBehind = "it may be a load balancer with no gateway behind it: try again in a moment, and ask whether the gateway is up"

// networkHint knows the usual trouble on the way to a gateway.
func networkHint(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		return "a private gateway needs --ca-fingerprint or --ca-file; otherwise something in between may be opening TLS"
	case errors.As(err, &host):
		return "use the name that the gateway's certificate carries"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "check this computer's clock and the gateway's certificate"
	case plainHTTP(err):
		return "check the port: a gateway speaks HTTPS; this may be its port for metrics, or another server"
	case hungUp(err):
		return noGatewayBehind
	case unreachable(err) && os.Getenv("HTTPS_PROXY") == "" && os.Getenv("https_proxy") == "":
		return "check the address and the network; if this network needs a proxy, set HTTPS_PROXY"
	case unreachable(err):
		return "check the address, HTTPS_PROXY and NO_PROXY"
	case neterr.Is(err, syscall.EADDRINUSE):
		return "stop that program, or choose another port"
	default:
		return ""
	}
}
