package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxField caps each text of a record, in bytes; maxLine is what a whole line can then have: some 30
// fields, each character escaped by at most 6 bytes.
const (
	maxField = 1024
	maxLine  = 256 << 10
)

// encode returns the record's line, newline included. It cleans the record in place, but not the actor,
// which callers share between records.
func encode(r *Record) ([]byte, error) {
	if r.Actor != nil {
		own := *r.Actor
		r.Actor = &own
	}
	for _, field := range r.texts() {
		*field = capText(*field)
	}
	r.Reason, r.Detail, r.Client = scrub(r.Reason), scrub(r.Detail), scrub(r.Client)
	r.Target, r.Condition = scrub(r.Target), scrub(r.Condition)
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	return escape(b.Bytes()), nil
}

// texts lists every text that comes from outside, in one place, so that none escapes the cap.
func (r *Record) texts() []*string {
	list := []*string{
		(*string)(&r.Event), &r.Reference, &r.Stream, &r.Trace, &r.Client, (*string)(&r.Kind), &r.Target, &r.Service,
		&r.Address, &r.Rule, &r.Policy, (*string)(&r.Code), &r.Condition, &r.Reason, &r.Detail,
	}
	if a := r.Actor; a != nil {
		list = append(list, (*string)(&a.User), &a.Provider, &a.Issuer, &a.Subject, &a.Name, &a.Email,
			(*string)(&a.Login), (*string)(&a.Session), (*string)(&a.Device), (*string)(&a.Serial), &a.Remote)
	}
	if rec := r.Recovery; rec != nil {
		list = append(list, &rec.Log)
	}
	if p := r.Process; p != nil {
		list = append(list, &p.Log, &p.Gateway, &p.Version)
	}
	return list
}

func capText(s string) string {
	if len(s) <= maxField {
		return s
	}
	n := maxField
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// escape writes what is not a plain character as \uXXXX. In JSON such characters stand only inside
// strings, so the line means the same; printed to a terminal it is inert (Go CVE-2025-58189).
func escape(line []byte) []byte {
	body := line[:len(line)-1] // without the newline that Encode adds
	if !bytes.ContainsFunc(body, hostile) {
		return line
	}
	out := make([]byte, 0, len(line)+64)
	for len(body) > 0 {
		r, n := utf8.DecodeRune(body)
		switch {
		case !hostile(r):
			out = append(out, body[:n]...)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		body = body[n:]
	}
	return append(out, '\n')
}

// hostile reports control characters, invisible format characters such as bidirectional overrides, line
// separators, and what is not assigned.
func hostile(r rune) bool {
	return r != ' ' && !unicode.IsGraphic(r) || r == '\u2028' || r == '\u2029' || r == utf8.RuneError
}

// secrets matches what must never reach a log: compact JWTs (RFC 7515, 3.1), PEM private keys, and the
// values of parameters that carry codes and tokens (RFC 6749).
func secretPattern() *regexp.Regexp {
	return regexp.MustCompile(`eyJ[A-Za-z0-9_-]{4,}(\.[A-Za-z0-9_-]*){1,4}` +
		`|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*` +
		`|(?i:\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,})` +
		`|(?i:\b(code|code_verifier|id_token|access_token|refresh_token|token|client_secret|client_assertion|password|device_code)["']?\s*[=:]\s*["']?[^\s&"',;}]+)` +
		`|://[^/\s@]*:[^/\s@]*@`)
}

var secrets = secretPattern()

// scrub cuts secrets out of free text. It is the last line of defence: nothing that appends records has
// a reason to put one there.
func scrub(s string) string {
	if len(s) < 8 || !strings.ContainsAny(s, "=:.- ") {
		return s
	}
	return secrets.ReplaceAllString(s, "[removed]")
}
