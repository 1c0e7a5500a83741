// Package plaintext makes what strangers wrote fit to be shown to people: one
// line, without anything that moves a terminal's cursor. It does not escape for
// HTML or a shell, and it gives the words no meaning.
package plaintext

import (
	"strings"
	"unicode"
)

// Line returns s as valid UTF-8 with a space for each character that does not
// print; a line break is one.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// Clip is Line, cut to limit bytes at the start of a character; an ellipsis
// behind them marks the cut.
func Clip(s string, limit int) string {
	s = Line(s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
