package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/culvert-vpn/culvert/auth/enroll"
	"github.com/culvert-vpn/culvert/auth/oidc"
	"github.com/culvert-vpn/culvert/client/status"
	"github.com/culvert-vpn/culvert/internal/neterr"
	"github.com/culvert-vpn/culvert/tunnel"
	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// explain turns the end of a connection, or an attempt's failure, into the state
// to show: the reason in words, and what the person can do.
func (c *Client) explain(login *Login, err error) verdict {
	var termination *wire.Termination
	if errors.As(err, &termination) {
		return c.terminated(login, termination)
	}
	v := verdict{state: status.Reconnecting, reason: plain(err), next: nextBackoff}
	var (
		intercepted *InterceptionError
		viaProxy    *ProxyError
	)
	switch {
	case err == nil:
		v.reason = "the connection was closed"
	case errors.As(err, &intercepted):
		v.reason, v.remedy = intercepted.Error(), intercepted.remedy(c.cfg.Now())
		v.warning = &status.Warning{Code: status.WarnIntercepted, Text: v.reason, Remedy: v.remedy}
	case errors.As(err, &viaProxy):
		v.remedy = proxyRemedy(viaProxy)
		v.warning = &status.Warning{Code: status.WarnProxy, Text: v.reason, Remedy: v.remedy}
	case rejectedCertificate(err):
		v.reason = "the gateway did not accept the certificate"
		if !c.reject(login) {
			v.state, v.remedy, v.next = status.Terminated, "run `culvert login`", nextRest
		}
	case hungUp(err):
		v.remedy = "it may be a load balancer with no gateway behind it: ask whether the gateway is up"
	case isTimeout(err) && !c.proxied(login):
		v.remedy = "if this network needs a proxy, set HTTPS_PROXY; else ask whether the gateway is up"
	}
	return v
}

// terminated is explain for a gateway that said why it ended the session.
func (c *Client) terminated(login *Login, t *wire.Termination) verdict {
	v := verdict{state: status.Terminated, reason: t.Reason, reference: t.Reference, next: nextRest}
	switch t.Code {
	case wire.TerminateExpired:
		// The next round renews first, and ends there if that cannot be.
		v.reason = orElse(t.Reason, "the certificate has expired")
		if v.state, v.next = status.Expired, nextRest; c.reject(login) {
			v.state, v.next = status.Reconnecting, nextNow
		}
	case wire.TerminateRenewalRefused:
		v.state, v.next = status.Expired, nextLogin
	case wire.TerminateLocked:
		v.state, v.remedy = status.Locked, "ask your administrator; the reference finds the entry"
	case wire.TerminateIdentity:
		v.remedy = "run `culvert login`"
	case wire.TerminateVersion:
		v.reason = orElse(t.Reason, fmt.Sprintf("the gateway does not speak protocol version %d", wire.ProtocolVersion))
		v.remedy = "upgrade the older one of client and gateway"
	case wire.TerminateReplaced:
		// It was idle and gave way; coming back at once would push out the next one.
		v.next, v.reason = nextDemand, orElse(t.Reason, "a newer connection of the same session took this one's place")
		v.remedy = "nothing to do: the next stream connects again"
	default: // shutdown, idle, limit, protocol, unavailable, and what a newer gateway may add
		v.state, v.next = status.Reconnecting, nextBackoff
		v.reason = orElse(t.Reason, "the gateway ended the connection ("+string(t.Code)+")")
	}
	return v
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// InterceptionError says that what answered is not a gateway of the pinned
// authority: something between the two ends opens TLS, or the address is
// somebody else's.
type InterceptionError struct {
	Address string
	Issuer  string // of the certificate that came; empty when none did
	Invalid *x509.CertificateInvalidError
	Err     error
}

func (e *InterceptionError) Error() string {
	switch {
	case e.Invalid != nil && e.Invalid.Reason == x509.Expired:
		return "the gateway's certificate is not valid by this computer's clock"
	case e.Issuer == "":
		return fmt.Sprintf("what answers at %s is no Culvert gateway: %s", e.Address, plain(e.Err))
	default:
		return fmt.Sprintf("the certificate at %s was issued by %q, not by the gateway's own authority", e.Address, e.Issuer)
	}
}

func (e *InterceptionError) Unwrap() error { return e.Err }

func (e *InterceptionError) remedy(now time.Time) string {
	if e.Invalid != nil && e.Invalid.Reason == x509.Expired {
		leaf := e.Invalid.Cert
		return fmt.Sprintf("check the clock: it says %s, and the certificate holds from %s to %s", stamp(now), stamp(leaf.NotBefore), stamp(leaf.NotAfter))
	}
	return "a proxy or virus scanner may be opening TLS: have it pass this address through untouched; " +
		"if the gateway was installed anew, run `culvert login` again"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// proxied reports whether an outbound proxy is on the way.
func (c *Client) proxied(login *Login) bool { return c.via != nil && c.via(login.Tunnel) != "" }

func proxyRemedy(e *ProxyError) string {
	switch {
	case e.Status == 407:
		return "put them into HTTPS_PROXY=http://USER:PASSWORD@" + e.Proxy
	case e.Status != 0:
		return "ask for this address to be let through, or name it in NO_PROXY if it can be reached directly"
	default:
		return "check HTTPS_PROXY, or name the gateway in NO_PROXY if it can be reached directly"
	}
}

// rejectedCertificate recognises the TLS alerts with which a gateway refuses a
// client's certificate (RFC 8446 section 6.2). crypto/tls has no type for them.
func rejectedCertificate(err error) bool {
	text := err.Error()
	if !strings.Contains(text, "remote error: tls:") {
		return false
	}
	for _, alert := range []string{"expired certificate", "bad certificate", "unknown certificate", "certificate required"} {
		if strings.Contains(text, alert) {
			return true
		}
	}
	return false
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// hungUp reports that whoever took a connection closed it in the TLS handshake without a word.
func hungUp(err error) bool {
	return errors.Is(err, tunnel.ErrHandshake) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF))
}

// Reason says in words what went wrong, without the layers that wrapped it.
func Reason(err error) string { return plain(err) }

func plain(err error) string {
	var dns *net.DNSError
	var problem *enroll.Problem
	var alert tls.AlertError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &problem):
		return problem.Error()
	case errors.As(err, &dns):
		return fmt.Sprintf("the name %s cannot be resolved", dns.Name)
	case errors.Is(err, oidc.ErrUnavailable):
		return "the login provider does not answer: " + wire.CleanText(err.Error())
	case neterr.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case neterr.Is(err, syscall.ENETUNREACH, syscall.EHOSTUNREACH):
		return "no network"
	case neterr.Is(err, syscall.ECONNRESET):
		return "connection reset"
	case errors.Is(err, os.ErrDeadlineExceeded), isTimeout(err):
		return "no answer"
	case hungUp(err):
		return "the connection was closed during the handshake"
	case errors.As(err, &alert):
		return alert.Error()
	default:
		return wire.CleanText(err.Error())
	}
}
