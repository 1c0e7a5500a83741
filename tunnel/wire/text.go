package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of text, in bytes.
const (
	MaxName  = 128  // names of services, codes, references, versions
	MaxHost  = 255  // host names and IP literals
	MaxText  = 1024 // reasons, remedies and descriptions, for people
	MaxBlob  = 32 << 10
	MaxBlobs = 16
	MaxList  = 256 // host names, networks, ports, tags of a service; posture entries
)

// checkToken checks text that programs compare: not empty, no space, nothing unprintable.
func checkToken(what, s string, limit int) error {
	if s == "" {
		return malformed("empty %s", what)
	}
	return checkOptionalToken(what, s, limit)
}

func checkOptionalToken(what, s string, limit int) error {
	if len(s) > limit {
		return malformed("%s of %d bytes, at most %d are allowed", what, len(s), limit)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return unprintable(r) || unicode.IsSpace(r) }) {
		return malformed("%s %q has a character that is not allowed", what, s)
	}
	return checkUTF8(what, s)
}

// checkText checks text for people: a peer cleans what it sends, so control characters here
// are an attempt on somebody's terminal or log (Go CVE-2025-58189).
func checkText(what, s string) error {
	if len(s) > MaxText {
		return malformed("%s of %d bytes, at most %d are allowed", what, len(s), MaxText)
	}
	if strings.ContainsFunc(s, unprintable) {
		return malformed("%s %q has a control character", what, s)
	}
	return checkUTF8(what, s)
}

func checkUTF8(what, s string) error {
	if !utf8.ValidString(s) {
		return malformed("%s is not UTF-8", what)
	}
	return nil
}

// unprintable reports control characters, and the format characters with which text can be
// made to look like other text (bidirectional overrides and the like).
func unprintable(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

// CleanText returns s as text for people may travel: valid UTF-8, at most MaxText bytes, each
// run of control characters a single space.
func CleanText(s string) string { return clean(s, MaxText) }

// clean is the identity, without an allocation, on text that is clean already.
func clean(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	space := false
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if unprintable(r) {
			space = b.Len() > 0
			continue
		}
		if space && r != ' ' {
			b.WriteByte(' ')
		}
		space = false
		b.WriteRune(r)
		if b.Len() > limit {
			break
		}
	}
	return cut(b.String(), limit)
}

// cut shortens s to limit bytes at the start of a character and marks the cut.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	n := limit - len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
