package login

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/culvert-vpn/culvert/internal/plaintext"
)

const maxURL = 8 << 10

// CheckURL accepts what may be handed to the system's opener: https, or http to this machine's own loopback
// address. Openers start programs for file:, UNC and other addresses, so a gateway or provider that could choose
// one would run code here (as in CVE-2022-41924).
func CheckURL(address string) error {
	if len(address) > maxURL {
		return fmt.Errorf("the address is longer than %d bytes", maxURL)
	}
	if strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' || r == '"' }) {
		return fmt.Errorf("the address has characters that do not belong there: %s", clean(address))
	}
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return errors.New("the address is not a URL")
	case u.Hostname() == "" || u.User != nil || u.Opaque != "":
		return fmt.Errorf("the address has no plain host: %s", clean(address))
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("the address is not https: %s", clean(address))
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// checkIssuerPlace refuses a provider on this machine unless the gateway is here too: a gateway elsewhere has no
// business sending requests to our loopback address.
func checkIssuerPlace(gateway, issuer string) error {
	g, errG := url.Parse(gateway)
	i, errI := url.Parse(issuer)
	if err := errors.Join(errG, errI); err != nil {
		return err
	}
	if isLoopback(i.Hostname()) && !isLoopback(g.Hostname()) {
		return fmt.Errorf("the gateway %s names a provider on this machine, %s; that is refused", g.Host, clean(issuer))
	}
	return nil
}

// clean makes a text from elsewhere fit for a terminal.
func clean(text string) string { return plaintext.Clip(text, 1000) }
