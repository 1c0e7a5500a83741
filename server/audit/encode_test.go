package audit

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/culvert-vpn/culvert/auth"
)

// lineOf is the line of a record, with its number.
func lineOf(r *Record) ([]byte, error) {
	b, err := encode(r)
	if err != nil {
		return nil, err
	}
	return number(b, max(r.Seq, 1), "AAAAAAAAAAAA"), nil
}

// fill puts text into every string of v, whatever its type, one element into each list, and returns how many strings
// there are outside of lists of strings and maps, which are capped as a whole.
func fill(v reflect.Value, text string) int {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
		return 1
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fill(v.Elem(), text)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		if n := fill(v.Index(0), text); v.Type().Elem().Kind() == reflect.Struct {
			return n
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{text: text}))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			return 0
		}
		n := 0
		for i := range v.NumField() {
			n += fill(v.Field(i), text)
		}
		return n
	}
	return 0
}

// Class: log injection (Go CVE-2025-58189): CR, LF, ESC and direction marks in any field.
func TestThreatLogInjection(t *testing.T) {
	hostile := "a\r\n{\"seq\":99}\n\x1b[2J\x00\x7f\u0085\u202e\u2066\u200b\u2028\u2029\ufeff\U000e0041\xff\xfe b \U0001f600 ü"
	var r Record
	if n := fill(reflect.ValueOf(&r).Elem(), hostile); n != len(r.texts()) {
		t.Fatalf("a record has %d texts, and %d of them are capped", n, len(r.texts()))
	}
	line, err := lineOf(&r)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(line, []byte{'\n'}) != 1 || line[len(line)-1] != '\n' || bytes.ContainsFunc(line[:len(line)-1], hostileRune) {
		t.Errorf("%q", line)
	}
	var back Record
	if err := json.Unmarshal(line, &back); err != nil {
		t.Fatal(err)
	}
	want := strings.ToValidUTF8(hostile, "\ufffd\ufffd")
	if back.Service != want || back.Actor.Name != want || back.Admin.Comment != want || back.Subject.Groups[0] != want || back.Subject.Posture[want] != want || !strings.Contains(string(line), "😀 ü") {
		t.Errorf("%q\nwant %q", back.Service, want)
	}
}

// hostileRune is what no terminal and no line reader may see, written independently of the code.
func hostileRune(r rune) bool {
	return r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x206f ||
		r == 0xfeff || r == utf8.RuneError || r >= 0xe0000
}

func TestLengthsAreCapped(t *testing.T) {
	var r Record
	fill(reflect.ValueOf(&r).Elem(), strings.Repeat("\u0001", 100<<10))
	line, err := lineOf(&r)
	if err != nil || len(line) > maxLine {
		t.Errorf("%d bytes, %v", len(line), err)
	}
	r = Record{Reason: strings.Repeat("ü", maxField)}
	if _, err := encode(&r); err != nil || len(r.Reason) > maxField+len("…") || !utf8.ValidString(r.Reason) {
		t.Errorf("%d bytes, %v", len(r.Reason), err)
	}
}

// Class: secrets leak (Boundary CVE-2023-0690): a canary appears in no record, whatever carries it.
func TestThreatSecretsAreCutOut(t *testing.T) {
	const canary = "CANARY7f3a"
	jwt := "eyJhbGciOiJSUzI1NiJ9." + canary + "PAYLOAD." + canary + "SIG"
	carriers := []string{
		"verify id token " + jwt + ": expired",
		"Authorization: Bearer " + canary + "abcdef",
		"authorization: basic " + canary + "abcdef==",
		"GET /callback?state=x&code=" + canary + "&iss=y",
		"post form: grant_type=refresh_token&refresh_token=" + canary,
		`{"access_token":"` + canary + `","id_token": "` + canary + `"}`,
		"client_secret=" + canary, "password: " + canary, "device_code=" + canary, "code_verifier=" + canary,
		"-----BEGIN EC PRIVATE KEY-----\n" + canary + "\n-----END EC PRIVATE KEY-----",
		"-----BEGIN PRIVATE KEY----- " + canary,
		"dial postgres://culvert:" + canary + "@db.internal/culvert: refused",
	}
	dir := filepath.Join(t.TempDir(), "audit")
	l := open(t, Config{Dir: dir})
	for _, text := range carriers {
		mustAppend(t, l, Record{Event: EventConfigLoaded, Reason: text, Detail: text, Client: text, Target: text, Condition: text})
	}
	mustAppend(t, l, Record{Event: EventConfigLoaded, Reason: "ordinary: code denied, rule=staff, token bucket, 10.0.0.1:443"})
	l.Close()
	paths, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(data), "\n") {
			if strings.Contains(line, canary) {
				t.Errorf("%s", line)
			}
		}
		if !strings.Contains(string(data), "ordinary: code denied, rule=staff, token bucket, 10.0.0.1:443") {
			t.Error("ordinary text is cut")
		}
	}
}

// An actor has what identifies a person, and nothing that lets somebody be that person.
func TestActor(t *testing.T) {
	id := auth.Identity{Issuer: "i", Subject: "s", Provider: "corp", Groups: []string{"secret-project"}, Session: "x"}
	line, err := lineOf(&Record{Seq: 1, Event: EventStreamOpen, Actor: NewActor(id, "00", netip.AddrPort{})})
	if err != nil || strings.Contains(string(line), "secret-project") || strings.Contains(string(line), "remote") {
		t.Errorf("%s %v", line, err)
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("wiki", "a\r\nb\x1b")
	f.Add("\xff\u202e", "eyJhbGciOiJub25lIn0.a.b")
	f.Fuzz(func(t *testing.T, service, reason string) {
		line, err := lineOf(&Record{Seq: 1, Event: EventStreamOpen, Service: service, Reason: reason, Actor: &Actor{Name: service}})
		if err != nil {
			t.Fatal(err)
		}
		if bytes.IndexByte(line, '\n') != len(line)-1 || bytes.ContainsFunc(line[:len(line)-1], hostileRune) {
			t.Errorf("%q", line)
		}
		var back Record
		if err := json.Unmarshal(line, &back); err != nil || back.Seq != 1 {
			t.Errorf("%q: %v", line, err)
		}
		if len(service) <= maxField && utf8.ValidString(service) && back.Service != service {
			t.Errorf("%q becomes %q", service, back.Service)
		}
	})
}
