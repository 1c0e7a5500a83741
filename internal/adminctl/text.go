package adminctl

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/culvert-vpn/culvert/tunnel/wire"
)

// A page is a report for lines of a width; 0 is any.
type page struct {
	strings.Builder
	width int
}

func (c *ctl) page() *page { return &page{width: c.Width()} }

// clean is wire.CleanText: what a gateway, a provider or a colleague wrote cannot move the terminal's cursor, nor begin a line of its
// own (threats.md, log injection).
func clean(s string) string { return wire.CleanText(s) }

// cleanOr is clean, or what stands for nothing.
func cleanOr(s, nothing string) string {
	if s = clean(s); s == "" {
		return nothing
	}
	return s
}

// cleanDocument is for text of many lines on a terminal: line breaks and tabs stay, every other unprintable character is shown as its
// code point, so that a reader sees that it is there.
func cleanDocument(s string) string {
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		if r != '\n' && r != '\t' && unprintable(r) {
			b.WriteString(codePoint(r))
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// unprintable are control characters, and those with which text can be made to look like other text.
func unprintable(r rune) bool {
	return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029'
}

func codePoint(r rune) string {
	const hex = "0123456789ABCDEF"
	digits := []byte("U+")
	for shift := 20; shift >= 0; shift -= 4 {
		if d := r >> shift; d != 0 || shift < 16 {
			digits = append(digits, hex[d&15])
		}
	}
	return "<" + string(digits) + ">"
}

// width counts characters, which is what a terminal shows for nearly everything that names people and services.
func width(s string) int { return utf8.RuneCountInString(s) }

// middle shortens s to limit characters by its middle: both ends of a name tell it apart.
func middle(s string, limit int) string {
	runes := []rune(s)
	if len(runes) <= limit || limit < 3 {
		return s
	}
	tail := (limit - 1) / 2
	return string(runes[:limit-1-tail]) + "…" + string(runes[len(runes)-tail:])
}

// wrap breaks s into lines of at most limit characters, at spaces where there are any. Without a limit above 0 it is one line.
func wrap(s string, limit int) []string {
	if limit <= 0 {
		return []string{strings.Join(strings.Fields(s), " ")}
	}
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		for width(word) > limit { // an address or a hash without a space
			if line != "" {
				lines, line = append(lines, line), ""
			}
			runes := []rune(word)
			lines, word = append(lines, string(runes[:limit])), string(runes[limit:])
		}
		switch {
		case line == "":
			line = word
		case width(line)+1+width(word) <= limit:
			line += " " + word
		default:
			lines, line = append(lines, line), word
		}
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}

// plural is "1 session", "2 sessions".
func plural[N ~int | ~int64 | ~uint64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	many := one + "s"
	if rest, ok := strings.CutSuffix(one, "y"); ok && !strings.HasSuffix(one, "ay") {
		many = rest + "ies"
	}
	return count(int64(n)) + " " + many
}

// count writes thousands apart: 10,000,000 is not 1,000,000 at 3 a.m.
func count(n int64) string {
	if n < 0 {
		return "-" + count(-n)
	}
	s := ""
	for ; n >= 1000; n /= 1000 {
		rest := n % 1000
		s = "," + string([]byte{byte('0' + rest/100), byte('0' + rest/10%10), byte('0' + rest%10)}) + s
	}
	digits := ""
	for ok := true; ok; ok = n > 0 {
		digits, n = string(rune('0'+n%10))+digits, n/10
	}
	return digits + s
}

// size is bytes in the unit that keeps it short.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return count(n) + " B"
	}
	return decimal(f) + " " + units[i]
}

// An indent puts two spaces in front of each line that is written whole.
type indent struct{ w io.Writer }

func indented(w io.Writer) indent { return indent{w} }

func (i indent) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, err := io.WriteString(i.w, gap+line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}
