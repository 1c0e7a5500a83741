package policy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

const maxHostLen = 253 // RFC 1035, 2.3.4, without the trailing dot

// hostProfile is UTS 46 for lookups, strict: letters, digits and hyphens, bidi rule, lengths.
var hostProfile = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))

// canonicalHost returns the one spelling of a host name: ASCII (RFC 5890 A-labels), lower case, no
// trailing dot. Names whose last label is a number are refused, as some resolvers read them as an IPv4
// address in an odd spelling (WHATWG URL, "ends in a number"); so are addresses themselves.
func canonicalHost(s string) (string, error) {
	switch {
	case s == "":
		return "", errors.New("it is empty")
	case len(s) > 4*maxHostLen:
		return "", errors.New("it is too long")
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unsafeRune):
		return "", errors.New("it has a character that no name has")
	}
	name, err := hostProfile.ToASCII(strings.TrimSuffix(s, "."))
	if err != nil {
		return "", errors.New("it is not spelled as a name can be")
	}
	if strings.HasSuffix(name, ".") || name == "" || len(name) > maxHostLen {
		return "", errors.New("it is not spelled as a name can be")
	}
	if _, err := netip.ParseAddr(name); err == nil || endsInNumber(name) {
		return "", errors.New("it looks like an address, in a spelling that is not accepted")
	}
	return name, nil
}

// endsInNumber reports a last label of digits, or of 0x and hexadecimal digits.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if digits, hex := strings.CutPrefix(last, "0x"); hex {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// unsafeRune reports control characters, spaces, and format characters such as bidirectional overrides.
func unsafeRune(r rune) bool {
	return unicode.IsSpace(r) || unprintable(r)
}

func unprintable(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// clean makes a text fit for a line: what is not printable is escaped.
func clean(s string) string {
	if strings.ContainsFunc(s, unprintable) {
		return strconv.QuoteToGraphic(s)
	}
	return s
}
