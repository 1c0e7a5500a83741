package oidc

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// cleanText makes what a provider sent fit to be shown: control and formatting characters are escaped (a
// terminal would obey them), invalid UTF-8 too, and the length is cut at max bytes.
func cleanText(s string, max int) string {
	var b strings.Builder
	for i, r := range s {
		if b.Len() >= max {
			b.WriteString("…")
			break
		}
		invalid := false
		if r == utf8.RuneError {
			_, size := utf8.DecodeRuneInString(s[i:])
			invalid = size == 1
		}
		switch {
		case invalid:
			b.WriteString(`\x` + strconv.FormatUint(uint64(s[i])|0x100, 16)[1:])
		case unprintable(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unprintable is true for what changes a terminal or the reading direction, and for line breaks.
func unprintable(r rune) bool {
	return unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029'
}

// hasControl is true for text that must not become part of a URL, header or identity.
func hasControl(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable)
}
