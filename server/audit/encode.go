package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// maxField caps each text of a record, in bytes, maxGroups all groups of a person together and maxPosture how many
// facts about a device are kept. maxLine is what a whole line can then have: some 50 fields, each character escaped by
// at most 6 bytes.
const (
	maxField   = 1024
	maxGroups  = 16 << 10
	maxPosture = 32
	maxLine    = 1 << 20
)

// A body is a line, newline included, behind room for its number.
type body []byte

// room is what number and link of a line may need.
const room = 48

func (b body) line() []byte { return b[room:] }

// encode returns the record's line without a number. It cleans the record in place, but not what callers share
// between records: actor, subject and the facts of an administrator's call.
func encode(r *Record) (body, error) {
	seq, prev := r.Seq, r.Prev
	defer func() { r.Seq, r.Prev = seq, prev }()
	r.Seq, r.Prev = 0, ""
	r.own()
	for _, field := range r.texts() {
		*field = capText(*field)
	}
	for _, field := range r.free() {
		*field = scrub(*field)
	}
	b := bytes.NewBuffer(make([]byte, room, 768))
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return nil, fmt.Errorf("encode audit record: %w", err)
	}
	line := escape(b.Bytes())
	if len(line) > maxLine {
		return nil, fmt.Errorf("encode audit record: it has %d bytes, and %d is the most", len(line), maxLine)
	}
	return line, nil
}

// own copies what other records may share.
func (r *Record) own() {
	if r.Actor != nil {
		own := *r.Actor
		r.Actor = &own
	}
	if r.Admin != nil {
		own := *r.Admin
		r.Admin = &own
	}
	if r.Subject != nil {
		own := *r.Subject
		own.Groups = capList(own.Groups, maxGroups)
		own.AMR = capList(own.AMR, maxField)
		own.Posture = capMap(own.Posture)
		r.Subject = &own
	}
}

// free lists the texts that people and programs word freely, in which a secret could stand.
func (r *Record) free() []*string {
	list := []*string{&r.Reason, &r.Detail, &r.Client, &r.Target, &r.Condition}
	if a := r.Admin; a != nil {
		list = append(list, &a.Path, &a.Object, &a.Comment)
	}
	return list
}

// texts lists every text that comes from outside, in one place, so that none escapes the cap.
func (r *Record) texts() []*string {
	list := make([]*string, 0, 48)
	list = append(list,
		&r.Prev, (*string)(&r.Event), &r.Reference, &r.Stream, &r.Link, &r.Trace, &r.Client, (*string)(&r.Kind), &r.Target, &r.Service,
		&r.Address, &r.Rule, &r.Policy, (*string)(&r.Code), &r.Condition, &r.Reason, &r.Detail, &r.Checkpoint)
	if a := r.Actor; a != nil {
		list = append(list, (*string)(&a.User), &a.Provider, &a.Issuer, &a.Subject, &a.Name, &a.Email,
			(*string)(&a.Login), (*string)(&a.Session), (*string)(&a.Device), (*string)(&a.Serial), &a.Remote)
	}
	if s := r.Subject; s != nil {
		list = append(list, &s.Issuer, &s.Subject, (*string)(&s.Login), &s.ACR)
	}
	if a := r.Admin; a != nil {
		list = append(list, &a.Via, &a.Role, &a.Method, &a.Path, &a.Object, &a.Comment)
	}
	if rec := r.Recovery; rec != nil {
		list = append(list, &rec.Log)
	}
	if p := r.Process; p != nil {
		list = append(list, &p.Log, &p.Gateway, &p.Version, &p.Key)
	}
	for i := range r.Previous {
		list = append(list, &r.Previous[i].Log, &r.Previous[i].Root, &r.Previous[i].Fault)
	}
	for i := range r.Removed {
		list = append(list, &r.Removed[i].Log)
	}
	return list
}

// capList returns a copy of list in which no text is too long, and no more texts than max bytes hold.
func capList(list []string, max int) []string {
	var out []string
	for _, s := range list {
		s = capText(s)
		if max -= len(s); max < 0 {
			return append(out, "…")
		}
		out = append(out, s)
	}
	return out
}

// capMap returns a copy of m with at most maxPosture entries, none of them too long and none with a secret in it.
func capMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if len(out) >= maxPosture {
			out["…"] = ""
			break
		}
		out[scrub(capText(k))] = scrub(capText(m[k]))
	}
	return out
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
func escape(b body) body {
	text := b.line()[:len(b)-room-1] // without the newline that Encode adds
	if plain(text) || !bytes.ContainsFunc(text, hostile) {
		return b
	}
	out := make([]byte, room, len(b)+64)
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !hostile(r):
			out = append(out, text[:n]...)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return append(out, '\n')
}

// plain reports what nearly every line is: printable ASCII.
func plain(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
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
