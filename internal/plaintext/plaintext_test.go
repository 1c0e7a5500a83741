package plaintext

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestClip(t *testing.T) {
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"ada@corp.example", 64, "ada@corp.example"},
		{"two\nlines\tand \x1b[2J", 64, "two lines and  [2J"},
		{"left\u202eright", 64, "left right"},
		{"no \xff UTF-8", 64, "no  UTF-8"},
		{"Grüße", 3, "Gr…"}, // the cut would be inside of ü
		{"", 0, ""},
	} {
		if got := Clip(c.text, c.limit); got != c.want {
			t.Errorf("Clip(%q, %d) = %q, want %q", c.text, c.limit, got, c.want)
		}
	}
}

func FuzzClip(f *testing.F) {
	f.Add("Grüße\x00\xff\u2028", 3)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit &= 0xff
		got := Clip(text, limit)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Clip(%q, %d) = %q", text, limit, got)
		}
		if len(got) > limit+len("…") {
			t.Errorf("Clip(%q, %d) has %d bytes", text, limit, len(got))
		}
	})
}
