package auth

import (
	"encoding/asn1"
	"encoding/base32"
	"reflect"
	"strings"
	"testing"
	"time"
)

func base32Std(b []byte) string { return base32.StdEncoding.EncodeToString(b) }

// FuzzParseExtension: what is read can be written, and reads the same again.
func FuzzParseExtension(f *testing.F) {
	ext, err := Embed(goldenIdentity())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ext.Value)
	doc, _ := marshalDocument(goldenIdentity())
	for _, text := range []string{
		"{}", `{"v":1}`, strings.Replace(string(doc), `"groups":[`, `"groups":[null,`, 1),
		strings.Replace(string(doc), "Ada", `\ud800\u0000`, 1), strings.Replace(string(doc), `["pwd","otp"]`, "[]", 1),
	} {
		value, _ := asn1.Marshal(asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)})
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		id, err := parseExtension(value)
		if err != nil {
			return
		}
		again, err := Embed(id)
		if err != nil {
			if strings.Contains(err.Error(), ErrTooLarge.Error()) {
				return // shorter spellings than ours exist: \u003c is written as <, but U+2028 as \u2028
			}
			t.Fatalf("read, but not written: %v", err)
		}
		if back, err := parseExtension(again.Value); err != nil || !reflect.DeepEqual(back, id) {
			t.Fatalf("%v\nread  %+v\nagain %+v", err, id, back)
		}
	})
}

// FuzzEmbed: what is written reads the same.
func FuzzEmbed(f *testing.F) {
	f.Add("https://idp.example.com/", "248289761001", "Ada", "ada@corp.example", "engineering\x00on-call", "urn:x", "pwd", int64(1_796_000_000_000), true)
	f.Add("i", "s", "", "", "", "", "", int64(-1), false)
	f.Add("\u2028<&>", "\x7f\x00", "\ufffd", `\"`, ",", "", "", int64(1<<40), true)
	f.Fuzz(func(t *testing.T, issuer, subject, name, email, groups, acr, amr string, millis int64, known bool) {
		id := Identity{Issuer: issuer, Subject: subject, Provider: "p", Name: name, Email: email, EmailTrusted: known && email != "",
			GroupsKnown: known, ACR: acr, Login: LoginDevice, Session: NewSessionID(), Device: DeviceIDFromKey([]byte(amr)),
			AuthTime: time.UnixMilli(millis).UTC(), IssuedAt: time.UnixMilli(millis / 2).UTC()}
		if known && groups != "" {
			id.Groups = strings.Split(groups, "\x00")
		}
		if amr != "" {
			id.AMR = strings.Split(amr, " ")
		}
		ext, err := Embed(id)
		if err != nil {
			return
		}
		if got, err := parseExtension(ext.Value); err != nil || !reflect.DeepEqual(got, id) {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, id)
		}
	})
}
